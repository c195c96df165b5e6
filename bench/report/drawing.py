"""A figure as SVG inside a page: its text is text, its ids are unique, and it follows the page's colours."""

import io
import re
import warnings
from collections import Counter
from hashlib import sha256

import matplotlib as mpl
from matplotlib.figure import Figure

from gan.files.text import in_page

REFERENCE = re.compile(r'(?:xlink:href="#|url\(#)([^")]+)')
INLINE_STYLE = re.compile(r' style="([^"]*)"')
LEAST_SHARED = 3
"""A style that so many elements have is written once."""
PALETTE = {"#0072b2": "blue", "#d55e00": "red", "#009e73": "green"}
"""Colours of text that a dark page lightens."""


def drawing(caption: str, figure: Figure, name: str) -> str:
    """Return the element `svg`.

    Args:
        caption: What it shows, for those who do not see it.
        figure: The figure.
        name: Unique on the page; begins all ids in it.
    """
    file = io.StringIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the page's reader may have its font
        figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = _with_unique_ids(drawn, name)
    drawn = drawn.replace("#000000", "currentColor")
    drawn = re.sub(r"<text[^>]*>", _in_page_colours, drawn)
    drawn = re.sub(r" font-family: [^;\"]*;?| transform=\"rotate\(-?0 [^)]*\)\"", "", drawn)
    drawn = re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", drawn)  # of places, not of texts
    drawn = re.sub(r"\s*\n\s*", " ", _without_bare_groups(drawn)).replace("> <", "><")
    drawn = re.sub(r' d="([^"]*)"', _packed_path, drawn).replace(' xlink:href="', ' href="')
    drawn = re.sub(r' ([xy])="(-?\d+\.\d)\d+"', r' \1="\2"', drawn)
    drawn = _with_shared_styles(drawn)
    title = f'<title id="{name}-title">{in_page(caption)}</title>'
    return re.sub(r"<svg([^>]*)>", rf'<svg role="img" aria-labelledby="{name}-title"\1>', drawn, count=1).replace(
        ">", f">{title}", 1
    )


def _with_unique_ids(drawn: str, name: str) -> str:
    """Number the ids that the figure refers to, after its name, and leave the others out."""
    ids = {used: f"{name}-{number}" for number, used in enumerate(dict.fromkeys(REFERENCE.findall(drawn)))}
    drawn = re.sub(r' id="([^"]*)"', lambda found: f' id="{ids[found[1]]}"' if found[1] in ids else "", drawn)
    return REFERENCE.sub(lambda found: found[0].replace(found[1], ids[found[1]]), drawn)


def _packed_path(found: re.Match[str]) -> str:
    """Return the attribute `d` in tenths of a point, without the spaces that its letters need not have."""
    tenths = re.sub(r"(\.\d)\d+", r"\1", found[1])
    commands = re.sub(r" ?([A-Za-z]) ?", r"\1", tenths)
    return f' d="{commands}"'


def _with_shared_styles(drawn: str) -> str:
    """Write styles that several elements have once, as classes. Their names are those of their content."""
    counts = Counter(INLINE_STYLE.findall(drawn))
    classes = {
        style: f"s{sha256(style.encode()).hexdigest()[:6]}"
        for style, count in counts.items()
        if count >= LEAST_SHARED
    }
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    drawn = INLINE_STYLE.sub(
        lambda found: f' class="{classes[found[1]]}"' if found[1] in classes else found[0], drawn
    )
    return drawn.replace("</style>", f"{rules}</style>", 1)


def _without_bare_groups(drawn: str) -> str:
    """Leave out groups that say nothing, which are half of the elements."""
    bare: list[bool] = []

    def kept(tag: re.Match[str]) -> str:
        if tag[0] != "</g>":
            bare.append(tag[0] == "<g>")
            return "" if bare[-1] else tag[0]
        return "" if bare.pop() else tag[0]

    return re.sub(r"<g(?: [^>]*)?>|</g>", kept, drawn)


def _in_page_colours(tag: re.Match[str]) -> str:
    text = tag[0]
    for colour, variable in PALETTE.items():
        text = text.replace(f"fill: {colour}", f"fill: var(--{variable})")
    return text
