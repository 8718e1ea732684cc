r"""Compare ways to train a face swap model over seeds and groups of people, and print a table of differences.

python scripts/sweep_face_swap.py --config hfembed/recipes/face_swap.yaml --root PEOPLE --groups Ann+Bob Cy+Dora \
    --ways "warped: {}" "unwarped: {warping: {warp: 0}}" --seeds 3 --embedder FACE_EMBEDDER --output_dir OUT

Every way is trained on every group with every seed by scripts/train_face_swap.py, and measured on held-out photos.
Finished runs are not repeated, so that a stopped sweep continues.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy import stats

from hfembed.atomic import atomic_write
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.checkpoint.loading import load_face_detector, load_face_embedder, load_face_swap
from hfembed.checkpoint.results import provenance
from hfembed.errors import InputError, exit_on_input_error
from hfembed.faces.swap.evaluation import SwapEvaluation
from hfembed.faces.swap.report import read_sides, report_swap

FIGURES = ("swap_cosine_to_target", "swap_closer_to_target", "swap_cosine_redrawn")
POSE_FIGURES = ("swap_pose_error", "swap_yaw_correlation")
TRAIN = Path(__file__).with_name("train_face_swap.py")


@exit_on_input_error
def main() -> None:
    """Train what is missing, then compare every way with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="recipe that all ways share")
    parser.add_argument("--root", type=Path, required=True, help="folder with a folder for each person")
    parser.add_argument("--groups", nargs="+", required=True, help="people swapped with each other: A+B A+B+C ...")
    parser.add_argument("--ways", nargs="+", required=True, help='"name: {field: value}", the first is compared with')
    parser.add_argument("--seeds", type=int, default=3, help="of weights, order, warps and held-out photos")
    parser.add_argument("--max_steps", type=int, default=0, help="shorter runs than the recipe's")
    parser.add_argument("--embedder", required=True, help="face embedder that measures")
    parser.add_argument("--detector", default="", help="face detector that finds poses; without it they are left out")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = {name: fields or {} for way in arguments.ways for name, fields in yaml.safe_load(way).items()}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for group in arguments.groups:
        for seed in range(arguments.seeds):
            for name, fields in ways.items():
                folder = arguments.output_dir / f"{group}_{name}_{seed}"
                figures = folder / "results.json"
                if not figures.exists():
                    run(arguments, folder, group.split("+"), {"seed": seed, **fields})
                results[name].append(json.loads(figures.read_text()))
                print(
                    f"{group} seed {seed} {name}: cosine {results[name][-1]['swap_cosine_to_target']:.3f}", flush=True
                )
    chosen = FIGURES + (POSE_FIGURES if arguments.detector else ())
    table = {figure: {name: [run[figure] for run in runs] for name, runs in results.items()} for figure in chosen}
    report = {"groups": arguments.groups, "seeds": arguments.seeds, "runs": table, **provenance({})}
    with atomic_write(arguments.output_dir / "sweep.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    for line in compare(table):
        print(line)


def run(arguments: argparse.Namespace, folder: Path, people: list[str], fields: dict) -> None:
    """Train and measure once."""
    folders = [str(arguments.root / person) for person in people]
    recipe = yaml.safe_load(Path(arguments.config).read_text()) | fields
    recipe |= {"evaluate_every": 0, "max_steps": arguments.max_steps or recipe.get("max_steps", 0)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, str(TRAIN), "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder)]
    done = subprocess.run(
        [*command, "--resume", "--people", *folders],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TRAIN.parents[1])},
    )
    if done.returncode:
        raise InputError(f"{folder}: training failed: {done.stderr.strip().splitlines()[-1]}")
    model, processor = load_face_swap(str(folder), "cpu")
    embedder, embedder_processor = load_face_embedder(arguments.embedder, "cpu")
    trained, tested = read_sides(folder / TRAINING_FILE, folders, model, processor)
    detector = None
    if arguments.detector:
        detector, _ = load_face_detector(arguments.detector, "cpu")
    evaluation = SwapEvaluation(trained, tested, embedder, embedder_processor, detector)
    files = {"embedder": arguments.embedder, "detector": arguments.detector or None}
    report_swap(evaluation, model, processor, folder, files)


def compare(table: dict[str, dict[str, list[float]]]) -> list[str]:
    """Lines of a Markdown table: means, and differences to the first way over the same groups and seeds."""
    lines = ["| figure | way | mean | difference to the first, 95 % interval | runs higher |", "|---|---|---|---|---|"]
    for figure, by_way in table.items():
        first = np.array(next(iter(by_way.values())))
        for number, (name, values) in enumerate(by_way.items()):
            difference = np.array(values) - first
            half = stats.t.ppf(0.975, len(first) - 1) * difference.std(ddof=1) / math.sqrt(len(first))
            against = f"{difference.mean():+.3f} +- {half:.3f} | {(difference > 0).sum()} of {len(first)}"
            lines.append(f"| {figure} | {name} | {np.mean(values):.3f} | {against if number else '|'} |")
    return lines


if __name__ == "__main__":
    main()
