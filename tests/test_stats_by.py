"""`lfq stats --by`: every group's counts are those of its samples alone, over all files."""

from __future__ import annotations

import json
from collections import Counter as Multiset
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_files
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_files import CAPTION, FLAGS, LABEL, Sample, Schema
from typer.testing import CliRunner

from lfq_cli.cli import app_for
from lfq_cli.codesfile import SUFFIX
from lfq_cli.jobs.stats import stats, stats_by
from lfq_cli.statistics import CountOptions

CARRIED = {LABEL: ("I32", ()), FLAGS: ("BOOL", ()), "pairs": ("I64", (2,))}


def sample(key: str, lengths: dict[str, int], width: int, rng: np.random.Generator) -> Sample:
    carried = {
        LABEL: np.int32(rng.integers(-2, 3)).tobytes(),
        FLAGS: np.bool_(rng.integers(2)).tobytes(),
        "pairs": np.zeros(2, np.int64).tobytes(),
    }
    bits = {name: rng.integers(0, 2, (length, width)).astype(bool) for name, length in lengths.items()}
    return Sample(key, bits, carried, {CAPTION: str(rng.choice(["a", "b", "ü"]))})


def value_of(each: Sample, by: str) -> Any:
    if by == CAPTION:
        return each.texts[by]
    return np.frombuffer(each.carried[by], np.int32 if by == LABEL else np.bool_)[0].item()


def tokens(bits: Any) -> list[int]:
    return [int("".join(str(int(bit)) for bit in row), 2) for row in bits]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_groups_are_their_samples_counted_alone(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("by")
    ragged = data.draw(st.booleans())
    packing = data.draw(st.sampled_from(["bits", "rows", "ints"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape: tuple[int | None, ...] = (None,) if ragged else (2, 3)
    schema = Schema({"x": shape, "y": shape}, (5,), packing=packing, carried=CARRIED, texts=(CAPTION,))
    every: list[Sample] = []
    paths = []
    for number in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(1, 20))
        lengths = [{name: int(rng.integers(0, 5)) if ragged else 6 for name in "xy"} for _ in range(count)]
        samples = [sample(f"{number}/{k}", each, 5, rng) for k, each in enumerate(lengths)]
        paths.append(sample_files.write(folder / f"{number}{SUFFIX}", samples, schema))
        every += samples
    by = data.draw(st.sampled_from([LABEL, FLAGS, CAPTION]))
    memory = data.draw(st.sampled_from([1 << 30, 1]))  # one group at a time
    report = stats_by(by, paths, (), CountOptions(memory_bytes=memory))
    assert report.failed == {}
    values = sorted({value_of(each, by) for each in every})
    found = [(item.name, item.group.value) for item in report.tensors if item.group is not None]
    assert found == [(name, value) for name in "xy" for value in values]
    for item in report.tensors:
        assert item.group is not None
        chosen = [each for each in every if value_of(each, by) == item.group.value]
        expected = Multiset(token for each in chosen for token in tokens(each.bits[item.name]))
        (codebook,) = item.usage.codebooks
        assert codebook.count == expected.total()
        assert codebook.codes_used == len(expected)
        assert set(codebook.most_used) <= set(expected.items())
    assert report.overall is not None
    assert json.dumps(report.overall.as_json()) == json.dumps(stats(paths).overall.as_json())  # type: ignore[union-attr]


def test_positions_are_counted_within_each_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = Schema({"x": (2, 3)}, (5,), carried=CARRIED, texts=(CAPTION,))
    samples = [sample(str(k), {"x": 6}, 5, rng) for k in range(30)]
    path = sample_files.write(tmp_path / f"a{SUFFIX}", samples, schema)
    report = stats_by(FLAGS, [path], (), CountOptions(by_position=True))
    for item in report.tensors:
        assert item.group is not None
        own = [each for each in samples if value_of(each, FLAGS) == item.group.value]
        alone = sample_files.write(tmp_path / f"own{SUFFIX}", own, schema)
        expected = stats([alone], (), CountOptions(by_position=True)).tensors[0].usage
        assert json.dumps(item.usage.as_json()) == json.dumps(expected.as_json())


def test_what_carries_no_such_value_is_named_and_the_rest_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = Schema({"x": (2,)}, (5,), carried=CARRIED, texts=(CAPTION,))
    sample_files.write(tmp_path / f"a{SUFFIX}", [sample("k", {"x": 2}, 5, rng)], schema)
    sample_files.write(tmp_path / f"b{SUFFIX}", [Sample("k", {"x": np.ones((2, 5), bool)})], Schema({"x": (2,)}, (5,)))
    result = CliRunner().invoke(app_for([]), ["stats", str(tmp_path), "--by", LABEL, "--json"])
    assert result.exit_code == 3
    assert f"b{SUFFIX}: carries no 'label'" in result.stderr
    assert [item["by"] for item in json.loads(result.stdout)["tensors"]] == [LABEL]
    result = CliRunner().invoke(app_for([]), ["stats", str(tmp_path / f"a{SUFFIX}"), "--by", "pairs"])
    assert "'pairs' is [1, 2], expected one value per sample, [1]" in str(result.exception)
