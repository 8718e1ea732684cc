"""Put the pictures of `make quickstart` that docs/gallery.md shows into a folder, as JPEG.

python scripts/draw_gallery.py outputs/quickstart docs/pictures
"""

import argparse
from pathlib import Path

from docs_pictures import shrink

PICTURES = {
    "faces": "real_faces/faces.jpg",
    "explain": "real_faces/explain.png",
    "neighbors": "faces/neighbors.png",
    "reconstructions": "autoencoder/reconstructions.png",
    "words": "words/map.png",
}


def main() -> None:
    """Convert each picture that is there; at most 1,200 pixels wide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    for name, file in PICTURES.items():
        if (options.quickstart / file).exists():
            shrink(options.quickstart / file, options.output / f"{name}.jpg")
            print(options.output / f"{name}.jpg")


if __name__ == "__main__":
    main()
