"""Write photos that anybody may publish, and copies of them changed as photos of one person differ, into a folder.

python scripts/example_photos.py outputs/photos

The photos come with packages that are installed here: Eileen Collins (NASA, public domain) with scikit-image, Grace
Hopper (US Navy, public domain) with matplotlib. The folder has photos/ (all), people/ (a directory per person, one
photo each) and a.jpg, b.jpg (one person).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import skimage
from PIL import Image, ImageEnhance, ImageOps

ORIGINALS = {
    "eileen": Path(skimage.__file__).parent / "data" / "astronaut.png",
    "grace": Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
}


def _smaller(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width * 2 // 5, photo.height * 2 // 5), Image.Resampling.LANCZOS)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "darker": lambda photo: ImageEnhance.Brightness(photo).enhance(0.45),
    "turned": lambda photo: photo.rotate(20, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)),
    "smaller": _smaller,
}


def write_photos(folder: Path) -> dict[str, list[Path]]:
    """Write the photos of each person, the original first."""
    files: dict[str, list[Path]] = {}
    for person, original in ORIGINALS.items():
        photo = Image.open(original).convert("RGB")
        photos = {"original": photo, **{name: change(photo) for name, change in CHANGES.items()}}
        for name, changed in photos.items():
            file = folder / "photos" / f"{person}_{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            changed.save(file, quality=85)
            files.setdefault(person, []).append(file)
        (folder / "people" / person).mkdir(parents=True, exist_ok=True)
        photo.save(folder / "people" / person / "1.jpg", quality=85)
    first, second = (Image.open(file) for file in files["eileen"][:2])
    first.save(folder / "a.jpg", quality=85)
    second.save(folder / "b.jpg", quality=85)
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for person, written in write_photos(parser.parse_args().folder).items():
        print(person, *(file.name for file in written))
