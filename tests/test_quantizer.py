"""quantizer.py: the record and its JSON, what it refuses, and the digest that names a checkpoint."""

import hashlib
import json
import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import twin
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import OPTIONS, Quantizer, bits_of_size, canonical_json, checks, from_config

NOT_IN_CONFIG = {"stacked", "weights", "assumed", "origin", "usual_of", "codebook_dim"}
ONLY_IF_SET = {"num_quantizers", "groups", "factorized_bits"}
CONFIG_KEYS = {item.name for item in fields(Quantizer)} - NOT_IN_CONFIG - ONLY_IF_SET | {"type", "codebook_size"}
scales = st.floats(2.0**-100, 2.0**100, width=32)


def random_weights(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name.replace("__", "."): rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def projections(dim, bits, cosine=False, biases=True, seed=0):
    weights = random_weights(
        seed, project_in__weight=(dim, bits) if cosine else (bits, dim), project_out__weight=(dim, bits)
    )
    if biases:
        weights |= random_weights(seed + 1, project_out__bias=(dim,))
        weights |= {} if cosine else random_weights(seed + 2, project_in__bias=(bits,))
    return weights


@st.composite
def residual_quantizers(draw):
    d, levels, groups = draw(st.integers(1, 64)), draw(st.integers(1, 5)), draw(st.none() | st.integers(1, 3))
    weights, dim = {}, d * (groups or 1)
    prefixes = [""] if groups is None else [f"rvqs.{g}." for g in range(groups)]
    if draw(st.booleans()):
        dim = draw(st.integers(1, 9).filter(lambda features: features != d)) * (groups or 1)
        for prefix in prefixes:
            own = projections(dim // (groups or 1), d, biases=draw(st.booleans()), seed=len(prefix))
            weights |= {prefix + name: weight for name, weight in own.items()}
    if draw(st.booleans()):
        names = [f"{prefix}layers.{q}.orthogonal_rot" for prefix in prefixes for q in range(levels)]
        weights |= dict(zip(names, [np.eye(d, dtype=np.float32)] * 99, strict=False))
    return Quantizer(
        dim=dim,
        codebook_dim=d,
        num_quantizers=levels,
        groups=groups,
        spherical=draw(st.booleans()),
        channel_first=draw(st.sampled_from([None, True, False])),
        soft_clamp_input_value=draw(st.none() | st.just(2.0)),
        bit_order=draw(st.sampled_from(["msb", "lsb"])),
        weights=weights,
    )


@st.composite
def factorized_quantizers(draw):
    factors = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)))
    return Quantizer(dim=sum(factors), codebook_dim=sum(factors), factorized_bits=factors, bit_order="lsb")


def any_quantizers():
    return quantizers() | residual_quantizers() | factorized_quantizers()


@st.composite
def quantizers(draw):
    d, c = draw(st.integers(1, 64)), draw(st.integers(1, 4))
    projected = draw(st.booleans())
    cosine, scale = draw(st.booleans()), draw(scales)
    dim, weights = d * c, {}
    if projected:
        dim = draw(st.integers(1, 9))
        weights = projections(dim, d * c, cosine, draw(st.booleans()), seed=dim)
    if draw(st.booleans()):
        weights |= random_weights(d, orthogonal_rot=(d, d))
    return Quantizer(
        dim=dim,
        codebook_dim=d,
        num_codebooks=c,
        codebook_scale=scale,
        spherical=draw(st.booleans()),
        channel_first=draw(st.sampled_from([None, True, False])),
        keep_num_codebooks_dim=draw(st.sampled_from([None, True] if c > 1 else [None, True, False])),
        soft_clamp_input_value=draw(st.none() | st.just(scale) | st.just(scale * 2)),
        cosine_sim_project_in=cosine,
        cosine_sim_project_in_scale=draw(st.none() | scales),
        bit_order=draw(st.sampled_from(["msb", "lsb"])),
        weights=weights,
    )


def same_weights(a, b):
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


# The config


@given(any_quantizers())
def test_the_config_says_everything_but_the_weights(quantizer):
    config = quantizer.config()
    assert set(config) - ONLY_IF_SET == CONFIG_KEYS
    assert all(config[key] is not None for key in ONLY_IF_SET & set(config))
    again = from_config(json.loads(json.dumps(config)), quantizer.weights)
    assert again.config() == config
    assert again.digest == quantizer.digest
    assert same_weights(again.weights, quantizer.weights)
    for item in fields(Quantizer):
        if item.name != "weights":
            assert getattr(again, item.name) == getattr(quantizer, item.name)


@given(any_quantizers(), st.sets(st.sampled_from(sorted(OPTIONS))))
def test_what_is_assumed_and_decides_no_bit_is_not_in_the_config(quantizer, facts):
    forgetful = quantizer.assuming(facts)
    assert forgetful.open <= facts
    if quantizer.bits_are_signs or not (quantizer.is_residual or quantizer.has_rotation):
        assert forgetful.open == facts
    assert set(forgetful.config()) - ONLY_IF_SET == CONFIG_KEYS - forgetful.open
    assert forgetful.full_config() == quantizer.config()
    again = from_config(forgetful.config(), quantizer.weights, facts)
    assert (again.config(), again.digest) == (forgetful.config(), forgetful.digest)


def test_the_defaults_are_the_references():
    config = {"type": "lfq", "dim": 18, "codebook_size": 2**18}
    assert from_config(config, {}).config() == config | {
        "num_codebooks": 1,
        "codebook_scale": 1.0,
        "spherical": False,
        "channel_first": None,
        "keep_num_codebooks_dim": None,
        "soft_clamp_input_value": None,
        "cosine_sim_project_in": False,
        "cosine_sim_project_in_scale": None,
        "bit_order": "msb",
    }


@given(residual_quantizers())
def test_what_follows_from_a_residual_config(quantizer):
    groups, levels, d = quantizer.groups or 1, quantizer.num_quantizers, quantizer.codebook_dim
    assert quantizer.codebook_dims == (d,) * (groups * levels)
    assert quantizer.code_dim == groups * d
    assert quantizer.index_tail == (groups * levels,)
    assert not quantizer.bits_are_signs


@given(residual_quantizers(), st.data())
def test_the_first_levels_are_a_quantizer_of_their_own(quantizer, data):
    levels = data.draw(st.integers(1, quantizer.num_quantizers))
    first = quantizer.first_levels(levels)
    assert first.num_quantizers == levels
    assert set(first.weights) == {name for name in quantizer.weights if name in checks.weight_shapes(first)}
    kept = quantizer.bits_of_levels(levels)
    groups, d = quantizer.groups or 1, quantizer.codebook_dim
    if levels == quantizer.num_quantizers:
        assert kept is None
        assert first.digest == quantizer.digest
    else:
        expected = [
            level < levels for _ in range(groups) for level in range(quantizer.num_quantizers) for _ in range(d)
        ]
        assert kept.tolist() == expected
    for more in (0, quantizer.num_quantizers + 1):
        with pytest.raises(CheckpointError, match=f"{quantizer.num_quantizers} levels, {more} were asked for"):
            quantizer.first_levels(more)


def test_only_residual_quantizers_have_levels():
    with pytest.raises(CheckpointError, match="not a residual quantizer"):
        Quantizer(dim=4, codebook_dim=4).first_levels(1)


@given(residual_quantizers(), st.data())
def test_a_level_alone_is_an_lfq_of_half_the_scale_of_the_one_before(quantizer, data):
    group = data.draw(st.integers(0, (quantizer.groups or 1) - 1))
    level = data.draw(st.integers(0, quantizer.num_quantizers - 1))
    alone = quantizer.level(group, level)
    assert (alone.type, alone.codebook_scale, alone.codebook_dim) == ("lfq", 2.0**-level, quantizer.codebook_dim)
    assert alone.dim == quantizer.dim // (quantizer.groups or 1)
    assert alone.has_projections == quantizer.has_projections
    prefix = "" if quantizer.groups is None else f"rvqs.{group}."
    if quantizer.has_rotation:
        assert alone.weights["orthogonal_rot"] is quantizer.weights[f"{prefix}layers.{level}.orthogonal_rot"]
    if quantizer.has_projections:
        assert alone.weights["project_out.weight"] is quantizer.weights[f"{prefix}project_out.weight"]
    assert "project_out.bias" not in alone.weights


RESIDUAL = {"type": "residual_lfq", "dim": 4, "codebook_size": 16, "num_quantizers": 3}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_quantizers": None}, "lacks num_quantizers"),
        ({"num_quantizers": 0}, "num_quantizers is 0"),
        ({"num_quantizers": 10**9}, "at most 128"),
        ({"groups": 2}, "unknown keys 'groups'"),
        ({"type": "lfq"}, "unknown keys 'num_quantizers'"),
        ({"type": "grouped_residual_lfq"}, "lacks groups"),
        ({"type": "grouped_residual_lfq", "groups": 3}, "not a multiple of groups"),
        ({"type": "grouped_residual_lfq", "groups": 2}, "expected 8"),
        ({"type": "rvq"}, "type 'rvq'"),
        ({"type": ["lfq"]}, "type"),
        ({"codebook_scale": 0.5}, "codebook_scale is 0.5"),
        ({"num_codebooks": 2}, "num_codebooks is 2"),
        ({"keep_num_codebooks_dim": True}, "keep_num_codebooks_dim"),
        ({"cosine_sim_project_in": True}, "cosine_sim_project_in"),
        ({"factorized_bits": [2, 2]}, "an index for every level"),
        ({"dim": 5}, "dim is 5, expected 4"),
    ],
)
def test_residual_contradictions_are_refused(change, reason):
    from_config(RESIDUAL, {})
    with pytest.raises(CheckpointError, match=reason):
        from_config(RESIDUAL | change, {})


@pytest.mark.parametrize("factors", [[], [2, 3], [4, 0], [-4, 8], [2.0, 2.0], "22", 4, [True, 3], [[4]]])
def test_factors_that_do_not_make_the_code_are_refused(factors):
    from_config(GOOD | {"factorized_bits": [1, 3]}, {})
    with pytest.raises(CheckpointError, match="factorized_bits"):
        from_config(GOOD | {"factorized_bits": factors}, {})


@pytest.mark.parametrize("gone", ["layers.1.orthogonal_rot", "rvqs.1.project_in.weight", "rvqs.0.project_out.weight"])
def test_a_weight_that_only_some_parts_lack_is_refused(gone):
    grouped = gone.startswith("rvqs")
    prefixes = ["rvqs.0.", "rvqs.1."] if grouped else [""]
    weights = {prefix + name: w for prefix in prefixes for name, w in projections(3, 2, biases=False).items()}
    weights |= {
        f"{prefix}layers.{q}.orthogonal_rot": np.eye(2, dtype=np.float32) for prefix in prefixes for q in (0, 1)
    }
    facts = {"dim": 3 * len(prefixes), "codebook_dim": 2, "num_quantizers": 2, "groups": 2 if grouped else None}
    Quantizer(**facts, weights=weights)
    with pytest.raises(CheckpointError, match="only"):
        Quantizer(**facts, weights={name: weight for name, weight in weights.items() if name != gone})


@given(quantizers())
def test_what_follows_from_the_config(quantizer):
    d, c = quantizer.codebook_dim, quantizer.num_codebooks
    assert quantizer.codebook_size == 2**d
    assert quantizer.codebook_dims == (d,) * c
    assert quantizer.bits_per_vector == d * c == sum(quantizer.codebook_dims)
    config = twin.Config(d * c, (d,) * c, keep_num_codebooks_dim=quantizer.keep_num_codebooks_dim)
    assert (5, *quantizer.index_tail) == twin.index_shape((5, d * c), config)
    assert quantizer.has_projections == ("project_out.weight" in quantizer.weights)
    assert quantizer.has_rotation == ("orthogonal_rot" in quantizer.weights)
    assert quantizer.is_linear == bool(quantizer.weights)


def test_the_record_is_frozen():
    quantizer = Quantizer(dim=4, codebook_dim=4, weights=random_weights(0, orthogonal_rot=(4, 4)))
    with pytest.raises(AttributeError):
        quantizer.dim = 5
    with pytest.raises(TypeError):
        quantizer.weights["orthogonal_rot"] = None


# What is refused

NOT_NATURAL = [True, False, 0, -1, 1.0, 4.0, "4", None, [4], {}, math.nan]
NOT_POSITIVE = [True, False, 0, 0.0, -0.0, -1, -0.5, math.nan, math.inf, -math.inf, 3.5e38, "1", [1], {}, 10**400]
NOT_BOOL = [0, 1, 0.0, "true", [], {}]
BAD_VALUES = {
    "type": ["LFQ", "residual_lfq", "", None, 1, True, [], {}],
    "dim": NOT_NATURAL,
    "codebook_size": [*NOT_NATURAL, 1, 3, 5, 2**16 - 1, 2**16 + 1, -2, 2**65, 2**1000],
    "num_codebooks": NOT_NATURAL,
    "codebook_scale": [*NOT_POSITIVE, None],
    "spherical": [*NOT_BOOL, None],
    "channel_first": NOT_BOOL,
    "keep_num_codebooks_dim": NOT_BOOL,
    "soft_clamp_input_value": NOT_POSITIVE,
    "cosine_sim_project_in": [*NOT_BOOL, None],
    "cosine_sim_project_in_scale": NOT_POSITIVE,
    "bit_order": ["MSB", "big", "", None, 0, True, ["msb"], {}],
}
GOOD = {"type": "lfq", "dim": 4, "codebook_size": 16}


def test_every_key_has_bad_values():
    assert set(BAD_VALUES) == CONFIG_KEYS
    from_config(GOOD, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in BAD_VALUES.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_value_is_refused_by_name(key, value):
    with pytest.raises(CheckpointError, match="type" if key == "type" else key):
        from_config(GOOD | {key: value}, {})


@pytest.mark.parametrize(
    "key", ["codebook_scales", "Dim", "mask", "", "weights", "assumed", "codebook_dim", "origin", "usual_of", "groups"]
)
def test_an_unknown_key_is_refused_by_name(key):
    with pytest.raises(CheckpointError, match=f"unknown keys '{key}'"):
        from_config(GOOD | {key: 1}, {})


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_refused_by_name(key):
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        from_config({name: value for name, value in GOOD.items() if name != key}, {})


@pytest.mark.parametrize("bits", range(1, 65))
def test_powers_of_two_have_bits(bits):
    assert bits_of_size(2**bits) == bits
    assert from_config({"type": "lfq", "dim": bits, "codebook_size": 2**bits}, {}).codebook_dim == bits


@given(st.integers(2, 2**64).filter(lambda n: n & (n - 1)))
def test_the_error_of_another_size_names_the_next_power_of_two(size):
    following = next(2**bits for bits in range(80) if 2**bits > size)
    with pytest.raises(CheckpointError, match=rf"codebook_size is {size}, .* {following}\)"):
        bits_of_size(size)


@pytest.mark.parametrize("size", [2**64 + 1, 2**65, 10**400, int("9" * 4300)], ids=int.bit_length)
def test_a_size_above_the_widest_index_is_refused(size):
    """4300 digits are the most that Python reads from JSON; the next power of two has too many to print."""
    with pytest.raises(CheckpointError, match="codebook_size") as caught:
        bits_of_size(size)
    assert len(caught.value.message) < 2_000


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"dim": 5}, "dim is 5, expected 4"),
        ({"num_codebooks": 2}, "dim is 4, expected 8"),
        ({"dim": 8, "num_codebooks": 2, "keep_num_codebooks_dim": False}, "keep_num_codebooks_dim"),
        (
            {"codebook_scale": 2.0, "soft_clamp_input_value": 1.9},
            "soft_clamp_input_value 1.9 is below codebook_scale 2.0",
        ),
    ],
)
def test_contradictions_are_refused(more, reason):
    with pytest.raises(CheckpointError, match=reason):
        from_config(GOOD | more, {})


LINEAR = {"dim": 6, "codebook_dim": 4, "num_codebooks": 2}


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (6, 6), (8, 8), (5, 8), (6, 7), (6, 8, 1), (0, 8)])
@pytest.mark.parametrize("name", [*projections(6, 8), "orthogonal_rot"])
def test_a_weight_of_another_shape_is_refused_by_name(cosine, name, shape):
    weights = projections(6, 8, cosine) | random_weights(0, orthogonal_rot=(4, 4))
    Quantizer(**LINEAR, cosine_sim_project_in=cosine, weights=weights)
    with pytest.raises(CheckpointError, match=name):
        Quantizer(**LINEAR, cosine_sim_project_in=cosine, weights=weights | {name: np.zeros(shape, np.float32)})


def test_the_projection_is_transposed_when_it_is_a_cosine():
    for cosine in (False, True):
        with pytest.raises(CheckpointError, match=r"project_in\.weight has shape"):
            Quantizer(**LINEAR, cosine_sim_project_in=cosine, weights=projections(6, 8, not cosine, biases=False))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*projections(6, 8), "orthogonal_rot"])
def test_a_weight_that_is_no_number_is_refused_by_name(name, value):
    weights = projections(6, 8) | random_weights(0, orthogonal_rot=(4, 4))
    weights[name].reshape(-1)[-1] = value
    with pytest.raises(CheckpointError, match=name):
        Quantizer(**LINEAR, weights=weights)


def test_a_foreign_weight_is_refused_by_name():
    with pytest.raises(CheckpointError, match="'encoder'"):
        Quantizer(dim=4, codebook_dim=4, weights={"encoder": np.zeros(4, np.float32)})


@pytest.mark.parametrize("gone", ["project_in", "project_out"])
def test_one_projection_without_the_other_is_refused(gone):
    weights = {name: weight for name, weight in projections(8, 8).items() if not name.startswith(gone)}
    with pytest.raises(CheckpointError, match="only one of project_in and project_out"):
        Quantizer(dim=8, codebook_dim=8, weights=weights)


@pytest.mark.parametrize("name", ["project_in.bias", "project_out.bias"])
def test_a_bias_without_its_weight_is_refused(name):
    """It would be ignored, and give the same quantizer another digest."""
    with pytest.raises(CheckpointError, match=name):
        Quantizer(dim=4, codebook_dim=4, weights={name: np.ones(4, np.float32)})


# Assumed facts


@pytest.mark.parametrize("fact", OPTIONS)
def test_an_assumed_fact_is_asked_for_by_its_option(fact):
    known = Quantizer(
        dim=6,
        codebook_dim=4,
        codebook_scale=0.5,
        spherical=True,
        soft_clamp_input_value=0.7,
        cosine_sim_project_in=True,
        cosine_sim_project_in_scale=3.0,
        weights=projections(6, 4, cosine=True),
    )
    known.require(*OPTIONS)
    forgetful = known.assuming({fact})
    assert forgetful.assumed == {fact}
    assert forgetful.assumptions() == {fact: getattr(known, fact)}
    assert forgetful.digest != known.digest
    forgetful.require(*set(OPTIONS) - {fact})
    with pytest.raises(CheckpointError, match=f"does not say {fact}$") as caught:
        forgetful.require(*OPTIONS)
    assert OPTIONS[fact] in caught.value.hint
    for other in set(OPTIONS) - {fact}:
        assert getattr(forgetful, other) == getattr(known, other)
        assert OPTIONS[other] not in caught.value.hint.split(";")[0]
    other = next(name for name in OPTIONS if name != fact)
    assert forgetful.assuming({other}).assumed == {fact, other}
    everything = forgetful.assuming(OPTIONS)
    assert everything.assumed == set(OPTIONS)
    otherwise = replace(known, codebook_scale=0.25, spherical=False, soft_clamp_input_value=None, bit_order="lsb")
    assert otherwise.digest != known.digest
    assert otherwise.assuming(OPTIONS).digest == everything.digest


@pytest.mark.parametrize(
    ("facts", "deciding"),
    [
        ({"codebook_dim": 4}, set()),
        ({"codebook_dim": 4, "weights": random_weights(0, orthogonal_rot=(4, 4))}, {"soft_clamp_input_value"}),
        ({"codebook_dim": 4, "num_quantizers": 2}, {"spherical"}),
        ({"codebook_dim": 2, "num_quantizers": 2, "groups": 2}, {"spherical"}),
    ],
)
def test_an_assumed_fact_that_decides_bits_stays_in_config_and_digest(facts, deciding):
    quantizer = Quantizer(dim=4, **facts)
    assumed = quantizer.assuming(OPTIONS)
    assert assumed.assumed - assumed.open == deciding
    assert deciding <= set(assumed.config())
    for fact in deciding:
        value = {"soft_clamp_input_value": 3.0, "spherical": True}[fact]
        assert replace(assumed, **{fact: value}).digest != assumed.digest


@pytest.mark.parametrize("fact", ["dim", "num_codebooks", "nonsense"])
def test_other_facts_cannot_be_assumed(fact):
    with pytest.raises(CheckpointError, match=fact):
        Quantizer(dim=4, codebook_dim=4, assumed=frozenset({fact}))


def test_a_clamp_is_not_held_against_a_scale_that_nobody_knows():
    assert Quantizer(dim=4, codebook_dim=4, soft_clamp_input_value=0.5, assumed=frozenset({"codebook_scale"}))


# The digest

BITS_10 = b'{"config":{"bit_order":"msb","codebook_scale":1.0,"codebook_size":1024,"cosine_sim_project_in":false,'
BITS_10 += b'"cosine_sim_project_in_scale":null,"dim":10,"num_codebooks":1,"soft_clamp_input_value":null,'
BITS_10 += b'"spherical":false,"type":"lfq"},"unknown":[]}'


def golden_weights():
    """Ramps, so that the digest can be made anywhere."""
    return {
        "project_in.weight": np.arange(12, dtype=np.float32).reshape(4, 3) / 8,
        "project_in.bias": np.arange(4, dtype=np.float32) - 1,
        "project_out.weight": -np.arange(12, dtype=np.float32).reshape(3, 4),
    }


def test_golden_digests():
    """Digests stand in codes files: a changed one makes every file of before the file of another checkpoint."""
    plain = Quantizer(dim=10, codebook_dim=10)
    assert plain.digest == "8df260a0b3bbdc1a19520e7943cf576af521ef0705f1d1c10d19e9fe9b6791da"
    assert plain.digest == hashlib.sha256(BITS_10).hexdigest()
    text = BITS_10.replace(b'"spherical":false,', b"").replace(b'"unknown":[]', b'"unknown":["spherical"]')
    assert plain.assuming({"spherical"}).digest == hashlib.sha256(text).hexdigest()
    full = Quantizer(
        dim=3,
        codebook_dim=2,
        num_codebooks=2,
        codebook_scale=0.5,
        spherical=True,
        channel_first=True,
        soft_clamp_input_value=10,
        bit_order="lsb",
        weights=golden_weights(),
    )
    assert full.digest == "53af6487bdf6318820262e0c7e767f6274d6e99fce4f2b485b24c119e694a280"


def test_the_digest_is_of_the_canonical_json_and_the_tensors_in_order():
    weights = golden_weights()
    quantizer = Quantizer(dim=3, codebook_dim=4, weights=weights)
    text = BITS_10.replace(b"1024", b"16").replace(b'"dim":10', b'"dim":3')
    for name, shape in (("project_in.bias", "4"), ("project_in.weight", "4,3"), ("project_out.weight", "3,4")):
        text += b'{"dtype":"F32","name":"%b","shape":[%b]}' % (name.encode(), shape.encode())
        text += weights[name].astype("<f4").tobytes()
    assert quantizer.digest == hashlib.sha256(text).hexdigest()


@given(quantizers(), st.sampled_from([None, True, False]), st.sampled_from([None, True]))
def test_where_the_features_are_is_not_in_the_digest(quantizer, channel_first, keep):
    other = replace(quantizer, channel_first=channel_first, keep_num_codebooks_dim=keep)
    assert other.digest == quantizer.digest


@given(quantizers(), st.randoms())
def test_order_strides_and_number_types_are_not_in_the_digest(quantizer, random):
    config, weights = list(quantizer.config().items()), list(quantizer.weights.items())
    random.shuffle(config)
    random.shuffle(weights)
    strided = {name: np.asfortranarray(weight) for name, weight in weights}
    again = from_config({k: int(v) if type(v) is float and v == int(v) else v for k, v in config}, strided)
    assert again.digest == quantizer.digest


def test_defaults_that_are_written_out_are_not_in_the_digest():
    plain = from_config(GOOD, {})
    assert from_config(plain.config(), {}).digest == plain.digest
    assert from_config(GOOD | {"cosine_sim_project_in_scale": 2}, {}).digest == plain.digest  # there is no cosine
    cosine = {"dim": 3, "codebook_dim": 4, "codebook_scale": 2, "cosine_sim_project_in": True}
    weights = projections(3, 4, cosine=True)
    explicit = Quantizer(**cosine, cosine_sim_project_in_scale=2, weights=weights)
    assert Quantizer(**cosine, weights=weights).digest == explicit.digest


BASE = {"dim": 8, "codebook_dim": 4, "num_codebooks": 2, "soft_clamp_input_value": 9.0}


@pytest.mark.parametrize(
    "change",
    [
        {"codebook_scale": np.nextafter(1.0, 2)},
        {"spherical": True},
        {"soft_clamp_input_value": None},
        {"soft_clamp_input_value": 9.5},
        {"bit_order": "lsb"},
        {"codebook_dim": 2, "num_codebooks": 4},
        {"codebook_dim": 8, "num_codebooks": 1},
        {"assumed": frozenset({"spherical"})},
        {"weights": random_weights(0, orthogonal_rot=(4, 4))},
        {"weights": projections(8, 8)},
        {"weights": projections(8, 8, biases=False)},
        {"weights": projections(8, 8, cosine=True), "cosine_sim_project_in": True},
        {"weights": projections(8, 8, cosine=True), "cosine_sim_project_in": True, "cosine_sim_project_in_scale": 3},
    ],
)
def test_whatever_decides_tokens_or_values_is_in_the_digest(change):
    change = {key: float(value) if isinstance(value, np.floating) else value for key, value in change.items()}
    assert Quantizer(**BASE | change).digest != Quantizer(**BASE).digest


@given(st.data())
def test_every_bit_of_every_weight_is_in_the_digest(data):
    weights = projections(6, 8)
    name = data.draw(st.sampled_from(sorted(weights)))
    changed = weights[name].copy()
    patterns = changed.reshape(-1).view(np.uint32)
    at = data.draw(st.integers(0, patterns.size - 1))
    patterns[at] ^= np.uint32(1 << data.draw(st.sampled_from([*range(23), 31])))  # an exponent could become NaN
    assert Quantizer(**LINEAR, weights=weights | {name: changed}).digest != Quantizer(**LINEAR, weights=weights).digest


# Codes


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25, 3.0, 2.0**30, 2.0**-30])
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("d", range(1, 65))
def test_code_magnitude_is_the_twins(d, spherical, scale):
    magnitude = Quantizer(dim=d, codebook_dim=d, codebook_scale=scale, spherical=spherical).code_magnitude()
    codes = twin.codes_of([[1, 0] * 32][:1] if d == 64 else [([1, 0] * 32)[:d]], twin.Config(d, (d,), scale, spherical))
    assert type(magnitude) is np.float32
    assert np.abs(codes).tolist() == [[magnitude] * d]


@given(st.integers(1, 64), st.floats(2.0**-100, 2.0**60, width=32), st.booleans())
def test_code_magnitude_is_the_twins_or_left_to_torch(d, scale, spherical):
    magnitude = Quantizer(dim=d, codebook_dim=d, codebook_scale=scale, spherical=spherical).code_magnitude()
    if magnitude is None:
        assert spherical
        return
    codes = twin.codes_of([[1] * d], twin.Config(d, (d,), scale, spherical))
    assert codes.tolist() == [[magnitude] * d]


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 1e-30])
def test_code_magnitude_is_left_to_torch_where_squares_round(scale):
    assert Quantizer(dim=18, codebook_dim=18, codebook_scale=scale, spherical=True).code_magnitude() is None
    assert Quantizer(dim=18, codebook_dim=18, codebook_scale=scale).code_magnitude() == np.float32(scale)


def test_code_magnitude_of_a_scale_whose_square_overflows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Quantizer(dim=4, codebook_dim=4, codebook_scale=1e20, spherical=True).code_magnitude() is None


# Parts


@given(quantizers())
def test_unprojected_is_one_codebook_alone(quantizer):
    alone = quantizer.unprojected()
    assert (alone.dim, alone.codebook_dim, alone.num_codebooks) == (quantizer.codebook_dim, quantizer.codebook_dim, 1)
    assert set(alone.weights) == set(quantizer.weights) & {"orthogonal_rot"}
    for name in ("codebook_scale", "spherical", "soft_clamp_input_value", "bit_order", "assumed"):
        assert getattr(alone, name) == getattr(quantizer, name)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_parts_add_up_to_the_whole(cosine, biases):
    weights = projections(6, 8, cosine, biases)
    whole = Quantizer(**LINEAR, cosine_sim_project_in=cosine, weights=weights)
    parts = [whole.part(k) for k in range(2)]
    assert [(part.dim, part.num_codebooks, part.codebook_dim) for part in parts] == [(6, 1, 4)] * 2
    joined = {name: [part.weights[name] for part in parts] for name in parts[0].weights}
    assert set(joined) == set(weights) - {"project_out.bias"}
    assert np.array_equal(np.concatenate(joined["project_in.weight"], axis=int(cosine)), weights["project_in.weight"])
    assert np.array_equal(np.concatenate(joined["project_out.weight"], axis=1), weights["project_out.weight"])
    if "project_in.bias" in joined:
        assert np.array_equal(np.concatenate(joined["project_in.bias"]), weights["project_in.bias"])


# Canonical JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value):
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(json_values)
def test_canonical_json_is_one_text_for_one_value(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(reordered(value)) == canonical_json(json.loads(text)) == text


def test_canonical_json_by_hand():
    assert canonical_json({"b": [1, 1.0, None], "a": {"ä": True}}) == '{"a":{"ä":true},"b":[1,1.0,null]}'.encode()
