"""Draw the rooms of the package, from the import-linter contracts in pyproject.toml into CONTRIBUTING.md.

Without arguments it replaces the picture between the two markers; `--check` only reports whether it is current.
"""

import argparse
import re
import sys
from pathlib import Path

import tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "CONTRIBUTING.md"
BEGIN = "<!-- rooms: drawn by scripts/draw_rooms.py from the contracts in pyproject.toml -->"
END = "<!-- end of rooms -->"


def draw_rooms(pyproject: str) -> str:
    """The picture in Mermaid: one box per layer, arrows to the layer below, then the contracts that are no layers."""
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = ["```mermaid", "flowchart TD"]
    for number, layer in enumerate(layers):
        rooms = [room.strip(" ()").removeprefix("hfembed.") for room in re.split(r"[|:]", layer)]
        lines.append(f'    layer{number}["{" &nbsp;|&nbsp; ".join(rooms)}"]')
        if number:
            lines.append(f"    layer{number - 1} --> layer{number}")
    lines += ["```", "", "A room may import every room below it, and none beside it. Exceptions:", ""]
    lines += [f"- {contract['name']}." for contract in contracts if contract["type"] != "layers"]
    return "\n".join(lines)


def put_picture(page: str, picture: str) -> str:
    """The page with the picture between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{picture}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write the picture, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the picture is out of date")
    page = PAGE.read_text(encoding="utf-8")
    new = put_picture(page, draw_rooms((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")))
    if not parser.parse_args().check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        print(f"{PAGE.name} is out of date; run python scripts/draw_rooms.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
