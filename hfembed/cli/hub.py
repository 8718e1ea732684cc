"""Commands that share checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hfembed.hub.commit import Pushed

app = typer.Typer()


@app.command("card")
def card(folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")]) -> None:
    """Write the model card (README.md) of a checkpoint folder again, from its results.json and training.json."""
    from hfembed.checkpoint.card import write_card

    print(f"written: {write_card(folder)}")


@app.command("push")
def push(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub; made where it is new.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who may see a new repository; by default private for models trained on photos of people.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; default: main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Also give this version a tag, such as v1.0.")] = None,
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "Upload model",
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a card that was edited on the Hub.")
    ] = False,
) -> None:
    """Share a model on the Hub, in one commit; the same folder again makes none."""
    from hfembed.checkpoint.push import push_folder

    pushed = push_folder(
        folder,
        repo_id,
        private=private,
        revision=revision,
        tag=tag,
        commit_message=message,
        overwrite_card=overwrite_card,
    )
    _report(pushed)


push_dataset = typer.Typer(
    no_args_is_help=True, help="Share prepared data on the Hub: Parquet with a card, in one commit."
)
app.add_typer(push_dataset, name="push-dataset")

RepoId = Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub; made where it is new.")]
License = Annotated[str | None, typer.Option(help="The licence's name on the Hub; default: other, as its source.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Revision = Annotated[str | None, typer.Option(help="Branch to push to; default: main.")]
Tag = Annotated[str | None, typer.Option(help="Also give this version a tag, such as v1.0.")]
LandmarksFile = Annotated[Path | None, typer.Option(help="JSON: file -> five points.")]


@push_dataset.command("faces")
def push_faces(
    source: Annotated[str, typer.Argument(help="Folder with a folder per person, archive, Parquet, URL or Hub id.")],
    repo_id: RepoId,
    landmarks: LandmarksFile = None,
    min_photos: Annotated[int, typer.Option(min=1, help="Leave out people with fewer photos.")] = 1,
    crop_size: Annotated[
        int | None, typer.Option(min=16, help="Push crops of this size on the standard template, not the photos.")
    ] = None,
    license: License = None,
    private: Private = False,
    revision: Revision = None,
    tag: Tag = None,
) -> None:
    """Push photos of people: image, label, file, landmarks."""
    from hfembed.faces.data.faces import load_faces
    from hfembed.faces.data.push_dataset import crop_faces, push_faces
    from hfembed.hub.dataset import Part

    faces = load_faces(source, landmarks=landmarks, min_photos=min_photos, follow_links=False)
    people = faces.features["label"].num_classes
    if crop_size is not None:
        faces = crop_faces(faces, crop_size)
    what = f"Crops of {crop_size} x {crop_size} pixels on the standard template" if crop_size else "Photos as they are"
    pushed = push_faces(
        {"identities": Part(faces, about="A photo of a person, and where the face is in it.")},
        repo_id,
        title="Faces of people",
        about=f"{what}, from {Path(source).name}: {len(faces):,} of {people:,} people.",
        license=license,
        private=private or None,
        revision=revision,
        tag=tag,
    )
    _report(pushed)


@push_dataset.command("lfw")
def push_lfw(
    images: Annotated[str, typer.Argument(help="LFW's archive (.tgz, .zip), folder, URL or Hub id.")],
    repo_id: RepoId,
    pairs: Annotated[Path, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    landmarks: LandmarksFile = None,
    license: License = None,
    private: Private = False,
    revision: Revision = None,
    tag: Tag = None,
) -> None:
    """Push LFW: identities, and the pairs with their folds."""
    from hfembed.faces.data.lfw import load_lfw, read_pairs
    from hfembed.faces.data.push_dataset import push_faces
    from hfembed.hub.dataset import Part

    identities = load_lfw(images, landmarks=landmarks, follow_links=False)
    chosen = read_pairs(pairs)
    rows = load_lfw(images, "pairs", pairs=chosen, follow_links=False)
    pushed = push_faces(
        {
            "identities": Part(identities, about="A photo of a person, and where the face is in it."),
            "pairs": Part(rows, "test", f"A pair of View {chosen.view}, and the fold it is tested in."),
        },
        repo_id,
        title="Labeled Faces in the Wild",
        about=f"{Path(images).name} and {pairs.name}. Huang, Ramesh, Berg and Learned-Miller, 2007.",
        tags=["face-verification", "lfw"],
        license=license,
        private=private or None,
        revision=revision,
        tag=tag,
    )
    _report(pushed)


@push_dataset.command("corpus")
def push_corpus(
    source: Annotated[
        str, typer.Argument(help="Text file, folder of such, or dataset on the Hub; a line a sentence.")
    ],
    repo_id: RepoId,
    min_count: Annotated[int, typer.Option(min=1, help="Words seen less often are dropped.")] = 5,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Fold the case.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder for the encoded corpus.")] = Path("outputs/corpora"),
    license: License = None,
    private: Private = False,
    revision: Revision = None,
    tag: Tag = None,
) -> None:
    """Push a text as word ids, with its vocabulary and counts."""
    from hfembed.words.data.corpora import prepare_corpus
    from hfembed.words.data.push_corpus import push_corpus

    cache_dir.mkdir(parents=True, exist_ok=True)
    corpus = prepare_corpus(source, cache_dir, min_count, lowercase=lowercase)
    about = f"{Path(source).name}, words seen {min_count} times or more."
    pushed = push_corpus(
        corpus, repo_id, about=about, license=license, private=private or None, revision=revision, tag=tag
    )
    _report(pushed)


def _report(pushed: "Pushed") -> None:
    said = "pushed" if pushed.changed else "already up to date"
    print(f"{said}: {pushed.url}{' (private)' if pushed.private else ''}")
