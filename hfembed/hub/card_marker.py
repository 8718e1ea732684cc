"""The last line of a card: whether hfembed wrote it, or somebody edited it since."""

import hashlib
import re

_MARKER = re.compile(r"\n*<!-- hfembed (generated|pushed) ([0-9a-f]{64}) -->\s*\Z")


def mark(text: str, how: str) -> str:
    """Append the line.

    Args:
        text: The card.
        how: "generated" by hfembed, or edited by hand and "pushed" by hfembed.
    """
    text = unmarked(text)
    return f"{text}\n\n<!-- hfembed {how} {_digest(text)} -->\n"


def unmarked(text: str) -> str:
    """The card without the line."""
    return _MARKER.sub("", text.replace("\r\n", "\n")).rstrip()


def is_generated(text: str) -> bool:
    """Whether hfembed wrote the card and nobody has edited it since."""
    return _state(text) == "generated"


def is_as_pushed(text: str) -> bool:
    """Whether a card on the Hub is the one that hfembed pushed last."""
    return _state(text) is not None


def _state(text: str) -> str | None:
    found = _MARKER.search(text.replace("\r\n", "\n"))
    return found[1] if found and found[2] == _digest(unmarked(text)) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
