"""Text that others wrote (names of folders, error messages), made fit to be shown."""

from __future__ import annotations

import re

_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSEEN_IN_TEXT, _UNSEEN_IN_LINE = re.compile(f"[{_UNSEEN}]"), re.compile(f"[{_UNSEEN}\t\n]")
_MARKDOWN = re.compile(r"([\\`*|~]|\](?=[(\[])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w))")


def unseen(text: str) -> str:
    """The first character of `text` that acts instead of being seen, as U+001B; "" where there is none.

    Control characters but tab and line end, which a terminal obeys; those that turn the order of letters around, so
    that one reads what is not there; and halves of characters, such as stand for bytes that are no UTF-8.
    """
    found = _UNSEEN_IN_TEXT.search(text)
    return f"U+{ord(found[0]):04X}" if found else ""


def printable(text: str) -> str:
    """`text` with such characters spelt out, as \\x1b: safe for a terminal, and can be encoded."""
    return _UNSEEN_IN_TEXT.sub(_spelt, text)


def one_line(text: str) -> str:
    """The same with tabs and line ends spelt out too: for names, which stand in tables."""
    return _UNSEEN_IN_LINE.sub(_spelt, text)


def markdown_text(text: str) -> str:
    """One line of Markdown that reads `text`: no emphasis, link, image, code, HTML or end of a table's cell in it."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _spelt(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
