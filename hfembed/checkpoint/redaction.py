"""Remove the paths of this machine from what is published."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

# file:///x, /x, ~/x, ~ann/x, ./x, ../x, $HOME/x, %USERPROFILE%\x, C:\x, \\server\x
_PREFIX = (
    r"(?:file://)?(?:(?:~[\w.-]*)?/|(?:\.{1,2}[\\/])+|\$\{?\w+\}?[\\/]|%\w+%[\\/]|[A-Za-z]:[\\/]"
    r"|\\\\(?=[\w.$-]+\\[\w.$-]))"
)
_COMPONENT = r"[^\s'\"<>|:;,()\[\]\\/]+"
# the name of a user's folder may have blanks
_USER = r"(?:(?:home|Users)[\\/][^\s'\"\\/]+(?: [^\s'\"\\/]+){1,3}[\\/])?"
_START = r"(?<![\w.~/\\-])"
# an absolute path among words, or in quotes, or alone
_PATH = re.compile(rf"{_START}{_PREFIX}{_USER}{_COMPONENT}(?:[\\/]{_COMPONENT})*[\\/]?")
_QUOTED = re.compile(rf"(['\"])({_PREFIX}[^'\"\n]+)\1")
_ALONE = re.compile(rf"{_PREFIX}{_COMPONENT}.*")
# a folder of the Hub's cache
_SNAPSHOT = re.compile(r"[^\s'\"=]*models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+")
# a relative path; owner/name and a script are none
_RELATIVE = re.compile(r"[\w .~@=,-]+(?:[\\/][\w .~@=,-]+)+[\\/]?")
_DATA_SUFFIXES = (
    *(".txt", ".text", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".parquet", ".arrow", ".npy", ".npz"),
    *(".gz", ".xz", ".zst", ".bz2", ".zip", ".tar", ".tgz", ".jpg", ".jpeg", ".png", ".safetensors", ".bin", ".vec"),
)


def redact(content: Any) -> Any:
    """A copy of some JSON in which a path is its last part only, and a folder of the Hub's cache is owner/name.

    A relative path is cut too where paths are expected: in a `recipe`, and in the words of a `command`.
    """
    if isinstance(content, dict):
        special = {"recipe": _redact_settings, "command": _redact_command}
        return {redact(key): special.get(key, redact)(value) for key, value in content.items()}
    if isinstance(content, list):
        return [redact(value) for value in content]
    return redact_text(content) if isinstance(content, str) else content


def redact_text(text: str) -> str:
    """As `redact`, for a text."""
    text = _SNAPSHOT.sub(r"\1/\2", text)
    for folder, short in ((str(Path.cwd()), "./"), (os.path.expanduser("~"), "~/")):
        if len(folder) > 1:
            text = re.sub(rf"{_START}{re.escape(folder)}[\\/]", short, text)
    if _ALONE.fullmatch(text) and " --" not in text:
        return _last_part(text)
    text = _QUOTED.sub(lambda found: f"{found[1]}{_last_part(found[2])}{found[1]}", text)
    return _PATH.sub(lambda found: _last_part(found[0]), text)


def _redact_settings(content: Any) -> Any:
    if isinstance(content, dict):
        return {redact(key): _redact_settings(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_redact_settings(value) for value in content]
    return _redact_word(content) if isinstance(content, str) else content


def _redact_command(content: Any) -> Any:
    if not isinstance(content, str):
        return redact(content)
    lines = []
    for line in content.splitlines():
        try:
            words = shlex.split(line)
        except ValueError:  # an odd quote
            words = []
        published = []
        for word in words:
            option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
            published.append(option + equals + _redact_word(value))
        lines.append(redact_text(line) if published == words else shlex.join(published))
    return "\n".join(lines)


def _redact_word(text: str) -> str:
    """As `redact_text`, for a text that may be a relative path."""
    text = redact_text(text)
    if not _RELATIVE.fullmatch(text) or text.endswith(".py"):
        return text
    is_path = len(re.findall(r"[\\/]", text)) > 1 or text.lower().endswith(_DATA_SUFFIXES) or os.path.exists(text)
    return _last_part(text) if is_path else text


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
