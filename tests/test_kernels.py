"""The compiled kernels, of every instruction set that this processor has, against the same work in numpy."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import backends, bits, floats, kernels, numerics
from lfq_cli.quantizer import Quantizer

FORMATS = ("F32", "F16", "BF16")
SETS = kernels.compiled.sets() if kernels.compiled else []
needs_kernels = pytest.mark.skipif(not SETS, reason="the kernels were not built")


@pytest.fixture(params=SETS or [pytest.param("none", marks=needs_kernels)], scope="module")
def kernel(request):
    """The instruction set that the kernels use in the test."""
    best = SETS[0]
    kernels.compiled.use(request.param)
    yield request.param
    kernels.compiled.use(best)


@pytest.fixture
def without(monkeypatch):
    """A function that calls another as if the kernels had not been built."""

    def call(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "compiled", None)
            return function(*arguments, **options)

    return call


def patterns(count, name, seed, *, nan=False):
    """Stored values of a format: any pattern, many of the odd ones; NaN only if asked for."""
    spec, rng = floats.FORMATS[name], np.random.default_rng(seed)
    unsigned = np.dtype(f"<u{spec.itemsize}")
    sign, infinity = 1 << (8 * spec.itemsize - 1), {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[name]
    odd = np.array([0, sign, 1, sign + 1, infinity, sign + infinity, infinity - 1, sign - 1, 2 * sign - 1], unsigned)
    ordinary = rng.standard_normal(count).astype(np.float32)
    raw = floats.from_float32(ordinary, spec).view(unsigned)
    anything = rng.integers(0, 2 * sign, count, dtype=unsigned)
    choice = rng.integers(0, 4, count)
    raw = np.where(choice == 0, odd[rng.integers(0, len(odd), count)], np.where(choice == 1, anything, raw))
    if not nan:
        raw = np.where((raw & (sign - 1)) > infinity, 3, raw)
    return raw.astype(unsigned).view(spec.storage)


SHAPES = [
    *((outer, channels, 1) for outer in (1, 3, 8, 65, 1000) for channels in (1, 7, 18, 64)),
    *(
        (outer, channels, inner)
        for outer in (1, 3)
        for channels in (1, 18, 29, 33, 64, 65)
        for inner in (5, 8, 256, 300)
    ),
    (2, 512, 40),
    (2, 513, 3),
    (0, 18, 4),
]


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_signs(kernel, without, name, nan):
    spec = floats.FORMATS[name]
    for seed, shape in enumerate(SHAPES):
        raw = patterns(int(np.prod(shape)), name, seed, nan=nan).reshape(shape)
        backend = backends.NumpyBackend(Quantizer(dim=shape[1], codebook_dim=1, num_codebooks=shape[1]))
        stream, found = backend.encode(raw, spec)
        expected, expected_nan = without(backend.encode, raw, spec)
        assert stream.tobytes() == expected.tobytes(), shape
        assert found == expected_nan, shape


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("inner", [1, 70])
def test_a_single_nan_is_found_wherever_it_is(kernel, name, inner):
    spec = floats.FORMATS[name]
    raw = np.ones((5, 13, inner), np.float32)
    for place in range(0, raw.size, 1 if inner == 1 else 37):
        values = raw.copy()
        values.flat[place] = np.nan
        stored = floats.from_float32(values, spec)
        stream, nan = kernels.signs(stored, name)
        assert nan
        zeros = np.flatnonzero(np.unpackbits(stream, count=raw.size) == 0)
        outer, channel, position = np.unravel_index(place, raw.shape)
        assert zeros.tolist() == [(outer * inner + position) * 13 + channel]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("levels", [1, 2, 3, 8, 24, 25, 40, 64, 65])
def test_residual(kernel, without, name, levels):
    spec = floats.FORMATS[name]
    for seed, (outer, groups, depth, inner) in enumerate(
        [
            (1, 1, 1, 1),
            (9, 1, 18, 1),
            (500, 1, 18, 1),
            (300, 3, 5, 1),
            (3, 1, 18, 100),
            (2, 4, 3, 7),
            (3, 1, 57, 9),
            (40, 2, 9, 1),
            (7, 2, 30, 20),
            (90, 1, 33, 1),
            (2, 1, 60, 1),
        ]
    ):
        quantizer = Quantizer(dim=groups * depth, codebook_dim=depth, num_quantizers=levels, groups=groups)
        raw = patterns(outer * groups * depth * inner, name, seed, nan=seed % 2 == 1)
        raw = raw.reshape(outer, groups * depth, inner)
        backend = backends.ResidualNumpyBackend(quantizer)
        stream, nan = backend.encode(raw, spec)
        expected, expected_nan = without(backend.encode, raw, spec)
        assert stream.tobytes() == expected.tobytes(), (outer, groups, depth, inner)
        assert nan == expected_nan


@pytest.mark.parametrize("levels", [12, 24, 30])
def test_residual_levels_at_the_edges(kernel, levels):
    places = np.arange(-(2**11), 2**11 + 1, dtype=np.float32) / 2**9
    z = np.concatenate([places, *(np.nextafter(places, np.float32(far)) for far in (-9, 9))])
    z = np.resize(z, (len(z) // 4, 4))[..., None]
    quantizer = Quantizer(dim=4, codebook_dim=4, num_quantizers=levels)
    stream, nan = kernels.residual(z, "F32", 4, levels)
    assert not nan
    assert stream.tobytes() == np.packbits(numerics.residual_bits(z, quantizer)).tobytes()


@pytest.mark.parametrize("order", ["msb", "lsb"])
@given(data=st.data())
def test_unpack(kernel, order, data):
    dims = data.draw(
        st.lists(st.integers(1, 64), min_size=1, max_size=5).map(tuple)
        | st.builds(lambda d, c: (d,) * c, st.integers(1, 64), st.integers(1, 4))
    )
    vectors = data.draw(st.integers(0, 40) | st.integers(250, 530))
    first = data.draw(st.integers(0, 7))
    dtype = bits.index_dtype(dims)
    size = -(-(first + vectors * sum(dims)) // 8)
    stream = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, size, dtype=np.uint8)
    found = kernels.unpack(stream, first, vectors, dims, order, dtype)
    from_a_byte = bits.cut_stream(stream, first, vectors * sum(dims))
    assert np.array_equal(found, bits._periods_to_indices(from_a_byte, vectors, dims, order, dtype))
    assert found.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize("order", ["msb", "lsb"])
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
@pytest.mark.parametrize("width", [1, 2, 10, 17, 18, 24, 25])
def test_count(kernel, width, dtype, order):
    stride, first, fields = width + 5, 3, 5000
    stream = np.random.default_rng(width).integers(0, 256, -(-(first + stride * fields) // 8), dtype=np.uint8)
    table = np.zeros(1 << width, dtype)
    kernels.count(stream, first, stride, width, order, fields, table)
    kernels.count(stream, first, stride, width, order, 10, table)
    indices = kernels.unpack(stream, first, fields, (width, 5), order, np.dtype(np.int64))[:, 0]
    expected = np.bincount(np.concatenate([indices, indices[:10]]), minlength=1 << width)
    assert np.array_equal(table, expected)
    pieces = np.zeros_like(table)
    for codes in (range(1), range(1, len(table) // 2), range(len(table) // 2, len(table))):
        kernels.count(stream, first, stride, width, order, fields, pieces, codes)
        assert not pieces[codes.stop :].any()
    kernels.count(stream, first, stride, width, order, 10, pieces)
    assert np.array_equal(pieces, expected)


@pytest.mark.parametrize("name", [*FORMATS, "F64"])
def test_decode(kernel, without, name):
    spec = floats.FORMATS[name]
    for seed, (outer, channels, inner) in enumerate(
        [(1, 1, 2), (3, 18, 256), (3, 7, 301), (2, 25, 9), (2, 26, 9), (2, 64, 300), (1, 130, 17)]
    ):
        backend = backends.NumpyBackend(
            Quantizer(dim=channels, codebook_dim=1, num_codebooks=channels, codebook_scale=0.3)
        )
        signs = np.random.default_rng(seed).integers(0, 2, outer * channels * inner, dtype=np.uint8)
        stream = np.packbits(signs)
        found = backend.decode(stream, outer, inner, spec, project_out=True).copy()
        expected = without(backend.decode, stream, outer, inner, spec, project_out=True)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes(), (outer, channels, inner)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("signs", (b"12345678", 2, 0x7C00, 4, 2, 1, bytearray(1))),  # 8 values of 2 bytes are 16
        ("signs", (b"1234", 2, 0x7C00, 1, 2, 1, bytearray(2))),
        ("signs", (b"1234", 4, 0x7C00, -1, 1, 1, bytearray(1))),
        ("signs", (b"", 4, 0x7C00, 1 << 62, 4, 1, bytearray(1))),  # a product of 2^64
        ("signs", (memoryview(b"12345")[1:], 2, 0x7C00, 1, 2, 1, bytearray(1))),  # an odd address
        ("residual", (b"1234", 0, 1, 1, 1, 1, 65, bytearray(9))),
        ("residual", (b"1234", 3, 1, 1, 1, 1, 8, bytearray(1))),
        ("residual", (b"12345678", 0, 1, 2, 1, 0, 8, bytearray(2))),
        ("unpack", (b"12", 0, 8, 8, False, 3, bytearray(3), 1, 0, 1)),
        ("unpack", (b"12", 1, 8, 8, False, 2, bytearray(2), 1, 0, 1)),
        ("unpack", (b"12", 0, 8, 9, False, 1, bytearray(1), 1, 0, 1)),
        ("unpack", (b"12", 0, 8, 8, False, 2, bytearray(2), 1, 1, 1)),
        ("unpack", (b"12", 0, 1 << 62, 8, False, 5, bytearray(5), 1, 0, 1)),
        ("count", (b"12", 0, 8, 8, False, 2, bytearray(1023), 4, 0, 256)),
        ("count", (b"1234", 0, 26, 26, False, 1, bytearray(4 << 26), 4, 0, 1 << 26)),
        ("count", (b"12", 0, 0, 8, False, 1 << 60, bytearray(1024), 4, 0, 256)),
        ("decode", (b"1", 1, 4, 2, bytearray(15), b"12", b"12")),
        ("decode", (b"1", 1, 4, 2, bytearray(24), b"123", b"123")),
        ("decode", (b"1", 1, 4, 3, bytearray(24), b"12", b"12")),
        ("use", ("abacus",)),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: "):
        getattr(kernels.compiled, name)(*arguments)


def test_the_environment_chooses_numpy():
    code = "from lfq_cli import kernels; print(kernels.compiled)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LFQ_KERNELS": "plain"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"


# an extension that was built from another source


def run_with_an_extension_of(version, code):
    """A process in which the compiled module is one that offers nothing but a version, or not even that."""
    stale = (
        "import sys, types\n"
        "stale = types.ModuleType('_compiled')\n"
        "stale.__file__ = 'kernels/_compiled.so'\n"
        f"stale.__dict__.update({{}} if {version} is None else {{'version': {version}}})\n"
        "sys.modules['lfq_cli.kernels._compiled'] = stale\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LFQ_KERNELS"}
    return subprocess.run(
        [sys.executable, "-c", stale + code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("version", [None, 0, 1000])
def test_an_extension_of_another_version_is_left_alone_with_a_note(version):
    ran = run_with_an_extension_of(version, "from lfq_cli import kernels; print(kernels.compiled)")
    assert ran.stdout == "None\n", ran.stderr
    (note,) = [line for line in ran.stderr.splitlines() if "LfqNote" in line]
    assert f"kernels/_compiled.so: compiled kernels of version {version or 0}, expected" in note
    assert "`pip install -e .` in the source folder builds them again" in note


def test_a_command_goes_on_in_numpy(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 8), np.float32))
    path = tmp_path / "c.safetensors"
    code = (
        "from lfq_cli import native; from lfq_cli.quantizer import Quantizer; from pathlib import Path\n"
        f"native.write(Quantizer(dim=8, codebook_dim=8), Path({str(path)!r}), overwrite=False)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    arguments = ["lfq", "encode", str(path), str(tmp_path / "x.npy"), "-o", str(tmp_path / "x.codes.safetensors")]
    code = f"sys.argv = {arguments!r}\nfrom lfq_cli.cli import main\nmain()"
    ran = run_with_an_extension_of(None, code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("lfq: note: kernels/_compiled.so: compiled kernels of version 0")
    assert ran.stderr.count("lfq: note: ") == 1
    assert (tmp_path / "x.codes.safetensors").read_bytes().endswith(b"\xff" * 4)


@needs_kernels
def test_the_extension_offers_what_its_stub_says():
    stub = ast.parse(Path(kernels.__file__).with_name("_compiled.pyi").read_text(encoding="utf-8"))
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    offered = {name for name in dir(kernels.compiled) if not name.startswith("_")}
    assert offered == functions | {"version"}


def test_both_sides_have_one_version():
    source = Path(kernels.__file__).with_name("_compiled.c").read_text(encoding="utf-8")
    (version,) = re.findall(r"enum { VERSION = (\d+) };", source)
    assert int(version) == kernels._VERSION


@pytest.mark.skipif(
    not shutil.which("cc")
    or not Path(sysconfig.get_paths()["include"], "Python.h").exists()
    or "LFQ_KERNELS" in os.environ,
    reason="no compiler, no headers, or numpy chosen",
)
def test_the_kernels_are_built_where_there_is_a_compiler():
    assert kernels.compiled is not None
