"""`hfembed swap`: replace the faces in a photo by another person's."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from hfembed.atomic import check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports
from hfembed.errors import InputError

with lazy_imports():
    from hfembed import photos as photo_files
    from hfembed.checkpoint import loading
    from hfembed.faces.swap import face_swapper, provenance_mark

commands = Commands("Faces")


@commands.command("swap")
def swap(
    model: options.FaceSwap,
    photo: Annotated[Path, typer.Argument(help="The photo.")],
    person: Annotated[str, typer.Argument(help="The person whose face is put in: a name that the model knows.")],
    output: options.Picture,
    hub: Hub,
    detector: options.OtherDetector = None,
    landmarks: Annotated[
        str | None,
        typer.Option(
            help='Instead: left eye, right eye, nose, mouth corners of a face, "x,y x,y x,y x,y x,y" in pixels of the '
            "upright photo; or a JSON file of five [x, y], of a list of such, or of photo's name -> such."
        ),
    ] = None,
    face: Annotated[
        list[int] | None, typer.Option(help="Only this face, counted from the left from 0; may repeat.")
    ] = None,
    match_colors: Annotated[bool, typer.Option(help="Give new faces the colors of the old ones.")] = True,
    label: Annotated[
        bool, typer.Option(help='Write "generated face" into the corner; the note inside the file always stays.')
    ] = True,
    device: options.Device = "auto",
) -> Answer:
    """Replace the faces in a photo by another person's: only with the consent of both."""
    if (detector is None) == (landmarks is None):
        raise InputError("where are the faces? give either --detector or --landmarks")
    check_writable(output)
    photo_files.check_photos(photo)
    points = None if landmarks is None else read_points(landmarks, photo.name)
    swapper, processor = loading.load_face_swap(hub.model(model), device)
    finder = None if detector is None else loading.load_face_detector(hub.other_model(detector), device)[0]
    picture = face_swapper.FaceSwapper(swapper, processor, finder, match_colors)(photo, person, points, face)
    provenance_mark.save_marked(picture, output, label)
    return Answer.written(output, f"{photo} with the face of {person} written to {output}, marked as generated")


def read_points(text: str, photo: str) -> list[list[list[float]]]:
    """Landmarks (n, 5, 2) from five "x,y" separated by spaces, or a JSON file; `photo` is the key in a JSON object."""
    try:
        if text.lower().endswith(".json"):
            points = json.loads(Path(text).read_text(encoding="utf-8"))
            points = points[photo] if isinstance(points, dict) else points
        else:
            points = [[float(number) for number in pair.split(",")] for pair in text.split()]
        points = points if isinstance(points[0][0], list) else [points]
        points = [[[float(x), float(y)] for x, y in face] for face in points]
        if any(len(face) != 5 or not all(math.isfinite(x + y) for x, y in face) for face in points):
            raise ValueError
    except KeyError:
        raise InputError(f"{text} has no landmarks for {photo}") from None
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
        raise InputError(
            f"{text}: landmarks are five x,y separated by spaces, or a JSON file of five [x, y] per face"
        ) from None
    return points
