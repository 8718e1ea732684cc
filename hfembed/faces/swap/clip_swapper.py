"""Swap faces in clips: find and follow them, smooth their landmarks, swap them frame by frame, mark every frame."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hfembed.atomic import atomic_write
from hfembed.errors import InputError, counted, input_errors
from hfembed.faces.face_pasting import can_be_pasted
from hfembed.faces.swap.clip_files import WRITTEN_SUFFIXES, Clip, ClipWriter, Frame
from hfembed.faces.swap.face_swapper import FaceSwapper
from hfembed.faces.swap.face_tracks import MIN_SEEN, FaceTrack, FaceTracker
from hfembed.faces.swap.provenance_mark import CLIP_METADATA, append_xmp, with_label
from hfembed.models.detected_faces import FaceDetector

_PIXELS_AT_A_TIME = 16_000_000
_THUMBNAIL = (32, 32)
_CUT = 30  # mean difference of two frames' thumbnails, of 255, from which on they are of different scenes


class SwappedClip(NamedTuple):
    """What was swapped in a clip.

    Attributes:
        frames: Of the clip.
        faces: Swapped, over all frames.
        tracks: Swapped; a face that is lost and found again has several.
        seconds: That it took.
    """

    frames: int
    faces: int
    tracks: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Of finding and swapping together."""
        return self.frames / self.seconds


def check_clip_output(path: str | Path) -> None:
    """Refuse an output that is no clip.

    Raises:
        InputError: Its suffix is another.
    """
    if Path(path).suffix.lower() not in WRITTEN_SUFFIXES:
        raise InputError(f"{path}: a clip's name ends in {' or '.join(WRITTEN_SUFFIXES)}")


def swap_clip(
    swapper: FaceSwapper,
    clip: Clip,
    person: str,
    output: str | Path,
    faces: Sequence[int] | None = None,
    label: bool = True,
    batch_size: int = 16,
    sign: Callable[[Path], None] | None = None,
) -> SwappedClip:
    """Swap the faces of a clip; the memory does not depend on its length.

    The clip is read twice: to find the faces in all frames, then to swap them.

    Args:
        output: .mp4 or .mov; written whole or not at all.
        faces: Which of them, counted from 0: from the left in the first frame that shows any, then by when they
            appear. One that is lost for longer than some frames, or over a cut, is another one. None: all.
        label: Write "generated face" into the corner of every frame. The file's metadata says it always.
        batch_size: Frames that go through the networks together.
        sign: Signs the file, such as `ContentCredentials(certificate, key).sign`.

    Raises:
        InputError: The clip cannot be read, shows no face or not that many, or the person is unknown.
        OSError: The output cannot be written; an earlier one is left as it was.
    """
    began = time.perf_counter()
    with input_errors():
        swapper.model.label_of(person)
    check_clip_output(output)
    if swapper.detector is None:
        raise InputError("the faces of a clip are found by a face detector: give one")
    tracks, times = find_tracks(swapper.detector, clip, batch_size)
    for number in faces or ():
        if not 0 <= number < len(tracks):
            raise InputError(f"{clip.path} has {counted(len(tracks), 'face')}, counted from 0; there is no {number}")
    chosen = tracks if faces is None else [tracks[number] for number in sorted(set(faces))]
    places: dict[int, list[np.ndarray]] = {}
    for track in chosen:
        for frame, landmarks in zip(*track.smoothed(times), strict=True):
            places.setdefault(int(frame), []).append(landmarks)

    with atomic_write(output) as temporary:
        written = 0
        with (
            ClipWriter(temporary, clip, CLIP_METADATA) as writer,
            tqdm(total=len(times), desc="swap", unit=" frames", disable=None) as bar,
        ):
            for frames in _batches(_copy_audio(clip, writer), batch_size):
                where = [places.get(written + row, []) for row in range(len(frames))]
                for frame, swapped in zip(frames, swapper.replace(_pictures(frames), where, person), strict=True):
                    marked = with_label(swapped) if label else swapped
                    writer.add(replace(frame, pixels=np.asarray(marked)))
                written += len(frames)
                bar.update(len(frames))
        if written != len(times):
            raise InputError(f"{clip.path} changed while it was read: {len(times)} frames, then {written}")
        append_xmp(temporary)
        if sign is not None:
            sign(temporary)
    return SwappedClip(len(times), sum(map(len, places.values())), len(chosen), time.perf_counter() - began)


def find_tracks(detector: FaceDetector, clip: Clip, batch_size: int = 16) -> tuple[list[FaceTrack], list[float]]:
    """Find the faces in all frames, and follow them.

    Returns:
        The tracks in the order of their first frames, from the left, and the time of every frame in seconds.

    Raises:
        InputError: The clip cannot be read, or shows no face.
    """
    tracker = FaceTracker()
    times: list[float] = []
    before: np.ndarray | None = None
    with tqdm(total=clip.frames_expected, desc="find faces", unit=" frames", disable=None) as bar:
        for frames in _batches(clip.frames(), batch_size):
            pictures = _pictures(frames)
            for frame, picture, found in zip(frames, pictures, detector.detect(pictures), strict=True):
                thumbnail = np.asarray(picture.resize(_THUMBNAIL, Image.Resampling.BOX), dtype=np.float32)
                if before is not None and np.abs(thumbnail - before).mean() > _CUT:
                    tracker.cut()
                before = thumbnail
                seen = can_be_pasted(found.landmarks.numpy(), picture.size)
                tracker.add(len(times), found.boxes[seen], found.landmarks[seen])
                times.append(float(frame.pts * clip.time_base))
            bar.update(len(frames))
    tracks = [track for track in tracker.tracks if len(track.frames) >= min(MIN_SEEN, len(times))]
    if not tracks:
        raise InputError(f"no face was found in {clip.path}")
    return tracks, times


def _pictures(frames: Sequence[Frame]) -> list[Image.Image]:
    return [Image.fromarray(frame.pixels) for frame in frames]


def _copy_audio(clip: Clip, writer: ClipWriter) -> Iterator[Frame]:
    """The frames of a clip, while its audio goes to the writer."""
    for item in clip.read():
        if isinstance(item, Frame):
            yield item
        else:
            writer.copy(item)


def _batches(frames: Iterable[Frame], batch_size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        pixels = frame.pixels.shape[0] * frame.pixels.shape[1]
        if len(batch) >= min(batch_size, _PIXELS_AT_A_TIME // pixels):
            yield batch
            batch = []
    if batch:
        yield batch
