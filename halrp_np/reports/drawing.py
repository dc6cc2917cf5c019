"""A picture as PNG, or as SVG inside a page: colours that follow the page's theme, a name, a description, few bytes."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

from .content import Picture
from .picture import LEFT_OUT, styled
from .plots import BLACK, BLUE, GREEN, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, PNG_DPI = 4.8, 200
"""Inches: narrow enough to be read on a phone; a page shows it larger where there is room."""

PURPLE, SKY, PAPER = "#CC79A7", "#56B4E9", "#FEFEFE"
"""Two more of Okabe and Ito's colours, and the ground that hollow markers show."""

GREY, GRID = "#70777F", "#E6E6E6"
"""Of what stands back; no colour of a heat map."""

THEME = {
    BLACK: "currentColor",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    RED: "var(--red)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
    GREY: "var(--grey)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
}
"""The colours that a page replaces with those of its theme; all others stay."""

SERIES = (
    (BLUE, "o", "-"),
    (RED, "s", "--"),
    (GREEN, "^", "-."),
    (ORANGE, "D", ":"),
    (PURPLE, "v", "-"),
    (SKY, "P", "--"),
)
"""Colour, marker and line of each series, told apart by any of them."""

FILLS = (
    *((BLUE, ""), (RED, "///"), (GREEN, "---"), (ORANGE, "\\\\\\"), (PURPLE, "xxx")),
    *((SKY, "|||"), (GREY, "+++"), (BLACK, "")),
)
"""Colour and hatching of each part of a bar."""


def series(number: int) -> tuple[str, str, str]:
    """Colour, marker and line of a series; past the sixth, the same colours with other markers."""
    color, marker, line = SERIES[number % len(SERIES)]
    return (
        color,
        ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")[number % 10] if number >= len(SERIES) else marker,
        line,
    )


def filled(number: int) -> dict[str, Any]:
    """How the bars of a part are filled, for Matplotlib."""
    color, hatch = FILLS[number % len(FILLS)]
    return {"facecolor": "none" if hatch else color, "edgecolor": color, "hatch": hatch, "linewidth": 0.6}


def as_png(picture: Picture) -> bytes:
    """The picture as a PNG file on white, the same bytes for the same numbers."""
    return _drawn(picture, "png")


def as_svg(picture: Picture) -> str:
    """The picture as an element of a page, named and described for who does not see it."""
    text = _drawn(picture, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    found = re.match(r"<svg[^>]*>", text)
    box = re.search(r'viewBox="([^"]*)"', found.group() if found else "")
    inner = text[found.end() if found else 0 :].replace("xlink:href", "href")
    inner = _short(_themed(_own_ids(inner, picture.name)))
    name = picture.name
    return (
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="{box.group(1) if box else ""}">'
        f'<title id="{name}-title">{html.escape(picture.title)}</title>'
        f'<desc id="{name}-desc">{html.escape(picture.description)}</desc>{inner}'
    )


def _drawn(picture: Picture, form: str) -> bytes:
    """The bytes that Matplotlib writes."""
    content = io.BytesIO()
    with styled(
        {"font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "svg.fonttype": "none"}
    ):
        figure = _figure(picture.height)
        picture.draw(figure)
        ground = {"transparent": True} if form == "svg" else {"facecolor": "white"}
        figure.savefig(content, format=form, dpi=PNG_DPI, metadata=LEFT_OUT[f".{form}"], **ground)
    return content.getvalue()


def _figure(height: float) -> Figure:
    """An empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _own_ids(text: str, prefix: str) -> str:
    """Identifiers that something refers to, with the picture's name before them; the others are left out."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def renamed(found: re.Match[str]) -> str:
        return f' id="{prefix}-{found.group(1)}"' if found.group(1) in used else ""

    text = re.sub(r'\s+id="([^"]*)"', renamed, text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)


def _themed(text: str) -> str:
    """Colours of the theme in place of those that stand for them, and the page's letters."""
    for color, themed in THEME.items():
        text = re.sub(re.escape(color), themed, text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    return re.sub(r"font: ([^;\"']*?)(?:'DejaVu Sans'|DejaVu Sans)[^;\"]*", r"font: \1var(--sans)", text)


def _short(text: str) -> str:
    """Coordinates to a tenth of a point, and nothing that says nothing."""

    def numbers(found: re.Match[str]) -> str:
        short = re.sub(
            r"-?\d+\.\d+(?:e-?\d+)?", lambda one: f"{float(one.group()):.1f}".removesuffix(".0"), found.group()
        )
        short = re.sub(r"\s+", " ", short).replace(' "', '"')
        return (
            short if re.search("[CQ]", short) else short.replace(" L ", " ")
        )  # a line is what follows without a letter

    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    text = re.sub(r'\b(?:d|x|y|transform|width|height)="[^"]*"', numbers, text)
    text = re.sub(r"; *stroke-linejoin: miter|stroke-linecap: butt;? ?", "", text)
    return _ungrouped(re.sub(r">\s+<", "><", text))


def _ungrouped(text: str) -> str:
    """Elements without the groups that say nothing of them."""
    kept: list[bool] = []
    parts = []
    for part in re.split(r"(<g\b[^>]*>|</g>)", text):
        if part == "</g>":
            parts.append(part if kept.pop() else "")
        elif part.startswith("<g"):
            if not part.endswith("/>"):
                kept.append(part != "<g>")
                parts.append(part if kept[-1] else "")
        else:
            parts.append(part)
    return "".join(parts)
