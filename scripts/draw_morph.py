"""Draw morphs between two faces that anybody may publish: straight, and with the shape of their landmarks.

python scripts/draw_morph.py docs/pictures/morph.jpg outputs/autoencoder_vector_112 outputs/autoencoder_f8_112 \
    --detector outputs/yunet_n
"""

import argparse
from pathlib import Path

import torch
from example_photos import ORIGINALS
from PIL import Image

from hfembed.checkpoint.loading import load_autoencoder, load_face_detector
from hfembed.images.morphing import align_photo, midpoint_sharpness, morph
from hfembed.images.pictures import to_pictures, write_grid

_STEPS = 5


def main() -> None:
    """Two rows per model, the photos at both ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", nargs="+", help="checkpoints of autoencoders")
    parser.add_argument("--detector", required=True)
    options = parser.parse_args()
    detector, _ = load_face_detector(options.detector, "cpu")
    rows, captions = [], []
    for name in options.models:
        model, processor = load_autoencoder(name, "cpu")
        faces = [
            align_photo(processor, detector, Image.open(file).convert("RGB"), str(file)) for file in ORIGINALS.values()
        ]
        (start, end), points = (torch.stack(parts) for parts in zip(*faces, strict=True))
        for label, shape in (("straight", None), ("by landmarks", points)):
            frames = morph(model, start, end, _STEPS, spherical=shape is not None, points=shape)
            rows.append(to_pictures(torch.cat([start[None], frames, end[None]])))
            captions.append(f"{Path(name).name.removeprefix('autoencoder_')}\n{label}")
            print(
                captions[-1].replace("\n", ", "), f"{midpoint_sharpness(frames):.0%} as sharp halfway as at the ends"
            )
    page = options.output.with_suffix(".png")
    write_grid(rows, page, 1, captions)
    picture = Image.open(page).convert("RGB")
    if options.output.suffix != ".png":
        picture.thumbnail((1200, 1200))
        picture.save(options.output, quality=85)
        page.unlink()
    print(options.output)


if __name__ == "__main__":
    main()
