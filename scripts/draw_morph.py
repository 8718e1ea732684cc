"""Draw morphs between two faces that anybody may publish: straight, on an arc, and by landmarks.

python scripts/draw_morph.py docs/pictures/morph.jpg outputs/autoencoder_f8_112 \
    --detector outputs/yunet_n --size 256
"""

import argparse
from pathlib import Path

import torch
from docs_pictures import write_docs_grid
from example_photos import ORIGINALS
from PIL import Image

from hfembed.checkpoint.loading import load_autoencoder, load_face_detector
from hfembed.images.morphing import align_photo, midpoint_sharpness, morph
from hfembed.images.pictures import to_pictures

_STEPS = 5


def main() -> None:
    """Three rows per model, the photos at both ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", nargs="+", help="checkpoints of autoencoders")
    parser.add_argument("--detector", required=True)
    parser.add_argument("--size", type=int, help="side of the faces in pixels; default: the model's")
    options = parser.parse_args()
    detector, _ = load_face_detector(options.detector, "cpu")
    rows, labels = [], []
    for name in options.models:
        model, processor = load_autoencoder(name, "cpu")
        if options.size:
            processor.size = {"height": options.size, "width": options.size}
        faces = [
            align_photo(processor, detector, Image.open(file).convert("RGB"), str(file)) for file in ORIGINALS.values()
        ]
        (start, end), points = (torch.stack(parts) for parts in zip(*faces, strict=True))
        ways = {"straight": (False, None), "arc": (True, None), "arc, by landmarks": (True, points)}
        for label, (spherical, shape) in ways.items():
            frames = morph(model, start, end, _STEPS, spherical, points=shape)
            rows.append(to_pictures(torch.cat([start[None], frames, end[None]])))
            of_model = f"{Path(name).name.removeprefix('autoencoder_')}, " if len(options.models) > 1 else ""
            labels.append(of_model + label)
            print(
                Path(name).name, label, f"{midpoint_sharpness(frames):.0%} as sharp halfway as at the ends", sep=", "
            )
    write_docs_grid(rows, options.output, 1, labels)


if __name__ == "__main__":
    main()
