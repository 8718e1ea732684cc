"""Draw two faces as an autoencoder's files and as other formats' files of as many bytes, with what each keeps.

python scripts/show_compression.py outputs/compression_f8_112 outputs/mobilefacenet_ms1m outputs/yunet faces.png

The photos are those of example_photos.py. Bytes are counted without what all files of a format have in common; where a
format has no file that small, its smallest is drawn.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from example_photos import ORIGINALS
from PIL import Image, ImageDraw, ImageFont

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_autoencoder, load_face_detector, load_face_embedder
from hfembed.errors import InputError, exit_on_input_error
from hfembed.images.compression import LatentCodec
from hfembed.images.evaluation.photo_formats import photo_formats
from hfembed.images.evaluation.reconstruction import psnr, read_images
from hfembed.images.evaluation.reconstruction_report import identity_kept, make_identity_model
from hfembed.images.pictures import to_pictures, write_picture

FORMATS = ("webp", "avif")
SIZE, SCALE, GAP, CAPTION = 112, 2, 8, 58
QUALITIES = range(0, 41, 2)  # more bytes are not compared


@exit_on_input_error
def main() -> None:
    """Find the faces, code them, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="autoencoder with an entropy model (hfembed fit-latents)")
    parser.add_argument("embedder", help="face embedder that measures, with the 112 x 112 template")
    parser.add_argument("detector", help="face detector that finds the faces in the photos")
    parser.add_argument("output", type=Path)
    parser.add_argument("--rate", type=float, default=0.15, help="at most this many bits per pixel, data alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.resolve(options.model)
    autoencoder, _ = load_autoencoder(checkpoint, "cpu")
    codec = LatentCodec.load(autoencoder, checkpoint)
    networks = load_face_embedder(options.embedder, "cpu")
    judge = make_identity_model(*networks, None)
    points = np.asarray(networks[1].template)[None]
    rows = [
        draw_row(codec, photo, options.rate * SIZE * SIZE / 8, lambda a, b: identity_kept(judge, a, b, points))
        for photo in find_faces(load_face_detector(options.detector, "cpu")[0], networks[1])
    ]
    write_picture(np.concatenate(rows), options.output)
    print(f"written to {options.output}")


def find_faces(detector, processor) -> list[torch.Tensor]:
    """Crops (1, 3, 112, 112) in [0, 1] on the embedder's template."""
    crops = []
    for original in ORIGINALS.values():
        photo = Image.open(original).convert("RGB")
        (faces,) = detector.detect([photo])
        if not len(faces.boxes):
            raise InputError(f"{original}: no face found; use another detector")
        largest = int(((faces.boxes[:, 2] - faces.boxes[:, 0]) * (faces.boxes[:, 3] - faces.boxes[:, 1])).argmax())
        pixels = processor.preprocess([photo], landmarks=[faces.landmarks[largest].numpy()]).pixel_values
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
        crops.append((pixels * std + mean).clamp(0, 1).mul(255).round() / 255)
    return crops


def draw_row(codec: LatentCodec, photo: torch.Tensor, budget: float, judge) -> np.ndarray:
    """The photo, ours, and the other formats, with captions."""
    files = [codec.compress(photo[0], quality) for quality in codec.qualities]
    fitting = [file for file in files if len(file) - codec.header_bytes <= budget] or files[:1]
    ours = max(fitting, key=len)
    cells = [(photo, ["photo"])]
    size = len(ours) - codec.header_bytes
    cells.append(captioned(codec.decompress(ours)[None], photo, "ours", size, len(ours), judge))
    picture = Image.fromarray(to_pictures(photo)[0])
    for name in FORMATS:
        kind = photo_formats()[name]
        if kind.needs:
            raise InputError(f"{name} needs {kind.needs}")
        tried = [kind.write(picture, quality) for quality in QUALITIES]
        small = [file for file in tried if len(file) - kind.overhead(file) <= max(size, budget)]
        file = max(small, key=len) if small else min(tried, key=len)
        data = len(file) - kind.overhead(file)
        cells.append(captioned(read_images([file], 3), photo, name.upper(), data, len(file), judge))
    side = SCALE * SIZE
    row = Image.new("RGB", (len(cells) * (side + GAP) - GAP, side + CAPTION), "white")
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    for number, (image, lines) in enumerate(cells):
        left = number * (side + GAP)
        row.paste(Image.fromarray(to_pictures(image)[0]).resize((side, side), Image.Resampling.NEAREST), (left, 0))
        draw.multiline_text((left + side // 2, side + 4), "\n".join(lines), "black", font, anchor="ma", align="center")
    return np.asarray(row)


def captioned(image: torch.Tensor, photo: torch.Tensor, name: str, data: int, whole: int, judge):
    """An image, and its caption."""
    identity, distance = judge(photo, image)
    lines = [f"{psnr(image, photo):.1f} dB, identity {identity:.2f}", f"perceptual distance {distance:.3f}"]
    print(f"{name}: {data} bytes and {whole - data} fixed; {', '.join(lines)}")
    return image, [f"{name}: {data} bytes (+ {whole - data})", *lines]


if __name__ == "__main__":
    main()
