"""Face detectors beside each other: recall, false detections, landmarks, small faces, speed.

python scripts/benchmark_face_detectors.py mtcnn=outputs/mtcnn yunet=outputs/yunet retinaface=outputs/retinaface \
    --photos raw_sample.tgz --given landmarks.json --output detectors.json

Nobody has marked all faces of these photos, so that the detectors judge each other: a face is what networks of at
least two families find in the photo at full size, looking for faces from 20 pixels; its landmarks are the means of
theirs. A detection is of a face where its five landmarks lie within a quarter of the face's width of it, on average.
`--given` are landmarks that came with the photos, of one face each: recall of these is a column of its own.

The detectors take turns, round by round, on one thread, and speeds are medians of CPU time: other load disturbs all of
them alike. Landmark errors are in fractions of the distance of the eyes, medians.
"""

import argparse
import json
import statistics
import tarfile
from pathlib import Path

import numpy as np
import torch
from interleaving import interleaved
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import load_face_detector
from hfembed.errors import exit_on_input_error
from hfembed.models.detected_faces import DetectedFaces, FaceDetector
from hfembed.models.photo_image_processor import PhotoImageProcessor

FINEST = 20
Landmarks = np.ndarray


def read_photos(source: Path, limit: int | None, seed: int) -> dict[str, bytes]:
    """Encoded photos of a folder or a tar file by name; `limit` of them, drawn by `seed`."""
    if source.is_dir():
        files = {path.name: path.read_bytes for path in sorted(source.rglob("*.jpg"))}
    else:
        archive = tarfile.open(source)
        members = sorted((member for member in archive if member.name.endswith(".jpg")), key=lambda item: item.name)
        files = {member.name.rpartition("/")[2]: lambda member=member: _content(archive, member) for member in members}
    names = sorted(files)
    if limit is not None and limit < len(names):
        names = sorted(np.random.default_rng(seed).choice(names, limit, replace=False).tolist())
    return {name: files[name]() for name in names}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def read_landmarks(file: Path) -> dict[str, Landmarks]:
    """Five points for each file that has them: a list, or an object with it under "lm"."""
    found = {}
    for name, entry in json.loads(file.read_text()).items():
        points = entry.get("lm") if isinstance(entry, dict) else entry
        if points:
            found[name.rpartition("/")[2]] = np.array(points, dtype=float)
    return found


def width_of(landmarks: Landmarks) -> float:
    """About the width of a face, from landmarks (5, 2), of profiles too: MTCNN's boxes are 2.2 times as wide."""
    return 2.2 * float(np.sqrt(((landmarks - landmarks.mean(0)) ** 2).sum(1).mean()))


def is_same(a: Landmarks, b: Landmarks) -> bool:
    """Whether two sets of landmarks are of one face."""
    return float(np.linalg.norm(a - b, axis=1).mean()) < width_of(b) / 4


def consensus(found: dict[str, Landmarks], families: dict[str, str]) -> list[Landmarks]:
    """Faces that detectors of at least two families find in a photo, as the means of their landmarks."""
    faces: list[list[tuple[str, Landmarks]]] = []
    for name, detections in found.items():
        for landmarks in detections:
            group = next((group for group in faces if is_same(landmarks, group[0][1])), None)
            if group is None:
                faces.append([(name, landmarks)])
            elif name not in {other for other, _ in group}:
                group.append((name, landmarks))
    return [
        np.mean([landmarks for _, landmarks in group], axis=0)
        for group in faces
        if len({families[name] for name, _ in group}) > 1
    ]


def measure(found: list[Landmarks], faces: list[list[Landmarks]]) -> dict[str, float]:
    """Recall, false detections per 100 photos and landmark error of the detections (n, 5, 2) in each photo."""
    hits, false, errors = 0, 0, []
    for detections, references in zip(found, faces, strict=True):
        for reference in references:
            near = [landmarks for landmarks in detections if is_same(landmarks, reference)]
            if near:
                hits += 1
                eyes = max(float(np.linalg.norm(reference[0] - reference[1])), width_of(reference) / 4)
                distances = [float(np.linalg.norm(landmarks - reference, axis=1).mean()) for landmarks in near]
                errors.append(min(distances) / eyes)
        false += sum(not any(is_same(landmarks, reference) for reference in references) for landmarks in detections)
    count = sum(map(len, faces))
    return {
        "faces": count,
        "recall": hits / count if count else float("nan"),
        "false_per_100_photos": 100 * false / len(found),
        "landmark_error": statistics.median(errors) if errors else float("nan"),
    }


def shrunk(photo: torch.Tensor, face: Landmarks, width: float) -> tuple[torch.Tensor, Landmarks]:
    """A photo (3, H, W) shrunk so that a face in it has a width in pixels, and the face's landmarks there."""
    scale = min(width / width_of(face), 1.0)
    image = Image.fromarray(photo.permute(1, 2, 0).numpy())
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    factor = np.array([size[0] / image.width, size[1] / image.height])
    small = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BOX))).permute(2, 0, 1)
    return small, (face + 0.5) * factor - 0.5


def run(detector: FaceDetector, photos: list[torch.Tensor], min_face_size: float) -> list[Landmarks]:
    """Landmarks (n, 5, 2) in each photo, 32 photos at a time."""
    detector.change_search(min_face_size=min_face_size)
    found: list[DetectedFaces] = []
    for start in range(0, len(photos), 32):
        found += detector.detect_in(photos[start : start + 32])
    return [faces.landmarks.double().numpy() for faces in found]


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detectors", nargs="+", metavar="NAME=FOLDER", help="the first is what ratios are to")
    parser.add_argument("--photos", type=Path, required=True, help="folder, or tar file, of .jpg")
    parser.add_argument("--given", type=Path, help="JSON: file -> five [x, y], or an object with them under lm")
    parser.add_argument("--limit", type=int, help="photos, drawn by --seed; all by default")
    parser.add_argument("--max-image-size", type=int, default=1280)
    parser.add_argument("--min-face-size", type=int, nargs="+", default=[40, FINEST])
    parser.add_argument("--small", type=int, default=32, help="photos shrunk so that their face has 20 to 30 pixels")
    parser.add_argument("--speed-photos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    folders = dict(item.split("=", 1) for item in arguments.detectors)
    detectors = {name: load_face_detector(folder, "cpu")[0] for name, folder in folders.items()}
    encoded = read_photos(arguments.photos, arguments.limit, arguments.seed)
    processor = PhotoImageProcessor()
    opened = [processor.open(photo, arguments.max_image_size) for photo in encoded.values()]
    photos, names = [photo.pixels for photo in opened], list(encoded)

    found = {
        (name, size): run(detector, photos, size)
        for size in sorted({*arguments.min_face_size, FINEST})
        for name, detector in detectors.items()
    }
    families = {name: detector.config.model_type for name, detector in detectors.items()}
    faces = [
        consensus({name: found[name, FINEST][number] for name in detectors}, families) for number in range(len(photos))
    ]
    given: list[list[Landmarks]] = [[] for _ in photos]
    if arguments.given is not None:
        landmarks = read_landmarks(arguments.given)
        for number, (name, photo) in enumerate(zip(names, opened, strict=True)):
            if name in landmarks:
                given[number] = [(landmarks[name] + 0.5) / photo.shrinkage - 0.5]

    some = photos[:: max(len(photos) // arguments.speed_photos, 1)][: arguments.speed_photos]
    variants = {
        (name, size): (lambda detector=detector, size=size: run(detector, some, size))
        for size in arguments.min_face_size
        for name, detector in detectors.items()
    }
    seconds = interleaved(variants, arguments.rounds)
    rows = []
    for (name, size), spent in seconds.items():
        row = {"detector": name, "min_face_size": size, "photos": len(photos)} | measure(found[name, size], faces)
        of_given = measure(found[name, size], given)
        row |= {"given_recall": of_given["recall"], "given_landmark_error": of_given["landmark_error"]}
        row["photos_per_second"] = len(some) / spent
        row["ratio"] = seconds[next(iter(detectors)), size] / spent
        rows.append(row)

    # photos with one face, the widths spread evenly from 20 to 30 pixels
    alone = [number for number, references in enumerate(faces) if len(references) == 1][: arguments.small]
    widths = np.linspace(20, 30, max(len(alone), 1))
    small = [shrunk(photos[number], faces[number][0], width) for number, width in zip(alone, widths, strict=False)]
    small_rows = []
    for size in (FINEST, FINEST / 2):
        for name, detector in detectors.items():
            try:
                detections = run(detector, [photo for photo, _ in small], size)
            except ValueError:  # MTCNN looks for none as small
                continue
            measured = measure(detections, [[points] for _, points in small])
            small_rows.append({"detector": name, "min_face_size": size} | measured)

    print_table("faces from full size", rows)
    print_table("one face of 20 to 30 pixels", small_rows)
    agreement = {
        f"{a} and {b}": measure(found[a, FINEST], [list(points) for points in found[b, FINEST]])["landmark_error"]
        for number, a in enumerate(detectors)
        for b in list(detectors)[number + 1 :]
    }
    print("landmarks, median distance in fractions of the eyes' distance:", json.dumps(agreement))
    if arguments.output is not None:
        with atomic_write(arguments.output) as file:
            result = {"rows": rows, "small": small_rows, "agreement": agreement, "photos": str(arguments.photos.name)}
            Path(file).write_text(json.dumps(result, indent=2) + "\n")


def print_table(title: str, rows: list[dict[str, float]]) -> None:
    """Rows as a Markdown table."""
    print(f"\n{title}\n")
    columns = list(rows[0])
    print("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in columns) + " |")


if __name__ == "__main__":
    main()
