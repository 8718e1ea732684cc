"""people.txt: the names of very many people, one per line in the order of their labels.

In config.json a million names would cost every loader seconds, whether it wants them or not.
"""

from collections.abc import Sequence
from pathlib import Path

from hfembed.atomic import atomic_write
from hfembed.errors import InputError

_MAX_BYTES = 1 << 30


def write_people(file: Path, people: Sequence[str]) -> None:
    """Write the names; a line break in one becomes a space.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        lines.writelines(f"{' '.join(name.splitlines())}\n" for name in people)


def read_people(file: Path, name: str, count: int) -> list[str]:
    """Read the names.

    Args:
        file: people.txt.
        name: The checkpoint it belongs to, for messages.
        count: How many there must be.

    Raises:
        InputError: It is missing, too large, not text, or has another number of names.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{name}: {file.name} has more than {_MAX_BYTES >> 30} GB; remove or restore it")
        with file.open(encoding="utf-8", newline="\n") as lines:
            people = [line.removesuffix("\n") for line in lines]
    except FileNotFoundError:
        raise InputError(f"{name} lacks {file.name}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: {file.name} is not UTF-8 text ({error.reason}); remove or restore it") from None
    if len(people) != count:
        raise InputError(f"{name}: {file.name} has {len(people):,} names of {count:,} people; remove or restore it")
    return people
