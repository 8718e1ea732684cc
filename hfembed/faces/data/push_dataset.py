"""Prepared data -> a dataset repository on the Hub: Parquet with a card, in one commit; and word ids back again."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData
from PIL import Image

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card_data import render
from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.face_sources import LANDMARKS_FEATURE
from hfembed.hub.commit import Pushed, commit_files, full_name
from hfembed.hub.download import download_files
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.words.data.corpora import EncodedCorpus, write_arrays
from hfembed.words.data.vocabulary import Vocabulary

SHARD_BYTES = 500 << 20
CORPUS_FILE = "corpus.json"
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """A configuration of a dataset repository.

    Attributes:
        data: Its rows.
        split: What the split is called.
        about: What a row is, for the card.
    """

    data: datasets.Dataset
    split: str = "train"
    about: str = ""


def push_dataset(
    parts: Mapping[str, Part],
    repo_id: str,
    *,
    title: str,
    about: str,
    tags: Sequence[str] = (),
    task: str | None = None,
    license: str | None = None,
    extra_files: Mapping[str, Path | bytes] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Write Parquet and a card, and commit them at once; the same data again makes no commit.

    Photos go along as they are, byte for byte. Readers need `datasets` alone, streaming or not.

    Args:
        parts: Configuration -> rows; the first is what `load_dataset(repo_id)` gives.
        repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
        title: Of the card.
        about: What it is and where it comes from, for the card.
        tags: To find it by.
        task: The Hub's name of a task it is for.
        license: The Hub's name of its licence; "other" where it is not given.
        extra_files: Path in the repository -> what else goes there.
        private: Make a new repository private. An existing public one is then refused.
        revision: The branch, made where it does not exist; None means main.
        tag: Also give the commit this tag.
        token: Instead of this machine's.

    Returns:
        Where the data is now.

    Raises:
        InputError: A part has no rows, a photo cannot be read, or the Hub refuses: token, rights, name, tag.
        HubUnavailableError: The Hub cannot be reached, or fails again and again.
        OSError: The disk is full: the Parquet files are written here first.
    """
    repo_id = full_name(repo_id, token)
    for name, part in parts.items():
        if not len(part.data):
            raise InputError(f"{name} has no rows: nothing to push to {repo_id}")
    with tempfile.TemporaryDirectory(prefix="hfembed-push-") as scratch:
        files: dict[str, Path | bytes] = dict(extra_files or {})
        for name, part in parts.items():
            for shard in _write_shards(part, Path(scratch) / name):
                files[f"{name}/{shard.name}"] = shard
        files["README.md"] = _card(parts, repo_id, title, about, tags, task, license).encode()
        return commit_files(
            files,
            repo_id,
            message="Upload data",
            repo_type="dataset",
            private=private,
            revision=revision,
            tag=tag,
            token=token,
            is_stale=lambda path: path.endswith(".parquet"),
        )


def crop_faces(faces: datasets.Dataset, size: int, num_workers: int = 0) -> datasets.Dataset:
    """Photos -> crops on the standard template, lossless, with the template's points for landmarks.

    Args:
        faces: `image`, `label`, `file`, `landmarks`, as of `load_faces`; photos without landmarks give centre crops.
        size: Height and width of the crops.
        num_workers: Processes that decode and align.

    Returns:
        The same columns; photos that cannot be read are left out.

    Raises:
        InputError: No photo can be used.
    """
    crops = AlignedFaces(faces, FaceImageProcessor(size=[size, size]), num_workers=num_workers)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": faces.features["label"],
            "file": datasets.Value("string"),
            "landmarks": LANDMARKS_FEATURE,
        }
    )
    return datasets.Dataset.from_generator(_crop_rows, gen_kwargs={"crops": crops, "size": size}, features=features)


def _crop_rows(crops: AlignedFaces, size: int) -> Iterator[dict[str, object]]:
    landmarks = np.asarray(template_for_size(size, size)).tolist()
    for row, file in enumerate(crops.files):
        pixels = crops[0, row]["pixels"].numpy().transpose(1, 2, 0).squeeze()
        label = int(crops.labels[row])
        yield {"image": Image.fromarray(pixels), "label": label, "file": file, "landmarks": landmarks}


def push_corpus(corpus: EncodedCorpus, repo_id: str, *, about: str, **options: str | bool | None) -> Pushed:
    """Push a corpus as ids, a sentence a row, with its vocabulary as a tokenizer and the words' counts.

    Args:
        corpus: From `prepare_corpus`.
        repo_id: As of `push_dataset`.
        about: What text it is and where it comes from, for the card.
        **options: license, private, revision, tag, token, as of `push_dataset`.

    Returns:
        Where the data is now.

    Raises:
        InputError: As `push_dataset`.
        HubUnavailableError: As `push_dataset`.
        OSError: As `push_dataset`.
    """
    sentences = datasets.Dataset.from_generator(
        _sentences,
        gen_kwargs={"corpus": corpus},
        features=datasets.Features({"ids": datasets.List(datasets.Value("int32"))}),
    )
    notes = {"num_raw_words": corpus.num_raw_words, "num_words": corpus.num_words, "fingerprint": corpus.fingerprint}
    # the words as they lie there: written again, safetensors would order its metadata anew
    files: dict[str, Path | bytes] = {
        path.name: path
        for path in corpus.folder.iterdir()
        if path.suffix in (".json", ".safetensors") and path.name != CORPUS_FILE
    }
    files[CORPUS_FILE] = (json.dumps(notes, indent=2) + "\n").encode()
    return push_dataset(
        {"sentences": Part(sentences, about="A sentence: ids of its words in tokenizer.json, unknown ones left out.")},
        repo_id,
        title="A corpus as word ids",
        about=f"{about} {corpus.num_words:,} words of {len(corpus.vocabulary):,} kinds.",
        tags=["word2vec"],
        task="feature-extraction",
        extra_files=files,
        **options,
    )


def _sentences(corpus: EncodedCorpus) -> Iterator[dict[str, np.ndarray]]:
    start = 0
    for end in corpus.sentence_ends:
        yield {"ids": corpus.ids[start:end]}
        start = end


def load_corpus(
    repo_id: str, folder: str | Path, *, revision: str | None = None, token: str | None = None
) -> EncodedCorpus:
    """Fetch a corpus that `push_corpus` pushed.

    Args:
        repo_id: "owner/name".
        folder: Folder under which its ids are kept; what is there already is taken.
        revision: Branch, tag or commit; None means main.
        token: Instead of this machine's.

    Returns:
        The corpus, equal to the one that was pushed.

    Raises:
        InputError: There is no such data, or it is no corpus of ids.
        HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        OSError: The disk is full.
    """
    source = download_files(
        repo_id, ("*.json", "*.safetensors", "*.parquet"), repo_type="dataset", revision=revision, token=token
    )
    if not (source / CORPUS_FILE).is_file():
        raise InputError(f"{repo_id} is no corpus of word ids: there is no {CORPUS_FILE} in it")
    notes = json.loads((source / CORPUS_FILE).read_text(encoding="utf-8"))
    target = Path(folder) / f"{notes['fingerprint']}-{source.name}"
    if not target.is_dir():
        shards = sorted((source / "sentences").glob("*.parquet"))
        columns = [
            batch.column("ids") for shard in shards for batch in pq.ParquetFile(shard).iter_batches(columns=["ids"])
        ]
        with atomic_folder(target) as unfinished:
            ids = np.concatenate([column.flatten().to_numpy() for column in columns])
            lengths = np.concatenate([np.diff(column.offsets.to_numpy()) for column in columns])
            write_arrays(unfinished, ids, np.cumsum(lengths))
            Vocabulary.load(source).save(unfinished)
    return EncodedCorpus(target, notes["fingerprint"], notes["num_raw_words"])


def _write_shards(part: Part, folder: Path) -> list[Path]:
    """Parquet files with the photos inside, none much larger than `SHARD_BYTES`."""
    folder.mkdir(parents=True)
    schema = part.data.features.arrow_schema
    shards: list[Path] = []
    writer = None
    try:
        for table in part.data.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
            if writer is None:
                shards.append(folder / f"{len(shards):05d}.parquet")
                writer = pq.ParquetWriter(shards[-1], schema)
            writer.write_table(embed_table_storage(table.cast(schema)))
            if shards[-1].stat().st_size >= SHARD_BYTES:
                writer.close()
                writer = None
    except FileNotFoundError as error:
        raise InputError(f"a photo is gone: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return [
        shard.rename(folder / f"{part.split}-{number:05d}-of-{len(shards):05d}.parquet")
        for number, shard in enumerate(shards)
    ]


def _card(
    parts: Mapping[str, Part],
    repo_id: str,
    title: str,
    about: str,
    tags: Sequence[str],
    task: str | None,
    license: str | None,
) -> str:
    first = next(iter(parts))
    data = DatasetCardData(
        license=license or "other",
        **({} if license else {"license_name": "as-its-source", "license_link": "#where-it-comes-from"}),
        pretty_name=title,
        task_categories=[task] if task else None,
        tags=["hfembed", *tags],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": part.split, "path": f"{name}/{part.split}-*.parquet"}],
                **({"default": True} if name == first else {}),
            }
            for name, part in parts.items()
        ],
    )
    tables = [
        {
            "name": name,
            "split": part.split,
            "about": part.about,
            "rows": f"{len(part.data):,}",
            "columns": {column: _type(feature) for column, feature in part.data.features.items()},
        }
        for name, part in parts.items()
    ]
    faces = any(
        isinstance(feature, datasets.Image) for part in parts.values() for feature in part.data.features.values()
    )
    return render(
        "dataset.md.jinja", data.to_yaml(), repo_id=repo_id, title=title, about=about, tables=tables, faces=faces
    )


def _type(feature: object) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"a number for each of {feature.num_classes:,} names"
    if isinstance(feature, datasets.Image):
        return "a photo"
    if isinstance(feature, datasets.Value):
        return feature.dtype
    return "a list"
