"""`hfembed swap`: draw the faces in a photo as another person."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("swap")
def swap(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face swap model.")],
    photo: Annotated[Path, typer.Argument(help="The photo.")],
    person: Annotated[str, typer.Argument(help="Whose face its faces get: a name the model knows.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The picture to write: .png, .jpg or .webp.")],
    detector: Annotated[str | None, typer.Option(help="Face detector that finds the faces.")] = None,
    landmarks: Annotated[
        str | None,
        typer.Option(
            help='Instead: left eye, right eye, nose, mouth corners of a face, "x,y x,y x,y x,y x,y" in pixels of the '
            "upright photo; or a JSON file of five [x, y], a list of such, or photo's name -> such."
        ),
    ] = None,
    face: Annotated[
        list[int] | None, typer.Option(help="Only this face, counted from the left from 0; may repeat.")
    ] = None,
    match_colors: Annotated[bool, typer.Option(help="Give new faces the colours of the old ones.")] = True,
    label: Annotated[
        bool, typer.Option(help='Write "generated face" into the corner; the note inside the file always stays.')
    ] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Draw the faces in a photo as another person: only with the consent of both."""
    from hfembed.checkpoint.loading import load_face_detector, load_face_swap
    from hfembed.errors import InputError
    from hfembed.faces.swap.face_swapper import FaceSwapper
    from hfembed.faces.swap.provenance_mark import save_marked

    if (detector is None) == (landmarks is None):
        raise InputError("say where the faces are: either --detector FOLDER or --landmarks")
    points = None if landmarks is None else read_points(landmarks, photo.name)
    swapper, processor = load_face_swap(model, device)
    finder = None
    if detector is not None:
        finder, _ = load_face_detector(detector, device)
    picture = FaceSwapper(swapper, processor, finder, match_colors)(photo, person, points, face)
    save_marked(picture, output, label)
    print(f"{photo} with the face of {person} written to {output}, marked as generated")


def read_points(text: str, photo: str) -> list[list[list[float]]]:
    """Landmarks from the command line or a JSON file: five [x, y] for each face.

    Args:
        text: Five "x,y" with blanks in between, or the name of a JSON file.
        photo: The photo's name, by which a JSON object is asked.

    Returns:
        (n, 5, 2).

    Raises:
        InputError: Anything else.
    """
    import json

    from hfembed.errors import InputError

    expected = f"{text}: landmarks are five x,y with blanks in between, or a JSON file of five [x, y] for each face"
    try:
        if text.lower().endswith(".json"):
            points = json.loads(Path(text).read_text(encoding="utf-8"))
            points = points[photo] if isinstance(points, dict) else points
        else:
            points = [[float(number) for number in pair.split(",")] for pair in text.split()]
        points = points if isinstance(points[0][0], list) else [points]
        if any(len(face) != 5 or any(len(pair) != 2 for pair in face) for face in points):
            raise ValueError
    except KeyError:
        raise InputError(f"{text} has no landmarks for {photo}") from None
    except (ValueError, TypeError, IndexError):
        raise InputError(expected) from None
    return points
