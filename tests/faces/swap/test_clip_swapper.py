"""Swapping in clips: no frame lost or moved, sound untouched, every frame marked, written whole or not at all."""

import json
import os
import socket
import struct
import time
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.faces.swap import clip_files
from hfembed.faces.swap.clip_files import Clip
from hfembed.faces.swap.clip_swapper import find_tracks, swap_clip
from hfembed.faces.swap.face_swapper import FaceSwapper
from hfembed.faces.swap.provenance_mark import NOTE, has_label
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from tests.faces.conftest import white_square_detector
from tests.faces.swap.two_colors import SIZE, two_color_model
from tests.fork_server import fork_server

av = pytest.importorskip("av")

FACE = 44  # pixels of a face
WIDTH, HEIGHT = 160, 120
RATE = 16_000
TIME_BASE = Fraction(1, 15360)
VARIABLE = np.cumsum([0, *np.random.default_rng(0).integers(300, 900, 29)]) + 4001  # of a variable rate, begun late


@pytest.fixture(scope="module")
def swapper():
    processor = FaceImageProcessor(size=SIZE, image_mean=0.0, image_std=1.0)
    return FaceSwapper(two_color_model(), processor, BrightSquares(), colors="none")


class BrightSquares:
    """A detector of white squares of 44 pixels; it misses the frames that `missing` lists."""

    def __init__(self, noise=0.0, missing=()):
        self.noise, self.missing, self.seen = noise, missing, 0
        self.draws = np.random.default_rng(0)

    def detect(self, pictures):
        return [self._detect(np.asarray(picture.convert("L"), dtype=int)) for picture in pictures]

    def _detect(self, pixels):
        self.seen += 1
        boxes = []
        columns = np.flatnonzero((pixels[: HEIGHT - 16] > 200).sum(axis=0) > FACE / 2)
        for group in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
            if len(group) and self.seen - 1 not in self.missing:
                rows = np.flatnonzero((pixels[: HEIGHT - 16, group] > 200).mean(axis=1) > 0.5)
                boxes.append([group[0], rows[0], group[-1] + 1, rows[-1] + 1])
        points = np.array(template_for_size(FACE, FACE)) + np.reshape([box[:2] for box in boxes], (-1, 1, 2))
        points = points + self.noise * self.draws.normal(size=points.shape)
        return SimpleNamespace(
            boxes=torch.tensor(boxes).reshape(-1, 4).float(), landmarks=torch.tensor(points).float()
        )


def circling(number):
    """The place of a face in a frame: known motion."""
    return 50 + 30 * np.cos(number / 6), 32 + 20 * np.sin(number / 6)


def draw(*places, background=40):
    pixels = np.full((HEIGHT, WIDTH, 3), background, np.uint8)
    for left, top in places:
        pixels[round(top) : round(top) + FACE, round(left) : round(left) + FACE] = 255
    return pixels


def write(path, pictures, times=None, sound="aac", **settings):
    """A clip of pictures, with noise to be heard."""
    times = range(0, 512 * len(pictures), 512) if times is None else times
    draws = np.random.default_rng(1)
    with av.open(str(path), "w", options={"movie_timescale": "1920000"}) as clip:
        video = clip.add_stream("libx264", rate=30, options={"crf": "12"})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", TIME_BASE
        for name, value in settings.items():
            setattr(video.codec_context, name, value)
        audio = clip.add_stream(sound, rate=RATE, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=settings.get("colorspace"),
                dst_color_range=settings.get("color_range"),
            )
            frame.pts, frame.time_base = int(times[number]), TIME_BASE
            clip.mux(video.encode(frame))
        clip.mux(video.encode())
        for number in range(len(pictures) * RATE // 30 // 1024 if audio else 0):
            samples = (3000 * draws.normal(size=(1, 1024))).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE, 1024 * number, Fraction(1, RATE)
            clip.mux(audio.encode(heard))
        if audio:
            clip.mux(audio.encode())
    return path


def frames_of(path):
    """Time stamps in seconds, and pictures; by PyAV alone."""
    with av.open(str(path)) as clip:
        frames = [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    return [time for time, _ in frames], [pixels for _, pixels in frames]


def sound_of(path):
    with av.open(str(path)) as clip:
        packets = [packet for packet in clip.demux() if packet.size and packet.stream.type == "audio"]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "aac"), (".mov", "pcm_s16le"), (".mp4", None)])
def test_frames_times_sound_and_marks(swapper, tmp_path, suffix, sound):
    source = write(tmp_path / "clip.mov", [draw(circling(n)) for n in range(30)], VARIABLE, sound)
    output = tmp_path / f"out{suffix}"
    done = swap_clip(swapper, Clip(source), "blue", output, batch_size=7)
    assert (done.frames, done.faces, done.tracks) == (30, 30, 1) and done.frames_per_second > 0
    times, pictures = frames_of(output)
    assert times == frames_of(source)[0] and times[0] == 4001 * TIME_BASE
    assert sound_of(output) == sound_of(source) and bool(sound_of(output)) == bool(sound)
    assert all(has_label(Image.fromarray(picture)) for picture in pictures)
    for number, picture in enumerate(pictures):
        left, top = circling(number)
        middle = picture[round(top) + FACE // 2, round(left) + FACE // 2].astype(int)
        assert middle[2] > 200 and middle[0] < 60, number
        assert abs(picture[5, 150].astype(int) - 40).max() < 6, "the rest is as it was"
    with av.open(str(output)) as clip:
        assert NOTE in clip.metadata.values()
    assert b"compositeWithTrainedAlgorithmicMedia" in output.read_bytes()


def test_the_note_is_in_the_file_without_a_label_too(swapper, tmp_path):
    source = write(tmp_path / "clip.mp4", [draw((40, 30))] * 4)
    swap_clip(swapper, Clip(source), "blue", tmp_path / "out.mp4", label=False)
    assert not any(has_label(Image.fromarray(picture)) for picture in frames_of(tmp_path / "out.mp4")[1])
    assert NOTE.encode() in (tmp_path / "out.mp4").read_bytes()
    # the box ends with the file, so that readers find where it ends
    content = (tmp_path / "out.mp4").read_bytes()
    place = content.index(b"uuid")
    assert struct.unpack(">I", content[place - 4 : place])[0] == len(content) - place + 4


def test_shaky_landmarks_are_smoothed_and_gaps_are_bridged(tmp_path):
    places = [circling(n) for n in range(60)]
    clip = Clip(write(tmp_path / "clip.mp4", [draw(place) for place in places]))
    detector = BrightSquares(noise=2.0, missing=(20, 21, 22, 41))
    tracks, times = find_tracks(detector, clip)
    assert len(tracks) == 1 and len(tracks[0].frames) == 56
    frames, landmarks = tracks[0].smoothed(times)
    assert frames.tolist() == list(range(60))
    truth = np.array(template_for_size(FACE, FACE)) + np.array(places)[:, None]
    seen = np.array(tracks[0].frames)
    error = np.sqrt(np.mean((landmarks - truth) ** 2))
    raw = np.sqrt(np.mean((np.array(tracks[0].landmarks) - truth[seen]) ** 2))
    assert raw > 1.9 and error < 0.65 * raw, "no delay either: the motion is circular"
    jitter = np.abs(np.diff(landmarks - truth, axis=0)).mean()
    assert jitter < 0.35 * np.abs(np.diff(np.array(tracks[0].landmarks) - truth[seen], axis=0)).mean()


def test_a_face_that_is_lost_for_long_is_another_one(tmp_path):
    pictures = [draw((40, 30))] * 8 + [draw()] * 6 + [draw((40, 30))] * 8 + [draw()] * 7 + [draw((40, 30))] * 2
    clip = Clip(write(tmp_path / "clip.mp4", pictures))
    tracks, times = find_tracks(BrightSquares(), clip)
    assert [track.frames[0] for track in tracks] == [0, 14], "and one seen twice only is none"
    pictures[8:14] = [draw()] * 5 + [draw((40, 30))]
    tracks, times = find_tracks(BrightSquares(), Clip(write(tmp_path / "clip.mp4", pictures)))
    assert [track.frames[0] for track in tracks] == [0] and len(tracks[0].smoothed(times)[0]) == 22


def test_a_cut_ends_a_track(tmp_path):
    pictures = [draw((40, 30))] * 5 + [draw((44, 30), background=140)] * 5
    tracks, times = find_tracks(BrightSquares(), Clip(write(tmp_path / "clip.mp4", pictures)))
    assert [track.frames for track in tracks] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    middles = [track.smoothed(times)[1].mean(axis=(1, 2)) for track in tracks]
    assert np.ptp(middles[0]) < 0.01 and np.ptp(middles[1]) < 0.01, "and is not smoothed over it"


def test_all_faces_or_the_chosen_ones(swapper, tmp_path):
    both = [draw((100 - n, 30), (10, 30)) for n in range(6)]
    clip = Clip(write(tmp_path / "clip.mp4", [draw()] * 2 + both))
    done = swap_clip(swapper, clip, "blue", tmp_path / "both.mp4")
    assert (done.frames, done.faces, done.tracks) == (8, 12, 2)
    swap_clip(swapper, clip, "blue", tmp_path / "right.mp4", faces=[1])
    picture = frames_of(tmp_path / "right.mp4")[1][-1].astype(int)
    assert picture[52, 117, 0] < 60 and picture[52, 32, 0] > 230
    with pytest.raises(InputError, match=r"clip.mp4 has 2 faces.*no 2"):
        swap_clip(swapper, clip, "blue", tmp_path / "none.mp4", faces=[2])
    with pytest.raises(InputError, match="unknown person 'green'"):
        swap_clip(swapper, clip, "green", tmp_path / "none.mp4")
    with pytest.raises(InputError, match=r"no face was found in .*empty.mp4"):
        swap_clip(swapper, Clip(write(tmp_path / "empty.mp4", [draw()] * 3)), "blue", tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_a_turned_clip_comes_out_upright(swapper, tmp_path):
    """The matrix of a phone held upright: rows become columns, as QuickTime's specification has it."""
    upright = [draw(circling(n)) for n in range(5)]
    source = write(tmp_path / "clip.mp4", [np.rot90(picture) for picture in upright], sample_aspect_ratio=Fraction(2))
    content = source.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    place = content.index(plain, content.index(b"tkhd"))
    source.write_bytes(content[:place] + clockwise + content[place + len(plain) :])
    swap_clip(swapper, Clip(source), "blue", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as clip:
        frames = list(clip.decode(video=0))
        assert clip.streams.video[0].sample_aspect_ratio == Fraction(1, 2)
    assert all((frame.width, frame.height, frame.rotation) == (WIDTH, HEIGHT, 0) for frame in frames)
    assert all(has_label(frame.to_image()) for frame in frames)
    left, top = circling(0)
    assert frames[0].to_ndarray(format="rgb24")[round(top) + 22, round(left) + 22, 2] > 200


@pytest.mark.parametrize(("colorspace", "color_range"), [(1, 1), (1, 2), (6, 1), (2, 0)])
def test_colors_stay(swapper, tmp_path, colorspace, color_range):
    picture = draw((40, 30))
    picture[:, 120:] = [200, 60, 30]
    clip = Clip(write(tmp_path / "clip.mp4", [picture] * 3, colorspace=colorspace, color_range=color_range))
    swap_clip(swapper, clip, "blue", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as video:
        frame = next(video.decode(video=0))
        context = video.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (colorspace, color_range)
        assert np.abs(frame.to_ndarray(format="rgb24")[20, 140].astype(int) - [200, 60, 30]).max() <= 4


def test_odd_sides_are_kept_up_to_a_pixel(swapper, tmp_path):
    pictures = [draw((40, 30))[:119, :159]] * 3
    with av.open(str(tmp_path / "clip.mkv"), "w") as clip:
        video = clip.add_stream("ffv1", rate=30)
        video.width, video.height, video.pix_fmt = 159, 119, "bgr0"
        for picture in pictures:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        clip.mux(video.encode())
    swap_clip(swapper, Clip(tmp_path / "clip.mkv"), "blue", tmp_path / "out.mp4")
    times, pictures = frames_of(tmp_path / "out.mp4")
    assert pictures[0].shape == (120, 160, 3) and times == frames_of(tmp_path / "clip.mkv")[0]


def test_damaged_and_foreign_files_are_one_line(swapper, tmp_path, monkeypatch):
    source = write(tmp_path / "clip.mp4", [draw(circling(n)) for n in range(90)])
    content = source.read_bytes()
    media, after = content.index(b"mdat") + 4, content.index(b"moov") - 4

    def refused(data, words="", name="bad.mp4"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}.*{words}") as error:
            swap_clip(swapper, Clip(tmp_path / name), "blue", tmp_path / "out.mp4")
        assert "\n" not in str(error.value) and not (tmp_path / "out.mp4").exists()

    middle = (media + after) // 2
    refused(content[:after], "not a video")  # cut off before the index
    refused(content[:middle] + content[after:])  # a hole: all that follows lies elsewhere
    refused(content[:middle] + bytes(after - middle) + content[after:])  # a file never written to its end
    refused(b"")
    refused(b"nothing to see", "not a video")
    refused(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "not a video", "list.ts")
    # written with the index first, and cut off
    with (
        av.open(str(source)) as clip,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as fast,
    ):
        copies = {stream.index: fast.add_stream_from_template(stream) for stream in clip.streams}
        for packet in clip.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                fast.mux(packet)
    content = (tmp_path / "fast.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    refused(content[: len(content) * 2 // 3])
    with av.open(str(tmp_path / "sound.mp4"), "w") as clip:
        clip.add_stream("aac", rate=RATE, layout="mono")
        clip.start_encoding()
    refused((tmp_path / "sound.mp4").read_bytes())
    with pytest.raises(InputError, match="not a regular file"):
        Clip(tmp_path)
    for name, limit, words in [("MAX_FRAME_PIXELS", 10_000, "160 x 120"), ("MAX_FRAMES", 80, "at most 80 frames")]:
        with monkeypatch.context() as patch:
            patch.setattr(clip_files, name, limit)
            with pytest.raises(InputError, match=words):
                Clip(source)


def test_lists_of_addresses_are_not_followed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        for name, content in [
            ("a.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"),
            ("b.mp4", f"ffconcat version 1.0\nfile '{address}'\n"),
        ]:
            (tmp_path / name).write_text(content)
            with pytest.raises(InputError, match=name):
                Clip(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_audio_that_mp4_cannot_hold_is_refused(swapper, tmp_path):
    source = write(tmp_path / "clip.mkv", [draw((40, 30))] * 30, sound="tta")
    with pytest.raises(InputError, match=r"\.mp4 cannot hold"):
        swap_clip(swapper, Clip(source), "blue", tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == [source]


def test_the_command(swapper, tmp_path):
    swapper.model.save_pretrained(tmp_path / "model")
    swapper.processor.save_pretrained(tmp_path / "model")
    detector = white_square_detector()
    detector.save_pretrained(tmp_path / "detector")
    FaceDetectorImageProcessor().save_pretrained(tmp_path / "detector")
    source = write(tmp_path / "clip.mp4", [draw(circling(n), background=0) for n in range(60)])
    command = ["swap", str(tmp_path / "model"), str(source), "blue", str(tmp_path / "out.mp4")]
    done = CliRunner().invoke(app, [*command, "--detector", str(tmp_path / "detector"), "--json"])
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert record["frames"] == 60 and record["tracks"] >= 1 and record["faces"] >= 50
    assert record["frames_per_second"] > 0 and len(frames_of(tmp_path / "out.mp4")[0]) == 60
    for arguments, words in [
        ([*command[:4], str(tmp_path / "out.mkv")], "out.mkv: a clip's name ends in .mp4 or .mov"),
        ([*command, "--landmarks", "1,1 2,2 3,3 4,4 5,5"], "--landmarks are those of a photo"),
        ([*command[:2], str(tmp_path / "no.mp4"), *command[3:]], "no.mp4"),
    ]:
        refused = CliRunner().invoke(app, arguments)
        with pytest.raises(InputError, match=words):
            raise refused.exception


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_run_leaves_no_output(swapper, tmp_path):
    source = write(tmp_path / "clip.mp4", [draw(circling(n)) for n in range(60)])
    context = fork_server()
    at_it = context.Event()
    process = context.Process(target=_swap_and_wait, args=(swapper.model, source, tmp_path / "out.mp4", at_it))
    process.start()
    assert at_it.wait(60)
    process.kill()
    process.join()
    assert len(list(tmp_path.iterdir())) == 2, "a temporary file is left"
    assert not (tmp_path / "out.mp4").exists()
    swap_clip(swapper, Clip(source), "blue", tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"], "removed by the next run"


def _swap_and_wait(model, source, output, at_it):
    """Swap half of a clip, then hang."""
    swapper = FaceSwapper(model, FaceImageProcessor(size=SIZE, image_mean=0.0, image_std=1.0), BrightSquares())
    replace = swapper.replace

    def replace_or_hang(pictures, landmarks, person):
        if at_it.is_set():
            time.sleep(600)
        at_it.set()
        return replace(pictures, landmarks, person)

    swapper.replace = replace_or_hang
    swap_clip(swapper, Clip(source), "blue", output)
