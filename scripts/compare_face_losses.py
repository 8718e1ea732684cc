"""Losses beside each other: each trains the same network from the same start for the same short time.

python scripts/compare_face_losses.py --faces celeba299/aligned_112x112.tgz --suspects celeba299/suspect_faces.json \
    --output outputs/losses

Every sixth person is held out of all training. A softmax start is trained on the others first; then each loss goes on
from it for --steps steps by the recipe `face_cosface` (mirrored photos in place of its augmentation), its class
weights started from the people's mean embeddings, with a scale of 16 and a fifth of its paper's margins: these people
are few, and the network is small, three stages on gray crops of 32 x 32. Measured on 6,000 random pairs of photos of
the held-out people: accuracy by ten folds, and TAR at a FAR of 1e-2.

What is trained already is measured again, not trained again: the same command goes on with what is missing.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_face_embedders import accuracies, random_pairs

from hfembed.checkpoint.json_notes import read_json
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.evaluation import verification
from hfembed.faces.evaluation.embedding import embed_aligned
from hfembed.faces.training import train

# fields of the recipe; margins are a fifth of the papers'
LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"head": "softmax"},
    "cosface": {"head": "cosface", "margin": 0.07},
    "arcface": {"head": "arcface", "margin": 0.1},
    "subcenter_arcface": {"head": "subcenter_arcface", "margin": 0.1},
    "combined": {"head": "combined", "margin": None, "margins": [1.0, 0.06, 0.04]},
    "elasticface": {"head": "elasticface", "margin": 0.1, "margin_deviation": 0.01},
    "magface": {"head": "magface", "margin": None, "margin_range": [0.09, 0.16]},
    "adaface": {"head": "adaface", "margin": 0.08},
    "curricularface": {"head": "curricularface", "margin": 0.1},
}
# a quarter of the recipe's, on half of its pixels, so that a minute of one core teaches it something
NETWORK = {
    "image_size": [32, 32],
    "trunk_arguments": {"depths": [1, 1, 1], "widths": [16, 32, 64], "stem_width": 8, "stride_first": True},
    "embedding_size": 128,
    "dropout": 0.0,
}
HELD_OUT = 6  # every sixth person
SECONDS_FILE = "cpu_seconds.json"


def train_once(arguments: dict[str, Any], folder: Path) -> float:
    """Train into a folder, if it is not there yet; seconds of CPU time."""
    if not (folder / SECONDS_FILE).is_file():
        began = time.process_time()
        given = [
            word
            for name, value in arguments.items()
            for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
        ]
        train.main([*given, "--output_dir", str(folder), "--overwrite"])
        (folder / SECONDS_FILE).write_text(json.dumps({"seconds": time.process_time() - began}))
    return read_json(folder / SECONDS_FILE)["seconds"]


@exit_on_input_error
def main() -> None:
    """Train, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, help="crops on the standard template, a folder per person")
    parser.add_argument("--suspects", default="", help="JSON list of photos to leave out")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--start-steps", type=int, default=700)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    faces = load_faces(FaceSource(options.faces, aligned="arcface_112", exclude_files=options.suspects or None))
    names = faces.features["label"].names
    held_out = names[::HELD_OUT]
    (options.output / "held_out.json").write_text(json.dumps(held_out))
    data = {
        "data_dir": "", "train_images": [options.faces], "exclude_files": options.suspects,
        "exclude_identities": str(options.output / "held_out.json"), "validation_images": "",
        "augmentation": {"mirror": 0.5}, "frame_margin": 0, "mixed_precision": "no", "evaluate_every": 0,
        "checkpoint_every": 0, "trackers": [], "num_threads": 1,
    }  # fmt: skip
    start = options.output / "start"
    first = {"config": "face_softmax", **data, "max_steps": options.start_steps, "warmup_steps": 50, **NETWORK}
    print(f"start: {train_once(first, start):.0f} s of CPU time", flush=True)

    tested = faces.filter(lambda label: names[label] in set(held_out), input_columns="label")
    pairs = random_pairs(tested["label"][:], 3000)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name in ["start", *options.losses]:
            folder = start if name == "start" else options.output / f"{name}_{seed}"
            seconds = 0.0
            if name != "start":
                recipe = {"config": "face_cosface", **data, "init_from": str(start), "imprint": True, "seed": seed}
                recipe |= {"max_steps": options.steps, "epochs": 1000, "scale": 16.0, **LOSSES[name]}
                seconds = train_once(recipe, folder)
            model, processor = load_face_embedder(str(folder), "cpu")
            crops = torch.as_tensor(AlignedFaces(tested, processor, show_progress=False).pixels())
            embeddings = embed_aligned(model, processor, crops)
            scores = np.einsum("pd,pd->p", embeddings[pairs[0]], embeddings[pairs[1]])
            tar = 100 * verification.tar_at_far(verification.roc(scores, pairs[2]), 0.01).tar
            row = {**accuracies(embeddings, pairs), "tar_at_far_0.01": tar, "cpu_seconds": seconds}
            rows.setdefault(name, []).append(row)
            print(f"seed {seed} {name}: {row}", flush=True)
    print(f"{len(held_out)} people held out of {len(names)}, {len(tested)} photos")
    means = {
        name: {key: float(np.mean([row[key] for row in of_seeds])) for key in of_seeds[0]}
        for name, of_seeds in rows.items()
    }
    for name, row in means.items():
        print(f"| {name} | {row['accuracy']:.2f} | {row['tar_at_far_0.01']:.1f} | {row['cpu_seconds']:.0f} s |")
    metrics = {f"compare_losses_{name}": row["accuracy"] for name, row in means.items()}
    details = {"rows": rows, "held_out_people": len(held_out), "steps": options.steps, "seeds": options.seeds}
    write_results(options.output, "compare_losses", metrics, details | provenance({"faces": options.faces}))


if __name__ == "__main__":
    main()
