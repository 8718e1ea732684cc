"""The command line as a whole: names that stay, one name per option, quick help, quiet and one-line ends."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
import typer.testing

from hfembed.atomic import atomic_folder, atomic_write, check_destination, check_output_folder, check_writable
from hfembed.cli import app, commands, main
from hfembed.cli.commands import Answer, Commands, Hub
from hfembed.errors import InputError, exit_on_input_error
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

# what issues and earlier releases promised, to the letter
COMMANDS = {
    "": "verify embed identify analyzer group explain swap add-person fit-latents morph walk sample compress "
    "decompress similar denoise inpaint restore neighbors neighbours analogy map card push demo convert export "
    "push-dataset evaluate forms phrase odd-one-out compress-vectors fit-weights "
    "models",
    "models": "get",
    "convert": "mobilefacenet facenet-pytorch insightface adaface cvlface timm-face mtcnn word2vec fasttext floret "
    "navec static diffusers-vae",
    "evaluate": "lfw identification denoising reconstruction compression generation words swap mteb",
    "export": "with-code word2vec gensim onnx static spacy fasttext floret diffusers-vae",
    "push-dataset": "faces lfw corpus",
}
OPTIONS = {
    "evaluate lfw": "--images --pairs --landmarks --output --detector --threshold-pairs --fold --mirror --json",
    "evaluate identification": "--images --landmarks --output --index --distractors --json",
    "evaluate words": "--analogies --word-pairs --outliers --suite --suite-data --weat --json",
    "evaluate mteb": "--tasks --data --weighting --json",
    "verify": "--model --detector --far --json",
    "identify": "--model --far --fpir --top-k --aggregation --save --json",
    "group": "--model --threshold --far --json",
    "similar": "--top-k --output --json",
    "neighbors": "--top-k --json",
    "analogy": "--top-k --json",
    "forms": "--top-k --json",
    "phrase": "--top-k --json",
    "odd-one-out": "--json",
    "compress-vectors": "--dims --parts --json",
}


def find(name):
    command = typer.main.get_command(app)
    for part in name.split():
        command = command.commands[part]
    return command


def names_of_options(command):
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def leaves(command=None, name=""):
    command = command or typer.main.get_command(app)
    for part, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from leaves(inner, f"{name} {part}".strip())
        else:
            yield f"{name} {part}".strip(), inner


@pytest.mark.parametrize("group", COMMANDS)
def test_every_command_answers(group):
    assert set(COMMANDS[group].split()) <= set(find(group).commands)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_answers(name):
    assert set(OPTIONS[name].split()) <= names_of_options(find(name))


def test_what_takes_a_model_takes_a_revision_and_a_token():
    for name, command in leaves():
        arguments = {parameter.name for parameter in command.params}
        if arguments & {"model", "models", "embedder"}:
            assert {"--revision", "--token"} <= names_of_options(command), name
        assert not names_of_options(command) & set(commands.RENAMED_OPTIONS) - {"--num-workers"}, name
        assert command.help, name


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"], ["evaluate", "lfw", "-h"], ["verify", "a", "--unknown"], None]
)
def test_help_and_completion_are_quick(arguments):
    """No torch, and no more than 0.6 s of CPU on a quiet machine."""
    code = (
        "import sys; sys.argv = ['hfembed', *sys.argv[1:]]\n"
        "from hfembed.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    loaded = {name for name in ('torch', 'transformers', 'numpy') if name in sys.modules}\n"
        "    print('loaded:', sorted(loaded), file=sys.stderr)\n"
    )
    completion = {"_HFEMBED_COMPLETE": "complete_bash", "COMP_WORDS": "hfembed verify --", "COMP_CWORD": "2"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *(arguments or [])],
        env={**os.environ, **({} if arguments else completion)},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "loaded: []" in done.stderr, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    if arguments is None:
        assert {"--model", "--far", "--json"} <= set(done.stdout.split())


def test_every_command_but_a_page_and_training_has_json():
    without = {name for name, command in leaves() if "--json" not in names_of_options(command)}
    assert {name.partition(" ")[0] for name in without} == {"demo", "prepare", "train"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "onnx", "MODEL", "FILE/a.onnx"),
        ("export", "onnx", "MODEL", "FILE"),
        ("map", "MODEL", "king", "queen", "apple", "--output", "a.png", "--projector", "FILE"),
    ],
)
def test_an_output_is_checked_before_a_model_is_looked_for(tmp_path, arguments):
    (tmp_path / "file").write_text("x")
    arguments = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    error = typer.testing.CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InputError) and "file is not a folder" in str(error)


def test_a_command_answers_in_a_process_of_its_own(tmp_path):
    """Here nothing has imported torch before the command does."""
    vocabulary = Vocabulary(["king", "queen", "apple"], np.array([3, 2, 1]))
    model = Word2VecModel(Word2VecConfig(vocab_size=3, embedding_size=2), vocabulary)
    model.embeddings.weight.data = torch.tensor([[1.0, 0.1], [1.0, 0.2], [-1.0, 0.0]])
    model.save_pretrained(tmp_path / "words")
    command = [sys.executable, "-m", "hfembed.cli", "neighbors", str(tmp_path / "words"), "king", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [word for word, _ in json.loads(done.stdout)["neighbors"]["king"]] == ["queen", "apple"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["neighbors", "WORDS", ""], "at least one word"),
        (["neighbors", "WORDS", "king-king"], "adds up to zero"),
        (["analogy", "WORDS", "king", "", "queen"], "the word '' is not in the vocabulary"),
    ],
)
def test_words_that_are_no_query_are_one_line(tmp_path, arguments, words):
    vocabulary = Vocabulary(["king", "queen", "apple"], np.array([3, 2, 1]))
    Word2VecModel(Word2VecConfig(vocab_size=3, embedding_size=2), vocabulary).save_pretrained(tmp_path / "words")
    arguments = [argument.replace("WORDS", str(tmp_path / "words")) for argument in arguments]
    error = typer.testing.CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InputError) and words in str(error)


def test_an_old_option_says_the_new_name(capsys):
    renamed = commands._with_new_names
    assert renamed(["model", "king", "--topn", "3"], {"--top-k"}) == ["model", "king", "--top-k", "3"]
    assert capsys.readouterr().err == "warning: --topn is deprecated; use --top-k\n"
    assert renamed(["--template=best"], {"--aggregation"}) == ["--aggregation=max"]
    assert "--aggregation best is deprecated; use --aggregation max" in capsys.readouterr().err
    assert renamed(["M", "--people", "a", "b", "c", "--output", "d"], {"--people", "--output"}) == [
        *("M", "--people", "a", "--people", "b", "--people", "c", "--output", "d")
    ]
    assert capsys.readouterr().err.count("use --people A --people B") == 2
    # the new forms are left alone, and so are options that a command has under the old name
    for arguments in (["--people", "a", "--people", "b", "M"], ["--num-workers", "2"], ["--", "--topn"]):
        assert renamed(arguments, {"--people", "--num-workers", "--num-threads"}) == arguments
    assert not capsys.readouterr().err


def run(function, *arguments):
    """A command of its own, for what all commands share."""
    registered = Commands()
    registered.command("ask")(function)
    registered.app.callback()(lambda: None)
    return typer.testing.CliRunner().invoke(registered.app, ["ask", *arguments])


def test_an_answer_is_text_or_one_json_object(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["hfembed", "ask", "--token", "hf_secret"])

    def ask(hub: Hub) -> Answer:
        return Answer({"revision": hub.revision, "path": tmp_path, "score": 0.5}, "some text")

    assert run(ask).output == "some text\n"
    answer = run(ask, "--json", "--revision", "v1", "--token", "hf_secret")
    assert json.loads(answer.stdout) == {"revision": "v1", "path": str(tmp_path), "score": 0.5}
    assert "hf_secret" not in " ".join(sys.argv), "the command line is published in results.json"


def test_a_name_from_outside_steers_no_terminal():
    def ask() -> Answer:
        return Answer({}, "Ann\x1b[2J\x9b31m\tживу\u200dна\nline")

    assert run(ask).output == "Ann\\x1b[2J\\x9b31m\tживу\u200dна\nline\n"


def test_nor_does_a_name_in_an_error(capsys):
    @exit_on_input_error
    def fail() -> None:
        raise InputError("no face in Ann\x1b[2J.jpg")

    with pytest.raises(SystemExit):
        fail()
    assert capsys.readouterr().err == "error: no face in Ann\\x1b[2J.jpg\n"


def test_an_answer_that_is_not_finite_is_an_error():
    def ask() -> Answer:
        return Answer({"score": float("nan")}, "nan")

    with pytest.raises(InputError, match="not finite"):
        raise run(ask, "--json").exception


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.jpg: not an image\nat all"), 1, "error: a.jpg: not an image at all\n"),
        (FileNotFoundError(2, "No such file or directory", "a"), 1, "No such file or directory: 'a'"),
        (MemoryError(), 1, "error: out of memory\n"),
        (ModuleNotFoundError("no", name="faiss"), 1, 'pip install "hfembed[index]"'),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_expected_error_is_one_line(capsys, error, code, line):
    @exit_on_input_error
    def fail():
        raise error

    with pytest.raises(SystemExit) as end:
        fail()
    said = capsys.readouterr().err
    assert end.value.code == code and line in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), ModuleNotFoundError("no", name="hfembed.nowhere")])
def test_a_defect_keeps_its_traceback(error):
    @exit_on_input_error
    def fail():
        raise error

    with pytest.raises(type(error)):
        fail()


def test_a_closed_pipe_is_quiet(tmp_path):
    command = f"{sys.executable} -m hfembed.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 1, 141) and not done.stderr


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("x")
    with pytest.raises(InputError, match="full already exists; pass --overwrite"):
        check_destination(tmp_path / "full")
    check_destination(tmp_path / "full", overwrite=True)
    check_destination(tmp_path / "new" / "deep")
    check_destination(tmp_path / "full", True, "owner/name", tmp_path / "file", tmp_path / "absent")
    for lost in (tmp_path / "full", tmp_path / "full" / "a"):
        with pytest.raises(InputError, match=f"full would replace the input {lost}"):
            check_destination(tmp_path / "full", True, lost)
    with pytest.raises(InputError, match="full is a folder"):
        check_writable(tmp_path / "full")
    for check in (check_destination, check_writable, check_output_folder):
        with pytest.raises(InputError, match="file is not a folder"):
            check(tmp_path / "file" / "new")
    with pytest.raises(InputError, match="file is not a folder"):
        check_output_folder(tmp_path / "file")


def test_a_folder_is_the_old_or_the_new_one(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text(text)
        assert (tmp_path / "out" / "a").read_text() == text
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        raise RuntimeError
    assert (tmp_path / "out" / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, sys; from hfembed.atomic import atomic_write, atomic_folder\n"
        "with atomic_write(sys.argv[1] + '/a.txt'), atomic_folder(sys.argv[1] + '/b'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.argv[0] = 'hfembed'; {code}", tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(tmp_path / "c.txt") as mine:
        assert list(tmp_path.iterdir()) == [mine]
        mine.write_text("x")


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hfembed.photos.check_photos", interrupt)
    monkeypatch.setattr(sys, "argv", ["hfembed", "verify", "a.png", "b.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"
