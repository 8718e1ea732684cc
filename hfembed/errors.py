"""The one exception that means: the input is at fault, and this line says how to mend it."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class InputError(ValueError):
    """Bad input from outside (a file, a config, a name). The message names the thing and the way out."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn a `ValueError` or `KeyError` of a model, whose folder knows nothing of hfembed, into an `InputError`."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise InputError(str(error)) from error


def exit_on_input_error(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a program's main function end with one line on stderr and exit code 1 when its input is at fault.

    Bad input, a file that cannot be read or written (a full disk), and a loss that is no number are such ends;
    anything else is a defect of ours and keeps its traceback.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (InputError, OSError, FloatingPointError) as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(1)

    return wrapper
