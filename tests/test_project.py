"""What pyproject.toml declares is what the package imports, and the picture of rooms is drawn from it."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# modules whose distribution has another name and may be absent here, and what brings them
DISTRIBUTIONS = {
    "PIL": "pillow",
    "av": "av",
    "google": "onnx",  # google.protobuf, which an .onnx file is parsed with
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "triton": "torch",  # on machines with a GPU
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "pillow_heif": "pillow-heif",
}


def imported_modules() -> dict[str, str]:
    """Top-level module -> a file that imports it."""
    modules = {}
    for file in sorted((REPOSITORY / "hfembed").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            modules |= {name.split(".")[0]: str(file.relative_to(REPOSITORY)) for name in names}
    return modules


def test_every_direct_import_is_declared():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.split(r"[\[<>=~;]", line)[0].strip().lower().replace("_", "-") for line in required}
    installed = packages_distributions()
    for module, file in imported_modules().items():
        if module == "hfembed" or module in sys.stdlib_module_names:
            continue
        named = DISTRIBUTIONS.get(module, installed.get(module, [module])[0]).lower().replace("_", "-")
        assert named in declared, f"{file} imports {module}, which pyproject.toml does not declare"


def test_the_picture_of_rooms_is_current():
    pytest.importorskip("tomllib")
    checked = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "draw_rooms.py", "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
