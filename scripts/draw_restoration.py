"""Draw faces that anybody may publish damaged, restored and as they were, with the PSNR of both below.

python scripts/draw_restoration.py outputs/restore docs/pictures/restoration.jpg --detector outputs/yunet_n
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from docs_pictures import write_docs_grid
from example_photos import ORIGINALS
from PIL import Image

from hfembed.checkpoint.loading import load_autoencoder, load_face_detector
from hfembed.faces.face_pasting import align_face, find_faces
from hfembed.images.data.corruptions import Corruption
from hfembed.images.evaluation.reconstruction import psnr
from hfembed.images.pictures import to_pictures
from hfembed.images.restoration import restore
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor

DAMAGES = {
    "noise 0.1": Corruption(noise=(0.1, 0.1)),
    "noise 0.2": Corruption(noise=(0.2, 0.2)),
    "2 x smaller": Corruption(reduction=(2.0, 2.0)),
    "4 x smaller": Corruption(reduction=(4.0, 4.0)),
    "JPEG, quality 10": Corruption(jpeg=(10, 10)),
    "strokes": Corruption(strokes=(3, 3), stroke_width=(4.0, 14.0)),
    "x 2, noise, JPEG": Corruption(reduction=(2.0, 2.0), noise=(0.05, 0.05), jpeg=(30, 30)),
}


def main() -> None:
    """One column per damage, the people taking turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint of a restoration model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, _ = load_autoencoder(options.model, "cpu")
    detector, _ = load_face_detector(options.detector, "cpu")
    processor = FaceImageProcessor(size=model.config.image_size)
    faces = []
    for file in ORIGINALS.values():
        photo = Image.open(file).convert("RGB")
        faces.append(align_face(processor, photo, find_faces(detector, photo, str(file), "take another")[0]).crop)
    clean, damaged, restored, captions = [], [], [], []
    for number, (name, corruption) in enumerate(DAMAGES.items()):
        pixels = torch.from_numpy(faces[number % len(faces)]).permute(2, 0, 1)[None]
        key, seeded = [(0, number)], replace(corruption, seed=options.seed)
        mask = seeded.hole_masks(key, *pixels.shape[2:])[0, 0] if seeded.makes_holes else None
        clean.append(pixels[0] / 255)
        damaged.append(seeded(pixels, key)[0] / 255)
        restored.append(restore(model, damaged[-1], mask))
        before, after = (psnr(image[None], clean[-1][None]) for image in (damaged[-1], restored[-1]))
        captions.append(f"{name}: {before:.1f} to {after:.1f} dB")
        print(captions[-1])
    rows = [to_pictures(torch.stack(images)) for images in (damaged, restored, clean)]
    write_docs_grid(rows, options.output, 2, ("damaged", "restored", "original"), captions, quality=80)


if __name__ == "__main__":
    main()
