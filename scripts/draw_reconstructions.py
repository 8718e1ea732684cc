"""Draw two faces that anybody may publish, and what an autoencoder makes of them, at several sizes.

python scripts/draw_reconstructions.py docs/pictures/autoencoder_f8_112.jpg outputs/autoencoder_f8_112 \
    --detector outputs/yunet_n --size 112 --size 224
"""

import argparse
from pathlib import Path

import torch
from docs_pictures import write_docs_grid
from example_photos import ORIGINALS
from PIL import Image

from hfembed.checkpoint.loading import load_autoencoder, load_face_detector
from hfembed.images.evaluation.reconstruction import psnr, reconstruct
from hfembed.images.morphing import align_photo
from hfembed.images.pictures import to_pictures


def main() -> None:
    """A row of photos and one of reconstructions; for each size the faces side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("model", help="checkpoint of an autoencoder whose latents are a grid")
    parser.add_argument("--detector", required=True)
    parser.add_argument("--size", type=int, action="append", required=True, help="side of the faces in pixels")
    options = parser.parse_args()
    detector, _ = load_face_detector(options.detector, "cpu")
    model, processor = load_autoencoder(options.model, "cpu")
    photos, made, captions = [], [], []
    for size in options.size:
        processor.size = {"height": size, "width": size}
        for file in ORIGINALS.values():
            face, _ = align_photo(processor, detector, Image.open(file).convert("RGB"), str(file))
            reconstruction = reconstruct(model, face[None])[0][0].clamp(0, 1)
            captions.append(f"{size} pixels, {psnr(reconstruction, face):.1f} dB")
            for row, image in ((photos, face), (made, reconstruction)):
                row.append(torch.nn.functional.interpolate(image[None], max(options.size), mode="nearest")[0])
    rows = [to_pictures(torch.stack(row)) for row in (photos, made)]
    write_docs_grid(rows, options.output, 1, ["photo", "reconstruction"], captions)


if __name__ == "__main__":
    main()
