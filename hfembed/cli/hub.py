"""Commands that share checkpoints and data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hfembed.atomic import check_output_folder, check_writable
from hfembed.cli.commands import Answer, Commands, OptionGroup, Token, lazy_imports
from hfembed.errors import counted

with lazy_imports():
    from hfembed.checkpoint import card as model_card
    from hfembed.checkpoint import push as checkpoint_push
    from hfembed.faces.data import face_shards, faces, lfw, push_dataset
    from hfembed.hub import dataset
    from hfembed.words.data import corpora
    from hfembed.words.data import push_corpus as corpus_push
if TYPE_CHECKING:
    from hfembed.hub.commit import Pushed

commands = Commands("Hub")
datasets = Commands(help="Share prepared data on the Hub: Parquet with a card, in one commit.")

Folder = Annotated[Path, typer.Argument(help="Checkpoint folder.")]
RepoId = Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub; created if it does not exist.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
PrivateByDefault = Annotated[
    bool | None,
    typer.Option("--private/--public", help="Visibility of a new repository; default: private, as it shows people."),
]
Landmarks = Annotated[Path | None, typer.Option(help="JSON: file -> five points.")]


@dataclass(frozen=True)
class Version(OptionGroup):
    """Which version of a repository a push makes."""

    revision: Annotated[str | None, typer.Option(help="Branch to push to; default: main.")] = None
    token: Token = None
    tag: Annotated[str | None, typer.Option(help="Also give this version a tag, such as v1.0.")] = None
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a card that was edited on the Hub.")
    ] = False


@dataclass(frozen=True)
class DataVersion(Version):
    """The same of a data set, and its license."""

    license: Annotated[
        str | None, typer.Option(help="The license's name on the Hub; default: other, as its source.")
    ] = None


@commands.command("card")
def card(folder: Folder) -> Answer:
    """Write the model card (README.md) of a checkpoint folder again, from its results.json and training.json."""
    if folder.is_dir():  # otherwise write_card says what is missing
        check_writable(folder / "README.md")
    return Answer.written(model_card.write_card(folder))


@commands.command("push")
def push(
    folder: Folder,
    repo_id: RepoId,
    version: Version,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility of a new repository; default: private for models trained on photos of people.",
        ),
    ] = None,
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "Upload model",
) -> Answer:
    """Share a model on the Hub, in one commit; none if nothing has changed."""
    pushed = checkpoint_push.push_folder(
        folder,
        repo_id,
        private=private,
        commit_message=message,
        **vars(version),
    )
    return _answer(pushed)


@commands.command("convert-dataset")
def convert_dataset(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Photos of people: folder, archive, RecordIO, Parquet, tars, Hub id.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder for the shards and manifest.json.")],
    to: Annotated[Literal["parquet", "webdataset"], typer.Option(help="The format of the shards.")],
    split: Annotated[str | None, typer.Option(help="Which split of a Hub repository or folder of Parquet.")] = None,
    landmarks: Landmarks = None,
    aligned: Annotated[
        Literal["arcface_112"] | None, typer.Option(help="The photos are crops on the standard 112 x 112 template.")
    ] = None,
    min_photos: Annotated[int, typer.Option(min=1, help="Leave out people with fewer photos.")] = 1,
    shard_photos: Annotated[int, typer.Option(min=1, help="Photos per shard.")] = 10_000,
    by_person: Annotated[
        bool,
        typer.Option("--by-person", help="Shuffle people, not photos: a stream can then take several of each person."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of photos, shuffled once.")] = 0,
) -> Answer:
    """Copy photos of people, byte for byte, into shuffled shards; the same command continues what was killed."""
    check_output_folder(destination)
    chosen = faces.FaceSource(source, split=split, landmarks=landmarks, aligned=aligned, min_photos=min_photos)
    photos = faces.load_faces(chosen)
    manifest = face_shards.write_shards(
        photos, destination, to, shard_photos=shard_photos, by_person=by_person, seed=seed
    )
    shards = len(manifest["shards"])
    text = (
        f"{manifest['photos']:,} photos of {manifest['people']:,} people in {counted(shards, 'shard')}; "
        f"written to {destination}"
    )
    return Answer.written(destination, text, photos=manifest["photos"], people=manifest["people"])


@datasets.command("faces")
def push_faces(
    source: Annotated[
        str, typer.Argument(help="Folder with one directory per person, its archive, Parquet, URL or Hub id.")
    ],
    repo_id: RepoId,
    version: DataVersion,
    landmarks: Landmarks = None,
    min_photos: Annotated[int, typer.Option(min=1, help="Leave out people with fewer photos.")] = 1,
    crop_size: Annotated[
        int | None, typer.Option(min=16, help="Push crops of this size on the standard template, not the photos.")
    ] = None,
    private: PrivateByDefault = None,
) -> Answer:
    """Push photos of people: image, label, file, landmarks."""
    photos = faces.load_faces(source, landmarks=landmarks, min_photos=min_photos, follow_links=False)
    people = photos.features["label"].num_classes
    if crop_size is not None:
        photos = push_dataset.crop_faces(photos, crop_size)
    what = f"Crops of {crop_size} x {crop_size} pixels on the standard template" if crop_size else "Photos unchanged"
    about = "A photo of a person, and where the face is in it."
    pushed = push_dataset.push_faces(
        {"identities": dataset.Part(photos, about=about)},
        repo_id,
        title="Faces of people",
        about=f"{what}, from {Path(source).name}: {len(photos):,} of {people:,} people.",
        private=private,
        **vars(version),
    )
    return _answer(pushed)


@datasets.command("lfw")
def push_lfw(
    images: Annotated[str, typer.Argument(help="LFW's archive (.tgz, .zip), folder, URL or Hub id.")],
    repo_id: RepoId,
    pairs: Annotated[Path, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    version: DataVersion,
    landmarks: Landmarks = None,
    private: PrivateByDefault = None,
) -> Answer:
    """Push LFW: identities, and the pairs with their folds."""
    identities = lfw.load_lfw(images, landmarks=landmarks, follow_links=False)
    chosen = lfw.read_pairs(pairs)
    rows = lfw.load_lfw(images, "pairs", pairs=chosen, follow_links=False)
    about = "A photo of a person, and where the face is in it."
    about_pairs = f"A pair of View {chosen.view}, and the fold it is tested in."
    pushed = push_dataset.push_faces(
        {
            "identities": dataset.Part(identities, about=about),
            "pairs": dataset.Part(rows, "test", about_pairs),
        },
        repo_id,
        title="Labeled Faces in the Wild",
        about=f"{Path(images).name} and {pairs.name}. Huang, Ramesh, Berg and Learned-Miller, 2007.",
        tags=["face-verification", "lfw"],
        private=private,
        **vars(version),
    )
    return _answer(pushed)


@datasets.command("corpus")
def push_corpus(
    source: Annotated[
        str, typer.Argument(help="Text file, folder of text files, or data set on the Hub; one sentence per line.")
    ],
    repo_id: RepoId,
    version: DataVersion,
    min_count: Annotated[int, typer.Option(min=1, help="Drop words that occur less often.")] = 5,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Fold the case.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder for the encoded corpus.")] = Path("outputs/corpora"),
    private: Private = False,
) -> Answer:
    """Push a text as word ids, with its vocabulary and counts."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    corpus = corpora.prepare_corpus(source, cache_dir, min_count, lowercase=lowercase)
    about = f"{Path(source).name}, words that occur {min_count} times or more."
    pushed = corpus_push.push_corpus(corpus, repo_id, about=about, private=private or None, **vars(version))
    return _answer(pushed)


def _answer(pushed: "Pushed") -> Answer:
    said = "pushed" if pushed.changed else "already up to date"
    record = {"url": pushed.url, "changed": pushed.changed, "private": pushed.private}
    return Answer(record, f"{said}: {pushed.url}{' (private)' if pushed.private else ''}")
