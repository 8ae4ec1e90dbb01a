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
from lfq_cli.quantizer import OPTIONS, Quantizer, bits_of_size, canonical_json, from_config

CONFIG_KEYS = {item.name for item in fields(Quantizer)} - {"weights", "unknown", "origin", "codebook_dim"} | {
    "type",
    "codebook_size",
}
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


@given(quantizers())
def test_the_config_says_everything_but_the_weights(quantizer):
    config = quantizer.config()
    assert set(config) == CONFIG_KEYS
    again = from_config(json.loads(json.dumps(config)), quantizer.weights)
    assert again.config() == config
    assert again.digest == quantizer.digest
    assert same_weights(again.weights, quantizer.weights)
    for item in fields(Quantizer):
        if item.name != "weights":
            assert getattr(again, item.name) == getattr(quantizer, item.name)


@given(quantizers(), st.sets(st.sampled_from(sorted(OPTIONS))))
def test_what_is_unknown_is_not_in_the_config(quantizer, facts):
    forgetful = quantizer.forget(frozenset(facts))
    assert set(forgetful.config()) == CONFIG_KEYS - facts
    again = from_config(forgetful.config(), quantizer.weights, frozenset(facts))
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


@pytest.mark.parametrize("key", ["codebook_scales", "Dim", "mask", "", "weights", "unknown", "codebook_dim"])
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
def test_other_sizes_are_told_the_next_power_of_two(size):
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


def test_the_projection_is_turned_when_it_is_a_cosine():
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


# Unknown facts


@pytest.mark.parametrize("fact", OPTIONS)
def test_a_forgotten_fact_is_asked_for_by_its_option(fact):
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
    forgetful = known.forget(frozenset({fact}))
    assert forgetful.unknown == {fact}
    assert forgetful.digest != known.digest
    forgetful.require(*set(OPTIONS) - {fact})
    with pytest.raises(CheckpointError, match=f"does not say {fact}$") as caught:
        forgetful.require(*OPTIONS)
    assert OPTIONS[fact] in caught.value.hint
    for other in set(OPTIONS) - {fact}:
        assert getattr(forgetful, other) == getattr(known, other)
        assert OPTIONS[other] not in caught.value.hint.split(";")[0]
    other = next(name for name in OPTIONS if name != fact)
    assert forgetful.forget(frozenset({other})).unknown == {fact, other}
    everything = forgetful.forget(frozenset(OPTIONS))
    assert everything.unknown == set(OPTIONS)
    assert replace(known, unknown=frozenset(OPTIONS)).forget(frozenset(OPTIONS)).digest == everything.digest


@pytest.mark.parametrize("fact", ["dim", "bit_order", "nonsense"])
def test_other_facts_cannot_be_unknown(fact):
    with pytest.raises(CheckpointError, match=fact):
        Quantizer(dim=4, codebook_dim=4, unknown=frozenset({fact}))


def test_a_clamp_is_not_held_against_a_scale_that_nobody_knows():
    assert Quantizer(dim=4, codebook_dim=4, soft_clamp_input_value=0.5, unknown=frozenset({"codebook_scale"}))


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
    assert plain.forget(frozenset({"spherical"})).digest == hashlib.sha256(text).hexdigest()
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
    told = Quantizer(**cosine, cosine_sim_project_in_scale=2, weights=weights)
    assert Quantizer(**cosine, weights=weights).digest == told.digest


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
        {"unknown": frozenset({"spherical"})},
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
    for name in ("codebook_scale", "spherical", "soft_clamp_input_value", "bit_order", "unknown"):
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
