"""Synthetic (rendered) faces in LFW's schema: data for first runs and tests, made in seconds.

A person is a draw of head, features and colors; a photo shows them in another pose, light, expression, sharpness and
background. People differ little and photos of one person much, so that pixels and an untrained network tell people
apart badly, and a trained network well.
"""

import copy
import io
from collections.abc import Callable

import datasets
import numpy as np
import PIL.Image

from hfembed.faces.data.face_sources import face_features, with_fingerprint
from hfembed.faces.data.lfw import LfwPairs, photo_name
from hfembed.threads import available_cores, map_in_threads

_VERSION = 3  # raise it when the drawing changes: it is part of the fingerprint
_CHUNK = 16  # photos drawn at a time: small enough for the processor's cache

Params = dict[str, np.ndarray]


def make_synthetic_faces(
    num_identities: int = 150,
    photos_per_identity: int = 16,
    seed: int = 0,
    image_size: int = 96,
) -> datasets.Dataset:
    """Draw a set to train on: `image` (JPEG), `label`, `file` and `landmarks`, as of `load_lfw`.

    A photo depends on (seed, person, photo) alone, not on how many are drawn.

    Args:
        image_size: Height and width of the photos in pixels.
    """
    people = [f"Person_{number:04d}" for number in range(num_identities)]
    pixels, landmarks = _draw(num_identities, photos_per_identity, seed, image_size)
    columns = {
        "image": [{"bytes": _jpeg(photo), "path": None} for photo in pixels],
        "label": np.repeat(np.arange(num_identities), photos_per_identity).tolist(),
        "file": [photo_name(person, number + 1) for person in people for number in range(photos_per_identity)],
        "landmarks": landmarks.astype(np.float64).tolist(),
    }
    faces = datasets.Dataset.from_dict(columns, features=face_features(datasets.ClassLabel(names=people)))
    state = f"synthetic faces {_VERSION} {num_identities} {photos_per_identity} {seed} {image_size}"
    return with_fingerprint(faces, state)


def make_synthetic_pairs(
    num_identities: int = 60,
    photos_per_identity: int = 8,
    seed: int = 1,
    image_size: int = 96,
    num_folds: int = 10,
    pairs_per_fold: int = 60,
) -> tuple[datasets.Dataset, LfwPairs]:
    """Draw people and pairs of their photos, like View 2: folds that share nobody, half of each the same person.

    Args:
        image_size: Height and width of the photos in pixels.
    """
    if num_identities % num_folds or num_identities // num_folds < 2 or pairs_per_fold % 2:
        raise ValueError("every fold needs as many people as the others, two at least, and an even number of pairs")
    faces = make_synthetic_faces(num_identities, photos_per_identity, seed, image_size)
    generator = np.random.default_rng([4, seed])
    photos = np.array(faces["file"][:]).reshape(num_folds, -1, photos_per_identity)
    pairs: list[tuple[str, str, bool, int]] = []
    for fold, people in enumerate(photos):
        for number in range(pairs_per_fold):
            same = number < pairs_per_fold // 2
            a, b = generator.choice(len(people), size=2, replace=False)
            first, second = generator.choice(photos_per_identity, size=2, replace=False)
            pairs.append((people[a][first], people[a if same else b][second], same, fold))
    files_a, files_b, kinds, folds = zip(*pairs, strict=True)
    return faces, LfwPairs(list(map(str, files_a)), list(map(str, files_b)), np.array(kinds), np.array(folds), view=2)


def _draw(people: int, photos: int, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, size, size, 3) uint8 and (N, 5, 2): all photos of all people, person by person."""
    # numpy pads seeds with zeros: a number in front keeps the streams of people, photos and noise apart
    persons = [_person(np.random.default_rng([1, seed, person])) for person in range(people)]
    shots = [
        _shot(np.random.default_rng([2, seed, person, photo])) for person in range(people) for photo in range(photos)
    ]

    def draw(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = range(start, min(start + _CHUNK, len(shots)))
        both = [{**persons[row // photos], **shots[row]} for row in rows]
        params = {name: np.array([each[name] for each in both], dtype=np.float32) for name in both[0]}
        chunk, points = _render(params, size)
        noise = np.stack(
            [np.random.default_rng([3, seed, *divmod(row, photos)]).standard_normal((size, size, 3), np.float32)
             for row in rows]
        )  # fmt: skip
        noisy = np.rint(255 * (chunk + params["noise"][:, None, None, None] * noise))
        return noisy.clip(0, 255).astype(np.uint8), points

    chunks = list(map_in_threads(draw, range(0, len(shots), _CHUNK), available_cores()))
    pixels, landmarks = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return pixels, landmarks


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def _person(rng: np.random.Generator) -> dict[str, object]:
    """What stays the same on all photos of a person. Lengths in units of half the height of the head."""
    normal, uniform = rng.standard_normal, rng.uniform
    tone = uniform(0, 1)  # of the skin: between two ends, and a little off the line
    skin = (1 - tone) * np.array([0.93, 0.76, 0.66]) + tone * np.array([0.62, 0.44, 0.34]) + 0.02 * normal(3)
    hair = np.array([[0.12, 0.09, 0.08], [0.33, 0.2, 0.12], [0.55, 0.38, 0.2], [0.78, 0.62, 0.36], [0.6, 0.58, 0.56]])
    iris = np.array([[0.3, 0.2, 0.12], [0.32, 0.45, 0.55], [0.36, 0.45, 0.3], [0.2, 0.14, 0.1]])
    return {
        "skin": skin,
        "hair": hair[rng.integers(len(hair))] + 0.04 * normal(3),
        "iris": iris[rng.integers(len(iris))] + 0.03 * normal(3),
        "lip": skin * [0.86, 0.6, 0.6] + 0.03 * normal(3),
        "width": 0.74 + 0.055 * normal(),
        "jaw": uniform(0.12, 0.5),
        "chin": 1.0 + 0.06 * normal(),
        "cheeks": uniform(0.0, 0.8),
        "ear": uniform(0.12, 0.2),
        "eye_spacing": 0.33 + 0.03 * normal(),
        "eye_width": 0.155 + 0.02 * normal(),
        "eye_height": 0.5 + 0.09 * normal(),
        "eye_tilt": 0.12 * normal(),
        "eye_level": -0.06 + 0.03 * normal(),
        "brow_height": 0.2 + 0.03 * normal(),
        "brow_thickness": uniform(0.022, 0.062),
        "brow_tilt": 0.16 * normal(),
        "brow_width": 0.22 + 0.025 * normal(),
        "nose_length": 0.4 + 0.045 * normal(),
        "nose_width": 0.125 + 0.026 * normal(),
        "nose_depth": 0.24 + 0.04 * normal(),
        "mouth_level": 0.3 + 0.035 * normal(),
        "mouth_width": 0.29 + 0.035 * normal(),
        "upper_lip": 0.05 + 0.013 * normal(),
        "lower_lip": 0.065 + 0.016 * normal(),
        "hairline": -0.58 + 0.1 * normal(),
        "hair_parting": 0.3 * normal(),
        "hair_bend": uniform(-0.1, 0.55),
        "hair_volume": uniform(1.05, 1.24),
        "hair_length": rng.choice([-0.2, 0.2, 0.7, 1.3]) + 0.1 * normal(),
        "mole_x": uniform(-0.45, 0.45),
        "mole_y": uniform(0.1, 0.65),
        "mole": 0.03 * (uniform() < 0.4),
    }


def _shot(rng: np.random.Generator) -> dict[str, object]:
    """What changes from photo to photo."""
    normal, uniform = rng.standard_normal, rng.uniform
    return {
        "yaw": np.clip(0.32 * normal(), -0.75, 0.75),
        "pitch": np.clip(0.14 * normal(), -0.35, 0.35),
        "roll": 0.12 * normal(),
        "scale": 0.33 * np.exp(0.06 * normal()),
        "shift": 0.03 * normal(2),
        "light_angle": uniform(-np.pi, np.pi),
        "light_side": uniform(0.1, 0.95),
        "ambient": uniform(0.25, 0.8),
        "exposure": np.exp(0.18 * normal()),
        "tint": np.exp(0.06 * normal(3)),
        "gamma": np.exp(0.2 * normal()),
        "smile": 0.55 * normal(),
        "mouth_open": max(0.0, 0.06 * normal()),
        "eyes_open": np.clip(0.95 + 0.2 * normal(), 0.25, 1.25),
        "gaze": 0.25 * normal(2),
        "brow_raise": 0.035 * normal(),
        "hair_mess": 0.06 * normal(),
        "beard": uniform(0.3, 0.8) * (uniform() < 0.12),
        "glasses": float(uniform() < 0.15),
        "glasses_size": uniform(0.17, 0.24),
        "glasses_color": uniform(0.05, 0.4, 3),
        "background": _muted(rng),
        "background_slope": 0.12 * normal((2, 1)) + 0.05 * normal((2, 3)),
        "clothes": _muted(rng),
        "blob": uniform(-1, 1, (3, 2)) * 1.6,
        "blob_size": uniform(0.2, 0.9, 3),
        "blob_color": [_muted(rng) for _ in range(3)],
        "cover": float(uniform() < 0.15),
        "cover_place": uniform(-0.8, 0.8, 2),
        "cover_size": uniform(0.15, 0.4, 2),
        "cover_color": _muted(rng),
        "blur": uniform(0.3, 1.0) ** 2 * 1.3,
        "noise": uniform(0.005, 0.04),
    }


def _muted(rng: np.random.Generator) -> np.ndarray:
    """A color, most often near gray, as surroundings are."""
    return np.clip(rng.uniform(0.05, 0.9) + 0.1 * rng.standard_normal(3), 0, 1)


class _Canvas:
    """Photos being drawn, in coordinates of the head: +x right, +y down, half the head's height is 1."""

    def __init__(self, params: Params, size: int):
        self.params = params
        scale = params["scale"] * size
        center = (0.5 + params["shift"]) * size - 0.5
        cosine, sine = np.cos(params["roll"]) / scale, np.sin(params["roll"]) / scale
        column, row = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
        across = column - center[:, 0, None, None]
        down = row - center[:, 1, None, None]
        self.x = cosine[:, None, None] * across + sine[:, None, None] * down
        self.y = cosine[:, None, None] * down - sine[:, None, None] * across
        self.pixel = (1 / scale)[:, None, None]
        self.scale, self.center = scale, center
        self.colors = np.zeros((3, len(scale), size, size), dtype=np.float32)

    def middle(self, share: float) -> "_Canvas":
        """The middle of the same photos, to work on less where only that is touched."""
        part = copy.copy(self)
        edge = round((1 - share) / 2 * self.x.shape[1])
        inner = (slice(None), slice(edge, -edge), slice(edge, -edge))
        part.x, part.y, part.colors = self.x[inner], self.y[inner], self.colors[(slice(None), *inner)]
        return part

    def __getitem__(self, name: str) -> np.ndarray:
        """A parameter, broadcastable over the grid."""
        return self.params[name][:, None, None]

    def paint(self, distance: np.ndarray, color: np.ndarray, strength: np.ndarray | float = 1.0) -> np.ndarray:
        """Cover where the signed distance is negative; its edge is as soft as a pixel is wide. Returns the cover."""
        alpha = np.clip(0.5 - distance / self.pixel, 0, 1)
        alpha *= strength
        for plane, value in zip(self.colors, color.T.astype(np.float32), strict=True):
            plane += alpha * (value[:, None, None] - plane)
        return alpha

    def ellipse(
        self, x: np.ndarray, y: np.ndarray, width: np.ndarray, height: np.ndarray, tilt: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """Signed distance, near enough at the edge, to an ellipse around (x, y) with these half axes."""
        across, down = self.x - x, self.y - y
        cosine, sine = np.cos(tilt), np.sin(tilt)
        u = (cosine * across + sine * down) / width
        v = (cosine * down - sine * across) / height
        return (np.sqrt(u * u + v * v) - 1) * np.minimum(width, height)

    def to_photo(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Points of the head (B,) in the photo's pixels, (B, 2)."""
        cosine, sine = np.cos(self.params["roll"]), np.sin(self.params["roll"])
        turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
        return turned * self.scale[:, None] + self.center


def _pose(params: Params) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Where a point of the head (x, y, depth towards the viewer) appears once it is turned."""
    sin_yaw, cos_yaw = np.sin(params["yaw"]), np.cos(params["yaw"])
    sin_pitch, cos_pitch = np.sin(params["pitch"]), np.cos(params["pitch"])

    def place(x: np.ndarray, y: np.ndarray, depth: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        turned = depth * cos_yaw - x * sin_yaw
        return x * cos_yaw + depth * sin_yaw, y * cos_pitch + turned * sin_pitch

    return place


def _render(params: Params, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, size, size, 3) float32 around [0, 1], and the five landmarks (B, 5, 2), [x, y] in pixels."""
    p = params
    canvas = _Canvas(params, size)
    place = _pose(params)
    foreshortened = np.cos(p["yaw"])[:, None, None]
    grid = (slice(None), None, None)
    dark_skin = p["skin"] * [0.72, 0.66, 0.64]

    # surroundings
    for plane, value, slope in zip(canvas.colors, p["background"].T, p["background_slope"].T, strict=True):
        plane[:] = value[grid] + slope[0][grid] * canvas.x + slope[1][grid] * canvas.y
    for blob in range(3):
        x, y = p["blob"][:, blob, 0][grid], p["blob"][:, blob, 1][grid]
        blob_size = p["blob_size"][:, blob][grid]
        canvas.paint(canvas.ellipse(x, y, blob_size, blob_size), p["blob_color"][:, blob])

    # head, from the back to the front; the outline moves less with the pose than the features
    head_x, head_y = (value[grid] for value in place(0 * p["yaw"], 0 * p["yaw"], 0.12))
    x, y = canvas.x - head_x, canvas.y - head_y
    width = canvas["width"] * (0.9 + 0.1 * foreshortened)
    volume = canvas["hair_volume"] + canvas["hair_mess"]
    canvas.paint(canvas.ellipse(0.5 * head_x, 2.15 + 0 * head_y, 1.5 + 0 * width, 0.85 + 0 * width), p["clothes"])
    canvas.paint(canvas.ellipse(0.6 * head_x, 1.05 + 0 * head_y, 0.62 * width, 0.5 + 0 * width), dark_skin)
    length = canvas["hair_length"]
    flowing = np.sqrt((x / (1.1 * volume * width)) ** 2 + (y / np.where(y < 0, 1.02 * volume, 2.2)) ** 2) - 1
    flowing = np.maximum(flowing * width, y - length)
    head = canvas.paint(np.where(length > 0.4, flowing, np.float32(1)), p["hair"] * 0.8)
    for side in (-1, 1):
        ear_x, ear_y = place(side * p["width"], p["eye_level"] + 0.12, -0.1)
        ear = canvas.ellipse(ear_x[grid], ear_y[grid], canvas["ear"] * 0.6, canvas["ear"])
        head = np.maximum(head, canvas.paint(ear, p["skin"] * 0.9))

    # the face: round above, between round and square below, narrower towards the chin
    face_x = x / (width * (1 - canvas["jaw"] * np.clip(y, 0, 1.2) ** 2))
    face_y = y / np.where(y > 0, canvas["chin"], np.float32(0.98))
    squares = face_x * face_x, face_y * face_y
    radius = np.sqrt(squares[0] + squares[1])
    square_radius = np.sqrt(np.sqrt(squares[0] * squares[0] + squares[1] * squares[1]))
    radius += np.where(y > 0, canvas["cheeks"], np.float32(0)) * (square_radius - radius)
    outline = (radius - 1) * width
    head = np.maximum(head, canvas.paint(outline, p["skin"]))
    _draw_beard(canvas, outline, place)
    landmarks = _draw_features(canvas.middle(0.7), place, dark_skin)

    # hair over the forehead and down the sides
    hairline = canvas["hairline"] + 0.6 * canvas["hair_parting"] * (x - 0.15) + canvas["hair_bend"] * x * x
    hairline += canvas["hair_mess"] * np.sin(9 * x)
    cap = canvas.ellipse(head_x, head_y - 0.03, width * volume, volume)
    sides = np.where(np.abs(face_x) > 0.9, length - 0.1, hairline)
    head = np.maximum(head, canvas.paint(np.maximum(cap, y - sides), p["hair"]))
    _draw_glasses(canvas.middle(0.7), landmarks, place)

    canvas.colors *= 1 + head * (_light(canvas, x / (1.2 * width), y / 1.2) - 1)
    cover_x, cover_y = (p["cover_place"][:, axis][grid] for axis in range(2))
    cover_width, cover_height = (p["cover_size"][:, axis][grid] for axis in range(2))
    cover = canvas.ellipse(cover_x, cover_y, cover_width, cover_height, 0.5)
    canvas.paint(cover, p["cover_color"], canvas["cover"])

    colors = np.clip(canvas.colors * (p["exposure"][:, None] * p["tint"]).T[:, :, None, None], 0, 1)
    np.power(colors, p["gamma"][:, None, None], out=colors)
    colors = _blur(colors, p["blur"] * size / 96).transpose(1, 2, 3, 0)
    return colors, np.stack([canvas.to_photo(*point) for point in landmarks], axis=1)


def _draw_features(canvas: _Canvas, place: Callable, dark_skin: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Eyes, brows, nose, mouth. Returns the five landmarks on the turned head."""
    p = canvas.params
    grid = (slice(None), None, None)
    foreshortened = np.cos(p["yaw"])[grid]
    white = np.full((len(p["yaw"]), 3), 0.92, dtype=np.float32)
    black = np.full_like(white, 0.08)
    landmarks = []
    for side in (-1, 1):
        eye = place(side * p["eye_spacing"], p["eye_level"], 0.62)
        landmarks.append(eye)
        x, y = eye[0][grid], eye[1][grid]
        width = canvas["eye_width"] * foreshortened
        height = canvas["eye_width"] * canvas["eye_height"] * canvas["eyes_open"]
        tilt = side * canvas["eye_tilt"]
        canvas.paint(canvas.ellipse(x, y - 0.35 * height, 1.25 * width, 1.3 * height, tilt), dark_skin, 0.45)
        canvas.paint(canvas.ellipse(x, y, 1.08 * width, 1.12 * height + 0.012, tilt), black, 0.75)
        opening = canvas.ellipse(x, y + 0.012, width, height, tilt)
        canvas.paint(opening, white)
        gaze_x = x + p["gaze"][:, 0][grid] * width
        gaze_y = y + 0.3 * p["gaze"][:, 1][grid] * height
        iris = 0.48 * canvas["eye_width"]
        canvas.paint(np.maximum(opening, canvas.ellipse(gaze_x, gaze_y, iris * foreshortened, iris)), p["iris"])
        canvas.paint(np.maximum(opening, canvas.ellipse(gaze_x, gaze_y, 0.45 * iris, 0.45 * iris)), black)
        brow_x, brow_y = place(
            side * p["eye_spacing"] * 1.06, p["eye_level"] - p["brow_height"] - p["brow_raise"], 0.66
        )
        arch = 0.5 * (canvas.x - brow_x[grid]) ** 2 / canvas["brow_width"]
        brow = canvas.ellipse(
            brow_x[grid],
            brow_y[grid] + arch,
            canvas["brow_width"] * foreshortened,
            canvas["brow_thickness"],
            side * canvas["brow_tilt"],
        )
        canvas.paint(brow, p["hair"] * 0.75, 0.9)

    tip = place(0 * p["yaw"], p["eye_level"] + p["nose_length"], 0.72 + p["nose_depth"])
    root_x, root_y = (value[grid] for value in place(0 * p["yaw"], p["eye_level"], 0.66))
    tip_x, tip_y = tip[0][grid], tip[1][grid]
    along = np.clip((canvas.y - root_y) / np.maximum(tip_y - root_y, 0.05), 0, 1)
    ridge = root_x + along * (tip_x - root_x)
    flank = np.abs(canvas.x - ridge - 0.035) - canvas["nose_width"] * (0.25 + 0.4 * along)
    nose = np.maximum(flank, np.maximum(root_y + 0.05 - canvas.y, canvas.y - tip_y))
    canvas.paint(nose, dark_skin, 0.35 * along)
    canvas.paint(np.maximum(flank + 0.05, np.maximum(root_y - canvas.y, canvas.y - tip_y)), p["skin"] * 1.08, 0.6)
    canvas.paint(canvas.ellipse(tip_x, tip_y, canvas["nose_width"], 0.6 * canvas["nose_width"]), p["skin"] * 1.04, 0.9)
    under = tip_y + 0.45 * canvas["nose_width"]
    for side in (-1, 1):
        nostril = canvas.ellipse(
            tip_x + side * 0.55 * canvas["nose_width"] * foreshortened,
            under,
            0.32 * canvas["nose_width"],
            0.2 * canvas["nose_width"],
        )
        canvas.paint(nostril, dark_skin * 0.45, 0.85)
    landmarks.append(tip)

    level = p["eye_level"] + p["nose_length"] + p["mouth_level"] - 0.06
    half = p["mouth_width"] * (1 + 0.18 * p["smile"])
    corners = [place(side * half, level - 0.06 * p["smile"], 0.56) for side in (-1, 1)]
    middle = place(0 * p["yaw"], level, 0.68)
    x, y = middle[0][grid], middle[1][grid]
    width = 0.5 * (corners[1][0] - corners[0][0])[grid]
    x = 0.5 * (corners[0][0] + corners[1][0])[grid]
    bend = canvas["smile"] * 0.06 * (1 - ((canvas.x - x) / np.maximum(width, 0.05)) ** 2)
    level = y + bend
    gap = canvas["mouth_open"] + 1e-3
    upper, lower = canvas["upper_lip"], canvas["lower_lip"]
    canvas.paint(canvas.ellipse(x, level - 0.5 * upper, width, upper + 0.5 * gap), p["lip"] * 0.92)
    canvas.paint(canvas.ellipse(x, level + 0.5 * lower + gap, 0.92 * width, lower + 0.5 * gap), p["lip"])
    canvas.paint(canvas.ellipse(x, level + 0.4 * gap, 0.9 * width, 0.012 + gap), black, 0.85)
    teeth = np.maximum(canvas.ellipse(x, level + 0.4 * gap, 0.8 * width, gap), canvas.y - level)
    canvas.paint(np.where(gap > 0.03, teeth, np.float32(1)), white * 0.95)
    landmarks += corners

    mole_x, mole_y = place(p["mole_x"], p["mole_y"], 0.6)
    mole = canvas["mole"] + 1e-4
    canvas.paint(canvas.ellipse(mole_x[grid], mole_y[grid], mole, mole), dark_skin * 0.5, 0.8 * (mole > 1e-3))
    return landmarks


def _draw_beard(canvas: _Canvas, outline: np.ndarray, place: Callable) -> None:
    p = canvas.params
    grid = (slice(None), None, None)
    level = p["eye_level"] + p["nose_length"] + 0.6 * p["mouth_level"]
    x, y = (value[grid] for value in place(0 * p["yaw"], level, 0.6))
    start = y - 0.5 * (canvas.x - x) ** 2
    canvas.paint(np.maximum(outline, start - canvas.y), p["hair"] * 0.85, canvas["beard"])


def _draw_glasses(canvas: _Canvas, landmarks: list[tuple[np.ndarray, np.ndarray]], place: Callable) -> None:
    p = canvas.params
    grid = (slice(None), None, None)
    size = canvas["glasses_size"]
    worn = canvas["glasses"]
    for x, y in landmarks[:2]:
        ring = np.abs(canvas.ellipse(x[grid], y[grid] + 0.03, 1.15 * size * np.cos(p["yaw"])[grid], size)) - 0.025
        canvas.paint(ring, p["glasses_color"], worn)
    (left_x, left_y), (right_x, right_y) = landmarks[:2]
    bridge = np.maximum(
        np.abs(canvas.x - 0.5 * (left_x + right_x)[grid]) - np.maximum(0.5 * (right_x - left_x)[grid] - size, 0.02),
        np.abs(canvas.y - 0.5 * (left_y + right_y)[grid]) - 0.02,
    )
    canvas.paint(bridge, p["glasses_color"], worn)


def _light(canvas: _Canvas, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lambert's law on a ball of the size of the head, lit from one side."""
    p = canvas.params
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    side = canvas["light_side"]
    towards = np.sqrt(1 - side * side)
    lit = np.clip(side * (np.cos(p["light_angle"])[:, None, None] * x + np.sin(p["light_angle"])[:, None, None] * y)
                  + towards * z, 0, 1)  # fmt: skip
    return canvas["ambient"] + (1.25 - canvas["ambient"]) * lit


def _blur(colors: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Blur every photo of (3, B, size, size) by its own Gaussian, as rows @ photo @ columns."""
    places = np.arange(colors.shape[2], dtype=np.float32)
    weights = np.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma[:, None, None] ** 2 + 1e-6))
    weights /= weights.sum(axis=2, keepdims=True)
    return weights @ colors @ weights.transpose(0, 2, 1)
