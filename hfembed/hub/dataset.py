"""Data sets: load untrusted ones (they may name their own files only), and push (Parquet, in one commit)."""

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets.utils.file_utils import hash_url_to_filename, is_local_path, xopen
from huggingface_hub import constants
from PIL import Image

from hfembed.errors import InputError, first_line
from hfembed.hub.card_marker import mark
from hfembed.hub.commit import Pushed, commit_files, full_name
from hfembed.hub.download import download_files
from hfembed.models.image_opening import MAX_FILE_BYTES
from hfembed.photos import open_photo, utf8_name

SHARD_BYTES = 500 << 20
_ROWS_AT_ONCE = 256
_STORED_IMAGE = datasets.Image(decode=False)


@dataclass(eq=False)
class PhotoFeature(datasets.Image):
    """An image column whose rows decode with `open_photo`: its formats and its bound of pixels, upright, gray or RGB.

    `datasets.Image` itself takes every format that Pillow knows, some of which start other programs.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Image) and (self.mode, self.decode) == (other.mode, other.decode)

    def decode_example(self, value: Any, token_per_repo_id: dict[str, Any] | None = None) -> Image.Image:
        """Decode a stored image; see `hfembed.photos.open_photo`."""
        if not self.decode:
            raise RuntimeError("this column is not to be decoded")
        path = value["path"] if isinstance(value, dict) and value["bytes"] is None else None
        if path is not None and not is_local_path(path):  # streamed from the Hub
            with xopen(path, "rb") as file:
                value = {"bytes": file.read(MAX_FILE_BYTES + 1), "path": path}
        return open_photo(value, mode=None)


@dataclass(frozen=True)
class Part:
    """A configuration of a dataset repository.

    Attributes:
        data: Its rows.
        split: The name of the split.
        about: What a row is, for the card.
    """

    data: datasets.Dataset
    split: str = "train"
    about: str = ""


class OwnFiles:
    """The files that rows of a data set may name: those beside it, never other local files, never URLs.

    Args:
        source: A folder, a file, a pattern of files, or a Hub repository's id.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        path = Path(source)
        self.is_local = path.exists() or glob.has_magic(source)
        if self.is_local:
            while glob.has_magic(str(path)) or not path.is_dir():
                path = path.parent
            self.folder = path
            self.own_url = None
        else:
            self.folder = Path(constants.HF_HUB_CACHE, f"datasets--{source.replace('/', '--')}")
            # of what is read through another protocol, archives of this repository alone
            inside = r"((zip|tar|gzip|bz2|xz|zstd)://[^:]*::)*"
            self.own_url = re.compile(rf"{inside}hf://datasets/{re.escape(source)}@((?!::).)*")

    def resolve(self, path: str) -> str:
        """The absolute path of a file that a row names.

        Raises:
            InputError: It is outside of the data set, or a URL of something else.
        """
        if self.own_url is not None and self.own_url.fullmatch(path):
            return path
        if "://" not in path and "::" not in path:
            for root in map(os.path.realpath, [str(self.folder), *self._unpacked]):
                found = os.path.realpath(os.path.join(root, path))
                if found.startswith(root.rstrip(os.sep) + os.sep):
                    return found
        raise InputError(
            f'"{self.source}": a row names the file {utf8_name(path)!r}, which is not part of the data set; '
            "only images inside its rows and files beside it are read"
        )

    @cached_property
    def _unpacked(self) -> list[str]:
        """Where `datasets` unpacks this repository's archives: beside those of others."""
        files = () if self.is_local else self.folder.glob("snapshots/**/*")
        names = [hash_url_to_filename(os.path.abspath(file)) for file in files if file.is_file()]
        unpacked = [os.path.join(datasets.config.EXTRACTED_DATASETS_PATH, name) for name in names]
        return [path for path in unpacked if os.path.exists(path)]

    def images(self, table: datasets.Dataset, names: Sequence[str] = ()) -> datasets.Dataset:
        """Check the image columns of a table.

        Args:
            table: The rows of the source, unchanged.
            names: Columns that are images even where they are stored as text (paths) or bytes.

        Returns:
            The table, its image columns of type `datasets.Image` and with absolute paths.

        Raises:
            InputError: A row names a file that is not part of the data set.
        """
        for name, feature in table.features.items():
            is_image = isinstance(feature, datasets.Image)
            is_stored = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
            if name in names and isinstance(feature, datasets.Value):
                is_stored = feature.dtype in ("string", "large_string", "binary", "large_binary")
            if is_image or is_stored:
                table = self._checked(table.cast_column(name, _STORED_IMAGE), name)
                table = table.cast_column(name, PhotoFeature())
        return table

    def _checked(self, table: datasets.Dataset, name: str) -> datasets.Dataset:
        column = table.with_format("arrow").select_columns(name)[:][name]
        without_bytes = pc.fill_null(pc.is_null(pc.struct_field(column, "bytes")), True)
        named = pc.struct_field(column, "path").filter(without_bytes).drop_null().to_pylist()
        resolved = {path: self.resolve(path) for path in set(named)}
        if all(path == found for path, found in resolved.items()):
            return table
        rows = [
            {"bytes": row["bytes"], "path": row["path"] if row["bytes"] is not None else resolved.get(row["path"])}
            for row in column.to_pylist()
        ]
        order = table.column_names
        return table.remove_columns(name).add_column(name, rows, feature=_STORED_IMAGE).select_columns(order)


def check_dataset_card(source: str, revision: str | None = None, token: str | None = None) -> str | None:
    """Refuse a data set whose card (or .huggingface.yaml) says that its data is elsewhere.

    `datasets` follows `data_files` of a card to any local path or URL.

    Args:
        source: A folder or a Hub repository's id.
        revision: Branch, tag or commit.
        token: Instead of this machine's.

    Returns:
        The commit of a repository, to be read instead of what may be pushed meanwhile; `None` for a folder.

    Raises:
        InputError: The card names files that are not part of the data set, or cannot be read.
    """
    cards = ("README.md", ".huggingface.yaml")
    folder, commit = Path(source), None
    if not folder.is_dir():
        folder = download_files(source, cards, repo_type="dataset", revision=revision, token=token)
        commit = folder.name
    for file in (folder / name for name in cards):
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".md":
                found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
                text = found[1] if found else ""
            notes = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"{source}: {file.name} cannot be read: {first_line(error)}") from error
        if isinstance(notes, dict):
            for place in _texts([notes.get("configs"), notes.get("data_files"), notes.get("data_dir")]):
                if "://" in place or "::" in place or os.path.isabs(place) or ".." in re.split(r"[\\/]", place):
                    raise InputError(f"{source}: {file.name} names the file {place!r}, which is not part of the data")
    return commit


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def push_dataset(
    parts: Mapping[str, Part],
    repo_id: str,
    card: Callable[[str], str],
    *,
    extra_files: Mapping[str, Path | bytes] | None = None,
    private: bool | None = None,
    private_if_new: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    overwrite_card: bool = False,
) -> Pushed:
    """Write Parquet and a card, and commit them at once; the same data again makes no commit.

    Photos are pushed byte for byte, after each was decoded: what is not an image is never published. Readers need
    `datasets` alone, streaming or not.

    Args:
        parts: Configuration -> rows; the first is what `load_dataset(repo_id)` gives.
        repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
        card: Full repository id -> the text of its README.md.
        extra_files: Path in the repository -> what else belongs there.
        private: Make a new repository private. An existing public one is then refused.
        private_if_new: Make a new repository private unless `private` says otherwise.
        revision: The branch, made where it does not exist; None means main.
        tag: Also give the commit this tag.
        token: Instead of this machine's.
        overwrite_card: Replace a card that was edited on the Hub; it is kept otherwise.

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
        files["README.md"] = mark(card(repo_id), "generated").encode()
        return commit_files(
            files,
            repo_id,
            message="Upload data",
            repo_type="dataset",
            private=private,
            private_if_new=private_if_new,
            revision=revision,
            tag=tag,
            token=token,
            is_stale=lambda path: path.endswith(".parquet"),
            overwrite_card=overwrite_card,
        )


def _write_shards(part: Part, folder: Path) -> list[Path]:
    """Parquet files with the photos inside, none much larger than `SHARD_BYTES`."""
    folder.mkdir(parents=True)
    schema = part.data.features.arrow_schema
    images = [name for name, feature in part.data.features.items() if isinstance(feature, datasets.Image)]
    shards: list[Path] = []
    writer = None
    try:
        for table in part.data.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
            if writer is None:
                shards.append(folder / f"{len(shards):05d}.parquet")
                writer = pq.ParquetWriter(shards[-1], schema)
            table = table.cast(schema)
            for name in images:
                stored = [_decodable(image) for image in table[name].to_pylist()]
                place = table.column_names.index(name)
                table = table.set_column(place, schema.field(name), pa.array(stored, schema.field(name).type))
            writer.write_table(table)
            if shards[-1].stat().st_size >= SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    return [
        shard.rename(folder / f"{part.split}-{number:05d}-of-{len(shards):05d}.parquet")
        for number, shard in enumerate(shards)
    ]


def _decodable(image: dict[str, Any] | None) -> dict[str, Any] | None:
    """A stored image with its bytes inside and no folder in its name, once it has been decoded."""
    if image is None or (image["bytes"] is None and image["path"] is None):
        return None
    open_photo(image)
    encoded = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
    return {"bytes": encoded, "path": None if image["path"] is None else os.path.basename(image["path"])}
