"""Reload a face embedder and show what it has learned on synthetic people it has never seen.

python scripts/show_face_embedder.py outputs/quickstart/faces
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import AutoModel, set_seed

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.synthetic_faces import make_synthetic_faces, make_synthetic_pairs
from hfembed.faces.evaluation.embedding import embed_aligned
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.faces.evaluation.lfw_report import report_lfw, summary
from hfembed.faces.evaluation.pixel_baselines import pixel_baseline_embeddings
from hfembed.faces.evaluation.plots import save_figure, show_crop

UNSEEN = 1_000_000  # seed of the synthetic people


@exit_on_input_error
def main() -> None:
    """Reload, measure against pixels and an untrained network, draw who is nearest to whom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    folder = Path(parser.parse_args().model)
    torch.set_num_threads(1)  # in layers as small as these, two threads wait for each other
    embedder, processor = load_face_embedder(str(folder), "cpu")

    faces, pairs = make_synthetic_pairs(seed=UNSEEN)
    others = make_synthetic_faces(num_identities=40, photos_per_identity=8, seed=UNSEEN + 1)
    protocol = LfwVerification(
        faces,
        pairs,
        name="synthetic",
        regime="synthetic people, none of them trained on",
        num_workers=0,
        progress=False,
    )
    report = report_lfw(protocol, embedder, processor, folder)
    print(summary("synthetic", report))

    crops = protocol.aligned(processor)
    set_seed(0)
    untrained = AutoModel.from_config(embedder.config).eval()
    fitted_on = torch.from_numpy(
        np.stack([processor.align(face["image"], face["landmarks"]) for face in others])
    ).permute(0, 3, 1, 2)
    baselines = pixel_baseline_embeddings(fitted_on, crops.pixels)
    baselines["untrained network"] = embed_aligned(untrained, processor, crops.pixels, progress=False)
    print(f"\n{'accuracy on synthetic faces, same person or not':64}%")
    for name, embeddings in baselines.items():
        accuracy = protocol.result(embeddings, crops).metrics["synthetic_accuracy"]
        print(f"  {name.replace('_', ' '):62}{accuracy:.1f}")
    print(f"  {'this model, reloaded from ' + str(folder):62}{report['synthetic_accuracy']:.1f}")

    embeddings = torch.from_numpy(embed_aligned(embedder, processor, crops.pixels, progress=False))
    people = np.array([file.split("/")[0] for file in crops.files])
    queries = [int(np.flatnonzero(people == person)[0]) for person in np.unique(people)[:8]]
    similarity = embeddings[queries] @ embeddings.T
    similarity[range(len(queries)), queries] = -2  # not oneself
    scores, nearest = similarity.topk(7)
    plot_neighbors(
        [crops.pixels[query] for query in queries],
        [
            [(crops.pixels[i], float(score), people[i] == people[query]) for i, score in zip(row, line, strict=True)]
            for query, row, line in zip(queries, nearest.tolist(), scores.tolist(), strict=True)
        ],
        folder / "neighbors.png",
    )
    write_card(folder)
    print(f"\npictures: {folder}/roc.png, mistakes.png, neighbors.png; the model's card: {folder}/README.md")


def plot_neighbors(
    queries: Sequence[torch.Tensor], neighbors: Sequence[Sequence[tuple[torch.Tensor, float, bool]]], path: str | Path
) -> None:
    """Draw one row per query: the crop, then its nearest neighbors in falling order, wrong people framed in red."""
    rows, columns = len(queries), len(neighbors[0]) + 1
    figure = Figure(figsize=(1.15 * columns, 1.3 * rows + 0.4), layout="constrained")
    figure.suptitle("each row: a photo, then its nearest neighbors (red: another person)", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for line, query, nearest in zip(grid, queries, neighbors, strict=True):
        show_crop(line[0], query, "query")
        for axes, (crop, score, same) in zip(line[1:], nearest, strict=True):
            show_crop(axes, crop, f"{score:.2f}")
            axes.spines[:].set(
                visible=True, color="#1f5fa8" if same else "#b8341b", linewidth=2.5 if not same else 1.0
            )
        for axes in line:
            axes.set(xticks=[], yticks=[])
        line[0].spines[:].set_visible(False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
