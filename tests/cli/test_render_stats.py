"""What `lfq stats` shows: it fits, it loses nothing, it is read without colour; the JSON is JSON."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stats_records import positions_of, random_bits, report_of, token_of, usage_of

from lfq_cli.cli import messages
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.blocks import bar, chart, heights, leaning, shade
from lfq_cli.cli.render.comparison import comparison_lines, show_comparison
from lfq_cli.cli.render.grid import WIDTH, flow, grid
from lfq_cli.cli.render.numbers import digits, percent, signed, tenths, whole
from lfq_cli.cli.render.stats import show_stats, stats_json, stats_lines
from lfq_cli.errors import CodesFileError
from lfq_cli.jobs.stats import ComparisonReport
from lfq_cli.statistics.advice import advice
from lfq_cli.statistics.comparison import TokenComparison, UsageComparison
from lfq_cli.statistics.registry import STATISTICS
from lfq_cli.statistics.usage import Estimate, TokenUsage

pytestmark = pytest.mark.slow

TABLE = Display(json=False, quiet=False, verbose=False, no_progress=True)
JSON, QUIET, VERBOSE = (dataclasses.replace(TABLE, **{name: True}) for name in ("json", "quiet", "verbose"))

AXES = [(7,), (300,), (2000,), (1, 1), (16, 16), (100, 30), (3, 8, 8), (2, 2, 5, 40)]
HUGE = 10**11


@st.composite
def usages(draw, dims=None):
    """Usages of codebooks of any number and size: few codes or many, dead bits, huge counts, estimates, positions."""
    dims = dims or draw(st.lists(st.integers(1, 64), min_size=1, max_size=4) | st.just([8] * 32) | st.just([18] * 8))
    axes = draw(st.none() | st.sampled_from(AXES[:5])) if len(dims) < 5 else None
    batch = draw(st.integers(0 if axes is None else 1, 4 if axes else 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    ones = draw(st.sampled_from([0.0, 0.02, 0.5, 0.9, 1.0]))
    shape = (batch, *(axes or ()))
    codebooks = [random.random((*shape, bits)) < ones for bits in dims]
    times = draw(st.sampled_from([1, 3, 12345, HUGE]))
    usage = token_of(
        *(bits.reshape(-1, bits.shape[-1]) for bits in codebooks),
        positions=tuple(map(positions_of, codebooks)) if axes else None,
        times=times,
        min_count=draw(st.sampled_from([1, 2, 10**12])),
    )
    return estimated(usage) if draw(st.booleans()) else usage


def estimated(usage):
    """The same with statistics that were not counted."""
    how = {
        "codes_used": Estimate("HyperLogLog", 12345.6),
        "entropy_bits": Estimate("a sample of codes by hash", 0.00123),
    }

    def guess(part):
        return dataclasses.replace(part, estimated=how, codes_used_estimate=1.0 + 0.7 * part.count)

    return dataclasses.replace(
        usage,
        codebooks=tuple(map(guess, usage.codebooks)),
        joint=usage.joint and guess(usage.joint),
    )


NAMES = st.text(min_size=1, max_size=300) | st.sampled_from(["latents", "模型.encoder.量化" * 20, "a b " * 50])


@st.composite
def reports(draw):
    same = draw(st.booleans())
    tensors = draw(st.lists(usages([6, 12]) if same else usages(), min_size=1, max_size=3))
    tensors *= draw(st.sampled_from([1, 1, 1, 1, 7]))
    files = [Path(draw(NAMES.filter(lambda name: "\0" not in name))) for _ in tensors]
    overall = tensors[0] if same or len(tensors) == 1 else None
    return report_of(*tensors, overall=overall, names=[draw(NAMES) for _ in tensors], files=files)


def plain(lines):
    return [line.plain for line in lines]


def text_of(report, *, verbose=False, width=WIDTH):
    return "\n".join(plain(stats_lines(report, verbose=verbose, width=width)))


# it fits


@settings(max_examples=60)
@given(reports(), st.booleans())
def test_nothing_is_wider_than_80_columns(report, verbose):
    for line in stats_lines(report, verbose=verbose, width=WIDTH):
        assert line.cell_len <= WIDTH, line.plain
        assert "\n" not in line.plain


@given(usages(), st.booleans())
def test_where_there_is_no_terminal_only_names_and_sentences_are_wider(usage, verbose):
    name = "n" * 200
    lines = plain(stats_lines(report_of(usage, names=[name]), verbose=verbose, width=None))
    assert lines[0].startswith(f"{name}: ")
    sentences = {f"- {text}" for text in advice(usage)}
    assert all(len(line) <= WIDTH or line in sentences for line in lines[1:])


@pytest.mark.parametrize("dims", [[10], [18], [64], [16] * 4, [8] * 32, [6, 12], [18] * 8, [1], [64] * 3])
@pytest.mark.parametrize("times", [1, HUGE])
def test_known_shapes_fit(dims, times):
    usage = token_of(*(random_bits(500, bits, k) for k, bits in enumerate(dims)), times=times)
    for verbose in (False, True):
        assert max(map(len, text_of(report_of(usage), verbose=verbose).splitlines())) <= WIDTH


# it loses nothing


def statistics_shown(usage):
    """Text of the statistics that are shown for every usage."""
    used, entropy = "codes_used" in usage.estimated, "entropy_bits" in usage.estimated
    return [
        whole(usage.codes_used, estimated=used),
        percent(usage.utilisation, estimated=used),
        percent(usage.codes_used_if_uniform / 2.0**usage.bits),
        digits(usage.entropy_bits, estimated=entropy),
        digits(usage.entropy_bits_corrected, estimated=entropy),
        tenths(usage.perplexity, estimated=entropy),
        percent(usage.unseen_probability, estimated=used),
    ]


@given(usages())
def test_every_statistic_is_there_and_none_is_broken(usage):
    if not usage.codebooks[0].count:
        assert "there are no indices" in text_of(report_of(usage))
        return
    words = set(text_of(report_of(usage), verbose=True).split())
    for part in (*usage.codebooks, *([usage.joint] if usage.joint else [])):
        assert set(statistics_shown(part)) <= words
    assert f"{usage.codebooks[0].count:,}" in words


@given(usages())
def test_every_bit_is_shown_if_asked_for(usage):
    text = text_of(report_of(usage), verbose=True)
    for k, codebook in enumerate(usage.codebooks):
        for bit, ones in enumerate(codebook.ones):
            name = f"{k}:{bit}" if len(usage.codebooks) > 1 else f"{bit}"
            assert re.search(rf"(^| ){name} +{ones:.1%} ", text, re.MULTILINE), name


@given(usages())
def test_estimates_are_marked_and_explained(usage):
    text = text_of(report_of(usage))
    if any(codebook.estimated for codebook in usage.codebooks) and usage.codebooks[0].count:
        assert "by HyperLogLog" in text
        assert "by a sample of codes by hash" in text
        assert f"{whole(usage.codebooks[0].codes_used, estimated=True)} ± " in text
    else:
        assert "≈" not in text


def test_what_is_shown_of_the_example():
    """One look at the whole, as it should be."""
    codes = np.array([[k >> 1 & 1, k & 1] for k in [0, 0, 0, 1, 1, 3, 3, 3] * 10], bool)
    assert text_of(report_of(token_of(codes), names=["x"])).splitlines() == [
        "x: 80 indices of 2 bits",
        "",
        "codes used                 3  of 4       ███████████████        75.000%",
        "codes used if uniform      4  of 4       ████████████████████  100.000%",
        "indices for each code     20",
        "perplexity               3.0  of 4       ██████████████▊        73.779%",
        "entropy                1.561  of 2 bits  ███████████████▋       78.064%",
        "entropy, corrected     1.579  of 2 bits  ███████████████▊       78.966%",
        "unseen probability                                               0.000%",
        "total correlation      0.348  of 2 bits  ███▌                   17.379%",
        "rank-frequency slope   -0.33",
        "",
        "count by rank, both on log axes; slope -0.33",
        "   30 ██████████████████████████████████████████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▆▅▅▅",
        "      ████████████████████████████████████████████████████████████",
        "    1 ████████████████████████████████████████████████████████████",
        " rank 1                                                          3",
        "",
        "bit   ones                         entropy",
        "  0  37.5%         ▐██│              0.954",
        "  1  62.5%            │██▌           0.954",
        "",
        "bits most correlated  (0, 1) +0.600",
        "",
        "used   code: times",
        "most   0: 30   3: 30   1: 20",
        "least  1: 20   0: 30   3: 30",
        "",
        "advice",
        "- the codebook leaves 25% of the codes unused that uniform use would reach: dead",
        "  codes; more weight on the entropy of the batch, or fewer bits",
        "- compressible by 10%: the 2 bits stored hold at most 1.8 bits of information;",
        "  an entropy coder would save the rest, or fewer bits would do",
    ]


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: row.key)
def test_every_statistic_is_shown_and_compared(row):
    usage = dataclasses.replace(token_of(random_bits(100, 3)).codebooks[0], min_count=2)
    tokens = TokenUsage((usage,), None)
    label = row.label.format(min_count=2)
    drawn_as_a_bar = row.key == "count" or row.share_of is not None
    assert drawn_as_a_bar or f"\n{label} " in text_of(report_of(tokens))
    compared = TokenComparison((UsageComparison(usage, usage, None, None, None, None, None),), None)
    lines = comparison_lines(ComparisonReport(report_of(tokens), report_of(tokens), compared), verbose=False, width=80)
    assert any(line.plain.startswith(f"{label} ") for line in lines)
    assert row.key in tokens.as_json()["codebooks"][0]


def test_bits_are_marked():
    text = text_of(report_of(token_of(random_bits(2000, 6, ones=[0, 1, 0.999, 0.5, 0.5, 0.5]))))
    assert re.search(r"^ +0 +0\.0% +█+│ +0\.000 +dead ", text, re.MULTILINE)
    assert re.search(r"^ +1 +100\.0% +│█+ +0\.000 +dead ", text, re.MULTILINE)
    assert "weak" in text
    assert "dead (×): never changes" in text


def test_many_bits_are_letters():
    ones = np.full(64, 0.5)
    ones[5], ones[9], ones[63] = 0, 0.25, 0.8
    text = text_of(report_of(token_of(random_bits(5000, 64, ones=ones))))
    assert "▄▄▄▄▄×▄▄▄▂" + "▄" * 53 + "▆" in text
    assert re.search(r"^ +5 +0\.0%", text, re.MULTILINE)


@pytest.mark.parametrize("verbose", [False, True])
def test_of_many_codebooks_a_row_each(verbose):
    usage = token_of(*(random_bits(300, 8, k) for k in range(32)))
    lines = text_of(report_of(usage), verbose=verbose).splitlines()
    assert [line.split()[0] for line in lines[3:36]] == [*map(str, range(32)), "joint"]
    assert verbose == (len(lines) > 60)


# tensors


def test_a_row_for_each_tensor_and_one_for_all():
    parts = [token_of(random_bits(100 + k, 8, k)) for k in range(3)]
    whole_ = token_of(random_bits(303, 8))
    lines = text_of(report_of(*parts, overall=whole_, names=["x", "y", "z"])).splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [["x", "100"], ["y", "101"], ["z", "102"], ["all", "3"]]
    assert "all 3 tensors: 303 indices of 8 bits" in lines


def test_long_names_stand_on_lines_of_their_own():
    parts = [token_of(random_bits(100, 8, k)) for k in range(2)]
    lines = text_of(report_of(*parts, names=["model.encoder.quantizer." * 2 + end for end in "ab"])).splitlines()
    assert lines[1] == "model.encoder.quantizer." * 2 + "a: 100 indices"
    assert lines[2].split()[1] == "256"


def test_of_many_tensors_only_all_unless_asked():
    parts = [token_of(random_bits(100, 8, k)) for k in range(21)]
    assert "tensor20" not in text_of(report_of(*parts))
    assert "all 21" in text_of(report_of(*parts))
    assert text_of(report_of(*parts), verbose=True).count("tensor20: 100 indices of 8 bits") == 1


def test_of_many_codebooks_in_several_tensors_the_weakest():
    weak = token_of(*(random_bits(200, 8, k, ones=0.7 if k == 4 else 0.5) for k in range(9)))
    lines = text_of(report_of(weak, weak, names=["x", "y"])).splitlines()
    assert "of each tensor the codebook with the least entropy; -v shows all" in lines
    assert [lines[1], lines[3]] == ["x: 200 indices", "y: 200 indices"]
    assert [lines[2].split()[0], lines[4].split()[0]] == ["4", "4"]


def test_faults_of_one_tensor_are_reported_with_its_name():
    dead = random_bits(2000, 6)
    dead[:, 2] = True
    report = report_of(
        token_of(random_bits(2000, 6, 1)),
        token_of(dead),
        overall=token_of(np.concatenate([random_bits(2000, 6, 1), dead])),
        names=["fine", "sick"],
    )
    assert "- sick: bit 2 is constant" in text_of(report)


def test_names_are_escaped():
    text = text_of(report_of(*[token_of(random_bits(50, 4))] * 2, names=["two\nlines", "\x1b[31mred"]))
    assert "\x1b" not in text
    assert r"two\nlines" in text


# positions


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_a_map_of_any_axes(axes):
    codes = random_bits(12, int(np.prod(axes)) * 3).reshape(12, *axes, 3)
    usage = token_of(codes.reshape(-1, 3), positions=(positions_of(codes),))
    text = text_of(report_of(usage))
    places = "position" if np.prod(axes) == 1 else "positions"
    assert f"entropy by position: {messages.shape(axes)} {places}, 12 indices each" in text
    drawn = re.findall(r"^  ([▁-█░▒▓·]+)$", text, re.MULTILINE)
    assert 1 <= len(drawn) <= 16
    assert len({len(line) for line in drawn[:-1]}) <= 1


def test_the_map_of_an_image():
    codes = random_bits(200, 4 * 6 * 8).reshape(200, 4, 6, 8)
    codes[:, 1, 2] = True
    codes[:, 3, :, 1:] = False
    text = text_of(report_of(token_of(codes.reshape(-1, 8), positions=(positions_of(codes),))))
    assert "  ████████████\n  ████··██████\n  ████████████\n  ░░░░░░░░░░░░\n" in text
    assert "positions that never change: 1 of 24  (1, 2)" in text


def test_positions_of_several_codebooks():
    codes = [random_bits(50, 10 * 4, k).reshape(50, 10, 4) for k in range(2)]
    codes[1][:, 3] = True
    usage = token_of(*(c.reshape(-1, 4) for c in codes), positions=tuple(map(positions_of, codes)))
    assert "mean of 2 codebooks" in text_of(report_of(usage))
    assert "more of them in codebook: 1 (1)" in text_of(report_of(usage))
    assert "never change:" not in text_of(report_of(usage)).partition("advice")[0]
    assert text_of(report_of(usage), verbose=True).count("entropy by position") == 3


# JSON


def read_json(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@settings(max_examples=40)
@given(reports())
def test_json_is_json(report):
    document = read_json(json.dumps(stats_json(report)))
    assert set(document) == {"tensors", "overall", "failed"}
    for item, tensor in zip(report.tensors, document["tensors"], strict=True):
        assert tensor["file"] == str(item.file)
        assert tensor["tensor"] == item.name
        assert tensor["advice"] == advice(item.usage)
        assert [codebook["count"] for codebook in tensor["codebooks"]] == [c.count for c in item.usage.codebooks]
    assert (document["overall"] is None) == (report.overall is None)


def test_json_on_stdout(capsys):
    usage = token_of(random_bits(500, 10), random_bits(500, 4, 1))
    report = report_of(usage, names=['["\n'], failed={Path("bad"): CodesFileError("broken")})
    show_stats(report, JSON)
    out, err = capsys.readouterr()
    assert read_json(out) == read_json(json.dumps(stats_json(report)))
    assert out.count('"ones": [0.') == 6  # a list of numbers takes one line
    assert "bad" in read_json(out)["failed"]
    assert "broken" in err


@given(st.recursive(st.none() | st.floats(-1, 1) | st.text('[]{},"\n \\ab'), st.lists))
def test_json_with_short_lists_on_a_line_is_the_same_json(value):
    from lfq_cli.cli.render import console

    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console.typer, "echo", printed.append)
        console.print_json({"value": value})
    assert json.loads(printed[0]) == {"value": value}


# the streams


def test_quiet_prints_nothing(capsys):
    show_stats(report_of(token_of(random_bits(50, 4))), QUIET)
    assert capsys.readouterr() == ("", "")


def test_nothing_to_show(capsys):
    show_stats(report_of(overall=None), TABLE)
    assert capsys.readouterr() == ("", "")


def test_notes_go_to_stderr(capsys):
    usage = dataclasses.replace(token_of(random_bits(50, 4)), notes=("no statistics by position",))
    show_stats(report_of(usage, token_of(random_bits(50, 5)), overall=None), TABLE)
    out, err = capsys.readouterr()
    assert "lfq: no statistics by position\n" in err
    assert "lfq: the files have different codebooks: no overall statistics\n" in err
    assert "lfq:" not in out


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns with colours."""
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


SICK = token_of(random_bits(500, 10, ones=[0, *[0.5] * 9]))
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|38|48|9[0-7])[0-9;]*m")
STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.usefixtures("terminal")
def test_colours_add_nothing_to_the_text(capsys, monkeypatch):
    report = report_of(SICK, names=["name " * 40])
    show_stats(report, TABLE)
    coloured = capsys.readouterr().out
    assert COLOUR.search(coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    show_stats(report, TABLE)
    without = capsys.readouterr().out
    assert not COLOUR.search(without)
    assert STYLE.sub("", coloured) == STYLE.sub("", without) == text_of(report) + "\n"


@pytest.mark.usefixtures("terminal")
def test_a_narrow_terminal_loses_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    show_stats(report_of(SICK), TABLE)
    words = STYLE.sub("", capsys.readouterr().out).split()
    assert set(statistics_shown(SICK.codebooks[0])) <= set(words)


def test_a_pipe_gets_no_escape_codes(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    show_stats(report_of(SICK, names=["n" * 500]), TABLE)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "n" * 500 in out


@settings(max_examples=40)
@given(reports(), st.booleans())
def test_every_character_has_a_plain_one(report, verbose):
    """On a terminal that shows ASCII only; but for those of names."""
    messages.make_printable()
    report = dataclasses.replace(
        report, tensors=[dataclasses.replace(t, name="x", file=Path("x")) for t in report.tensors]
    )
    text = text_of(report, verbose=verbose)
    assert "\\" not in text.encode("ascii", "lfq").decode()


def test_pictures_keep_their_width_in_ascii():
    messages.make_printable()
    for letters in (
        bar(0.37, 20),
        leaning(0.21, 6),
        leaning(0.7, 6),
        heights(np.linspace(0, 1, 30)),
        shade(0),
        shade(1),
    ):
        assert len(letters.encode("ascii", "lfq")) == len(letters)


# comparison


@st.composite
def comparisons(draw):
    dims = draw(st.sampled_from([[10], [64], [8, 8, 8], [6, 12], [8] * 32, [40, 40]]))
    a, b = draw(usages(dims)), draw(usages(dims))
    known = draw(st.booleans())

    def compare(x, y):
        return UsageComparison(x, y, *((0.31, 12, 3, 0.123, 1e-7) if known else (None,) * 5))

    joint = compare(a.joint, b.joint) if a.joint and b.joint else None
    compared = TokenComparison(tuple(map(compare, a.codebooks, b.codebooks)), joint)
    return ComparisonReport(report_of(a, names=["x"]), report_of(b, names=["x"]), compared)


@given(comparisons(), st.booleans())
def test_a_comparison_fits(report, verbose):
    for line in comparison_lines(report, verbose=verbose, width=WIDTH):
        assert line.cell_len <= WIDTH, line.plain


@given(comparisons())
def test_a_comparison_shows_every_statistic_and_its_change(report):
    words = " ".join(plain(comparison_lines(report, verbose=True, width=WIDTH))).replace("≈", "").split()
    for compared in report.comparison.codebooks:
        for a, b, change in (
            compared.changes()[name] for name in ("utilisation", "unseen_probability", "entropy_share")
        ):
            assert {percent(a), percent(b), signed(percent(change))} <= set(words)


def test_a_comparison_shows_what_changed():
    a, b = random_bits(5000, 6), random_bits(5000, 6, 1)
    b[:, 4] = True
    usages_ = token_of(a), token_of(b)
    compared = UsageComparison(usages_[0].codebooks[0], usages_[1].codebooks[0], 0.25, 32, 0, 0.5, 0.0)
    report = ComparisonReport(*map(report_of, usages_), TokenComparison((compared,), None))
    text = "\n".join(plain(comparison_lines(report, verbose=False, width=WIDTH)))
    assert re.search(r"^codes used +64 +32 +-32 +███│$", text, re.MULTILINE)
    assert re.search(r"^utilisation +100.000% +50.000% +-50.000% +███│$", text, re.MULTILINE)
    assert re.search(r"^bit +ones in A +ones in B +change\n +4 +\d\d\.\d% +100\.0% ", text, re.MULTILINE)
    assert re.search(r"^ +0\.250 +0\.00\d +32 +50\.000% +0 +0\.000%$", text, re.MULTILINE)


def test_sets_with_other_codebooks_are_shown_side_by_side(capsys):
    report = ComparisonReport(
        report_of(token_of(random_bits(50, 4)), names=["before"]),
        report_of(token_of(random_bits(50, 5)), names=["after"]),
        None,
    )
    show_comparison(report, TABLE)
    out, err = capsys.readouterr()
    assert "before: 50 indices of 4 bits" in out
    assert "after: 50 indices of 5 bits" in out
    assert "different codebooks" in err


def test_a_comparison_as_json(capsys):
    usage = token_of(random_bits(500, 4), random_bits(500, 4, 1))
    same = [UsageComparison(part, part, 0.0, 0, 0, 0.0, 0.0) for part in (*usage.codebooks, usage.joint)]
    report = ComparisonReport(report_of(usage), report_of(usage), TokenComparison(tuple(same[:2]), same[2]))
    show_comparison(report, JSON)
    document = read_json(capsys.readouterr().out)
    assert set(document) == {"a", "b", "comparison"}
    assert document["a"] == read_json(json.dumps(stats_json(report.a)))
    assert document["comparison"] == read_json(json.dumps(report.comparison.as_json()))
    show_comparison(dataclasses.replace(report, comparison=None), JSON)
    assert read_json(capsys.readouterr().out)["comparison"] is None


# the parts


@given(st.floats(0, 1), st.integers(1, 40))
def test_bars(share, width):
    drawn = bar(share, width)
    assert len(drawn) == width
    assert set(drawn) <= set(" ▏▎▍▌▋▊▉█")
    assert bool(drawn.strip()) == (share > 0)
    full = (drawn.count("█") + sum("▏▎▍▌▋▊▉█".index(c) + 1 for c in drawn.strip() if c != "█") / 8) / width
    assert abs(full - share) <= 1 / 8 / width


@given(st.floats(0, 1), st.integers(1, 20))
def test_leaning_bars_are_mirrored(share, half):
    drawn, mirrored = leaning(share, half), leaning(1 - share, half)
    assert len(drawn) == 2 * half + 1
    assert drawn[half] == "│"
    assert drawn[::-1].replace("▌", "?").replace("▐", "▌").replace("?", "▐") == mirrored
    assert (drawn.strip() == "│") == (abs(share - 0.5) * 4 * half <= 0.5)


@given(st.lists(st.floats(0, 1), max_size=50), st.integers(1, 5))
def test_charts(shares, rows):
    lines = chart(shares, rows)
    assert [len(line) for line in lines] == [len(shares)] * rows
    assert " " not in lines[-1]
    assert len(heights(shares)) == len(shares)


@given(st.floats(0, 1e30) | st.integers(0, 10**15))
def test_numbers_are_short_and_near(value):
    for text in (whole(value), tenths(value), whole(value, estimated=True), tenths(value, estimated=True)):
        assert len(text) <= 11
        read = float(text.replace(",", "").removeprefix("≈"))
        assert read == pytest.approx(value, rel=0.0005, abs=0.51)


@given(st.floats(0, 1))
@example(2.4e-5)
def test_shares_are_short_and_near(share):
    text = percent(share)
    assert len(text) <= 9
    assert float(text[:-1]) / 100 == pytest.approx(share, rel=0.06, abs=1e-320)


@given(st.floats(-1, 1).filter(lambda value: value == 0 or abs(value) > 1e-300))
def test_changes_have_a_sign(change):
    text = signed(percent(change))
    assert (text[0] in "+-") == (change != 0)
    assert text.count("+") + text.count("-") <= 2


@given(st.lists(st.text("ab", min_size=1, max_size=12), max_size=20), st.integers(12, 60))
def test_a_flow_breaks_no_item(items, width):
    line = flow(items, width)
    assert len(line) <= width
    assert line.split() == items[: len(line.split())]


@given(st.lists(st.tuples(st.text("ab模", max_size=9), st.text("12,.", max_size=9)), max_size=9))
def test_a_grid_has_straight_columns(rows):
    lines = grid(["name", "number"], rows, left=(0,))
    assert len(lines) == len(rows) + 1
    ends = {line.cell_len for line, row in zip(lines, [("name", "number"), *rows], strict=True) if row[1]}
    assert len(ends) <= 1


def test_an_unknown_usage_of_a_hash_has_no_bits():
    joint = usage_of(random_bits(100, 80), known=False)
    parts = tuple(usage_of(random_bits(100, 40, k)) for k in range(2))
    assert "joint" in text_of(report_of(TokenUsage(parts, joint)))
