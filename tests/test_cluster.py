"""cluster/ without Ray: who gets which jobs, and what is said where Ray is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import load, native
from lfq_cli.cluster import EncodeWork
from lfq_cli.cluster.actor import Actor
from lfq_cli.cluster.messages import Done, InOrder
from lfq_cli.cluster.schedule import BATCH_JOBS, Schedule, batches_of
from lfq_cli.errors import LfqError, OptionError, TensorError
from lfq_cli.jobs.encode import EncodeOptions
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.pack import PackOptions
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer
from lfq_cli.ray import Decoder, Encoder

Lfq = Callable[..., tuple[int, str, str]]


@given(st.integers(0, 500), st.integers(1, 40))
def test_batches_are_all_jobs_in_order(count: int, actors: int) -> None:
    batches = batches_of(count, actors)
    assert [place for batch in batches for place in batch] == list(range(count))
    assert all(0 < len(batch) <= BATCH_JOBS for batch in batches)
    if count >= 2 * actors:
        assert len(batches) >= 2 * actors


@given(st.data())
def test_killers_fail_alone_and_all_others_are_done_once(data: st.DataObject) -> None:
    """Actors are killed by some jobs always, and by others, now and then, for no reason of theirs."""
    count, actors = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 4))
    killers = data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=3)) if count else set()
    numbers = iter(range(100_000))
    schedule = Schedule(batches_of(count, actors), lambda actor, batch: next(numbers))
    done: list[int] = []
    failed: list[int] = []
    for name in range(actors):
        schedule.add(name)
    while not schedule.is_done:
        schedule.hand_out()
        for name in range(actors):
            calls = [call for call in schedule.calls.values() if call.actor is name]
            assert len(calls) <= 2
            assert len(calls) == 1 or not any(call.alone for call in calls)
        reference = data.draw(st.sampled_from(sorted(schedule.calls)))
        call = schedule.calls[reference]
        unlucky = not call.alone and data.draw(st.integers(0, 9)) == 0
        if killers & set(call.batch) or unlucky:
            behind = [each for each, other in schedule.calls.items() if other.actor is call.actor]
            for each in behind:  # what waits behind it fails with it
                killed = schedule.killed(each)
                if killed.alone:
                    failed += killed.batch
        else:
            done += schedule.finished(reference).batch
    assert sorted(failed) == sorted(killers)
    assert sorted(done) == sorted(set(range(count)) - killers)


@given(st.permutations(range(12)))
def test_outcomes_come_in_the_order_of_the_jobs(order: list[int]) -> None:
    in_order = InOrder()
    outcomes = [Outcome(Path(str(k)), Path(f"{k}.out"), "written") for k in range(12)]
    given_out = [outcome for place in order for outcome in in_order.add(Done([place], [outcomes[place]]))]
    assert given_out == outcomes


def test_an_actor_reports_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a part, samples, what cannot be read and what is not an input; twice, as after a kill."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((7, 5), np.float32))
    np.save("sample.npy", np.ones((2, 5), np.float32))
    Path("bad.npy").write_text("no array")
    with tarfile.open("shard.tar", "w") as shard:
        shard.add("sample.npy", "a.npy")
    jobs = [
        Job(Path("x.npy"), Path("out/x.codes.safetensors")),
        Job(Path("bad.npy"), Path("out/bad.codes.safetensors")),
        Job(Path("shard.tar"), Path("out/shard.codes.safetensors")),
        Job(Path("x.npy"), Path("out/x.00001.codes.safetensors"), part=1, nbytes=80),
        Job(Path("gone"), Path("out/gone.codes.safetensors"), LfqError("gone: cannot be read")),
    ]
    work = EncodeWork(
        Quantizer(dim=5, codebook_dim=5),
        EncodeOptions(durable=False, part_rows=4, tidy=False),
        PackOptions(durable=False, tidy=False),
    )
    actor = Actor(work, 1, str(tmp_path))
    assert actor.ready() is None
    os.chdir("/")
    for status in ("written", "up to date"):
        outcomes, notes, _ = actor.run(jobs)
        assert [outcome.output for outcome in outcomes] == [job.output for job in jobs]
        assert [outcome.status for outcome in outcomes] == [status, "failed", status, status, "failed"]
        assert notes == []
    error = Actor(work, 1, str(tmp_path / "elsewhere")).ready()
    assert error is not None
    assert "cannot enter" in error.message


def test_a_quantizer_can_be_sent() -> None:
    import pickle

    weights = {"project_in.weight": np.ones((4, 5), np.float32), "project_in.bias": np.zeros(4, np.float32)}
    weights |= {"project_out.weight": np.ones((5, 4), np.float32), "project_out.bias": np.zeros(5, np.float32)}
    for quantizer in (Quantizer(dim=5, codebook_dim=5), Quantizer(dim=5, codebook_dim=4, weights=weights)):
        sent = pickle.loads(pickle.dumps(quantizer))
        assert sent.digest == quantizer.digest
        assert sent.full_config() == quantizer.full_config()
        assert {name: weight.tolist() for name, weight in sent.weights.items()} == {
            name: weight.tolist() for name, weight in quantizer.weights.items()
        }


def test_ray_that_is_missing_is_named(tmp_path: Path) -> None:
    """Whether it is installed or not: nothing called ray is found."""
    native.write(Quantizer(dim=5, codebook_dim=5), tmp_path / "c.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'ray' else find(name, *rest)\n"
    )
    command = [sys.executable, "-m", "lfq_cli", "encode", "c.safetensors", "x.npy", "-o", "out", "--ray", "local"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "lfq: error: --ray: needs ray: No module named 'ray'\n     hint: pip install 'lfq-cli[ray]'\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "local", "--samples-per-file", "2"], "--ray makes a codes file of every input"),
        (["--ray", "local", "--status"], "--ray makes a codes file of every input"),
        (["--ray-num-cpus", "2"], "belong to --ray"),
        (["--ray-num-gpus", "1"], "belong to --ray"),
    ],
)
def test_options_that_contradict_each_other(lfq: Lfq, options: list[str], message: str) -> None:
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))
    np.save("x.npy", np.zeros((2, 5), np.float32))
    code, _, err = lfq("encode", "c.safetensors", "x.npy", "-o", "out", *options)
    assert code == 2
    assert message in err


def test_splitting_samples_is_not_for_ray(lfq: Lfq) -> None:
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))
    np.save("x.npy", np.zeros((2, 5), np.float32))
    assert lfq("encode", "c.safetensors", "x.npy", "-o", "out")[0] == 0
    code, _, err = lfq("decode", "c.safetensors", "out", "-o", "back", "--split", "--ray", "local")
    assert code == 2
    assert "--split with --ray" in err


# stages for Ray Data, which are plain callables


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    native.write(Quantizer(dim=6, codebook_dim=3, num_codebooks=2), tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


@pytest.mark.parametrize("packing", ["ints", "rows"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 6), -1), ((6, 5), 0), ((2, 6, 3), 1), ((6,), None), ((6,), 0)])
def test_stages_give_the_tokens_of_the_codec(
    checkpoint: Path, shape: tuple[int, ...], axis: int | None, packing: str
) -> None:
    codec = load(checkpoint)
    x = np.random.default_rng(0).standard_normal((7, *shape)).astype(np.float32)
    of_batch = axis if axis is None or axis < 0 else axis + 1
    expected = codec.encode(x, channel_axis=of_batch)
    batch = {"data": x, "label": np.arange(7)}
    given = Encoder(checkpoint, channel_axis=axis, packing=packing)(batch)
    assert set(given) == {"tokens", "label"}
    assert given["label"].tolist() == list(range(7))
    if packing == "ints":
        assert given["tokens"].dtype == np.uint8
        assert np.array_equal(given["tokens"], expected.indices)
    else:
        assert given["tokens"].shape == (*expected.positions, 1)
        bits = np.unpackbits(given["tokens"], axis=-1)[..., :6]
        assert np.array_equal(np.packbits(bits), expected.packed)
    decode = Decoder(checkpoint, channel_axis=-1 if axis is None else axis, packing=packing, keep=True)
    back = decode(given)
    assert set(back) == {"tokens", "label", "data"}
    assert np.array_equal(back["data"], codec.decode(expected))


def test_stages_take_samples_of_several_shapes_and_none(checkpoint: Path) -> None:
    samples = np.empty(3, object)
    for k in range(3):
        samples[k] = np.random.default_rng(k).standard_normal((k, 6)).astype(np.float32)
    given = Encoder(checkpoint)({"data": samples})["tokens"]
    assert [each.shape for each in given] == [(0, 2), (1, 2), (2, 2)]
    back = Decoder(checkpoint)({"tokens": given})["data"]
    assert [each.shape for each in back] == [(0, 6), (1, 6), (2, 6)]
    nothing = np.empty((0, 4, 6), np.float32)
    for packing, last in (("ints", 2), ("rows", 1)):
        assert Encoder(checkpoint, packing=packing)({"data": nothing})["tokens"].shape == (0, 4, last)


def test_stages_say_what_is_wrong(checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="has no column 'data'"):
        Encoder(checkpoint)({"x": np.zeros((2, 6), np.float32)})
    with pytest.raises(TensorError, match="5 features"):
        Encoder(checkpoint)({"data": np.zeros((2, 5), np.float32)})
    with pytest.raises(TensorError, match="NaN"):
        Encoder(checkpoint)({"data": np.full((2, 6), np.nan, np.float32)})
    with pytest.raises(OptionError, match="expected uint8"):
        Decoder(checkpoint, packing="rows")({"tokens": np.zeros((2, 2), np.uint8)})
