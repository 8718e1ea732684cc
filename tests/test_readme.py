"""What README.md tells people to type, taken out of it and run from top to bottom.

Faces are those of the tests' own photos and analyzer, which HFEMBED_FACE_MODEL names; what README would train or fetch
in minutes is made small beforehand. Commands that cannot run here are parsed, and `NOT_RUN` says why they are not run.
"""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.cli import app, main, train
from hfembed.training.config import read_config
from tests.faces.conftest import THRESHOLDS, analyzer, draw, folder  # noqa: F401
from tests.images.tiny_autoencoder import save_tiny_autoencoder, tiny_appearance

README = Path(__file__).resolve().parent.parent / "README.md"
NOT_RUN = {
    "pip install": "needs the package index",
    "make quickstart": "CI runs it by itself",
    "hfembed demo": "serves until it is ended; tests/demo does that",
    "hfembed train faces": "takes minutes",
    "hfembed train autoencoder": "takes minutes",
    "hfembed evaluate lfw": "needs LFW",
    "hfembed models get": "needs the packages or the Hub; tests/convert has both",
    "hfembed push": "needs a Hub; tests/hub has one",
    "hfembed convert": "needs the Hub; tests/convert has one",
    "hfembed export": "needs what was converted; tests/export",
}
WORDS = ("police", "fire", "israeli", "palestinian", "cricket", "test")


def blocks():
    """The README's blocks of commands and of Python, in order."""
    yield from re.findall(r"^```(bash|python)\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)


def commands(text):
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def why_not_run(words):
    line = " ".join(words)
    return next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)


ALL = [words for language, text in blocks() if language == "bash" for words in commands(text)]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_a_command_has_these_options(words):
    if words[0] != "hfembed":
        assert why_not_run(words), f"README says to type {words[0]}; run it here or say why not"
        return
    command, arguments = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    if words[1] == "train":
        read_config(importlib.import_module(train.MODULES[words[2]]).CONFIG, arguments)
    else:
        command.make_context(command.name, arguments)


@pytest.fixture
def surroundings(tmp_path, folder, monkeypatch):  # noqa: F811
    """What the README assumes to be there."""
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(folder, tmp_path / "outputs" / "analyzer_of_the_tests"))
    Checkpoint.resolve(model).store_thresholds({**THRESHOLDS, "far": {"0.01": 0.999, "0.001": 0.9995}})
    monkeypatch.setenv("HFEMBED_FACE_MODEL", str(model))
    shutil.copytree(model, tmp_path / "outputs" / "dlib", ignore=shutil.ignore_patterns("detector"))
    shutil.copytree(tmp_path / "outputs" / "dlib", tmp_path / "outputs" / "mine")
    shutil.copytree(model / "detector", tmp_path / "outputs" / "yunet")
    save_tiny_autoencoder(tmp_path / "outputs" / "autoencoder", tiny_appearance)
    for name, person in (
        ("a", 1),
        ("b", 1),
        ("photos/1", 1),
        ("photos/2", 2),
        ("people/Ann/1", 1),
        ("people/Bob/1", 2),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw((50, 30), person=person).save(tmp_path / f"{name}.jpg", quality=95)
    text = [" ".join(WORDS[turn:] + WORDS[:turn] + ("the", "arrived")) for turn in range(len(WORDS))]
    (tmp_path / "corpus.txt").write_text("\n".join(text * 20))
    return tmp_path


def test_everything_runs_from_top_to_bottom(surroundings, monkeypatch, capsys):
    def launch(family, arguments):  # without the seconds of a launcher, and for one epoch
        importlib.import_module(train.MODULES[family]).main([*arguments, "--epochs", "1"])

    monkeypatch.setattr(train, "launch", launch)
    names: dict = {}
    for language, text in blocks():
        if language == "python":
            exec(compile(text, str(README), "exec"), names)
            continue
        for words in commands(text):
            if not why_not_run(words):
                monkeypatch.setattr(sys, "argv", words)
                with pytest.raises(SystemExit) as ended:
                    main()
                assert ended.value.code in (0, None), (words, capsys.readouterr())
    printed = capsys.readouterr().out
    assert "the same person" in printed and "Face(box=" in printed and "a.jpg: Ann" in printed
    assert (surroundings / "outputs" / "groups" / "index.html").exists()
    assert Image.open(surroundings / "outputs" / "map.png").width > 100


def test_pictures_and_pages_that_it_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8")):
        assert target.startswith("http") or (README.parent / target).exists(), target
