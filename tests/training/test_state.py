import resource

import pytest
import torch
from accelerate import Accelerator

from hfembed.errors import InputError
from hfembed.training.state import Checkpoints, Progress


@pytest.fixture
def run(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(200, 200)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    progress = Progress(step=1)
    accelerator.register_for_checkpointing(progress)
    yield Checkpoints(accelerator, tmp_path / "checkpoints", keep=2), model, progress
    accelerator.free_memory()


def test_the_newest_checkpoint_comes_back_and_old_ones_go(run):
    checkpoints, model, progress = run
    for step in (1, 2, 3):
        progress.step = step
        torch.nn.init.constant_(model.weight, step)
        checkpoints.save(step)
    assert [folder.name for folder in checkpoints.all()] == ["step_00000002", "step_00000003"]
    torch.nn.init.zeros_(model.weight)
    progress.step = 0
    assert checkpoints.load_newest().name == "step_00000003"
    assert progress.step == 3 and (model.weight == 3).all()


def test_a_full_disk_is_one_line_and_leaves_earlier_checkpoints_whole(run):
    checkpoints, model, _ = run
    checkpoints.save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the weights take 160 kB: writing them fails half-way
    try:
        with pytest.raises(OSError, match="step_00000002 could not be written") as error:
            checkpoints.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value) and "--resume" in str(error.value)
    assert [folder.name for folder in checkpoints.folder.iterdir()] == ["step_00000001"]
    assert checkpoints.load_newest().name == "step_00000001"


def test_a_damaged_checkpoint_is_named(run):
    checkpoints, _, _ = run
    checkpoints.save(1)
    (checkpoints.all()[0] / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="step_00000001 cannot be loaded"):
        checkpoints.load_newest()
