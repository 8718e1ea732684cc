"""What all commands share: imports that load on first use, --json, --revision and --token, and renamed options."""

import builtins
import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from hfembed.errors import InputError, printable


class _LazyModule(ModuleType):
    """Stands for a module until a name in it is used; the module itself is imported then.

    It lies in no `sys.modules`, where torch and `inspect` would find it half made while something else is imported.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_import_quietly(self.__name__), name)


@functools.cache
def _import_quietly(name: str) -> ModuleType:
    module = importlib.import_module(name)
    # a bar per file read or written is noise beside an answer; the Hub's bars of downloads stay
    if transformers_logging := sys.modules.get("transformers.utils.logging"):
        transformers_logging.disable_progress_bar()
    if datasets_bars := sys.modules.get("datasets.utils"):
        datasets_bars.disable_progress_bars()
    return module


class _LazyPackage:
    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, module: str) -> _LazyModule:
        return _LazyModule(f"{self.name}.{module}")


@contextmanager
def lazy_imports() -> Iterator[None]:
    """Modules imported in this block load on the first use of a name in them.

    So the help, a mistyped option and the shell's completion do not wait for torch. Import modules here
    (`from hfembed.checkpoint import loading`, `import torch`), never names out of them.
    """
    import_now = builtins.__import__

    def import_later(name: str, *context: Any) -> Any:
        from_list = context[2] if len(context) > 2 else ()
        return _LazyPackage(name) if from_list else _LazyModule(name)

    builtins.__import__ = import_later  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.__import__ = import_now


with lazy_imports():
    # taken from here by the commands: a second `import torch` would load it
    import torch as torch

    from hfembed.checkpoint import checkpoint as checkpoints
    from hfembed.faces import default_model

# options and values that had another name before; accepted for this release
RENAMED_OPTIONS = {
    "--floor": "--baselines",
    "--num-workers": "--num-threads",
    "--sheet": "--output",
    "--template": "--aggregation",
    "--top": "--top-k",
    "--topn": "--top-k",
}
RENAMED_VALUES = {
    ("--aggregation", "best"): "max",
    ("--undetected", "centre-crop"): "center-crop",
}
# options that took several values, and now are repeated
REPEATED_OPTIONS = ("--people",)


class Answer(NamedTuple):
    """What a command found out: a JSON object for --json, and lines for people."""

    record: dict[str, Any]
    text: str

    @classmethod
    def written(cls, output: str | Path, text: str = "", **record: Any) -> "Answer":
        """The answer of a command whose result is a file or folder."""
        return cls({**record, "output": output}, text or f"written to {output}")


Token = Annotated[str | None, typer.Option(help="Hub token, instead of the one that this machine is logged in with.")]


class OptionGroup:
    """A dataclass of options that several commands take: a parameter of its type gives a command all of them."""


@dataclass(frozen=True)
class Hub(OptionGroup):
    """Where on the Hub a command's models are."""

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of MODEL on the Hub.")] = None
    token: Token = None

    def model(self, name: str) -> "checkpoints.Checkpoint":
        """Find the model that the command is about."""
        return checkpoints.Checkpoint.resolve(name, revision=self.revision, token=self.token)

    def face_model(self, name: str | None) -> "checkpoints.Checkpoint":
        """Find the face model that the command is about: the named one, or the default one."""
        return default_model.resolve_face_model(name, revision=self.revision, token=self.token)

    def face_detector(self, name: str | None) -> "checkpoints.Checkpoint":
        """Find the named face detector, or the one of the default face model."""
        if name is not None:
            return self.other_model(name)
        default = default_model.resolve_face_model(token=self.token)
        if default.detector is None:
            raise InputError(f"{default.name} has no detector in it: name one with --detector")
        return default.detector

    def other_model(self, name: str) -> "checkpoints.Checkpoint":
        """Find another model that the command uses; its revision is part of its name."""
        return checkpoints.Checkpoint.resolve(name, token=self.token)


Function = TypeVar("Function", bound=Callable[..., Any])


class Commands:
    """The commands of one module, which stand under one heading of the help."""

    def __init__(
        self, panel: str | None = None, help: str | None = None, group: type[TyperGroup] = TyperGroup
    ) -> None:
        self.app = typer.Typer(no_args_is_help=True, help=help, cls=group)
        self.panel = panel

    def command(self, name: str, *aliases: str) -> Callable[[Function], Function]:
        """Register a function as a command; aliases are not listed in the help.

        A parameter of an `OptionGroup` becomes its options (`hub: Hub` gives --revision and --token), and a function
        that returns an `Answer` gets --json.
        """

        def register(function: Function) -> Function:
            run = _with_shared_options(function)
            for known_as in (name, *aliases):
                self.app.command(known_as, cls=Command, hidden=known_as != name, rich_help_panel=self.panel)(run)
            return function

        return register


class Command(TyperCommand):
    """A command that accepts its options under their old names too, with a line that says the new one."""

    def invoke(self, context: Any) -> Any:
        """Say at Ctrl-C that it was heard."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        """Replace old names before the options are parsed."""
        options = {option for parameter in self.params for option in parameter.opts}
        return super().parse_args(context, _with_new_names(arguments, options))


def warn(text: str) -> None:
    """Say one line apart from the answer."""
    print(f"warning: {text}", file=sys.stderr)


def say_new_name(old: str, new: str) -> None:
    """Tell the user how to write it from now on."""
    warn(f"{old} is deprecated; use {new}")


def _with_new_names(arguments: list[str], options: set[str]) -> list[str]:
    renamed: list[str] = []
    option = ""
    # --people A B was only taken after MODEL; before it, B may be MODEL
    may_repeat = bool(arguments) and not arguments[0].startswith("-")
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name not in options and RENAMED_OPTIONS.get(name) in options:
            new = RENAMED_OPTIONS[name]
            say_new_name(name, new)
            name, argument = new, new + equals + value
        elif may_repeat and option in REPEATED_OPTIONS and "-" not in (argument[:1], renamed[-1][:1]):
            say_new_name(f"{option} A B", f"{option} A {option} B")
            renamed.append(option)
        option, given = (name, value) if argument.startswith("-") else (option, argument)
        if option in options and (option, given) in RENAMED_VALUES:
            new = RENAMED_VALUES[option, given]
            say_new_name(f"{option} {given}", f"{option} {new}")
            argument = argument.removesuffix(given) + new
        renamed.append(argument)
    return renamed


def _with_shared_options(function: Callable[..., Any]) -> Callable[..., None]:
    signature = inspect.signature(function)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, OptionGroup):
            groups[name] = parameter.annotation
        else:
            parameters.append(parameter)
    for group in groups.values():
        types = get_type_hints(group, include_extras=True)
        parameters += [_option(field.name, types[field.name], field.default) for field in fields(group)]
    answers = signature.return_annotation is Answer
    if answers:
        parameters.append(_option("as_json", Json, default=False))

    @functools.wraps(function)
    def run(**given: Any) -> None:
        as_json = answers and given.pop("as_json")
        if given.get("token"):  # the command line is noted in results.json, which is published
            sys.argv[:] = [argument.replace(given["token"], "***") for argument in sys.argv]
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        answer = function(**given)
        if answers:
            print_answer(answer, as_json)

    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def print_answer(answer: Answer, as_json: bool) -> None:
    """Print what a command found out, for people or as JSON."""
    print(_to_json(answer.record) if as_json else printable(answer.text))


def _option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _to_json(record: dict[str, Any]) -> str:
    try:
        return json.dumps(record, default=_plain, allow_nan=False)
    except ValueError as error:
        raise InputError(
            f"the answer holds a number that is not finite ({error}); check the model's weights"
        ) from None


def _plain(value: Any) -> Any:
    """A path as text, numpy's and torch's numbers and arrays as Python's."""
    return str(value) if isinstance(value, Path) else value.tolist()
