"""Draw source, target and swap beside each other, labeled, each as a square around the face.

python scripts/show_swap.py MODEL OUT --detector DETECTOR --pair SOURCE.jpg PERSON TARGET.jpg [--pair ...]

SOURCE is the photo whose face becomes that of PERSON, whom the model knows; TARGET is a photo of PERSON, to compare.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hfembed.checkpoint.loading import load_face_detector, load_face_swap
from hfembed.errors import exit_on_input_error
from hfembed.faces.swap.face_swapper import FaceSwapper
from hfembed.faces.swap.provenance_mark import save_marked
from hfembed.photos import open_photo

_SIDE, _TEXT = 256, 20
_MARGIN = 2.2  # half of the square, in distances between the eyes' and the mouth's middle


@exit_on_input_error
def main() -> None:
    """One row per pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--pair", nargs=3, action="append", required=True, metavar=("SOURCE", "PERSON", "TARGET"))
    options = parser.parse_args()
    model, processor = load_face_swap(options.model, "cpu")
    swapper = FaceSwapper(model, processor, load_face_detector(options.detector, "cpu")[0])
    table = Image.new("RGB", (3 * _SIDE, _TEXT + _SIDE * len(options.pair)), "white")
    font = ImageFont.load_default(size=_TEXT - 6)
    for column, name in enumerate(("source", "target", "the source as the target")):
        ImageDraw.Draw(table).text((column * _SIDE + 4, 2), name, fill="black", font=font)
    for row, (source, person, target) in enumerate(options.pair):
        photo = open_photo(source)
        points = swapper.find(photo, source)[:1]
        swapped, _ = swapper(photo, person, points)
        shown = open_photo(target)
        squares = [(photo, points[0]), (shown, swapper.find(shown, target)[0]), (swapped, points[0])]
        for column, (picture, landmarks) in enumerate(squares):
            table.paste(around(picture, landmarks), (column * _SIDE, _TEXT + row * _SIDE))
    save_marked(table, options.output, label=False)
    print(options.output)


def around(picture: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """The square around a face, in one size."""
    middle = landmarks.mean(axis=0)
    half = _MARGIN * np.linalg.norm(landmarks[3:].mean(axis=0) - landmarks[:2].mean(axis=0))
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    return picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, box=tuple(_inside(box, picture)))


def _inside(box: tuple[float, ...], picture: Image.Image) -> list[float]:
    """The square moved, and where it must be shrunk, into the picture."""
    side = min(box[2] - box[0], picture.width, picture.height)
    left = min(max((box[0] + box[2] - side) / 2, 0), picture.width - side)
    top = min(max((box[1] + box[3] - side) / 2, 0), picture.height - side)
    return [left, top, left + side, top + side]


if __name__ == "__main__":
    main()
