"""`lfq train`: what it ends in, on real data and on bad; interrupted and resumed, bit for bit."""

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lfq_cli import checkpoints, native
from lfq_cli.cli.interrupts import Interrupted
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[2] / "sample_data" / "digits.safetensors"
QUICK = ("--steps", "40", "--no-progress")


def mixture(count=1500, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.laplace(size=(count, 5)) @ rng.standard_normal((5, dim))
    return (hidden + 0.1 * rng.standard_normal((count, dim))).astype(np.float32)


@pytest.fixture
def x(lfq):
    """x.npy in the working folder."""
    found = mixture()
    np.save("x.npy", found)
    return found


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def unexplained(x, y):
    return np.square(x - y).sum() / np.square(x - x.mean(0)).sum()


@pytest.mark.slow
@pytest.mark.parametrize(("options", "most"), [(["--bits", "32"], 0.22), (["--bits", "16", "--plain"], 0.349)])
def test_digits_reach_the_target(lfq, options, most):
    images = load_file(DIGITS)["images"].reshape(-1, 64).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(images))
    train, test = images[order[180:]], images[order[:180]]
    np.save("train.npy", train)
    np.save("test.npy", test)
    code, out, err = lfq("train", "train.npy", *options, "-o", "c.safetensors", "--json")
    assert code == 0, err
    done = lines_of(out)[-1]
    assert lfq("encode", "c.safetensors", "test.npy", "-o", "codes.safetensors")[0] == 0
    assert lfq("decode", "c.safetensors", "codes.safetensors", "-o", "y.npy")[0] == 0
    # of vectors that were neither trained on nor judged by; their variance is about the training mean, nearly theirs
    assert unexplained(test, np.load("y.npy")) < most
    assert done["held_out"]["unexplained"] < 0.97 * done["held_out"]["itq"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--bits", "6"], {}),
        (["--bits", "6", "--plain"], {"type": "lfq", "codebook_size": 64}),
        (["--bits", "6", "--plain", "--spherical"], {"type": "lfq", "spherical": True}),
        (["--bits", "6", "--num-codebooks", "2"], {"type": "lfq", "num_codebooks": 2, "codebook_size": 8}),
        (["--codebook-size", "8", "--num-quantizers", "2"], {"type": "stacked_lfq", "num_quantizers": 2}),
        (["--bits", "6", "--layout", "channel-last"], {"channel_first": False}),
        (["--bits", "6", "--objective", "tokens"], {"type": "lfq", "codebook_size": 64}),
        (["--bits", "30", "--plain"], {"type": "lfq", "codebook_size": 2**30}),
    ],
)
def test_the_checkpoint_is_what_was_asked_for_and_every_metric_is_its_own(lfq, x, options, expected):
    code, out, err = lfq("train", "x.npy", *options, "-o", "c.safetensors", "--json", *QUICK)
    assert code == 0, err
    config = checkpoints.load(Path("c.safetensors")).full_config()
    assert {name: config[name] for name in expected} == expected
    events = lines_of(out)
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "done"
    assert events[-1]["held_out"]["unexplained"] < 0.6
    assert [event["step"] for event in events if event["event"] == "evaluation"][-1] == 40
    assert not Path("c.run.safetensors").exists()
    lfq("encode", "c.safetensors", "x.npy", "-o", "codes.safetensors")
    assert lfq("decode", "c.safetensors", "codes.safetensors", "-o", "y.npy")[0] == 0
    assert unexplained(x, np.load("y.npy")) == pytest.approx(events[-1]["held_out"]["unexplained"], rel=0.25)


def test_the_checkpoint_says_how_it_was_made(lfq, x):
    lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--seed", "5", *QUICK)
    from lfq_cli.container import metadata_entry

    training = json.loads(metadata_entry(Path("c.safetensors"), "lfq"))["training"]
    assert training["finished"] is True
    assert training["recipe"]["seed"] == 5
    assert training["data"]["vectors"] == len(x)
    assert set(training["held_out"]) >= {"unexplained", "itq", "pca_sign", "utilisation", "dead_bits"}
    assert {tuple(each["shape"]) for each in training["tries"]} == {(2, 3), (3, 2), (6, 1)}  # of 5 directions


@pytest.mark.parametrize("output", ["c.safetensors", "c"])  # a file, a folder
def test_inspect_shows_how_a_checkpoint_was_made(lfq, x, output):
    _, out, _ = lfq("train", "x.npy", "--bits", "6", "-o", output, "--seed", "5", "--json", *QUICK)
    held_out = lines_of(out)[-1]["held_out"]
    training = json.loads(lfq("inspect", output, "--json")[1])["paths"][0]["training"]
    assert training["held_out"] == held_out
    assert training["recipe"]["seed"] == 5
    rows = dict(line.split(maxsplit=1) for line in lfq("inspect", output)[1].splitlines() if " " in line.strip())
    assert rows["recipe.seed"].strip() == "5"
    assert rows["held_out.unexplained"].strip() == f"{held_out['unexplained']:.4g}"
    assert rows["held_out.itq"].strip() == f"{held_out['itq']:.4g}"
    assert rows["tries[0]"].startswith("shape [")


@pytest.mark.parametrize("training", [[1], "x", {"a": {"b": {"c": {"d": {}}}}}])
def test_inspect_says_what_is_wrong_with_a_record_of_training(lfq, x, training):
    lfq("train", "x.npy", "--bits", "6", "--plain", "-o", "c", *QUICK)
    config = Path("c/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"training": training}))
    code, out, _ = lfq("inspect", "c")
    assert code == 0
    assert "'training' must be an object" in out
    assert "codebook_size" in out
    assert "'training' must be" in json.loads(lfq("inspect", "c", "--json")[1])["paths"][0]["training"]["error"]
    assert lfq("encode", "c", "x.npy", "-o", "codes.safetensors")[0] == 0
    assert lfq("train", "x.npy", "--bits", "6", "-o", "c", *QUICK)[0] == 1  # not a run that was interrupted


def test_inspect_says_nothing_of_training_where_there_was_none(lfq):
    native.write(Quantizer(dim=4, codebook_dim=4), Path("c.safetensors"))
    assert "training" not in json.loads(lfq("inspect", "c.safetensors", "--json")[1])["paths"][0]
    assert "train" not in lfq("inspect", "c.safetensors")[1]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(lfq, x):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        lfq("train", "x.npy", "--bits", "6", "-o", f"{name}.safetensors", "--seed", seed, *QUICK)
    a, b, c = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_every_reader_gives_the_same_vectors(lfq, x):
    """One array in one file, in several, channel-first, and as samples of a tar shard: the same digest of weights."""
    channel_first = np.ascontiguousarray(x.reshape(150, 10, 12).transpose(0, 2, 1))
    save_file({"x": channel_first, "label": np.arange(3)}, "first.safetensors")
    Path("parts").mkdir()
    for k, part in enumerate(np.split(x, 3)):
        np.save(f"parts/{k}.npy", part)
    with tarfile.open("x.tar", "w") as tar:
        for k in range(3):
            tar.add(f"parts/{k}.npy", f"{k}.npy")
    np.savez_compressed("x.npz", x=x)
    inputs = [["x.npy"], ["parts"], ["x.tar"], ["x.npz"], ["first.safetensors", "--layout", "channel-first"]]
    found = []
    for k, arguments in enumerate(inputs):
        code, _, err = lfq("train", *arguments, "--bits", "6", "--plain", "-o", f"{k}.safetensors", *QUICK)
        assert code == 0, err
        found.append(load_file(f"{k}.safetensors"))
    for other in found[1:]:
        for name, weight in found[0].items():
            np.testing.assert_allclose(other[name], weight, rtol=1e-3, atol=1e-3)  # moments are summed in other blocks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[:2], "vectors to train 8 bits on"),
        (lambda x: x[:7], "vectors to train 8 bits on"),
        (lambda x: x[:40], "held out"),
        (np.zeros_like, "are equal"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 40, np.nan, x), "nan in vector 3, feature 4"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 40, np.inf, x), "inf in vector 3, feature 4"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 40, 1e30, x), "vector 3 alone has"),
        (lambda x: np.arange(20), "no float tensor"),
        (lambda x: np.float32(3), "single number"),
    ],
)
def test_what_cannot_be_trained_on_is_said(lfq, x, make, message):
    np.save("bad.npy", make(x).astype(make(x).dtype if make(x).dtype.kind == "i" else np.float32))
    code, _, err = lfq("train", "bad.npy", "--bits", "8", "-o", "c.safetensors", *QUICK)
    assert code == 1
    assert message in err, err
    assert "hint" in err
    assert not list(Path().glob("c*"))


@pytest.mark.parametrize("shape", ["constant", "twice", "one direction"])
def test_features_that_say_nothing_are_no_trouble(lfq, x, shape):
    made = {
        "constant": np.concatenate([x, np.full((len(x), 3), 7, np.float32)], 1),
        "twice": np.concatenate([x, x], 1),
        "one direction": np.outer(x[:, 0], np.ones(5, np.float32)).astype(np.float32),
    }[shape]
    np.save("x.npy", made)
    code, out, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--json", *QUICK)
    assert code == 0, err
    assert lines_of(out)[-1]["held_out"]["unexplained"] < 0.4
    weights = load_file("c.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())


def test_other_numbers_of_features_are_an_error(lfq, x):
    np.save("y.npy", np.ones((100, 7), np.float32))
    code, _, err = lfq("train", "x.npy", "y.npy", "--bits", "6", "-o", "c.safetensors", *QUICK)
    assert code == 1
    assert "7 features on axis 1" in err
    assert "expected 12" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "how many bits"),
        (["--bits", "7", "--num-codebooks", "2"], "cannot be shared"),
        (["--bits", "8", "--codebook-size", "8"], "are not 1 × 3 bits"),
        (["--bits", "8", "--plain", "--num-quantizers", "2"], "--plain"),
        (["--bits", "8", "--num-codebooks", "2", "--num-quantizers", "2"], "levels have one codebook"),
        (["--bits", "100", "--plain"], "an index holds 64"),
        (["--bits", "8", "--resume"], "no run to resume"),
        (["--bits", "8", "--plot", "x.gif"], "unknown picture format"),
        (["--codebook-size", "9"], "power of two"),
        (["--bits", "8", "--device", "cuda:7"], "--device"),
    ],
)
def test_options_that_make_no_sense(lfq, x, options, message):
    code, _, err = lfq("train", "x.npy", "-o", "c.safetensors", *options, *QUICK)
    assert code in (1, 2)
    assert message in err, err


def test_an_output_that_is_there_is_kept(lfq, x):
    Path("c.safetensors").write_text("mine")
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", *QUICK)
    assert code == 1
    assert "--overwrite" in err
    assert Path("c.safetensors").read_text() == "mine"
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "x.npy", *QUICK)
    assert code == 2
    assert np.array_equal(np.load("x.npy"), x)


def test_minutes_end_a_run(lfq, x):
    begun, options = time.monotonic(), ("--objective", "tokens", "--json")  # which does not stop early
    code, out, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--minutes", "0.02", *options)
    assert code == 0, err
    seconds = lines_of(out)[-1]["seconds"]
    assert 0.02 * 60 <= seconds <= time.monotonic() - begun
    assert len([line for line in lines_of(out) if line["event"] == "evaluation"]) > 2


def test_bars_of_reading_and_of_tries_are_gone_when_training_begins(lfq, x, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    _, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--steps", "40")
    before, steps = err[: err.index("step      0")], err[err.index("step      0") :]
    assert "read \x1b" in before
    assert "steps of tries \x1b" in before
    assert "read" not in steps
    assert "tries" not in steps


def test_a_run_that_stops_early_says_so(lfq, x):
    _, out, _ = lfq("train", "x.npy", "--bits", "2", "--plain", "-o", "c.safetensors", "--lr", "1e-6", "--steps", "400")
    assert out.startswith(
        "c.safetensors: a plain LFQ of 2 bits, 200 of 400 steps: no gain in the last 20 evaluations\n"
    )


@pytest.mark.parametrize("length", [("--minutes", "0.05"), ("--steps", "130")])
def test_about_ten_lines_show_how_a_run_goes(lfq, x, length):
    code, _, err = lfq("train", "x.npy", "--bits", "6", "--objective", "tokens", "-o", "c.safetensors", *length)
    assert code == 0, err
    assert 8 <= sum(line.startswith("step ") for line in err.splitlines()) <= 11


def test_the_saved_run_does_not_replace_an_input(lfq, x):
    np.save("c.npy", x)
    save_file({"x": x}, "c.run.safetensors")
    before = Path("c.run.safetensors").read_bytes()
    code, _, _ = lfq("train", "c.run.safetensors", "--bits", "6", "-o", "c.safetensors", *QUICK)
    assert code == 2
    assert Path("c.run.safetensors").read_bytes() == before


def test_a_plot_is_drawn(lfq, x):
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--plot", "run.png", *QUICK)
    assert code == 0, err
    assert Path("run.png").read_bytes().startswith(b"\x89PNG")


# interrupted, and going on


def start_run(folder, *options):
    command = [sys.executable, "-m", "lfq_cli", "train", "x.npy", "--bits", "6", "-o", "c.safetensors", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if path.exists():
            return
        time.sleep(0.005)
    pytest.fail(f"{path} never came: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_bit_for_bit(tmp_path, number):
    np.save(tmp_path / "x.npy", mixture())
    options = ("--steps", "600", "--plain", "--no-progress")
    process = start_run(tmp_path, *options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    whole = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").unlink()

    process = start_run(tmp_path, *options)
    wait_for(tmp_path / "c.run.safetensors", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (tmp_path / "c.run.safetensors").exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in err
        assert "Traceback" not in err
        best = checkpoints.load(tmp_path / "c.safetensors")
        assert best.bits_per_vector == 6
    process = start_run(tmp_path, *options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "resumed at step" in err
    assert (tmp_path / "c.safetensors").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors", "x.npy"]


@pytest.fixture
def interrupted(lfq, x, monkeypatch):
    """A run that failed after its third evaluation, in the working folder."""
    from lfq_cli.training.run import TrainingRun

    original, count = TrainingRun.state, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "state", lambda self: _interrupt_at(next(count), 3) or original(self))
        assert lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", *QUICK)[0] == 130
    return x


def test_a_run_goes_on_only_with_its_options_and_data(lfq, interrupted):
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--lr", "0.2", *QUICK)
    assert code == 2
    assert "rate 0.1, now 0.2" in err
    np.save("x.npy", interrupted + 1)
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", *QUICK)
    assert code == 1
    assert "other data" in err
    np.save("x.npy", interrupted)
    assert lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--resume", *QUICK)[0] == 0
    assert not Path("c.run.safetensors").exists()


def test_data_larger_than_the_sample_is_read_in_shuffled_blocks_and_goes_on(lfq, monkeypatch):
    """Tensor files and a tar shard, of which a tenth fits: as good as from memory, and interrupted the same bytes."""
    from lfq_cli.pipeline import vectors
    from lfq_cli.training import survey
    from lfq_cli.training.run import TrainingRun

    x = mixture(6000)
    np.save("a.npy", x[:4000])
    for k in range(2):
        np.save(f"{k}.npy", x[4000 + 1000 * k : 5000 + 1000 * k])
    with tarfile.open("b.tar", "w") as tar:
        for k in range(2):
            tar.add(f"{k}.npy")
    arguments = ("train", "a.npy", "b.tar", "--bits", "6", "--plain", "--json", "--steps", "60", "--batch-size", "200")
    done = [lines_of(lfq(*arguments, "-o", "memory.safetensors")[1])[-1]]
    monkeypatch.setattr(vectors, "BLOCK_VALUES", 12 * 100)
    monkeypatch.setattr(survey, "SAMPLE_VALUES", 12 * 600)
    monkeypatch.setattr(survey, "MIN_SAMPLE_VECTORS", 600)
    done.append(lines_of(lfq(*arguments, "-o", "streamed.safetensors")[1])[-1])
    assert done[1]["held_out"]["unexplained"] == pytest.approx(done[0]["held_out"]["unexplained"], rel=0.05)

    original, count = TrainingRun.state, iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "state", lambda self: _interrupt_at(next(count), 4) or original(self))
        assert lfq(*arguments, "-o", "again.safetensors")[0] == 130
    assert lfq(*arguments, "-o", "again.safetensors")[0] == 0
    assert Path("again.safetensors").read_bytes() == Path("streamed.safetensors").read_bytes()


def _interrupt_at(count, last):
    if count == last:
        raise Interrupted(signal.SIGINT)


def test_a_damaged_run_is_refused(lfq, interrupted):
    data = Path("c.run.safetensors").read_bytes()
    Path("c.run.safetensors").write_bytes(data[:-9])
    code, _, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", *QUICK)
    assert code == 1
    assert "not a whole safetensors file" in err
    assert lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--overwrite", *QUICK)[0] == 0


@pytest.mark.parametrize("place", ["files._set_aside", "training.runfile.write_all"])  # for any file; for the run's
def test_no_room_is_said_before_the_first_step(lfq, x, monkeypatch, place):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"lfq_cli.{place}", full)
    code, out, err = lfq("train", "x.npy", "--bits", "6", "-o", "c.safetensors", "--json", *QUICK)
    assert code == 1
    assert "No space left" in err
    assert "goes on" not in err
    assert not [line for line in lines_of(out) if line["event"] == "evaluation"]
    assert not list(Path().glob("c*"))


def test_the_names_of_many_shapes_have_room_in_the_plot():
    from matplotlib.figure import Figure

    from lfq_cli.report.training import draw_tries
    from lfq_cli.training.shapes import Try, candidates

    figure = Figure(figsize=(3.5, 3.6))  # a third of the picture
    axes = figure.subplots()
    shapes = candidates(60, 60)
    draw_tries(axes, [Try(shape, 0.5, 0.1) for shape in shapes])
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(shape) for shape in shapes]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
