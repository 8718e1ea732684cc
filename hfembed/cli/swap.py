"""`hfembed swap`: replace the faces in a photo or a clip by another person's."""

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.atomic import check_destination, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports, warn
from hfembed.errors import InputError, counted

with lazy_imports():
    from hfembed import photos as photo_files
    from hfembed.checkpoint import loading
    from hfembed.faces.identity_swap import new_people
    from hfembed.faces.swap import clip_files, clip_swapper, content_credentials, face_swapper, provenance_mark

_ENOUGH_PHOTOS = 5  # of somebody who is added to a model

commands = Commands("Faces")


@commands.command("swap")
def swap(
    model: options.FaceSwap,
    photo: Annotated[Path, typer.Argument(help="The photo; or a clip: .mp4, .mov, .mkv, .webm, .avi, ...")],
    person: Annotated[str, typer.Argument(help="The person whose face is put in: a name that the model knows.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="The picture to write: .png, .jpg, .webp; of a clip: .mp4, .mov.")
    ],
    hub: Hub,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder or Hub id of a face detector; default: the one of the default face model."
        ),
    ] = None,
    landmarks: Annotated[
        str | None,
        typer.Option(
            help='Instead: left eye, right eye, nose, mouth corners of a face, as seen, "x,y x,y x,y x,y x,y" in '
            "pixels of the upright photo; or a JSON file of five pairs x, y, of a list of such, or of photo's name -> "
            "such."
        ),
    ] = None,
    face: Annotated[
        list[int] | None,
        typer.Option(
            help="Only this face, counted from the left from 0; in a clip by when they appear, then from the left; "
            "may repeat."
        ),
    ] = None,
    colors: Annotated[
        Literal["deviation", "covariance", "histogram", "seamless", "none"],
        typer.Option(
            help="What a new face takes over from the old one: mean and deviation per channel; mean and covariance of "
            "the channels; the histogram per channel; the colors at its edge."
        ),
    ] = "deviation",
    label: Annotated[
        bool, typer.Option(help='Write "generated face" into the corner; the note inside the file always stays.')
    ] = True,
    certificate: Annotated[
        Path | None,
        typer.Option(help="Sign the file with a C2PA manifest: your certificate and its chain, PEM; with --key."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's private key, PEM, without a passphrase.")] = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = "auto",
) -> Answer:
    """Replace the faces in a photo or a clip by another person's: only with the consent of both."""
    if detector is not None and landmarks is not None:
        raise InputError("where are the faces? give either --detector or --landmarks")
    if (certificate is None) != (key is None):
        raise InputError("a signature takes both: --certificate and --key")
    sign = None
    if certificate is not None and key is not None:
        sign = content_credentials.ContentCredentials(certificate, key).sign
    check_writable(output, photo)
    photo_files.check_photos(photo)
    is_clip = photo.suffix.lower() in clip_files.CLIP_SUFFIXES
    if is_clip:
        clip_swapper.check_clip_output(output)
        if landmarks is not None:
            raise InputError("--landmarks are those of a photo; the faces of a clip are found by --detector")
        clip = clip_files.Clip(photo)
    else:
        options.check_picture(output)
    points = None if landmarks is None else read_points(landmarks, photo.name)
    model_and_processor = loading.load_face_swap(hub.model(model), device)
    finder = loading.load_face_detector(hub.face_detector(detector), device)[0] if landmarks is None else None
    swapper = face_swapper.FaceSwapper(*model_and_processor, finder, colors)
    if is_clip:
        done = clip_swapper.swap_clip(swapper, clip, person, output, face, label, batch_size, sign)
        rate = round(done.frames_per_second, 2)
        return Answer.written(
            output,
            f"{photo} with the face of {person} written to {output}, marked as generated: "
            f"{counted(done.faces, 'face')} of {counted(done.tracks, 'track')} "
            f"in {counted(done.frames, 'frame')}, {rate} frames/s",
            frames=done.frames,
            faces=done.faces,
            tracks=done.tracks,
            frames_per_second=rate,
        )
    picture, count = swapper(photo, person, points, face)
    provenance_mark.save_marked(picture, output, label, sign)
    text = f"{photo} with the face of {person} written to {output}, marked as generated: {counted(count, 'face')}"
    return Answer.written(output, text, faces=count)


@commands.command("add-person")
def add_person(
    model: options.FaceSwap,
    folders: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="A folder of photos per person, who gets its name.")
    ],
    output: Annotated[Path, typer.Option(help="Checkpoint folder to write; MODEL itself with --overwrite.")],
    embedder: Annotated[
        list[str],
        typer.Option(help="Checkpoint folder or Hub id of the face embedder it was trained with; repeat if several."),
    ],
    hub: Hub,
    detector: Annotated[
        str | None, typer.Option(help="Of a face detector; default: the one of the default face model.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The photos are crops on the standard 112 x 112 template already.")
    ] = False,
    held_out_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Leave out this fraction of each person's photos, to measure on.")
    ] = 0.0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Teach an identity-conditioned swap model people from some photos of each, without training."""
    if aligned and detector is not None:
        raise InputError("aligned crops need no detector: give either --aligned or --detector")
    check_destination(output, overwrite, *folders)
    finder = None if aligned else loading.load_face_detector(hub.face_detector(detector), "cpu")[0]
    embedders = [hub.other_model(name) for name in embedder]
    counts = new_people.add_people(hub.model(model), folders, embedders, output, finder, held_out_share)
    told = ", ".join(f"{name} ({counted(count, 'photo')})" for name, count in counts.items())
    if few := [name for name, count in counts.items() if count < _ENOUGH_PHOTOS]:
        warn(f"fewer than {_ENOUGH_PHOTOS} photos of {', '.join(few)}: {_ENOUGH_PHOTOS} or more make a good likeness")
    return Answer.written(output, f"{model} that also knows {told} written to {output}", photos=counts)


def read_points(text: str, photo: str) -> list[list[list[float]]]:
    """Landmarks (n, 5, 2) from five "x,y" separated by spaces, or a JSON file; `photo` is the key in a JSON object."""
    try:
        if text.lower().endswith(".json"):
            points = json.loads(Path(text).read_text(encoding="utf-8"))
            points = points[photo] if isinstance(points, dict) else points
            if points == []:
                raise KeyError(photo)
        else:
            points = [[float(number) for number in pair.split(",")] for pair in text.split()]
        points = points if isinstance(points[0][0], list) else [points]
        points = [[[float(x), float(y)] for x, y in face] for face in points]
        if any(len(face) != 5 or not all(math.isfinite(x + y) for x, y in face) for face in points):
            raise ValueError
    except FileNotFoundError:
        raise InputError(f"{text}: no such file") from None
    except KeyError:
        raise InputError(f"{text} has no landmarks for {photo}") from None
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
        raise InputError(
            f"{text}: landmarks are five x,y separated by spaces, or a JSON file of five [x, y] per face"
        ) from None
    return points
