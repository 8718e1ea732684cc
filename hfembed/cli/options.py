"""Options and arguments that several commands take, in the same words."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.errors import InputError

# those of hfembed.images.pictures, which imports torch
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_ANIMATIONS = (".gif", ".mp4")


def _check_suffix(*suffixes: str) -> Callable[[Path], Path]:
    """Refuse a name before the work, where saving would refuse it afterwards."""

    def check(path: Path) -> Path:
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{path}: expected a name that ends in one of {', '.join(suffixes)}")
        return path

    return check


check_figure = _check_suffix(".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")
check_picture = _check_suffix(*_PICTURES)
check_film = _check_suffix(*_ANIMATIONS, *_PICTURES)


_CHECKPOINT = "Checkpoint folder or Hub id (owner/name, owner/name@revision) of"
_DETECTOR = "Checkpoint folder or Hub id of a face detector"
_ANALYZER = "Checkpoint folder or Hub id of a face analyzer"
_DEFAULT = "Default: the environment's HFEMBED_FACE_MODEL, or else a model that is fetched once (`hfembed models`)"

FaceEmbedder = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help=f"{_CHECKPOINT} a face embedder. {_DEFAULT}.")
]
Autoencoder = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_CHECKPOINT} an autoencoder.")]
FaceSwap = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_CHECKPOINT} a face swap model.")]
WordVectors = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_CHECKPOINT} word vectors.")]
AnyModel = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_CHECKPOINT} a model.")]
Analyzer = Annotated[
    str | None,
    typer.Option("--model", help=f"{_ANALYZER}, or of an embedder with --detector. {_DEFAULT}."),
]
AnalyzerOrEmbedder = Annotated[
    str | None, typer.Option("--model", help=f"{_ANALYZER}; with --aligned, of a face embedder. {_DEFAULT}.")
]
Detector = Annotated[str | None, typer.Option(help=f"{_DETECTOR}; default: the one in the model's folder.")]
Turned = Annotated[
    bool, typer.Option("--turned", help="Search photos by 90, 180 and 270 degrees turned too, where no face is sure.")
]
MaxImageSize = Annotated[
    int | None,
    typer.Option(min=0, help="Search photos at this size of their longer side; 0: full size. Default: the model's."),
]

Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through the networks together.")]
Workers = Annotated[
    int | None, typer.Option("--num-workers", min=0, help="Processes that decode and align; default: one per core.")
]
Threads = Annotated[int, typer.Option("--num-threads", min=1, help="Threads of torch on a CPU.")]
Faces = Annotated[Literal["all", "largest", "only"], typer.Option(help="Of a photo with several; only: an error.")]
MinQuality = Annotated[
    float, typer.Option(min=0, max=1, help="Set aside faces of a lower quality, from 0 to 1; 0 takes all.")
]
Far = Annotated[float | None, typer.Option(help="Decide at this false accept rate; default: at the highest accuracy.")]
TopK = Annotated[int, typer.Option(min=1, help="How many answers to list.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]

Picture = Annotated[
    Path, typer.Argument(metavar="OUT", help="The picture to write: .png, .jpg, .webp.", callback=check_picture)
]
Film = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help=".gif or .mp4 for a film; .png, .jpg or .webp for a page of pictures.",
        callback=check_film,
    ),
]
Figure = Annotated[
    Path, typer.Argument(metavar="OUT", help="The figure to write: .png, .svg, .pdf.", callback=check_figure)
]
Report = Annotated[Path, typer.Option("--output", help="Folder for results.json and the figures.")]

People = Annotated[
    str, typer.Option("--images", help="One directory per person, its archive (.tgz, .zip), Parquet, URL or Hub id.")
]
Landmarks = Annotated[Path | None, typer.Option(help="JSON: file -> five points; without it, center crops.")]
Undetected = Annotated[Literal["error", "center-crop"], typer.Option(help="What a null in the landmarks means.")]
HeldOutShare = Annotated[
    float | None,
    typer.Option(help="Fraction of the people that training held out; default: as the checkpoint says, or 0.1."),
]
SplitSeed = Annotated[
    int | None,
    typer.Option(help="Seed of that split; default: as the checkpoint says, or 0."),
]
