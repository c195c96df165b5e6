"""Text that comes from files or a command line, made safe for where it is shown."""

import codecs
import html

ASCII_FORMS = {"×": "x", "±": "+-", "–": "-", "—": "-", "•": "*", "·": "|", "…": "...", "◄": "<", "Δ": "d"}
"""Characters beyond ASCII that this project prints, and what terminals show that know only ASCII."""


def printable(text: object) -> str:
    r"""Return one line in which every invisible character is replaced by an escape sequence such as `\x1b`.

    Line breaks become spaces. So a terminal gets no escape codes, no characters that change the order of others,
    and no halves of characters.

    >>> printable("two\nlines and \x1b[31m red")
    'two lines and \\x1b[31m red'
    """
    first, *others = str(text).expandtabs(1).splitlines() or [""]
    line = " ".join([first, *(other.strip() for other in others if other.strip())])
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )


def shortened(text: str, most: int) -> str:
    """Return text of at most so many characters, with its beginning and its end.

    >>> shortened("a name that is long", 10)
    'a nam…long'
    """
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - (most - half - 1) :]}"


MOST_WRITTEN_OUT = 1e15
"""A float has no digits beyond these."""


def significant(value: float, digits: int, *, padded: bool = False) -> str:
    """Return a number with so many significant digits, and without an exponent below MOST_WRITTEN_OUT.

    >>> significant(0.54321, 3), significant(-1447.6, 3), significant(12345.6, 4)
    ('0.543', '-1,448', '12,346')
    >>> significant(0.5, 3), significant(0.5, 3, padded=True)
    ('0.5', '0.500')
    >>> significant(999999999999999.0, 3), significant(-1e300, 3)
    ('999,999,999,999,999', '-1e+300')
    """
    if 10**digits - 0.5 <= abs(value) < MOST_WRITTEN_OUT:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if padded else f"{value:.{digits}g}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_line(text: object) -> str:
    r"""Return the first line that is not blank, without the space around it; empty if there is none.

    >>> first_line("\n  what went wrong\nand where")
    'what went wrong'
    """
    return next((line.strip() for line in str(text).splitlines() if line.strip()), "")


def in_plot(text: object) -> str:
    """Return text for matplotlib, which reads what is between dollar signs as a formula."""
    return printable(text).replace("$", r"\$")


def in_page(text: object) -> str:
    """Return text for HTML, with markup escaped."""
    return html.escape(printable(text))


def in_markdown(text: object) -> str:
    """Return text for Markdown, cells of tables included: it starts no HTML, no link and no new cell."""
    shown = printable(text)
    for mark in "\\`[<|$":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def _in_few_characters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that an encoding lacks by similar ones, or else by their escape sequences."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    shown = "".join(
        ASCII_FORMS.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in lacking
    )
    return shown, error.end


LEGIBLE = "gan.legible"
"""The name of an error handler for encodings that lack a character. It never fails."""
codecs.register_error(LEGIBLE, _in_few_characters)
