"""Text that comes from files or a command line, made safe for where it is shown."""

import codecs
import html

ASCII_FORMS = {"×": "x", "±": "+-", "–": "-", "—": "-", "•": "*", "·": "|", "…": "...", "◄": "<", "Δ": "d"}
"""What our own output has beyond ASCII, for terminals that have no more."""


def printable(text: object) -> str:
    r"""Return one line in which what is not a visible character stands as an escape sequence such as `\x1b`.

    Line breaks become spaces. Escape codes do not reach a terminal, nor do characters that change the order of
    others, nor halves of characters.
    """
    first, *others = str(text).expandtabs(1).splitlines() or [""]
    line = " ".join([first, *(other.strip() for other in others if other.strip())])
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )


def in_plot(text: object) -> str:
    """Return text for matplotlib, which takes what is between dollar signs for a formula."""
    return printable(text).replace("$", r"\$")


def in_page(text: object) -> str:
    """Return text for HTML."""
    return html.escape(printable(text))


def in_markdown(text: object) -> str:
    """Return text for Markdown, cells of tables included: no HTML, no link and no end of a cell in it."""
    shown = printable(text)
    for mark in "\\`[<|$":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def _in_few_characters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that an encoding lacks by what is like them, or by their escape sequences."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    shown = "".join(
        ASCII_FORMS.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in lacking
    )
    return shown, error.end


LEGIBLE = "gan.legible"
"""An error handler for encodings that lack a character; none fails."""
codecs.register_error(LEGIBLE, _in_few_characters)
