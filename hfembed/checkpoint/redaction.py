"""Remove the paths of this machine from what is published."""

import re
from typing import Any

_PREFIX = r"(?:file://)?(?:~?/|\.\./|[A-Za-z]:[\\/])"
_COMPONENT = r"[^\s'\"<>|:;,()\[\]\\/]+"
# an absolute path among words, or in quotes, or alone
_PATH = re.compile(rf"(?<![\w.~/:-]){_PREFIX}{_COMPONENT}(?:[\\/]{_COMPONENT})*[\\/]?")
_QUOTED = re.compile(rf"(['\"])({_PREFIX}[^'\"\n]+)\1")
_ALONE = re.compile(rf"{_PREFIX}{_COMPONENT}.*")
# a folder of the Hub's cache
_SNAPSHOT = re.compile(r"[^\s'\"=]*models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+")


def redact(content: Any) -> Any:
    """A copy of some JSON in which a path is its last part only, and a folder of the Hub's cache is owner/name."""
    if isinstance(content, dict):
        return {redact(key): redact(value) for key, value in content.items()}
    if isinstance(content, list):
        return [redact(value) for value in content]
    return redact_text(content) if isinstance(content, str) else content


def redact_text(text: str) -> str:
    """As `redact`, for a text such as a command."""
    text = _SNAPSHOT.sub(r"\1/\2", text)
    if _ALONE.fullmatch(text) and " --" not in text:
        return _last_part(text)
    text = _QUOTED.sub(lambda found: f"{found[1]}{_last_part(found[2])}{found[1]}", text)
    return _PATH.sub(lambda found: _last_part(found[0]), text)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
