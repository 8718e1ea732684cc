"""Swap the faces of clips made from still photos with known motion, and measure what the clips lose.

python scripts/benchmark_clip_swap.py MODEL PERSON outputs/clips [--seconds 10 20]

Two photos that come with packages (see example_photos.py) move side by side over 640 x 360 pixels, 30 frames a second:
shifted, turned and zoomed in circles, with a sound. One process per length swaps them by `hfembed swap`; then are
compared with the input: number and times of frames, audio packets, the mark in every frame, and the jitter of the
landmarks: their distance from where the known motion takes a rigid face, and what changes of it from one frame to the
next, divided by the square root of 2; root mean squares over frames and points, in pixels, of each person. Landmarks
are those that the default detector finds in the input, those at which faces were put, and those that the detector
finds in the output. Written to clips.json.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from example_photos import ORIGINALS
from PIL import Image

from hfembed.checkpoint.loading import load_face_detector
from hfembed.faces.default_model import resolve_face_model
from hfembed.faces.swap.clip_files import Clip
from hfembed.faces.swap.clip_swapper import find_tracks
from hfembed.faces.swap.provenance_mark import has_label

WIDTH, HEIGHT, RATE, SOUND_RATE = 640, 360, 30, 44_100
PANE = WIDTH // 2


def motion(number: int, person: int) -> np.ndarray:
    """(2, 3): from pixels of the pane at rest to where they are in a frame."""
    time = number / RATE
    angle = math.radians(8 * math.sin(2 * math.pi * time / 3 + person))
    zoom = 1 + 0.1 * math.sin(2 * math.pi * time / 4 + person)
    turn = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.array([PANE / 2, HEIGHT / 2])
    shift = 20 * np.array([math.cos(2 * math.pi * time / 2.5), math.sin(2 * math.pi * time / 2.5)])
    return np.column_stack([turn, middle + shift - turn @ middle])


def draw(photos: list[Image.Image], number: int) -> np.ndarray:
    """One frame (HEIGHT, WIDTH, 3) uint8."""
    panes = []
    for person, photo in enumerate(photos):
        to_frame = motion(number, person)
        inverse = np.linalg.inv(to_frame[:, :2])
        back = np.column_stack([inverse, -inverse @ to_frame[:, 2]])
        coefficients = back.flatten()
        coefficients[[2, 5]] += 0.5 * (back[:, :2].sum(axis=1) * -1 + 1)  # Pillow counts from the corner of a pixel
        panes.append(photo.transform((PANE, HEIGHT), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC))
    return np.hstack([np.asarray(pane) for pane in panes])


def write_clip(path: Path, seconds: int) -> None:
    """A clip of this length, with a tone that rises."""
    photos = []
    for original in ORIGINALS.values():
        photo = Image.open(original).convert("RGB")
        scale = HEIGHT / photo.height
        photos.append(photo.resize((round(photo.width * scale), HEIGHT), Image.Resampling.LANCZOS))
    photos = [photo.crop(((photo.width - PANE) // 2, 0, (photo.width - PANE) // 2 + PANE, HEIGHT)) for photo in photos]
    with av.open(str(path), "w") as clip:
        video = clip.add_stream("libx264", rate=RATE, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = clip.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number in range(seconds * RATE):
            clip.mux(video.encode(av.VideoFrame.from_ndarray(draw(photos, number), format="rgb24")))
        clip.mux(video.encode())
        for start in range(0, seconds * SOUND_RATE, 1024):
            times = np.arange(start, start + 1024) / SOUND_RATE
            wave = 0.2 * np.sin(2 * np.pi * (300 + 20 * times) * times)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
            clip.mux(audio.encode(frame))
        clip.mux(audio.encode())


def read_clip(path: Path) -> tuple[list[Fraction], list[bytes], int, np.ndarray]:
    """Times of frames, audio packets, marked frames, and landmarks (frames, 2 people, 5, 2), NaN where not found."""
    detector = load_face_detector(resolve_face_model().detector, "cpu")[0]
    times, packets, marked, landmarks = [], [], 0, []
    with av.open(str(path)) as clip:
        for packet in clip.demux(clip.streams.video[0], clip.streams.audio[0]):
            if packet.stream.type == "audio":
                packets += [bytes(packet)] if packet.size else []
                continue
            for frame in packet.decode():
                picture = frame.to_image()
                times.append(frame.pts * frame.time_base)
                marked += has_label(picture)
                found = detector.detect([picture])[0].landmarks.numpy()
                panes = [found[(found[:, 2, 0] >= PANE) == bool(person)] for person in (0, 1)]
                landmarks.append([pane[0] if len(pane) else np.full((5, 2), np.nan) for pane in panes])
    return times, packets, marked, np.array(landmarks)


def jitter(landmarks: np.ndarray) -> dict[str, list[float]]:
    """Of landmarks (frames, 2 people, 5, 2), in pixels of the pane at rest."""
    still = np.empty(landmarks.shape)
    for number, people in enumerate(landmarks):
        for person, points in enumerate(people):
            to_frame = motion(number, person)
            still[number, person] = np.linalg.solve(
                to_frame[:, :2], (points - [PANE * person, 0] - to_frame[:, 2]).T
            ).T

    def rms(distances: np.ndarray) -> list[float]:
        return np.sqrt(np.nanmean((distances**2).sum(axis=-1), axis=(0, 2))).round(2).tolist()

    return {
        "to_motion": rms(still - np.nanmean(still, axis=0)),
        "frame_to_frame": rms(np.diff(still, axis=0) / 2**0.5),
    }


def put_at(clip: Path) -> np.ndarray:
    """Where `hfembed swap` puts faces: the longest track of each pane, (frames, 2, 5, 2)."""
    tracks, times = find_tracks(load_face_detector(resolve_face_model().detector, "cpu")[0], Clip(clip))
    landmarks = np.full((len(times), 2, 5, 2), np.nan)
    for track in sorted(tracks, key=lambda track: len(track.frames)):
        frames, points = track.smoothed(times)
        landmarks[frames, int(points[0, 2, 0] >= PANE)] = points
    return landmarks


def swap(model: str, clip: Path, person: str, output: Path) -> dict:
    """Run the command in a process of its own; its answer, its peak of memory and its CPU time."""
    command = [sys.executable, "-m", "hfembed.cli", "swap", model, str(clip), person, str(output), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return json.loads(answer) | {"peak_mb": usage.ru_maxrss / 1024, "cpu_s": usage.ru_utime + usage.ru_stime}


def main() -> None:
    """Make, swap and compare a clip of each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("person")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 20])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for seconds in arguments.seconds:
        source, output = (arguments.folder / f"{name}_{seconds}s.mp4" for name in ("clip", "swapped"))
        write_clip(source, seconds)
        answer = swap(arguments.model, source, arguments.person, output)
        before, after = read_clip(source), read_clip(output)
        results[f"{seconds} s"] = {
            **{key: answer[key] for key in ("frames", "faces", "tracks", "frames_per_second", "peak_mb", "cpu_s")},
            "times_equal": before[0] == after[0],
            "audio_packets": len(before[1]),
            "audio_equal": before[1] == after[1],
            "marked_frames": after[2],
            "marked_frames_of_the_input": before[2],
            "jitter_in_the_input": jitter(before[3]),
            "jitter_where_faces_were_put": jitter(put_at(source)),
            "jitter_in_the_output": jitter(after[3]),
            "load": os.getloadavg()[0],
        }
        print(json.dumps({seconds: results[f"{seconds} s"]}, indent=1))
    (arguments.folder / "clips.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
