"""`lfq stats --html`: statistics as one page: plots and tables inline, no network, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.report import canvas
from lfq_cli.report.markup import Html, folded, inline_svg, items, joined, table, tag, text
from lfq_cli.report.meaning import MEANING
from lfq_cli.report.panels import Panel, panels_of
from lfq_cli.report.plot import headline
from lfq_cli.report.tables import tables_of, written
from lfq_cli.report.text import codes_text, count_text, number_text, one_line, shortened
from lfq_cli.statistics.advice import NEARLY_DEAD_BITS
from lfq_cli.statistics.usage import TokenUsage, Usage

PageItem = tuple[str, TokenUsage, Sequence[str]]
"""(label, statistics, advice)."""

MOST_SVG_BYTES = 500_000
"""A larger picture is put in as PNG."""
MOST_SECTIONS = 12
"""Items that all have pictures and tables, which take 0.15 s and 40 KB each. Of more only the first, the
overall statistics, has them; another item has them on a page of its own."""
MOST_ROWS = 3000
"""Items that have a row in the overview, which takes up to 250 bytes."""
_MOST_UNFOLDED_ROWS = 24
_MOST_OPEN = 3
"""Items that are all open; of more only the first."""

_WIDTH, _WIDE_WIDTH, _HEIGHT = 4.4, 9.6, 2.7  # inches, like what follows
_LEFT, _RIGHT, _TOP, _BOTTOM, _COLOUR_BAR, _LEGEND_ROW = 0.62, 0.1, 0.1, 0.48, 0.72, 0.21

_COLOURS = {
    canvas.INK: "var(--ink)",
    canvas.MUTED: "var(--muted)",
    canvas.RULE: "var(--rule)",
    canvas.BLUE: "var(--series)",
}


def check_page(path: Path, *, overwrite: bool = False) -> None:
    """Raises early what `write_page` would raise for its path alone: before hours of counting.

    OptionError without matplotlib; ExistsError or OutputError if something is in the way.
    """
    canvas.require_matplotlib("--html")
    refuse_existing(path, overwrite=overwrite)


def write_page(
    items: Sequence[PageItem], path: Path, *, title: str, overwrite: bool = False, notes: Sequence[str] = ()
) -> None:
    """Writes one HTML page of all items to `path`; the same items give the same bytes.

    `notes` stand under the title. Raises what `check_page` does, OutputError if the file cannot be written.
    """
    check_page(path, overwrite=overwrite)
    with canvas.drawing():
        page = _page(items, title, notes)
    with atomic_output(path, overwrite=overwrite) as file:
        write_all(file, page.encode())


def _page(shown: Sequence[PageItem], title: str, notes: Sequence[str]) -> str:
    sections = shown if len(shown) <= MOST_SECTIONS else shown[:1]
    notes = [*notes, *_left_out(shown, len(sections))]
    unfolded = len(sections) <= _MOST_OPEN
    body = [_item(k, item, unfolded=unfolded) for k, item in enumerate(sections)]
    if len(shown) > 1:
        body.insert(0 if len(sections) == len(shown) else 1, _overview(shown, len(sections)))
    return Template(_file("page.html")).substitute(
        title=text(title),
        style=_file("style.css"),
        notes=items(map(text, notes), class_="notes quiet") if notes else "",
        body=joined(body or [tag("p", text("Nothing was counted."))]),
        meaning=_meaning(),
    )


def _file(name: str) -> str:
    """The text of a file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _left_out(shown: Sequence[PageItem], sections: int) -> list[str]:
    """What the page does not show, and how to see it."""
    lines = []
    if sections < len(shown):
        lines.append(
            f"Pictures and tables are those of “{shown[0][0]}”; the overview has the statistics of every tensor. "
            "lfq stats FILE --html makes a page of one file."
        )
    if len(shown) > MOST_ROWS:
        lines.append(f"The overview has the first {MOST_ROWS:,} of {len(shown):,}; lfq stats --json has all.")
    return lines


def _overview(shown: Sequence[PageItem], sections: int) -> Html:
    columns = ["", "indices", "codes used", "of", "if uniform", "entropy, bits", "perplexity", "advice"]
    rows = [_overview_row(k, item, linked=k < sections) for k, item in enumerate(shown[:MOST_ROWS])]
    whole = table("Overview", columns, rows)
    if len(rows) > _MOST_UNFOLDED_ROWS:
        whole = folded(f"Overview ({len(rows):,})", whole)
    return tag("section", whole, class_="overview")


def _overview_row(number: int, item: PageItem, *, linked: bool) -> list[Html]:
    label, tokens, advice = item
    name = text(shortened(one_line(label), 60))
    link = tag("a", name, href=f"#item-{number}") if linked else name
    usage = tokens.token
    count = text(count_text(tokens.codebooks[0].count))
    advice_count = text(str(len(advice)) if advice else "–")
    if usage is None:
        return [link, count, *[text("–")] * 5, advice_count]
    return [
        link,
        count,
        text(written("codes_used", usage)),
        text(codes_text(usage.bits)),
        text(count_text(usage.codes_used_if_uniform)),
        text(written("entropy_bits", usage)),
        text(written("perplexity", usage)),
        advice_count,
    ]


def _item(number: int, item: PageItem, *, unfolded: bool) -> Html:
    """One set of tokens; link targets lie inside, so following a link unfolds them."""
    label, tokens, advice = item
    heading, brief = tag("h2", text(label)), tag("span", text(headline(tokens)), class_="quiet")
    body = tag(
        "div",
        items(map(text, advice), class_="advice") if advice else Html(""),
        items(map(text, tokens.notes), class_="notes quiet") if tokens.notes else Html(""),
        _cards(tokens),
        _pictures(number, tokens),
        tables_of(tokens),
        id=f"item-{number}",
    )
    if unfolded:
        return tag("section", heading, tag("div", brief), body, class_="item")
    summary = tag("summary", heading, brief)
    return tag("details", summary, body, class_="item", **({"open": ""} if number == 0 else {}))


def _cards(tokens: TokenUsage) -> Html:
    """The statistics to look at first."""
    count = tokens.codebooks[0].count
    if not count:
        return tag("p", text("Nothing was counted."))
    what = "Indices" if len(tokens.codebooks) == 1 else "Tokens"
    cards = [_card(what, count_text(count), f"{tokens.bits_stored} bits each")]
    usage = tokens.token
    cards += (
        _book_cards(tokens.codebooks)
        if usage is None
        else _token_cards(usage, "Codes" if tokens.joint is None else "Different tokens")
    )
    entropies = [
        float(entropy)
        for book in tokens.codebooks
        if book.bit_statistics is not None
        for entropy in book.bit_statistics.entropies
    ]
    if entropies:
        dead = sum(entropy == 0 for entropy in entropies)
        nearly = sum(0 < entropy < NEARLY_DEAD_BITS for entropy in entropies)
        cards.append(_card("Dead bits", str(dead), f"{nearly} nearly dead, of {len(entropies)}"))
    return tag("dl", *cards, class_="cards")


def _token_cards(usage: Usage, what: str) -> list[Html]:
    used = written("codes_used", usage)
    entropy = written("entropy_bits", usage)
    perplexity = written("perplexity", usage)
    unseen = written("unseen_probability", usage)
    corrected = written("entropy_bits_corrected", usage)
    uniform = count_text(usage.codes_used_if_uniform)
    return [
        _card(f"{what} used", used, f"of {codes_text(usage.bits)}; if uniform {uniform}"),
        _card("Entropy", f"{entropy} bits", f"of {usage.bits}; corrected {corrected}"),
        _card("Perplexity", perplexity, "equally used codes"),
        _card("Unseen probability", unseen, "for the next index"),
    ]


def _book_cards(books: Sequence[Usage]) -> list[Html]:
    used = [book.codes_used for book in books]
    entropies = [book.entropy_bits for book in books]
    return [
        _card(
            "Codes used", f"{count_text(min(used))} to {count_text(max(used))}", f"in each of {len(books)} codebooks"
        ),
        _card("Entropy", f"{number_text(min(entropies))} to {number_text(max(entropies))} bits", "of each codebook"),
    ]


def _card(name: str, value: str, beside: str) -> Html:
    return tag("div", tag("dt", text(name)), tag("dd", text(value), tag("small", text(beside))))


def _pictures(number: int, tokens: TokenUsage) -> Html:
    panels = panels_of(tokens)
    if not panels:
        return Html("")
    odd = sum(not panel.many for panel in panels) % 2 == 1  # three columns leave no hole then
    pictures = (_picture(100 * number + k, panel) for k, panel in enumerate(panels))
    return tag("div", *pictures, class_="pictures three" if odd else "pictures")


def _picture(number: int, panel: Panel) -> Html:
    caption = tag("figcaption", tag("b", text(panel.title)), tag("span", text(panel.takeaway)))
    drawn = _drawn(panel, number)
    if not panel.many:
        return tag("figure", caption, drawn)
    box = tag("div", drawn, class_="scroll", role="region", tabindex="0", aria_label=panel.title)
    return tag("figure", caption, box, class_="wide")


def _drawn(panel: Panel, number: int) -> Html:
    """A panel as SVG in the page's own colours, or as PNG where that is smaller."""
    width = _WIDE_WIDTH if panel.many else _WIDTH
    top = _TOP + panel.legend_rows * _LEGEND_ROW
    height = _HEIGHT + panel.legend_rows * _LEGEND_ROW
    right = _COLOUR_BAR if panel.has_colour_bar else _RIGHT
    figure = canvas.new_figure(width, height)
    box = (_LEFT / width, _BOTTOM / height, (width - _LEFT - right) / width, (height - top - _BOTTOM) / height)
    panel.draw(figure.add_axes(box))
    svg = canvas.to_bytes(figure, "svg", transparent=True, text=True)
    if len(svg) <= MOST_SVG_BYTES:
        return inline_svg(svg, panel.description, number, _COLOURS)
    png = base64.b64encode(canvas.to_bytes(figure, "png")).decode()
    return tag("img", src=f"data:image/png;base64,{png}", alt=one_line(panel.description))


def _meaning() -> Html:
    return tag(
        "dl",
        *(tag("div", tag("dt", text(name)), tag("dd", text(meaning))) for name, meaning in MEANING),
        class_="meaning",
    )
