"""Evaluations that several ranks share: the same figures as on one, whatever the numbers divide by."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from huggingface_hub import ModelCard
from PIL import Image

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError
from hfembed.faces.evaluation.identification import HeldOutIdentification
from hfembed.faces.evaluation.lfw import verify_pair_sets
from hfembed.faces.evaluation.templates import read_template_set
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification
from hfembed.training.distributed import gather_rows, own_rows
from tests.faces.evaluation.test_pairs_command import write_set
from tests.faces.evaluation.test_templates import write_set as write_templates
from tests.fork_server import REPOSITORY, ScriptRun, fork_server, free_port
from tests.invariants.test_training import SAME_ON_ANY_RANKS, train

RANKS = 3
COMMAND = REPOSITORY / "hfembed" / "cli" / "__main__.py"


class Photos(torch.utils.data.Dataset):
    """Noise and a label, by key; 37 of them."""

    def __len__(self):
        return 37

    def __getitem__(self, key):
        pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(key[1]))
        return {"pixel_values": pixels, "labels": key[1] % 5}


def measure(folder, sets):
    """Figures, details and failures by set; and of held-out photos."""
    model, processor = load_face_embedder(folder, "cpu")
    settings = {"num_workers": 0, "progress": False, "batch_size": 8, "spread": True}
    figures = {}
    for name, (_, protocol) in verify_pair_sets(sets, **settings).items():
        found = protocol.evaluate(model, processor)
        figures[name] = [found.metrics, found.details["failures"], found.scores.tolist(), found.thresholds["norm"]]
    torch.manual_seed(0)
    model.config.num_labels = 5
    classifier = FaceEmbedderForClassification(model.config).eval()
    figures["held out"] = HeldOutIdentification(Photos(), batch_size=8)(classifier)
    return figures


def run_rank(rank, port, folder, sets, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    assert [len(own_rows(count)) for count in (1, 7, 9)] == [1, 3, 3]
    assert gather_rows(torch.tensor(own_rows(7)), 7).tolist() == list(range(7))
    with open(f"{output}/{rank}.json", "w") as file:
        json.dump(measure(folder, sets), file)
    try:
        measure(folder, [f"{output}/broken.bin"])
    except InputError as error:
        assert "none of the 20 images could be used" in str(error)  # noqa: PT017  not in a test's process
    else:
        raise AssertionError
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.multiprocess
def test_ranks_measure_what_one_measures(checkpoint, tmp_path):
    write_set(tmp_path / "lfw.bin", 61, 0)
    crops, same = write_set(tmp_path / "cfp_fp.bin", 40, 1)
    for place in (3, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59):  # the last rank's first
        crops[place] = np.frombuffer(b"not an image", np.uint8).copy()
    (tmp_path / "cfp_fp.bin").write_bytes(pickle.dumps((crops, same.tolist())))
    (tmp_path / "broken.bin").write_bytes(pickle.dumps(([crops[3].copy() for _ in range(20)], [True, False] * 5)))
    sets = [str(tmp_path / name) for name in ("lfw.bin", "cfp_fp.bin")]
    one = json.loads(json.dumps(measure(checkpoint, sets)))
    context = fork_server()
    port = free_port()
    processes = [
        context.Process(target=run_rank, args=(rank, port, str(checkpoint), sets, str(tmp_path)))
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * RANKS
    assert len(one["cfp_fp"][1]) == 11
    for rank in range(RANKS):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["held out"] == one["held out"]
        for name in ("lfw", "cfp_fp"):
            assert found[name][1] == one[name][1]
            assert found[name][0] == pytest.approx(one[name][0], abs=1e-4)
            assert found[name][2] == pytest.approx(one[name][2], abs=1e-6)
            assert found[name][3] == pytest.approx(one[name][3], abs=1e-4)


@pytest.mark.multiprocess
def test_the_commands_share_the_work(checkpoint, tmp_path):
    """Two ranks of `accelerate launch --module hfembed.cli`: one answer, one results.json, the figures of one rank."""
    write_set(tmp_path / "lfw.bin", 61, 0)
    write_templates(tmp_path / "ijb", people=5)
    for file in read_template_set(tmp_path / "ijb").files[1:]:
        pixels = np.random.default_rng(len(file)).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ijb" / "loose_crop" / file)
    for kind, source in (("pairs", "lfw.bin"), ("templates", "ijb")):
        results = []
        for ranks in (1, 2):
            output = tmp_path / f"{kind}{ranks}"
            arguments = ["evaluate", kind, checkpoint, "--set", tmp_path / source, "--output", output]
            run = ScriptRun(COMMAND, [*arguments, "--num-workers", "0"], tmp_path / f"{kind}{ranks}.txt", ranks)
            code, printed = run.finish(200)
            assert code == 0, printed[-3000:]
            assert printed.count("written to") == 1
            results.append(json.loads((output / "results.json").read_text()))
            assert list(output.glob("*_roc.png"))
        one, two = ({name: value for name, value in found.items() if isinstance(value, float)} for found in results)
        assert two == pytest.approx(one, abs=1e-3) and len(one) > 2
        details = [next(value for value in found.values() if isinstance(value, dict)) for found in results]
        assert details[0]["failures"].keys() == details[1]["failures"].keys()


@pytest.mark.multiprocess
def test_a_run_measures_its_pair_sets(tmp_path):
    for seed, name in enumerate(("lfw", "cfp_fp")):
        write_set(tmp_path / f"{name}.bin", 31, seed)
    # batch normalization's buffers differ between ranks until they are shared
    recipe = SAME_ON_ANY_RANKS | {
        "data_dir": str(tmp_path),
        "train_images": ["synthetic"],
        "validation_sets": ["lfw.bin", "cfp_fp.bin"],
        "trunk": "iresnet",
        "trunk_arguments": {"depths": [1, 1], "widths": [8, 16]},
        "sync_batch_norm": True,
        "optimizer": "sgd",
        "evaluate_every": 2,
        "max_steps": 5,
    }
    logs = [train(recipe, tmp_path / str(ranks), ranks) for ranks in (1, 2)]
    evaluations = [[line for line in log if "lfw_auc" in line] for log in logs]
    assert [line["step"] for line in evaluations[0]] == [2, 4, 5]
    for one, two in zip(*evaluations, strict=True):
        assert {"synthetic_accuracy", "lfw_insightface_accuracy", "cfp_fp_accuracy"} <= one.keys() == two.keys()
        assert two["lfw_auc"] == pytest.approx(one["lfw_auc"], abs=1.0)
    for ranks in (1, 2):
        run = tmp_path / str(ranks) / "run"
        results, notes = (json.loads((run / f"{name}.json").read_text()) for name in ("results", "training"))
        best = next(line for line in evaluations[ranks - 1] if line["step"] == notes["validation"]["step"])
        assert results["cfp_fp_auc"] == best["cfp_fp_auc"] == notes["validation"]["cfp_fp_auc"]
        assert results["cfp_fp"]["files"]["pairs"]["name"] == "cfp_fp.bin" and results["cfp_fp"]["weights"]
        claimed = {result.dataset_name for result in ModelCard.load(run / "README.md").data.eval_results}
        assert claimed == {"LFW (lfw.bin, 31 pairs)", "CFP-FP (cfp_fp.bin, 31 pairs)"}
        # the figures are those of the model that was kept
        measured = verify_pair_sets([str(tmp_path / "lfw.bin")], num_workers=0, progress=False)["lfw"][1]
        model, processor = load_face_embedder(run, "cpu")
        assert measured(model, processor)["lfw_auc"] == pytest.approx(results["lfw_auc"], abs=1e-4)
