"""Supervised against unsupervised image embeddings, by the same search: is the nearest other photo of the same person?

python scripts/compare_image_embeddings.py outputs/autoencoder_128 outputs/face_softmax \
    timm/resnet18=resnet18.safetensors --images lfw-a.tgz --landmarks landmarks.json --output outputs/image_search

On people that training held out. A model is an autoencoder (its latents, whitened), a face embedder (a classifier over
people, the layer below it), or timm/<architecture> with a file of weights, with those of the Hub where none is named,
or with random ones (=random). Raw pixels and whitened principal components stand beside them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError, exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.splits import split_people
from hfembed.faces.evaluation.pixel_baselines import pixel_baseline_embeddings
from hfembed.images.image_embedders import LatentEmbedder, load_image_embedder
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor


def same_person_at_1(embeddings: torch.Tensor | np.ndarray, people: Sequence[str]) -> float:
    """Leave-one-out: every photo of somebody with at least two is searched among all the others.

    Args:
        embeddings: (N, D), compared by cosine.
        people: N names.

    Returns:
        Percent of these photos whose nearest other photo shows the same person.

    Raises:
        InputError: Nobody has two photos.
    """
    _, number, counts = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[number] > 1)
    if not len(queries):
        raise InputError("nobody has two photos: there is nobody to find again")
    index = EmbeddingIndex()
    index.add(embeddings, list(people))
    embeddings = torch.as_tensor(np.asarray(embeddings))
    _, rows = index.nearest(embeddings[torch.from_numpy(queries)], top_k=2)
    # a photo is its own nearest, unless a duplicate comes first
    others = np.where(rows[:, 0] == queries, rows[:, 1], rows[:, 0])
    return float(100 * (number[others] == number[queries]).mean())


@exit_on_input_error
def main() -> None:
    """Embed the held-out people by each, search, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoint folders, Hub ids, timm/<architecture>[=weights]")
    parser.add_argument("--images", required=True, help="a folder per person, its archive, URL or Hub id")
    parser.add_argument("--landmarks", help="JSON: file -> five points, for face embedders to align by")
    parser.add_argument("--held-out-share", type=float, default=0.1, help="share of the people, as in training")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json")
    arguments = parser.parse_args()

    faces = load_faces(FaceSource(arguments.images, landmarks=arguments.landmarks))
    known, held_out = split_people(faces, arguments.held_out_share, arguments.split_seed)
    names = held_out.features["label"].names
    people = [names[label] for label in held_out["label"][:]]
    encoded = held_out.cast_column("image", datasets.Image(decode=False))["image"][:]
    photos = [image["bytes"] or image["path"] for image in encoded]

    embedders = {name: load_image_embedder(name, arguments.device) for name in arguments.models}
    autoencoders = [embedder for embedder in embedders.values() if isinstance(embedder, LatentEmbedder)]
    processor = autoencoders[0].processor if autoencoders else ConvAutoencoderImageProcessor(color="gray")
    # an autoencoder's processor crops the center: both sides get the pixels that it produces
    crops = [AlignedFaces(side.remove_columns("landmarks"), processor).pixels() for side in (known, held_out)]

    table: dict[str, tuple[float, int]] = {}
    for name, embeddings in pixel_baseline_embeddings(*crops).items():
        table[name] = same_person_at_1(embeddings, people), embeddings.shape[1]
    for name, embed in embedders.items():
        embeddings = embed(photos, held_out["landmarks"][:])
        table[name] = same_person_at_1(embeddings, people), embeddings.shape[1]

    print(f"{len(photos)} photos of {len(set(people))} people")
    print(f"{'nearest other photo shows the same person':58}{'numbers':>9}{'%':>8}")
    for name, (percent, numbers) in table.items():
        print(f"  {name:56}{numbers:9}{percent:8.1f}")
    metrics = {f"image_search_{Path(name.partition('=')[0]).name}": percent for name, (percent, _) in table.items()}
    details = {"photos": len(photos), "people": len(set(people)), "numbers": {n: d for n, (_, d) in table.items()}}
    files = {"images": arguments.images, "landmarks": arguments.landmarks}
    write_results(arguments.output, "image_search", metrics, details | provenance(files))


if __name__ == "__main__":
    main()
