"""The exception that means "the input is at fault", and how a program ends on it: in one line of printable words."""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# what libraries raise for damaged files, full machines and servers that refuse; named, so that none is imported here
_LIBRARY_ERRORS = {
    "accelerate.utils.memory.OutOfMemoryError",
    "datasets.exceptions.DatasetsError",
    "huggingface_hub.errors.HfHubHTTPError",
    "httpx.HTTPError",
    "httpx2.HTTPError",
    "jinja2.exceptions.TemplateError",
    "lzma.LZMAError",
    "pyarrow.lib.ArrowException",
    "safetensors_rust.SafetensorError",
    "tarfile.TarError",
    "torch.OutOfMemoryError",
    "yaml.error.YAMLError",
    "zipfile.BadZipFile",
    "zlib.error",
}
# module that an extra brings -> the extra
_EXTRAS = {
    "av": "film",
    "c2pa": "credentials",
    "constriction": "images",
    "faiss": "index",
    "gradio": "demo",
    "numba": "fast",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pillow_heif": "heic",
    "skimage": "images",
    "umap": "map",
}


# all control characters but a new line and a tab
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class InputError(ValueError):
    """Invalid input (a file, a config, a name). The message says what is wrong with it and what to do."""


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn a `ValueError` or `KeyError` of a model, whose folder does not import hfembed, into an `InputError`."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise InputError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name if it has none."""
    # a KeyError itself shows its key; those with a message of their own show that
    plain = type(error).__str__ is KeyError.__str__ and error.args
    text = str(error.args[0]) if plain else _message(error)
    return text.strip().partition("\n")[0] or type(error).__name__


def printable(text: str) -> str:
    """A text without what a name from outside could steer a terminal by: control characters, as their escapes."""
    return text.translate(_CONTROLS)


def counted(number: int, thing: str) -> str:
    """1 photo, 2 photos, 1,000 processes."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{plural if number != 1 else ''}"


def _message(error: BaseException) -> str:
    """An error's message; of one from a process that loads data, that of the error there, not its traceback."""
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker process \d+\.\n", text):
        return text
    return text.strip().splitlines()[-1].partition(": ")[2] or text


def exit_on_input_error(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a program's main function end with one line on stderr if its input or its surroundings are at fault.

    Bad input, a file that cannot be read or written, a full disk or memory, a missing extra and a loss that is not
    finite exit with 1; Ctrl-C with 130; a reader that closed the pipe with 141 and no line. Anything else is a defect
    of ours and keeps its traceback.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # nobody reads on: what is left in the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            sys.exit(130)
        except Exception as error:
            line = _expected(error)
            if line is None:
                raise
            print(f"error: {printable(line)}", file=sys.stderr)  # noqa: T201
            sys.exit(1)

    return wrapper


def _expected(error: Exception) -> str | None:
    """What to say about an error that is not a defect of ours; None if it is one."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXTRAS:
        module = str(error.name).partition(".")[0]
        return f'{module} is not installed: pip install "hfembed[{_EXTRAS[module]}]"'
    if isinstance(error, ModuleNotFoundError) and "pip install" in str(error):
        return first_line(error)
    if isinstance(error, InputError):
        return " ".join(_message(error).splitlines())
    if isinstance(error, MemoryError):
        return "out of memory"
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if isinstance(error, (OSError, EOFError, FloatingPointError, UnicodeDecodeError)) or names & _LIBRARY_ERRORS:
        return first_line(error)
    return None
