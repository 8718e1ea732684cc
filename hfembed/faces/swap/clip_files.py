"""Clips: read frame by frame from untrusted files, and written with the time stamps and the sound of another."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hfembed.errors import InputError

if TYPE_CHECKING:
    import av

CLIP_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp")
WRITTEN_SUFFIXES = (".mp4", ".mov")
MAX_FRAME_PIXELS = 8192 * 4320
MAX_FRAMES = 500_000
# FFmpeg knows more containers; some of those are lists of other files and addresses, which it would open
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts"
_OPENING = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PIXELS)}
_MISSING_SECONDS = 1  # of the length that the header states: what lacks more was cut off


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a clip.

    Attributes:
        pixels: (height, width, 3) uint8, RGB, upright.
        pts: When it is shown, in units of the clip's `time_base`.
        duration: How long, in the same units; 0 where the file does not say.
    """

    pixels: np.ndarray
    pts: int
    duration: int


class Clip:
    """A video file: its header checked, its frames decoded one by one.

    Attributes:
        path: The file.
        time_base: Seconds per unit of a time stamp.
        frames_expected: How many frames the header announces; None where it does not say.

    Raises:
        InputError: The file is no video, or is too large; one line that names it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: not a regular file")
        with self._open() as (container, video):
            seconds = container.duration / 1_000_000 if container.duration else 0.0
            rate = float(video.average_rate or 0)
            self.frames_expected = video.frames or math.ceil(seconds * rate) or None
            width, height = video.codec_context.width, video.codec_context.height
            if not 0 < width * height <= MAX_FRAME_PIXELS:
                raise InputError(f"{path}: frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS:,} are read")
            if max(self.frames_expected or 0, seconds * rate) > MAX_FRAMES:
                raise InputError(
                    f"{path}: {seconds:,.0f} s at {rate:.0f} frames/s; at most {MAX_FRAMES:,} frames are read"
                )
            if not video.time_base:
                raise InputError(f"{path}: its video has no time base")
            self.time_base = Fraction(video.time_base)
            self.rate = Fraction(video.average_rate or 25)
            self._size = (width, height)
            self._seconds = seconds
            first = next(container.decode(video), None)
            if first is None:
                raise InputError(f"{path}: no frame can be decoded")
            self._quarters = round(first.rotation / 90) % 4  # to turn it by, counterclockwise

    def frames(self) -> Iterator[Frame]:
        """All frames; see `read`."""
        return (item for item in self.read() if isinstance(item, Frame))

    def read(self) -> "Iterator[Frame | av.Packet[Any]]":
        """Decode frame by frame: frames, and between them the packets of all audio streams, in the file's order.

        Raises:
            InputError: The file is damaged or cut off, or its frames change their size.
        """
        count, last_pts, end = 0, None, 0.0
        with self._open() as (container, video):
            for packet in container.demux(video, *container.streams.audio):
                if packet.is_corrupt:
                    raise InputError(f"{self.path}: damaged after frame {count}")
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not video:
                    if packet.size:  # the last one of a stream is empty
                        yield packet
                    continue
                for frame in video.decode(cast(Any, packet)):
                    pts = self._checked_pts(frame, count, last_pts)
                    count, last_pts = count + 1, pts
                    # "rgb24" by the frame's own matrix and range of colors
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), self._quarters)
                    yield Frame(np.ascontiguousarray(pixels), pts, frame.duration or 0)
            start = (container.start_time or 0) / 1_000_000
            if end - start < self._seconds - _MISSING_SECONDS:
                raise InputError(f"{self.path}: cut off after {end - start:.1f} of {self._seconds:.1f} s")

    def _checked_pts(self, frame: "av.VideoFrame", number: int, last_pts: int | None) -> int:
        if number >= MAX_FRAMES:
            raise InputError(f"{self.path}: more than {MAX_FRAMES:,} frames")
        if frame.is_corrupt:
            raise InputError(f"{self.path}: frame {number} is damaged")
        if (frame.width, frame.height) != self._size:
            raise InputError(
                f"{self.path}: frame {number} has {frame.width} x {frame.height} pixels, the first {self._size}"
            )
        if frame.pts is None or (last_pts is not None and frame.pts <= last_pts):
            raise InputError(f"{self.path}: frame {number} has the time stamp {frame.pts} after {last_pts}")
        return frame.pts

    @contextmanager
    def _open(self) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
        """The container and its first video; what FFmpeg says about a damaged file becomes one line."""
        import av

        try:
            with av.open(f"file:{self.path.absolute()}", options=_OPENING, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise InputError(f"{self.path}: no video in this file")
                video = container.streams.video[0]
                if any(stream.codec_context is None for stream in (video, *container.streams.audio)):
                    raise InputError(f"{self.path}: its codecs are unknown")
                video.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
                yield container, video
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: not a video that can be read ({error.strerror}); is it whole?") from error


class ClipWriter:
    """Writes the frames of a changed clip (H.264), with the time stamps, colors, pixel shape and sound of the clip.

    Audio streams are copied packet by packet. All else is left out: other videos, subtitles, the camera's data and
    metadata.

    Args:
        path: .mp4 or .mov.
        clip: Where time stamps and audio come from.
        metadata: Of the container.

    Raises:
        InputError: The container cannot hold the clip's audio, or FFmpeg cannot write it.
    """

    def __init__(self, path: str | Path, clip: Clip, metadata: dict[str, str]) -> None:
        self.path, self.clip, self.metadata = Path(path), clip, metadata
        self._closing = ExitStack()

    def __enter__(self) -> "ClipWriter":
        import av

        with self._closing, self._errors(), self.clip._open() as (source, video):
            bases = [self.clip.time_base, *(audio.time_base for audio in source.streams.audio if audio.time_base)]
            scale = math.lcm(*(Fraction(base).denominator for base in bases))
            # edit lists hold when streams begin, in units of the whole film: without this, in milliseconds
            options = {"movie_timescale": str(scale)} if scale < 2**31 else {}
            output = av.open(f"file:{self.path.absolute()}", "w", options=options)
            self._closing.enter_context(output)
            output.metadata.update(self.metadata)
            self._video = self._add_video(output, video)
            self._audio = {stream.index: output.add_stream_from_template(stream) for stream in source.streams.audio}
            self._output = output
            self._closing = self._closing.pop_all()
        return self

    def _add_video(self, output: "av.container.OutputContainer", source: "av.VideoStream") -> "av.VideoStream":
        from av.codec.context import Flags

        stream = output.add_stream("libx264", rate=self.clip.rate, options={"crf": "18"})
        width, height = self.clip._size if self.clip._quarters % 2 == 0 else self.clip._size[::-1]
        # H.264 halves the resolution of colors: sides must be even
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context, original = stream.codec_context, source.codec_context
        context.time_base = self.clip.time_base
        context.flags |= Flags.frame_duration
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(context, name, getattr(original, name))
        if shape := original.sample_aspect_ratio:
            context.sample_aspect_ratio = shape if self.clip._quarters % 2 == 0 else 1 / shape
        return stream

    def add(self, frame: Frame) -> None:
        """Encode the next frame."""
        import av

        context = self._video.codec_context
        height, width = frame.pixels.shape[:2]
        padding = ((0, context.height - height), (0, context.width - width), (0, 0))
        picture = av.VideoFrame.from_ndarray(np.pad(frame.pixels, padding, mode="edge"), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=context.colorspace, dst_color_range=context.color_range
        )
        picture.pts, picture.time_base, picture.duration = frame.pts, self.clip.time_base, frame.duration
        with self._errors():
            self._output.mux(self._video.encode(picture))

    def copy(self, packet: "av.Packet[Any]") -> None:
        """Write an audio packet of the clip as it is."""
        packet.stream = self._audio[packet.stream.index]
        with self._errors():
            self._output.mux(packet)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._closing, self._errors():
            if kind is None:
                self._output.mux(self._video.encode())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except OSError:
            raise  # a full disk
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.path}: {self.path.suffix} cannot hold this clip and its sound ({error})"
            ) from error
