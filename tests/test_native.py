"""native.py: what is written is what `checkpoints.load` reads, as a file and as a folder."""

import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lfq_cli import checkpoints, native
from lfq_cli.checkpoints import Facts
from lfq_cli.container import header_bytes
from lfq_cli.errors import CheckpointError, LfqError, OptionError, OutputError
from lfq_cli.quantizer import Quantizer

FORMS = ("model.safetensors", "model")  # a file, a folder


def weights_of(dim, bits, d, cosine):
    rng = np.random.default_rng(dim * bits)
    shapes = {"project_in.weight": (dim, bits) if cosine else (bits, dim), "project_out.weight": (dim, bits)}
    shapes |= {"project_out.bias": (dim,), "orthogonal_rot": (d, d)} | ({} if cosine else {"project_in.bias": (bits,)})
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@st.composite
def quantizers(draw):
    d, c, cosine = draw(st.integers(1, 64)), draw(st.integers(1, 3)), draw(st.booleans())
    dim, weights = d * c, {}
    if draw(st.booleans()):
        dim = draw(st.integers(1, 9))
        weights = weights_of(dim, d * c, d, cosine)
    return Quantizer(
        dim=dim,
        codebook_dim=d,
        num_codebooks=c,
        codebook_scale=draw(st.floats(2.0**-20, 2.0**20)),
        spherical=draw(st.booleans()),
        channel_first=draw(st.sampled_from([None, True, False])),
        keep_num_codebooks_dim=draw(st.sampled_from([None, True])),
        soft_clamp_input_value=draw(st.none() | st.floats(2.0**20, 2.0**30)),
        cosine_sim_project_in=cosine,
        bit_order=draw(st.sampled_from(["msb", "lsb"])),
        weights=weights,
    )


LINEAR = Quantizer(dim=5, codebook_dim=4, codebook_scale=0.5, weights=weights_of(5, 4, 4, cosine=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("native")


def lfq_file(path, description, tensors):
    """A safetensors file whose metadata holds the description, as JSON or as it is."""
    text = description if isinstance(description, str) else json.dumps(description)
    safetensors.numpy.save_file(tensors, path, metadata={"lfq": text})
    return path


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(quantizer=quantizers())
def test_what_is_written_is_loaded(folder, form, quantizer):
    native.write(quantizer, folder / form, overwrite=True)
    again = checkpoints.load(folder / form)
    assert again.config() == quantizer.config()
    assert again.digest == quantizer.digest
    assert not again.assumed
    assert list(again.weights) == list(quantizer.weights)
    for name, weight in quantizer.weights.items():
        assert again.weights[name].dtype == np.float32
        assert again.weights[name].tobytes() == weight.tobytes()


def test_the_file_is_a_safetensors_file(tmp_path):
    path = tmp_path / "a.safetensors"
    native.write(LINEAR, path)
    with safetensors.safe_open(path, "np") as file:
        assert list(file.metadata()) == ["lfq"]
        description = json.loads(file.metadata()["lfq"])
    assert description == {
        "format": "lfq-checkpoint",
        "version": 1,
        "config": LINEAR.config(),
        "sha256": LINEAR.digest,
    }
    stored = safetensors.numpy.load_file(path)
    assert set(stored) == set(LINEAR.weights)
    assert all(np.array_equal(stored[name], weight) for name, weight in LINEAR.weights.items())


def test_the_folder_is_the_same_thing(tmp_path):
    native.write(LINEAR, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    description = json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))
    assert description == {
        "format": "lfq-checkpoint",
        "version": 1,
        "config": LINEAR.config(),
        "sha256": LINEAR.digest,
    }
    stored = safetensors.numpy.load_file(tmp_path / "a" / "model.safetensors")
    assert all(np.array_equal(stored[name], weight) for name, weight in LINEAR.weights.items())


GOLDEN = (  # 0x0168 header bytes, then project_in's and project_out's one number, 1.0 and -2.0
    b"\x68\x01\0\0\0\0\0\0"
    rb'{"__metadata__":{"lfq":"{\"format\":\"lfq-checkpoint\",\"version\":1,\"config\":'
    rb"{\"type\":\"lfq\",\"dim\":1,\"codebook_size\":2,\"bit_order\":\"lsb\",\"codebook_scale\":0.25}}"
    rb'"},"project_in.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
    rb'"project_out.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}'
)
GOLDEN += b" " * (8 + 0x168 - len(GOLDEN)) + b"\0\0\x80\x3f\0\0\0\xc0"


def test_golden_file(tmp_path):
    """A file of version 1 as anyone may write it. It is read for ever."""
    (tmp_path / "golden.safetensors").write_bytes(GOLDEN)
    quantizer = checkpoints.load(tmp_path / "golden.safetensors")
    assert (quantizer.dim, quantizer.codebook_dim, quantizer.bit_order, quantizer.codebook_scale) == (1, 1, "lsb", 0.25)
    assert {name: weight.tolist() for name, weight in quantizer.weights.items()} == {
        "project_in.weight": [[1.0]],
        "project_out.weight": [[-2.0]],
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_or_fact_that_changed_is_damage(tmp_path, form):
    native.write(LINEAR, tmp_path / form)
    model = tmp_path / form if form.endswith(".safetensors") else tmp_path / form / "model.safetensors"
    config = model if model.name == form else model.with_name("config.json")
    whole, described = model.read_bytes(), config.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(tmp_path / form)
    model.write_bytes(whole)
    config.write_bytes(described.replace(b"false", b"true ", 1))
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / form)
    config.write_bytes(described)
    assert checkpoints.load(tmp_path / form).digest == LINEAR.digest


@pytest.mark.parametrize("form", FORMS)
def test_the_same_quantizer_gives_the_same_bytes(tmp_path, form):
    contents = []
    for k in range(2):
        native.write(LINEAR, tmp_path / str(k) / form)
        files = sorted(path for path in (tmp_path / str(k)).rglob("*") if path.is_file())
        contents.append([(path.relative_to(tmp_path / str(k)), path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_assumed_is_written_as_such(tmp_path, form):
    quantizer = LINEAR.assuming({"spherical"})
    native.write(quantizer, tmp_path / form)
    again = checkpoints.load(tmp_path / form)
    assert again.assumptions() == quantizer.assumptions()
    assert (again.digest, again.full_config()) == (quantizer.digest, quantizer.full_config())
    overridden = checkpoints.load(tmp_path / form, Facts(spherical=not quantizer.spherical))
    assert (overridden.spherical, overridden.assumed) == (not quantizer.spherical, frozenset())


@pytest.mark.parametrize("assumed", ["spherical", [1], {"spherical": True}, ["dim"], None])
def test_assumed_names_facts_that_may_be(tmp_path, assumed):
    value = native.describe(LINEAR) | {"assumed": assumed}
    with pytest.raises(CheckpointError, match="assumed"):
        native.parse(value, LINEAR.weights)


@pytest.mark.parametrize("form", FORMS)
def test_what_exists_is_kept_unless_overwritten(tmp_path, form):
    other = Quantizer(dim=3, codebook_dim=3)
    native.write(LINEAR, tmp_path / form)
    with pytest.raises(OutputError, match="exists"):
        native.write(other, tmp_path / form)
    assert checkpoints.load(tmp_path / form).digest == LINEAR.digest
    native.write(other, tmp_path / form, overwrite=True)
    assert checkpoints.load(tmp_path / form).digest == other.digest


@pytest.mark.parametrize("present", ["config.json", "model.safetensors"])
def test_a_refused_write_leaves_the_folder_as_it_was(tmp_path, present):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / present).write_text("{}")
    with pytest.raises(OutputError, match="exists"):
        native.write(LINEAR, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == [present]


@pytest.mark.parametrize("name", ["model.pt", "model.CKPT", "model.npy"])
def test_a_name_of_another_kind_of_file_does_not_become_a_folder(tmp_path, name):
    with pytest.raises(OptionError, match="a native checkpoint is a") as refused:
        native.write(Quantizer(dim=4, codebook_dim=4), tmp_path / name)
    assert refused.value.hint == "name it model.safetensors"
    assert not list(tmp_path.iterdir())
    (tmp_path / name).mkdir()  # meant
    native.write(Quantizer(dim=4, codebook_dim=4), tmp_path / name)
    assert checkpoints.load(tmp_path / name).dim == 4


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        native.write(LINEAR, tmp_path / "model")


# What is read

CONFIG = {"type": "lfq", "dim": 4, "codebook_size": 16}
DESCRIPTION = {"format": "lfq-checkpoint", "version": 1, "config": CONFIG}


def test_the_base_of_the_damage_is_read(tmp_path):
    path = lfq_file(tmp_path / "a.safetensors", DESCRIPTION, {"mask": np.array([8, 4, 2, 1])})
    assert checkpoints.load(path).config() == Quantizer(dim=4, codebook_dim=4).config()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"version": 1.0}, r"version 1\.0"),
        ({"version": "1"}, "version '1'"),
        ({"version": None}, "version None"),
        ({"config": None}, "without a config object"),
        ({"config": [CONFIG]}, "without a config object"),
        ({"config": {}}, "lacks type, dim, codebook_size"),
        ({"config": CONFIG | {"newer": 1}}, "unknown keys 'newer'"),
        ({"config": CONFIG | {"dim": 7}}, "dim (is )?7"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_description_is_refused(tmp_path, form, change, reason):
    if form.endswith(".safetensors"):
        lfq_file(tmp_path / form, DESCRIPTION | change, {})
    else:
        native.write(LINEAR, tmp_path / form)
        (tmp_path / form / "config.json").write_text(json.dumps(DESCRIPTION | change))
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoints.load(tmp_path / form)
    assert str(tmp_path / form) in caught.value.message


@pytest.mark.parametrize("missing", ["version", "config"])
def test_a_description_that_lacks_something_is_refused(missing):
    with pytest.raises(CheckpointError):
        native.parse({key: value for key, value in DESCRIPTION.items() if key != missing}, {})


@pytest.mark.parametrize("text", ["", "{", "\0", "[" * 100_000])
def test_a_description_that_is_no_json_is_refused(tmp_path, text):
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoints.load(lfq_file(tmp_path / "a.safetensors", text, {}))


@pytest.mark.parametrize(
    "value", [None, [], "lfq-checkpoint", {}, {"format": "lfq-codes"}, {"format": ["lfq-checkpoint"]}]
)
def test_other_json_is_no_native_description(value):
    assert not native.is_native(value)
    assert native.is_native(DESCRIPTION)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_read_as_float32(tmp_path, dtype):
    rotation = np.eye(4)[::-1] / 3
    path = lfq_file(tmp_path / "a.safetensors", DESCRIPTION, {"orthogonal_rot": rotation.astype(dtype)})
    read = checkpoints.load(path).weights["orthogonal_rot"]
    assert read.dtype == np.float32
    assert np.array_equal(read, rotation.astype(dtype).astype(np.float32))


def test_integers_are_no_weights(tmp_path):
    path = lfq_file(tmp_path / "a.safetensors", DESCRIPTION, {"orthogonal_rot": np.eye(4, dtype=np.int64)})
    with pytest.raises(CheckpointError, match="I64"):
        checkpoints.load(path)


def test_a_foreign_tensor_is_refused(tmp_path):
    path = lfq_file(tmp_path / "a.safetensors", DESCRIPTION, {"encoder": np.eye(4, dtype=np.float32)})
    with pytest.raises(CheckpointError, match="'encoder'"):
        checkpoints.load(path)


def test_a_payload_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    native.write(LINEAR, path)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for size in (0, 7, 8, 8 + length - 1, 8 + length, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(LfqError, match="not a whole safetensors file"):
            checkpoints.load(path)


def test_a_folder_without_its_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DESCRIPTION))
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        checkpoints.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(header_bytes({}, {}))
    assert checkpoints.load(tmp_path).digest == Quantizer(dim=4, codebook_dim=4).digest
