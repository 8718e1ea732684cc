"""A checkpoint that brings its code: it loads where hfembed is not installed, by `trust_remote_code=True`."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)
from transformers.dynamic_module_utils import get_relative_imports

import hfembed.auto  # noqa: F401  registers the models
from hfembed.atomic import atomic_folder, check_destination
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import DETECTOR_FOLDER, PROCESSOR_FILE
from hfembed.checkpoint.pushed_files import copy_model
from hfembed.checkpoint.validation import check_weights, read_config
from hfembed.hub.card_marker import mark, unmarked
from hfembed.models.word2vec.tokenization_word2vec import Word2VecTokenizer

_AUTO_MODELS = (AutoModel, AutoModelForImageClassification, AutoModelForPreTraining)
# a module that several families share, directly in hfembed/models
_SHARED_MODULE = re.compile(r"^from (hfembed\.models\.\w+) import", re.MULTILINE)
_SHARED_IMPORT = re.compile(r"^(\s*)from hfembed\.models\.(?=\w+ import)", re.MULTILINE)
TOKENIZER_CONFIG = "tokenizer_config.json"
_HEADING = "## Without hfembed"
_HOW_TO_LOAD = """
This folder brings its code. Look it through, then:

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
```
"""


def export_with_code(
    checkpoint: str | Path | Checkpoint, destination: str | Path, overwrite: bool = False
) -> list[str]:
    """Copy a checkpoint and put beside it the code that its Auto classes need.

    Weights are copied unchanged, so that what is computed from them is the same to the bit. config.json and
    preprocessor_config.json get an `auto_map` with every Auto class that the model has. Only what belongs to the
    model is copied, as in a push.

    Raises:
        InputError: There is no such checkpoint, its model_type is unsupported, or its weights are damaged; the
            destination is taken.
        OSError: The folder cannot be written.
    """
    destination = Path(destination)
    check_destination(destination, overwrite)
    source = Checkpoint.resolve(checkpoint)
    read_config(source.folder, source.name)
    with atomic_folder(destination) as folder:
        copy_model(source, folder)
        classes = _add_code(folder, folder, str(checkpoint))
        # a face embedder's own detector; transformers looks for its code where the repository begins
        if (folder / DETECTOR_FOLDER).is_dir():
            _add_code(folder / DETECTOR_FOLDER, folder, f"{checkpoint}, {DETECTOR_FOLDER}")
        card = folder / "README.md"
        if card.is_file() and _HEADING not in (text := unmarked(card.read_text(encoding="utf-8"))):
            how = _HOW_TO_LOAD.format(name=destination.resolve().name)
            card.write_text(mark(f"{text}\n\n{_HEADING}\n{how}", "pushed"), encoding="utf-8")
    return classes


def _add_code(model: Path, code: Path, name: str) -> list[str]:
    """Tell a model's settings its classes, and copy what defines them; the names of its Auto classes."""
    config_class = type(read_config(model, name))
    check_weights(model, name)
    classes: dict[str, Any] = {"AutoConfig": config_class}
    for auto_model in _AUTO_MODELS:
        if config_class in auto_model._model_mapping:
            classes[auto_model.__name__] = auto_model._model_mapping[config_class]
    _add_auto_map(model / "config.json", classes)
    if (model / PROCESSOR_FILE).is_file():
        processor = {"AutoImageProcessor": type(AutoImageProcessor.from_pretrained(model))}
        _add_auto_map(model / PROCESSOR_FILE, processor)
        classes |= processor
    tokenizer = model / TOKENIZER_CONFIG
    if tokenizer.is_file() and Word2VecTokenizer.__name__ in tokenizer.read_text(encoding="utf-8"):
        _add_auto_map(tokenizer, {"AutoTokenizer": Word2VecTokenizer})
        classes["AutoTokenizer"] = Word2VecTokenizer
    for file in _code_files(classes.values()):
        # all lie in one folder there: what families share becomes a sibling
        text = _SHARED_IMPORT.sub(r"\1from .", file.read_text(encoding="utf-8"))
        (code / file.name).write_text(text, encoding="utf-8")
    return list(classes)


def _add_auto_map(file: Path, classes: dict[str, type]) -> None:
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names = {name: f"{found.__module__.rpartition('.')[2]}.{found.__name__}" for name, found in classes.items()}
    # a slow tokenizer, which there is not, and a fast one
    settings["auto_map"] = {name: [None, found] if name == "AutoTokenizer" else found for name, found in names.items()}
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _code_files(classes: Iterable[type]) -> set[Path]:
    """The files that define the classes, and those of hfembed.models that these import."""
    found: set[Path] = set()
    left = [Path(str(sys.modules[item.__module__].__file__)) for item in classes]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        left += [file.parent / f"{sibling}.py" for sibling in get_relative_imports(file)]
        shared = _SHARED_MODULE.findall(file.read_text(encoding="utf-8"))
        left += [Path(str(sys.modules[name].__file__)) for name in shared]
    return found
