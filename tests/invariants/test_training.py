"""What must hold of every training run, with real processes: the scripts, ranks over gloo, a real kill -9."""

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.fork_server import ScriptRun

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "train_face_embedder.py"
AUTOENCODER_SCRIPT = REPOSITORY / "scripts" / "train_autoencoder.py"

CLASSIFICATION = {
    "synthetic_people": 10,
    "synthetic_photos": 4,
    "image_size": [32, 32],
    "frame_margin": 2,
    "augmentation": {"mirror": 0.5, "rotation": 10.0, "brightness": 0.2, "noise": 0.5},
    "trunk": "iresnet",
    "trunk_arguments": {"depths": [1, 1], "widths": [8, 16]},
    "embedding_size": 16,
    "dropout": 0.2,
    "batch_size": 8,
    "epochs": 3,
    "ema_decay": 0.9,
    "learning_rate": 0.05,
    "log_every": 1,
    "checkpoint_every": 2,
    "evaluate_every": 4,
    "num_workers": 1,
    "trackers": [],
}
# Layer norm looks at one sample; batch norm looks at a rank's part of the batch and so cannot be the same on 1 and 2
# ranks. Dropout draws on each rank from its own generator.
SAME_ON_ANY_RANKS = CLASSIFICATION | {
    "synthetic_photos": 8,
    "batch_size": 16,
    "trunk": "timm/test_vit",
    "trunk_arguments": {"img_size": 32},
    "bn_neck": False,
    "dropout": 0.0,
    "ema_decay": 0.0,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "num_workers": 0,
    "evaluate_every": 0,
}
TRIPLET = SAME_ON_ANY_RANKS | {"objective": "triplet", "photos_per_identity": 4, "triplet_mining": "semi-hard"}

AUTOENCODER = {
    "synthetic_people": 12,
    "synthetic_photos": 6,
    "held_out_share": 0.2,
    "validation_share": 0.2,
    "image_size": [32, 32],
    "color": "gray",
    "augmentation": {"mirror": 0.5},
    "corruption": {"noise": [0.0, 0.2]},
    "model": {"widths": [8, 12], "latent_channels": 4, "bottleneck_size": 4},
    "discriminator_weight": 0.5,
    "discriminator_start": 2,
    "discriminator_width": 8,
    "batch_size": 16,
    "epochs": 3,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "log_every": 1,
    "checkpoint_every": 1,
    "evaluate_every": 3,
    "pictures": 2,
    "trackers": [],
}
WARPING = AUTOENCODER | {
    "image_size": [16, 16],
    "corruption": {},
    "discriminator_weight": 0.0,
    "model": {
        "bottleneck": "warp", "latent_channels": 8, "warp_latents": 4, "warp_grid": 4, "widths": [8], "patch_size": 4
    },
}  # fmt: skip


def arguments(recipe: dict, folder: Path, *more: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{folder.name}.yaml"
    config.write_text(yaml.safe_dump(recipe))
    return ["--config", str(config), "--output_dir", str(folder / "run"), *more]


def start(recipe: dict, folder: Path, ranks: int, *more: str, script: Path = SCRIPT) -> ScriptRun:
    return ScriptRun(script, arguments(recipe, folder, *more), folder.parent / f"{folder.name}.txt", ranks)


def train(recipe: dict, folder: Path, ranks: int = 1, *more: str, script: Path = SCRIPT) -> list[dict]:
    """Run the script to its end; its log lines."""
    code, printed = start(recipe, folder, ranks, *more, script=script).finish()
    assert code == 0, printed[-6000:]
    assert f"on {ranks} rank" in printed
    return read_log(folder)


def train_until_killed(recipe: dict, folder: Path, step: int, ranks: int = 1, script: Path = SCRIPT) -> None:
    """Start the script and kill -9 all its ranks once it has logged `step`."""
    run = start(recipe, folder, ranks, script=script)
    deadline = time.monotonic() + 300
    try:
        while not any(line["step"] >= step for line in read_log(folder)):
            assert run.is_running(), "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run logged nothing"
            time.sleep(0.02)
    finally:
        run.kill()


def read_log(folder: Path) -> list[dict]:
    log = folder / "run" / "training_log.jsonl"
    if not log.exists():
        return []
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in lines]


def numbers(log: list[dict]) -> list[dict]:
    """The log without its clock."""
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in log]


def losses(log: list[dict]) -> list[float]:
    return [line["loss"] for line in log if "loss" in line]


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_uninterrupted(tmp_path, ranks):
    uninterrupted = train(CLASSIFICATION, tmp_path / "uninterrupted", ranks)
    assert len(losses(uninterrupted)) == 15
    train_until_killed(CLASSIFICATION, tmp_path / "killed", 7, ranks)
    assert len(read_log(tmp_path / "killed")) < len(uninterrupted)
    resumed = train(CLASSIFICATION, tmp_path / "killed", ranks, "--resume")
    assert numbers(resumed) == numbers(uninterrupted)  # to the last digit
    weights = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in ("uninterrupted", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.multiprocess
def test_two_ranks_refuse_another_run_and_train_on_longer(tmp_path):
    recipe = CLASSIFICATION | {"num_workers": 0, "epochs": 1}
    short = train(recipe, tmp_path / "two", 2)
    for other, line in (
        ({"seed": 1}, "seed 0, not 1"),
        ({"batch_size": 4}, "batch_size 8, not 4"),
        ({"synthetic_photos": 6}, "synthetic_photos 4, not 6"),
    ):
        code, printed = start(recipe | other, tmp_path / "two", 2, "--resume").finish()
        assert code == 1 and line in printed and "Traceback" not in printed, printed[-2000:]
    longer = train(recipe | {"epochs": 2}, tmp_path / "two", 2, "--resume")
    assert len(losses(longer)) == 2 * len(losses(short))
    finished = json.loads((tmp_path / "two" / "run" / "run.json").read_text())
    assert finished["finished_at"] == len(losses(longer)) and len(finished["commands"]) == 2


@pytest.mark.multiprocess
def test_machines_without_a_common_folder_are_refused_before_two_runs_are_mixed(tmp_path):
    recipe = SAME_ON_ANY_RANKS | {"epochs": 1}
    train(recipe, tmp_path / "a", 2, "--max_steps", "3")
    command, folders = arguments(recipe, tmp_path / "b"), (tmp_path / "a" / "run", tmp_path / "b" / "run")
    of_ranks = [["--output_dir", str(folder), "--resume"] for folder in folders]
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")}
    code, printed = ScriptRun(SCRIPT, command, tmp_path / "b.txt", 2, of_ranks).finish(120)
    assert code == 1 and "is another folder for rank 1 than for rank 0" in printed and "Traceback" not in printed
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")} == before and not folders[1].exists()
    # machines that share the folder go on
    of_ranks = [["--output_dir", str(folders[0]), "--resume"]] * 2
    code, printed = ScriptRun(SCRIPT, command, tmp_path / "b.txt", 2, of_ranks).finish(120)
    assert code == 0 and "resuming from" in printed, printed[-3000:]
    assert len(losses(read_log(tmp_path / "a"))) == 5


@pytest.mark.multiprocess
def test_one_rank_is_two_ranks_is_accumulation(tmp_path):
    one = losses(train(SAME_ON_ANY_RANKS, tmp_path / "one"))
    two = losses(train(SAME_ON_ANY_RANKS, tmp_path / "two", 2))
    accumulated = losses(train(SAME_ON_ANY_RANKS, tmp_path / "accumulated", 1, "--accumulation_steps", "4"))
    assert len(one) == 15
    assert two == pytest.approx(one, rel=1e-4)
    assert accumulated == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0] - 0.01


@pytest.mark.multiprocess
def test_one_rank_is_two_ranks_with_batch_norm_where_it_is_synchronized(tmp_path):
    recipe = CLASSIFICATION | {"sync_batch_norm": True, "dropout": 0.0, "evaluate_every": 0, "num_workers": 0}
    one = losses(train(recipe, tmp_path / "one"))
    assert losses(train(recipe, tmp_path / "two", 2)) == pytest.approx(one, rel=1e-3)
    weights = [load_file(tmp_path / name / "run" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.multiprocess
@pytest.mark.parametrize("head", ["elasticface", "curricularface"])
def test_margins_and_progress_are_the_same_on_any_ranks_and_after_a_kill(tmp_path, head):
    recipe = SAME_ON_ANY_RANKS | {"head": head, "scale": 16.0, "margin_deviation": 0.3}
    recipe |= {"synthetic_photos": 4, "batch_size": 8}
    one = train(recipe, tmp_path / "one")
    two = losses(train(recipe, tmp_path / "two", 2))
    assert two == pytest.approx(losses(one), rel=1e-4)
    train_until_killed(recipe, tmp_path / "killed", 7)
    assert numbers(train(recipe, tmp_path / "killed", 1, "--resume")) == numbers(one)  # to the last digit
    if head == "curricularface":
        progress = [
            load_file(tmp_path / name / "run" / "model.safetensors")["classifier.progress"].item()
            for name in ("one", "two", "killed")
        ]
        assert progress[1] == pytest.approx(progress[0], rel=1e-4) and progress[2] == progress[0] != 0


@pytest.mark.multiprocess
def test_a_sharded_head_is_the_same_on_any_ranks_after_a_kill_and_on_other_ranks_than_before(tmp_path):
    recipe = SAME_ON_ANY_RANKS | {"head": "subcenter_arcface", "scale": 16.0, "sample_rate": 0.5, "optimizer": "sgd"}
    recipe |= {
        "learning_rate": 0.05,
        "max_grad_norm": 1.0,
        "schedule": "constant",
        "ema_decay": 0.9,
        "epochs": 2,
        "keep_best": False,
        "synthetic_photos": 4,
        "batch_size": 8,
    }
    one = train(recipe, tmp_path / "one")
    train_until_killed(recipe, tmp_path / "killed", 3)
    assert numbers(train(recipe, tmp_path / "killed", 1, "--resume")) == numbers(one)  # to the last digit
    train(recipe, tmp_path / "other", 2, "--max_steps", "4")
    train(recipe, tmp_path / "other", 1, "--resume", "--max_steps", "7")
    other = train(recipe, tmp_path / "other", 2, "--resume")
    assert losses(other) == pytest.approx(losses(one), rel=1e-4) and losses(one)[-1] < losses(one)[0] - 0.1
    weights = [load_file(tmp_path / name / "run" / "model.safetensors") for name in ("one", "killed", "other")]
    assert not [name for name in weights[0] if "classifier" in name], "the final model is the embedder"
    for name, weight in weights[0].items():
        assert torch.equal(weights[1][name], weight)
        torch.testing.assert_close(weights[2][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.multiprocess
def test_triplets_are_mined_over_all_ranks(tmp_path):
    one = train(TRIPLET, tmp_path / "one")
    two = train(TRIPLET, tmp_path / "two", 2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert [line["active_share"] for line in two if "loss" in line] == pytest.approx(
        [line["active_share"] for line in one if "loss" in line], abs=0.05
    )


@pytest.mark.multiprocess
def test_killed_and_resumed_autoencoder_is_uninterrupted(tmp_path):
    # a variational one draws its latents too; the discriminator has weights and an optimizer of its own
    network = {"architecture": "autoencoder_kl", "widths": [8, 12], "norm_groups": 4, "variational": True}
    recipe = AUTOENCODER | {"model": network, "ema_decay": 0.9}
    uninterrupted = train(recipe, tmp_path / "uninterrupted", script=AUTOENCODER_SCRIPT)
    train_until_killed(recipe, tmp_path / "killed", 3, script=AUTOENCODER_SCRIPT)
    resumed = train(recipe, tmp_path / "killed", 1, "--resume", script=AUTOENCODER_SCRIPT)
    assert numbers(resumed) == numbers(uninterrupted)
    weights = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in ("uninterrupted", "killed")]
    assert weights[0] == weights[1]
    assert list((tmp_path / "uninterrupted" / "run" / "pictures").glob("*.png"))


@pytest.mark.multiprocess
def test_gradient_checkpointing_changes_no_training(tmp_path):
    plain = train(AUTOENCODER, tmp_path / "plain", script=AUTOENCODER_SCRIPT)
    recipe = AUTOENCODER | {"gradient_checkpointing": True}
    checkpointed = train(recipe, tmp_path / "checkpointed", script=AUTOENCODER_SCRIPT)
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.multiprocess
@pytest.mark.parametrize("recipe", [AUTOENCODER, WARPING], ids=["conv", "warp"])
def test_one_rank_is_two_ranks_for_an_autoencoder(tmp_path, recipe):
    one = train(recipe, tmp_path / "one", script=AUTOENCODER_SCRIPT)
    two = train(recipe, tmp_path / "two", 2, script=AUTOENCODER_SCRIPT)
    assert len(losses(one)) > 4
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    weights = [[line["adversarial_weight"] for line in log if "adversarial_weight" in line] for log in (one, two)]
    assert weights[1] == pytest.approx(weights[0], rel=1e-3)
    assert len(weights[0]) == (len(losses(one)) - 2 if recipe["discriminator_weight"] else 0)
