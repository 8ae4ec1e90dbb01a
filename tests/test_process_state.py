"""What the library sets for the whole process it gives back; what a header says was computed in is what was."""

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lfq_cli import Codec, backends
from lfq_cli.errors import LfqNote
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.export import export_codebook, plan_export
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.sample_inputs import SampleInput
from lfq_cli.jobs.verify import VerifyOptions, sources_of, verify
from lfq_cli.quantizer import Quantizer


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


PLAIN = Quantizer(dim=8, codebook_dim=8)
RESIDUAL = Quantizer(dim=8, codebook_dim=8, num_quantizers=4)
WEIGHTS = {"project_in.weight": floats(8, 16), "project_out.weight": floats(16, 8, seed=1)}
PROJECTED = Quantizer(dim=16, codebook_dim=8, weights=WEIGHTS)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    np.save("x.npy", floats(500, 16))
    np.save("y.npy", floats(500, 8))
    np.save("bad.npy", floats(500, 3))


def state():
    """All of the process's that the library could reach for."""
    return {
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": torch.random.get_rng_state().tolist(),
        "numpy": np.geterr(),
        "numpy random": str(np.random.get_state()),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
    }


def job(source, output):
    return Job(Path(source), Path(output))


def encode_it():
    list(encode(PROJECTED, [job("x.npy", "x.codes.safetensors")], EncodeOptions()))


def verify_it():
    encode_it()
    path = Path("x.codes.safetensors")
    list(verify([path], VerifyOptions(), PROJECTED, sources_of(["x.npy"], [str(path)], [path])))


def decode_it():
    encode_it()
    list(decode(PROJECTED, [job("x.codes.safetensors", "back.npy")], DecodeOptions()))


def encode_a_bad_one():
    (outcome,) = encode(PROJECTED, [job("bad.npy", "x.codes.safetensors")], EncodeOptions())
    assert outcome.error is not None


def stop_early():
    jobs = [job("x.npy", f"{k}.codes.safetensors") for k in range(5)]
    with closing(encode(PROJECTED, jobs, EncodeOptions())) as outcomes:
        next(outcomes)


def fail_within():
    def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(encode(PROJECTED, [job("x.npy", "x.codes.safetensors")], EncodeOptions(), broken))


def pack_it():
    list(pack(PROJECTED, [SampleInput("x.npy", "x")], Path("out"), PackOptions(samples_per_file=3)))


def export_it():
    export_codebook(plan_export(PROJECTED, Path("table.npy"), project_out=True))


WORK = (encode_it, decode_it, verify_it, encode_a_bad_one, stop_early, fail_within, pack_it, export_it)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_the_process_is_left_as_it_was(work):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")
    try:
        before = state()
        work()
        assert state() == before
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


# compute dtype


def dtype_and_data(path):
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["lfq"])["compute_dtype"], file.get_tensor("data").tobytes()


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_comparison_is_the_same_in_every_dtype_and_says_so(device, dtype):
    x = floats(500, 8)
    x[::7] = 1e-45  # would be 0 in fewer bits
    np.save("y.npy", x)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        list(encode(PLAIN, [job("y.npy", "y.codes.safetensors")], EncodeOptions(device=device, compute_dtype=dtype)))
    assert dtype_and_data("y.codes.safetensors") == ("float32", np.packbits(x > 0).tobytes())
    assert [note.category for note in notes] == [LfqNote] * (dtype != "float32")


def test_levels_are_computed_in_what_the_header_says_on_every_device():
    found = {}
    for dtype in ("float32", "bfloat16", "float16"):
        for device in ("auto", "cpu", "cpu:0"):
            path = f"{dtype}-{device}.codes.safetensors"
            list(encode(RESIDUAL, [job("y.npy", path)], EncodeOptions(device=device, compute_dtype=dtype)))
            found[dtype, device] = dtype_and_data(path)
        assert found[dtype, "auto"] == found[dtype, "cpu"] == found[dtype, "cpu:0"]
        assert found[dtype, "auto"][0] == dtype
    assert found["float32", "auto"][1] != found["bfloat16", "auto"][1]


@pytest.mark.parametrize("quantizer", [PLAIN, RESIDUAL, PROJECTED], ids=["plain", "residual", "projected"])
def test_decoded_values_are_those_of_the_dtype_that_is_given(quantizer):
    source = "x.npy" if quantizer is PROJECTED else "y.npy"
    list(encode(quantizer, [job(source, "codes.safetensors")], EncodeOptions()))
    values = {}
    for dtype in ("float32", "bfloat16"):
        for device in ("auto", "cpu:0"):
            path = f"{dtype}-{device}.safetensors"
            options = DecodeOptions(device=device, compute_dtype=dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LfqNote)
                list(decode(quantizer, [job("codes.safetensors", path)], options))
            values[dtype, device] = dtype_and_data(path)
        assert values[dtype, "auto"] == values[dtype, "cpu:0"]
    assert values["bfloat16", "auto"][0] == ("float32" if quantizer is PLAIN else "bfloat16")


# several at once, and what the caller has set


def test_threads_that_overlap_leave_torch_as_it_was():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    first_works, second_works, first_is_done = Event(), Event(), Event()
    backend = backends.select("cpu", PROJECTED, "float32", decoding=False)

    def first():
        with backend.working():
            first_works.set()
            assert second_works.wait(20)
        first_is_done.set()

    def second():
        assert first_works.wait(20)
        with backend.working():
            second_works.set()
            assert first_is_done.wait(20)
            assert torch.get_num_threads() == 1

    try:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(first), pool.submit(second)]:
                done.result(30)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "setting",
    [
        partial(torch.autocast, "cpu", torch.bfloat16),
        partial(torch.device, "meta"),
        partial(default_dtype, torch.float64),
        partial(default_dtype, torch.bfloat16),
    ],
    ids=["autocast", "device", "float64", "bfloat16"],
)
@pytest.mark.parametrize("quantizer", [PROJECTED, replace(RESIDUAL, spherical=True)], ids=["projected", "residual"])
def test_what_the_caller_has_set_changes_no_token_and_no_value(quantizer, setting):
    x = floats(300, quantizer.dim)
    codec = Codec(quantizer)
    tokens = codec.encode(x)
    values = codec.decode(tokens)
    with setting():
        codec = Codec(quantizer)
        assert codec.encode(x).packed.tobytes() == tokens.packed.tobytes()
        assert codec.decode(tokens).tobytes() == values.tobytes()
