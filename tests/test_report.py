"""Pictures and pages: their curves against counting, statistics of every shape, and what is in the files."""

import io
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from math import comb
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_records import positions_of, random_bits, token_of

from lfq_cli.errors import ExistsError, OptionError, OutputError
from lfq_cli.report import canvas, curves, markup, page, panels, plot, text
from lfq_cli.statistics.profile import Profile, profile_of
from lfq_cli.statistics.usage import BitStatistics, Estimate, PositionStatistics, TokenUsage, Usage

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
HOSTILE = "</title><script>alert(1)</script>&\"'`$x^2$ -->\n\r\t\x00\u202e\ud800\uffff日本<img src=x onerror=alert(2)>"


def counted(counts, bits, **more):
    """Usage of 2^bits codes that occur so often each."""
    counts = np.array(counts, np.int64)
    total = int(counts.sum())
    both = np.full((bits, bits), total // 4) + np.eye(bits, dtype=np.int64) * (total // 4)
    return Usage(bits, total, profile_of(counts), BitStatistics(total, both), **more)


def books(count, number, bits, seed=0):
    return token_of(*(random_bits(count, bits, seed + k) for k in range(number)))


def with_positions(axes, count=40, bits=5, number=1):
    """Codebooks with statistics by position, of which the first never changes."""
    columns = [random_bits(count * int(np.prod(axes)), bits, k).reshape(count, *axes, bits) for k in range(number)]
    for column in columns:
        column.reshape(count, -1, bits)[:, 0] = True
    flat = [column.reshape(-1, bits) for column in columns]
    return token_of(*flat, positions=tuple(positions_of(column) for column in columns))


def bordered():
    """16 × 16 positions with a border that never changes."""
    column = random_bits(50, 4).reshape(50, 1, 1, 4) ^ random_bits(50 * 256, 4, 1).reshape(50, 16, 16, 4)
    column[:, [0, -1]] = False
    column[:, :, [0, -1]] = False
    return token_of(column.reshape(-1, 4), positions=(positions_of(column),))


def zipf(count=20_000, bits=18):
    codes = np.minimum(np.random.default_rng(0).zipf(1.2, count), 1 << bits) - 1
    return token_of(codes[:, np.newaxis] >> np.arange(bits - 1, -1, -1) & 1 == 1)


def two_dead(count=2000):
    return token_of(random_bits(count, 12, ones=[0.5, 0.5, 0.3, 0, 0.5, 0.6, 0.995, 0.5, 0.5, 0.5, 0.5, 1]))


def estimated():
    methods = {"codes_used": Estimate("HyperLogLog", 163.0), "entropy_bits": Estimate("a sample of codes", 0.0031)}
    profile = Profile(np.array([7, 2, 1]), np.array([1000.5, 20000.0, 70000.25]))
    usage = replace(counted([1], 40), count=120_000, profile=profile, estimated=methods, codes_used_estimate=90_500.0)
    return TokenUsage((replace(usage, min_count=2),), None)


NOTHING = Usage(10, 0, profile_of(np.array([], np.int64)), BitStatistics(0, np.zeros((10, 10), np.int64)))

CASES = {
    "uniform": lambda: token_of(random_bits(5000, 10)),
    "zipf": zipf,
    "two dead bits": two_dead,
    "one bit": lambda: token_of(random_bits(100, 1)),
    "one bit, constant": lambda: token_of(random_bits(100, 1, ones=0)),
    "64 bits": lambda: token_of(random_bits(500, 64)),
    "one code": lambda: token_of(random_bits(500, 8, ones=1)),
    "one index": lambda: token_of(random_bits(1, 8)),
    "two indices": lambda: token_of(random_bits(2, 8)),
    "nothing counted": lambda: TokenUsage((NOTHING,), None),
    "nothing counted, four codebooks": lambda: TokenUsage(
        (NOTHING,) * 4, replace(NOTHING, bits=40, bit_statistics=None)
    ),
    "10^12 indices": lambda: TokenUsage((counted([10**9 + k for k in range(1000)], 10),), None),
    "10^12 indices of one bit": lambda: TokenUsage((counted([10**12, 1], 1),), None),
    "all counts equal": lambda: TokenUsage((counted([7] * 1024, 10),), None),
    "no statistics of bits": lambda: TokenUsage((replace(counted([5, 4], 10), bit_statistics=None),), None),
    "2 codebooks, joint bits": lambda: books(3000, 2, 6),
    "3 codebooks without joint": lambda: replace(books(3000, 3, 6), joint=None),
    "codebooks of several sizes": lambda: token_of(*(random_bits(500, bits, bits) for bits in (2, 3, 5, 7, 9))),
    "8 codebooks, joint of 144 bits": lambda: books(300, 8, 18),
    "32 codebooks": lambda: books(100, 32, 16),
    "joint of more bits than a float's exponent": lambda: books(20, 22, 50),
    "a sequence": lambda: with_positions((30,)),
    "a long sequence": lambda: with_positions((4000,), count=3, bits=2),
    "a sequence of codebooks": lambda: with_positions((30,), number=2),
    "a sequence of many codebooks": lambda: with_positions((9,), count=5, bits=2, number=9),
    "one position": lambda: with_positions((1,)),
    "an image": bordered,
    "an image of codebooks": lambda: with_positions((4, 6), number=4),
    "a flat image": lambda: with_positions((2, 90), count=5),
    "a large image": lambda: with_positions((3, 2100), count=2, bits=1),
    "a video": lambda: with_positions((4, 3, 3), number=2),
    "four axes": lambda: with_positions((2, 3, 2, 2)),
    "positions with one index": lambda: with_positions((4, 4), count=1),
    "positions without axes": lambda: replace(
        token_of(random_bits(9, 3)), positions=(PositionStatistics((), 9, np.array(3), np.array(1.2), np.array(0.5)),)
    ),
    "no positions": lambda: replace(
        token_of(random_bits(9, 3)), positions=(PositionStatistics((0, 2), 0, *[np.zeros((0, 2))] * 3),)
    ),
    "estimated": estimated,
    "notes": lambda: replace(token_of(random_bits(9, 3)), notes=("joint tokens were not counted everywhere",)),
}


class Page(HTMLParser):
    """A page's elements; asserts that every one that is opened is closed, in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, source):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(self.words)


def written(items, path, **more):
    page.write_page(items, path, title="How the codes are used", **more)
    return path.read_text()


@pytest.mark.parametrize("counts", [[1], [3], [1, 1], [2, 1], [5, 3, 3, 1, 1, 1], [40, 20, 1], [100, 100]])
def test_coverage_is_what_drawing_some_of_the_indices_shows(counts):
    total = sum(counts)
    sizes = np.arange(1.0, total + 1)
    expected = [sum(1 - comb(total - count, n) / comb(total, n) for count in counts) for n in range(1, total + 1)]
    np.testing.assert_allclose(curves.coverage(profile_of(np.array(counts)), total, sizes), expected, atol=1e-9)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=20))
def test_coverage_goes_from_one_code_to_the_codes_used_and_never_falls(counts):
    profile, total = profile_of(np.array(counts)), sum(counts)
    for log in (False, True):
        sizes = curves.sample_sizes(total, log=log)
        found = curves.coverage(profile, total, sizes)
        assert found[0] == pytest.approx(1, abs=1e-6)
        assert found[-1] == pytest.approx(len(counts))
        assert (np.diff(found) >= -1e-6).all()


def test_coverage_of_very_many_different_counts_takes_some_together():
    counts = np.arange(curves._MOST_COUNTS + 5000, 0, -1)
    profile = Profile(counts, np.ones(len(counts)))
    sizes = np.array([1.0, 1000.0, 1e6, float(profile.total)])
    exact = [float(-np.expm1(curves._log_chance_of_none(counts * 1.0, n, profile.total)).sum()) for n in sizes]
    np.testing.assert_allclose(curves.coverage(profile, profile.total, sizes), exact, rtol=1e-3)


def test_sample_sizes_are_whole_and_few():
    assert curves.sample_sizes(0, log=True).size == 0
    assert curves.sample_sizes(3, log=True).tolist() == [1, 2, 3]
    sizes = curves.sample_sizes(10**12, log=True)
    assert (sizes[0], sizes[-1]) == (1, 10**12)
    assert 60 <= sizes.size <= curves.COVERAGE_STEPS


@pytest.mark.parametrize(("count", "bits"), [(50_000, 10), (200_000, 16), (100, 12), (4_000_000, 8)])
def test_uniform_rank_frequency_curves_are_those_of_random_indices(count, bits):
    drawn = np.bincount(np.random.default_rng(0).integers(0, 1 << bits, count))
    ordered = np.sort(drawn[drawn > 0])[::-1]
    ranks, counts = curves.uniform_rank_frequency_curve(count, bits)
    inner = (ranks > 4) & (ranks < 0.9 * ordered.size)
    near = ordered[ranks[inner].astype(int) - 1]
    assert (np.abs(counts[inner] - near) <= np.maximum(1, 0.03 * near)).all()
    assert ranks[-1] == pytest.approx(ordered.size, rel=0.02)


@pytest.mark.parametrize(("count", "bits"), [(0, 4), (1, 1), (10**12, 1), (10**12, 64), (1000, 144), (50, 2000)])
def test_uniform_rank_frequency_curves_of_any_size(count, bits):
    ranks, counts = curves.uniform_rank_frequency_curve(count, bits)
    assert np.isfinite(counts).all()
    assert (counts >= 1).all()
    assert len(ranks) == len(counts)
    assert (np.diff(ranks) > 0).all()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.count_text(1234567), "1,234,567"),
        (text.count_text(2.0**64), "1.84 × 10¹⁹"),
        (text.number_text(0), "0"),
        (text.number_text(9.99996), "10.00"),
        (text.number_text(0.0123461), "0.01235"),
        (text.number_text(1.5e-7), "1.500 × 10⁻⁷"),
        (text.number_text(-0.5, 2), "−0.50"),
        (text.number_text(float("inf")), "∞"),
        (text.share_text(0.12), "12.0 %"),
        (text.share_text(1), "100 %"),
        (text.share_text(0.999999), "99.9999 %"),
        (text.share_words(0.12), "12 %"),
        (text.share_words(3e-10), "3 × 10⁻⁸ %"),
        (text.signed_text(-0.001), "0.00"),
        (text.signed_text(-0.5), "−0.50"),
        (text.short_text(1500), "1.5k"),
        (text.short_text(1e12), "1T"),
        (text.short_text(1e18), "10¹⁸"),
        (text.codes_text(10), "1,024"),
        (text.codes_text(144), "2¹⁴⁴"),
        (text.list_text(["a", "b", "c", "d"], 3), "a, b, 2 more"),
        (text.one_line("a\x1b[0m\nb\u202e"), "a�[0m�b�"),
        (text.shortened("abcdefghij", 5), "ab…ij"),
    ],
)
def test_numbers_and_names_in_words(shown, expected):
    assert shown == expected


@pytest.mark.parametrize("name", CASES)
def test_any_statistics_make_a_picture(name, tmp_path):
    path = tmp_path / "plot.png"
    plot.write_plot([(name, CASES[name]())], path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width == plot._WIDTH * canvas.DOTS_PER_INCH
    assert 100 < height < 2 * width
    assert len(data) < 500_000


@pytest.mark.parametrize("name", CASES)
def test_any_statistics_make_a_page(name, tmp_path):
    source = written([(name, CASES[name](), ["one thing", "another"])], tmp_path / "page.html")
    found = Page(source)
    assert name in found.text
    assert "another" in found.text
    assert re.findall(r"https?:[^\"]*", source.replace("http://www.w3.org/2000/svg", "")) == []
    assert len(source) < 800_000


def test_what_is_shown_of_which_statistics():
    def names(tokens):
        return [panel.name for panel in panels.panels_of(tokens)]

    assert names(CASES["uniform"]()) == ["rank", "coverage", "balance", "correlation"]
    assert names(CASES["an image"]()) == ["rank", "coverage", "balance", "correlation", "position"]
    assert names(CASES["one bit"]()) == ["rank", "coverage", "balance"]
    assert names(CASES["no statistics of bits"]()) == ["rank", "coverage"]
    assert names(CASES["nothing counted"]()) == []


def test_what_panels_say_in_words():
    def said(tokens):
        return {panel.name: panel.takeaway for panel in panels.panels_of(tokens)}

    dead = said(two_dead())
    assert dead["balance"] == "Dead: bit 3, bit 11; nearly dead: bit 6"
    assert said(bordered())["position"] == "60 of 256 never change; 50 indices at each"
    assert said(estimated())["coverage"].startswith("About 90,500 of 2⁴⁰ codes used")
    assert said(CASES["one code"]())["rank"] == "The most used code is 100 % of all"
    assert said(CASES["one code"]())["correlation"] == "No two bits that change"
    together = token_of(*[random_bits(2000, 3)] * 2)
    assert said(together)["correlation"] == "Strongest: codebook 0 bit 0 and codebook 1 bit 0, +1.00"


@pytest.mark.parametrize("name", ["uniform", "8 codebooks, joint of 144 bits", "an image", "nothing counted"])
def test_every_kind_of_picture_opens(name, tmp_path):
    for suffix in plot.PLOT_SUFFIXES:
        plot.write_plot([(name, CASES[name]())], tmp_path / f"plot{suffix}")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    pdf = (tmp_path / "plot.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in pdf


def test_several_items_and_none(tmp_path):
    items = [(f"tensor {k}", token_of(random_bits(20, 2, k))) for k in range(plot.MOST_DRAWN + 2)]
    plot.write_plot(items, tmp_path / "many.pdf")
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "many.pdf").read_bytes())) == len(items)
    plot.write_plot(items, tmp_path / "many.svg")
    assert "8 of 10 drawn" in (tmp_path / "many.svg").read_text()
    for suffix in plot.PLOT_SUFFIXES:
        plot.write_plot([], tmp_path / f"none{suffix}")
    assert "Nothing was counted" in (tmp_path / "none.svg").read_text()


def in_another_process(script, **environment):
    paths = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=os.environ | paths | environment, capture_output=True, check=True)


def test_the_same_statistics_make_the_same_bytes_in_any_process(tmp_path):
    script = f"""if True:
        import os
        from pathlib import Path
        from test_report import CASES
        from lfq_cli.report import page, plot
        items = [(name, CASES[name]()) for name in ("2 codebooks, joint bits", "an image")]
        path = Path({str(tmp_path)!r}) / os.environ["PYTHONHASHSEED"]
        for suffix in plot.PLOT_SUFFIXES:
            plot.write_plot(items, path.with_suffix(suffix))
        page.write_page([(*item, []) for item in items], path.with_suffix(".html"), title="x")
        """
    for seed in ("1", "2"):
        in_another_process(script, PYTHONHASHSEED=seed)
    for suffix in (*plot.PLOT_SUFFIXES, ".html"):
        assert (tmp_path / f"1{suffix}").read_bytes() == (tmp_path / f"2{suffix}").read_bytes()


def test_settings_of_the_caller_are_neither_used_nor_changed(tmp_path):
    import matplotlib

    plot.write_plot([("a", CASES["uniform"]())], tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        plot.write_plot([("a", CASES["uniform"]())], tmp_path / "theirs.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()


def test_drawing_says_nothing_and_leaves_pyplot_alone(tmp_path):
    script = f"""if True:
        import sys
        from pathlib import Path
        from lfq_cli.report import page, plot
        assert not any(name.startswith("matplotlib") for name in sys.modules)
        from test_report import CASES, HOSTILE
        plot.write_plot([(HOSTILE, CASES["one bit"]())], Path({str(tmp_path)!r}) / "plot.png")
        assert "matplotlib.pyplot" not in sys.modules
    """
    ran = in_another_process(script, MPLCONFIGDIR="/dev/null/nowhere")  # it would say so, and that it builds its cache
    assert (ran.stdout, ran.stderr) == (b"", b"")


def test_another_suffix_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(OptionError) as caught:
        plot.write_plot([], tmp_path / "plot.jpg")
    assert all(suffix in str(caught.value.hint) for suffix in plot.PLOT_SUFFIXES)
    plot.write_plot([], tmp_path / "plot.PNG")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call, option in (
        (lambda: plot.check_plot(tmp_path / "plot.png"), "--plot"),
        (lambda: plot.write_plot([], tmp_path / "plot.png"), "--plot"),
        (lambda: page.check_page(tmp_path / "page.html"), "--html"),
        (lambda: page.write_page([], tmp_path / "page.html", title="x"), "--html"),
    ):
        with pytest.raises(OptionError, match=f"^{option} needs matplotlib") as caught:
            call()
        assert caught.value.hint == "pip install 'lfq-cli[plot]'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plot.png", "page.html"])
def test_an_output_that_is_there_stays_unless_it_may_be_replaced(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"theirs")
    items = [("a", CASES["one bit"]())]

    def write(target, **more):
        if name == "plot.png":
            plot.write_plot(items, target, **more)
        else:
            page.write_page([(*items[0], [])], target, title="x", **more)

    with pytest.raises(ExistsError):
        write(path)
    with pytest.raises(OutputError):
        write(path / name)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(OutputError):
        write(folder, overwrite=True)
    assert path.read_bytes() == b"theirs"
    write(path, overwrite=True)
    assert path.read_bytes() != b"theirs"
    assert {entry.name for entry in tmp_path.iterdir()} == {name, "folder.png"}


def test_nothing_is_left_of_a_picture_that_fails(tmp_path, monkeypatch):
    def fails(_):
        raise RuntimeError

    monkeypatch.setattr(plot, "panels_of", fails)
    with pytest.raises(RuntimeError):
        plot.write_plot([("a", CASES["one bit"]())], tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_stay_text(tmp_path):
    tokens = replace(token_of(random_bits(50, 3)), notes=(HOSTILE,))
    path = tmp_path / "page.html"
    page.write_page([(HOSTILE, tokens, [HOSTILE])] * 2, path, title=HOSTILE, notes=[HOSTILE])
    source = path.read_text()
    found = Page(source)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "img", "link", "iframe", "object", "base"})
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert not any((ord(c) < 32 and c != "\n") or c == "\u202e" for c in source)
    assert "alert(1)" in found.text
    for suffix in plot.PLOT_SUFFIXES:
        plot.write_plot([(HOSTILE, tokens)], tmp_path / f"plot{suffix}")
    ElementTree.parse(tmp_path / "plot.svg")


def test_a_page_needs_nothing_else_and_serves_everyone(tmp_path):
    source = written(
        [("latents", two_dead(), ["bits 3 and 11 never change"])], tmp_path / "page.html", notes=["a note"]
    )
    found = Page(source)
    assert found.named("html") == [{"lang": "en"}]
    metas = found.named("meta")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert any("default-src 'none'" in meta.get("content", "") for meta in metas)
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert {attributes["scope"] for attributes in found.named("th")} == {"col", "row"}
    assert all(svg["role"] == "img" for svg in found.named("svg"))
    assert "Share of ones per bit. Dead: bit 3, bit 11; nearly dead: bit 6." in found.text
    assert "a note" in found.text
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([^")]+)', source)
    assert set(references) <= set(ids)
    assert "matplotlib" not in source
    assert "#1f2328;" not in re.sub(r"<style>.*?</style>", "", source, flags=re.DOTALL)


def test_a_page_has_every_statistic(tmp_path):
    tokens = bordered()
    usage = tokens.codebooks[0]
    found = Page(
        written([("latents", replace(tokens, codebooks=(replace(usage, min_count=3),)), [])], tmp_path / "p.html")
    )
    labels = [cell for cell in found.words if cell]
    for label, value in {
        "indices": "12,800",
        "codes there are": "16",
        "codes used": "16",
        "used at least 3×": "16",
        "codes used if uniform": "16",
        "utilisation": "100 %",
        "utilisation if uniform": "100 %",
        "indices for each code": "800.0",
        "entropy, bits": text.number_text(usage.entropy_bits),
        "entropy, corrected, bits": text.number_text(usage.entropy_bits_corrected),
        "entropy per stored bit": text.share_text(usage.entropy_bits / 4),
        "perplexity": text.number_text(usage.perplexity),
        "unseen probability": "0 %",
        "total correlation, bits": text.number_text(usage.total_correlation_bits),
        "rank-frequency slope": text.signed_text(usage.profile.rank_frequency_slope()),
    }.items():
        assert labels[labels.index(label) + 1] == value
    for title in ("Most used codes", "Least used codes", "Strongest pairs of bits", "Bits", "Positions"):
        assert title in labels
    code, count = usage.most_used[0]
    assert labels[labels.index("Most used codes") + 4 :][:2] == [str(code), f"{count:,}"]


def test_what_is_estimated_is_marked_and_says_how(tmp_path):
    found = Page(written([("latents", estimated(), [])], tmp_path / "page.html"))
    words = found.words
    for label in ("codes used", "utilisation", "entropy, bits", "perplexity", "unseen probability"):
        assert words[words.index(label) + 1].startswith("≈ ")
    for label in ("indices", "codes used if uniform"):
        assert not words[words.index(label) + 1].startswith("≈")
    assert "codes used by HyperLogLog, standard error 163" in found.text
    assert (
        "≈" not in Page(written([("latents", zipf(), [])], tmp_path / "exact.html")).text.split("What the figures")[0]
    )


def test_long_tokens_say_that_they_are_hashed(tmp_path):
    source = written([("latents", CASES["8 codebooks, joint of 144 bits"](), [])], tmp_path / "page.html")
    assert "tokens of 144 bits are distinguished by a hash of 64 bits" in source


def test_several_items_are_folded_and_listed(tmp_path):
    items = [(f"shard-{k}", token_of(random_bits(20, 2, k)), ["x"] * k) for k in range(5)]
    found = Page(written(items, tmp_path / "page.html"))
    folded = [attributes for attributes in found.named("details") if attributes["class"] == "item"]
    assert [("open" in attributes) for attributes in folded] == [True, False, False, False, False]
    assert [attributes["href"] for attributes in found.named("a")] == [f"#item-{k}" for k in range(5)]
    few = Page(written(items[:3], tmp_path / "few.html"))
    assert not any(attributes["class"] == "item" for attributes in few.named("details"))
    assert "Nothing was counted" in Page(written([], tmp_path / "none.html")).text


def test_of_many_items_the_first_is_drawn_and_all_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SECTIONS", 5)
    items = [(f"shard-{k}", token_of(random_bits(20, 2, k)), []) for k in range(40)]
    alone = written(items[:1], tmp_path / "alone.html")
    source = written(items, tmp_path / "page.html")
    found = Page(source)
    assert source.count("<svg") == alone.count("<svg") > 0
    assert [attributes["href"] for attributes in found.named("a")] == ["#item-0"]
    assert {f"shard-{k}" for k in range(40)} <= set(found.words)
    assert "Pictures and tables are those of “shard-0”" in found.text
    assert source.index('class="item"') < source.index('class="overview"')
    assert "Overview (40)" in found.text
    monkeypatch.setattr(page, "MOST_ROWS", 30)
    fewer = Page(written(items, tmp_path / "fewer.html"))
    assert "shard-29" in fewer.words
    assert "shard-30" not in fewer.words
    assert "The overview has the first 30 of 40" in fewer.text


def test_a_large_picture_is_put_in_as_png(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SVG_BYTES", 100)
    found = Page(written([("latents", CASES["one code"](), [])], tmp_path / "page.html"))
    assert found.named("svg") == []
    images = found.named("img")
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert [image["alt"].split(".")[0] for image in images][:2] == ["Usage by rank", "Coverage against samples"]


def test_markup_escapes_text_and_attributes():
    assert markup.tag("a", markup.text("<b>&"), title='"<') == '<a title="&quot;&lt;">&lt;b&gt;&amp;</a>'


def test_a_picture_in_the_page_is_still_a_picture():
    with canvas.drawing():
        figure = canvas.new_figure(2, 2)
        figure.add_axes((0.2, 0.2, 0.7, 0.7)).plot([1, 2], [1, 3], color=canvas.BLUE, label="a<b")
        data = canvas.to_bytes(figure, "svg", transparent=True, text=True)
    inline = markup.inline_svg(data, "a < b", 7, {canvas.BLUE: "var(--series)"})
    root = ElementTree.parse(io.StringIO(inline)).getroot()
    assert root.get("viewBox") == "0 0 144 144"
    assert root.get("width") is None
    assert "var(--series)" in inline
    assert len(inline) < 0.7 * len(data)


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_sideways_scrolling(width, tmp_path):
    items = [
        ("a/very/long/name/" * 12, books(60, 12, 16), ["advice " * 30]),
        ("image", bordered(), []),
        ("sequence", with_positions((30,)), []),
    ]
    source = written(items, tmp_path / "page.html")
    script = (
        "<script>const e = document.documentElement;"
        "document.title = [e.scrollWidth, innerWidth, document.querySelectorAll('svg').length].join(' ')</script>"
    )
    measured = re.sub(r"<meta http-equiv[^>]*>", "", source).replace("</body>", f"{script}</body>")
    (tmp_path / "measured.html").write_text(measured)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    ran = subprocess.run(
        [*command, (tmp_path / "measured.html").as_uri()], capture_output=True, check=True, timeout=120
    )
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", ran.stdout.decode())
    assert found is not None
    wide, window, pictures = map(int, found.groups())
    assert wide <= window
    assert pictures == 14
