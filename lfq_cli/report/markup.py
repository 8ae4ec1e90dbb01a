"""HTML from values: every string is escaped on its way in, and only what went through here is Html."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NewType

from lfq_cli.report.text import one_line

Html = NewType("Html", str)
"""Markup that is safe to put into a page."""

_VOID = frozenset({"meta", "img", "br"})


def text(value: str) -> Html:
    """A string of any origin as text."""
    return Html(escape(one_line(value)))


def tag(name: str, /, *content: Html, **attributes: str) -> Html:
    """An element. Attributes end in an underscore where Python needs it (class_), and have one for a dash."""
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(one_line(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{rendered}>" if name in _VOID else f"<{name}{rendered}>{''.join(content)}</{name}>")


def joined(parts: Iterable[Html]) -> Html:
    """Several pieces, one after the other."""
    return Html("".join(parts))


def items(values: Iterable[Html], **attributes: str) -> Html:
    """A list of points."""
    return tag("ul", *(tag("li", value) for value in values), **attributes)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Html]], class_: str = "") -> Html:
    """A table whose first column names its rows, in a box of its own that scrolls sideways where the page is narrow."""
    head = tag("tr", *(tag("th", text(column), scope="col") for column in columns))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag("table", tag("caption", text(caption)), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_=f"scroll {class_}".rstrip(), role="region", tabindex="0", aria_label=caption)


def folded(title: str, *content: Html) -> Html:
    """Content that shows when its title is clicked."""
    return tag("details", tag("summary", text(title)), *content, class_="fold")


def inline_svg(data: bytes, description: str, number: int, colours: Mapping[str, str]) -> Html:
    """An SVG of matplotlib's as part of a page: no prologue, no metadata, ids that no other picture has.

    `colours`: what is written in place of which colour, "var(--ink)" for one. Half as long as it was.
    """
    svg = data.decode()
    svg = svg[svg.index("<svg") :]
    for pattern, new in (
        (r"<metadata>.*?</metadata>", ""),
        (r"<style type=.*?</style>", ""),  # its rule stands in the page's style, once for all
        (r"<!--.*?-->", ""),
        (r' xmlns:xlink="[^"]*"', ""),
        (r"xlink:href", "href"),
        (r'<g id="[^"]*"', "<g"),
        (r'\bid="', f'id="p{number}-'),
        (r"url\(#", f"url(#p{number}-"),
        (r'href="#', f'href="#p{number}-'),
        (r' transform="rotate\(-?0 [^)]*\)"', ""),
        (r" font-family: [^;\"]*;", ""),  # the page's
        (r"(?<=\.\d\d)\d{3,}", ""),  # a hundredth of a point is enough
        (r"\s*\n\s*", " "),
        (r"> <", "><"),
        (r"<(g|defs)/>|<(g|defs)></\2>", ""),
        *((re.escape(colour), new) for colour, new in colours.items()),
    ):
        svg = re.sub(pattern, new, svg, flags=re.DOTALL)
    label = tag("title", text(description))
    opening = re.sub(r' (width|height)="[^"]*"', "", svg[: svg.index(">")])
    return Html(f'{opening} role="img">{label}{svg[svg.index(">") + 1 :]}')
