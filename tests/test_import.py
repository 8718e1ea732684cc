"""What importing hfembed costs and does. Run in processes of their own: pytest has imported everything already."""

import json
import resource
import subprocess
import sys

import pytest

ANSWER = "import json, sys; print(json.dumps(sorted(sys.modules)))"
REFERENCE = "import torch; from transformers import AutoModel, AutoImageProcessor, PreTrainedModel"


def modules_after(code: str, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; sys.argv[:] = {list(arguments)!r}; {code}; {ANSWER}"]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_the_command_registers_nothing_before_it_loads_a_model():
    loaded = modules_after("import hfembed", "/usr/bin/hfembed", "--help")
    assert not loaded & {"torch", "transformers", "numpy", "hfembed.auto"}


@pytest.mark.slow
def test_importing_hfembed_registers_the_models_and_stays_light():
    loaded = modules_after(
        "import hfembed; from transformers import AutoConfig; AutoConfig.for_model('hfembed_face_embedder')", "x.py"
    )
    assert {"hfembed.auto", "hfembed.faces.pipelines"} <= loaded
    assert not loaded & {"timm", "gensim", "sklearn", "datasets", "matplotlib", "hfembed.faces.face_analyzer"}


def test_training_waits_for_no_package_that_it_does_not_need():
    loaded = modules_after("import hfembed.faces.training.train", "x.py")
    assert not loaded & {"sklearn", "matplotlib", "gensim", "hfembed.words"}


@pytest.mark.slow
def test_importing_hfembed_costs_little_more_than_importing_transformers():
    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds("import hfembed")  # compile what is not compiled yet
    runs = [(seconds("import hfembed"), seconds(REFERENCE)) for _ in range(5)]
    ours, theirs = (min(column) for column in zip(*runs, strict=True))
    assert ours <= 1.15 * theirs, runs
