"""`hfembed train`: recipes, through `accelerate launch`; `hfembed prepare`: their data, before."""

import argparse
import importlib
import importlib.resources
import logging
import os
import re
import signal
import sys
from typing import Annotated

import typer

app = typer.Typer(help="Train a model by a recipe: hfembed train faces --config face_softmax [--field value].")
prepare_app = typer.Typer(
    help="Do a training's slow first step by itself: hfembed prepare faces --config face_softmax [--field value]."
)

MODULES = {
    "faces": "hfembed.faces.training.train",
    "autoencoder": "hfembed.images.training.train",
    "swap": "hfembed.faces.swap.train",
    "identity-swap": "hfembed.faces.identity_swap.train",
    "words": "hfembed.words.training.train",
}
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes that come with the package.")] = False,
) -> None:
    """Train a model by a recipe: hfembed train faces --config face_softmax [--field value]."""
    if list_recipes:
        recipes = importlib.resources.files("hfembed.recipes")
        for recipe in sorted(recipes.iterdir(), key=lambda path: path.name):
            if recipe.name.endswith(".yaml"):
                print(f"{recipe.name.removesuffix('.yaml'):36} {first_sentence(recipe.read_text(encoding='utf-8'))}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def first_sentence(recipe: str) -> str:
    """The first sentence of the comment at the top of a recipe, which may span lines."""
    comment: list[str] = []
    for line in recipe.splitlines():
        if not line.startswith("#") or line.startswith(("# hfembed ", "# python ")):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s(?=[A-Z])", " ".join(comment), maxsplit=1)[0].rstrip(".")


@app.command("faces", context_settings=_PASS_THROUGH)
def faces(context: typer.Context) -> None:
    """Train a face embedder; --help lists the fields of a recipe."""
    launch("faces", context.args)


@app.command("autoencoder", context_settings=_PASS_THROUGH)
def autoencoder(context: typer.Context) -> None:
    """Train an autoencoder, a denoiser or an inpainter; --help lists the fields of a recipe."""
    launch("autoencoder", context.args)


@app.command("swap", context_settings=_PASS_THROUGH)
def swap(context: typer.Context) -> None:
    """Train a face swap model on people's photos; --help lists the fields of a recipe."""
    launch("swap", context.args)


@app.command("identity-swap", context_settings=_PASS_THROUGH)
def identity_swap(context: typer.Context) -> None:
    """Train a face swap model for people it never saw; --help lists the fields of a recipe."""
    launch("identity-swap", context.args)


@app.command("words", context_settings=_PASS_THROUGH)
def words(context: typer.Context) -> None:
    """Train word vectors on a text; --help lists the fields of a recipe."""
    launch("words", context.args)


@prepare_app.command("faces", context_settings=_PASS_THROUGH)
def prepare_faces(context: typer.Context) -> None:
    """Find, align and keep the photos of a recipe, or count its streams; --help lists the fields of a recipe."""
    prepare("faces", context.args)


@prepare_app.command("words", context_settings=_PASS_THROUGH)
def prepare_words(context: typer.Context) -> None:
    """Count the words of a recipe's text and keep it as ids; --help lists the fields of a recipe."""
    prepare("words", context.args)


def prepare(family: str, arguments: list[str]) -> None:
    """Do what a family's training does before its first step; a later training finds it done."""
    importlib.import_module(MODULES[family]).prepare(arguments)


def launch(family: str, arguments: list[str]) -> None:
    """Run a family's training program by `accelerate launch`, or in this process where one process is all it takes.

    Options of `accelerate launch` go to the launcher, fields of the recipe to the program; what both know, such as
    `--mixed_precision`, is the recipe's. `--accelerate 8gpu` is one of the package's configurations of the launcher.
    """
    program = importlib.import_module(MODULES[family])
    if {"-h", "--help"} & set(arguments):
        program.main([argument for argument in arguments if argument in ("-h", "--help")])
    import torch
    from accelerate.commands.config.config_args import default_config_file
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from hfembed.errors import InputError
    from hfembed.training.config import read_config

    parser = launch_command_parser()
    arguments = _name_configuration(arguments)
    launcher, recipe = split_arguments(arguments, set(program.CONFIG.__dataclass_fields__) | {"config"}, parser)
    # what is wrong with a recipe is said before the launcher imports everything a second time
    read_config(program.CONFIG, recipe).check_sources()
    options, _ = parser.parse_known_args([*launcher, program.__name__])
    is_configured = options.config_file is not None or os.path.isfile(default_config_file)
    if not (launcher or is_configured or torch.cuda.device_count() > 1):
        # one process is all there is to launch: this one, which has imported everything
        sys.argv[:] = [str(program.__file__), *recipe]
        program.main(recipe)
        return
    if not is_configured:
        launcher += _defaults(options)
    # the program says what is wrong, in one line; the launcher is not to add a traceback
    command = parser.parse_args(["--quiet", *launcher, "--module", program.__name__, *recipe])
    # Ctrl-C is for the program, which says how to go on; an ignored signal would be inherited
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    for module in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{module}").setLevel(logging.ERROR)
    try:
        launch_command(command)
    except SignalException:
        sys.exit(130)
    except ChildFailedError as error:
        # with SIGTERM the launcher ends the others
        killed = [
            rank
            for rank, failure in error.failures.items()
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        ]
        if killed and not interrupts:
            name = signal.Signals(-error.failures[killed[0]].exitcode).name
            raise InputError(
                f"rank {killed[0]} was killed ({name}), by somebody or for want of memory, and the others ended with "
                "it: the same command with --resume continues from the newest checkpoint"
            ) from None
        sys.exit(130 if interrupts else error.get_first_failure()[1].exitcode)
    except SystemExit as ended:
        sys.exit(130 if interrupts else ended.code)
    except ValueError as error:
        raise InputError(f"accelerate launch: {error}") from error


def split_arguments(arguments: list[str], fields: set[str], parser) -> tuple[list[str], list[str]]:
    """Tell the launcher's options from the program's, whose fields are named: (launcher's, program's)."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    launcher: list[str] = []
    recipe: list[str] = []
    values = 0  # how many of the next arguments belong to an option of the launcher
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if values:
            values -= 1
            launcher.append(argument)
        elif name in actions and name.lstrip("-").replace("-", "_") not in fields:
            launcher.append(argument)
            values = 0 if equals or actions[name].nargs == 0 else 1
        else:
            recipe.append(argument)
    return launcher, recipe


def _name_configuration(arguments: list[str]) -> list[str]:
    """`--accelerate NAME` as the launcher's `--config_file`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--accelerate", nargs="?", const="")
    options, others = parser.parse_known_args(arguments)
    if options.accelerate is None:
        return arguments
    from hfembed.errors import InputError

    folder = importlib.resources.files("hfembed.recipes") / "accelerate"
    known = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
    if options.accelerate not in known:
        raise InputError(
            f"--accelerate '{options.accelerate}': expected one of {', '.join(known)}, or --config_file with your own"
        )
    return ["--config_file", str(folder / f"{options.accelerate}.yaml"), *others]


def _defaults(options) -> list[str]:
    """What `accelerate launch` would otherwise warn about: one process on each GPU, or one on the CPU."""
    import torch

    count = options.num_processes or max(torch.cuda.device_count(), 1)
    given = {"num_processes": count, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    added = [f"--{name}={value}" for name, value in given.items() if getattr(options, name) is None]
    kinds = ("multi_gpu", "cpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")
    if count > 1 and not any(getattr(options, kind) for kind in kinds):
        added.append("--multi_gpu")  # the launcher's name for several ranks
        if options.main_process_port is None:
            added.append("--main_process_port=0")
        if not torch.cuda.is_available():
            os.environ["ACCELERATE_USE_CPU"] = "true"
    return added
