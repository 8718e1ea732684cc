"""Reload an autoencoder and show what it does, on synthetic people that neither training nor validation has seen.

python scripts/show_autoencoder.py outputs/quickstart/autoencoder
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from hfembed.checkpoint.loading import load_autoencoder
from hfembed.errors import exit_on_input_error
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.images.evaluation.reconstruction import pca_reconstruction, psnr, reconstruct, ssim
from hfembed.images.evaluation.reconstruction_pictures import draw_rows
from hfembed.images.morphing import midpoint_sharpness, morph
from hfembed.images.pictures import to_pictures, write_animation

UNSEEN = 1_000_000  # seed of the synthetic people


@exit_on_input_error
def main() -> None:
    """Reload, measure against PCA with as many dimensions, draw reconstructions and a morph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    folder = Path(parser.parse_args().model)
    torch.set_num_threads(1)  # in layers as small as these, two threads wait for each other
    model, processor = load_autoencoder(str(folder), "cpu")

    def draw(people: int, seed: int) -> torch.Tensor:
        faces = make_synthetic_faces(people, photos_per_identity=8, seed=seed).remove_columns("landmarks")
        return processor.normalize(AlignedFaces(faces, processor, show_progress=False).pixels())

    unseen, known = draw(12, UNSEEN), draw(150, 0)
    numbers = model.config.num_latents
    reconstructions = {
        "this model": reconstruct(model, unseen)[0],
        f"PCA, {numbers} dimensions": pca_reconstruction(known, unseen, numbers),
    }
    print(f"\n{folder}, reloaded\n{'synthetic faces of unseen people':64}{'PSNR':>6}{'SSIM':>8}")
    for name, images in reconstructions.items():
        print(f"  {name:62}{psnr(images, unseen):6.2f}{ssim(images, unseen):8.3f}")

    chosen = np.arange(0, len(unseen), 8)  # a photo of each
    rows = {"photo": unseen[chosen], **{name: images[chosen] for name, images in reconstructions.items()}}
    draw_rows(rows, folder / "reconstructions.png")
    frames = morph(model, unseen[0], unseen[8], steps=25)
    write_animation(to_pictures(frames), folder / "morph.gif", scale=4)
    print(f"\npictures: {folder}/reconstructions.png (photo, model, PCA), morph.gif; a model card: {folder}/README.md")
    print(f"the middle of the morph is {100 * midpoint_sharpness(frames):.0f} % as sharp as its ends")


if __name__ == "__main__":
    main()
