"""One value for "which model is meant": its name as the user said it, its folder, and its notes."""

import functools
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from hfembed.checkpoint.files import (
    CONFIG_FILE,
    DETECTOR_FOLDER,
    INDEX_FILE,
    PEOPLE_FILE,
    PROCESSOR_FILE,
    RESULTS_FILE,
    STATISTICS_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    WORD_FILES,
)
from hfembed.checkpoint.fingerprint import file_metadata, fingerprint_weights, refuse_pickles
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.checkpoint.people_file import read_people
from hfembed.checkpoint.saving import finish_save
from hfembed.checkpoint.validation import check_checkpoint, parse_config
from hfembed.errors import InputError
from hfembed.hub.commit import Pushed
from hfembed.hub.download import download_files

logger = logging.getLogger(__name__)

# what a loader reads; everything else in a repository stays there
_DOWNLOADED = (
    CONFIG_FILE, PROCESSOR_FILE, TRAINING_FILE, RESULTS_FILE, STATISTICS_FILE, WEIGHTS_FILE, INDEX_FILE, PEOPLE_FILE,
    "model-*.safetensors", *WORD_FILES,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A model's checkpoint, local or from the Hub.

    Notes that belong to other weights are not returned: a line says which were ignored. Notes of older versions of
    hfembed carry no fingerprint and are taken.

    Attributes:
        name: What the user said: a folder, "owner/name" or "owner/name@revision".
        folder: Where its files lie: the folder itself, or the commit's snapshot in the Hub's cache.
        revision: The commit on the Hub; None for a local folder.
    """

    name: str
    folder: Path
    revision: str | None = None

    @classmethod
    def resolve(
        cls,
        name: "str | Path | Checkpoint",
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
    ) -> "Checkpoint":
        """Find a checkpoint, and fetch it from the Hub where it is not a folder.

        Everything comes from one commit, and every file is compared with the hash that the Hub has for it. Without a
        network, or with HF_HUB_OFFLINE, what was fetched before is taken.

        Args:
            name: A folder, "owner/name", "owner/name@revision", or a checkpoint that is resolved already.
            revision: Branch, tag or commit; None means main.
            token: Instead of this machine's.
            cache_dir: Instead of the Hub's cache under HF_HOME.
            subfolder: Where in the repository or folder the model is.
            local_files_only: Do not contact the Hub.

        Raises:
            InputError: There is no such folder, repository or revision, no right to read it, a file is not what was
                pushed, or a folder is to have a revision.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
            OSError: The disk is full.
        """
        if isinstance(name, Checkpoint):
            return name
        if Path(name).is_dir():
            if revision:
                raise InputError(f"{name} is a folder; a revision ({revision}) applies to Hub repositories only")
            folder = _inside(Path(name), subfolder, str(name))
            finish_save(folder)
            return cls(str(name), folder)
        repo_id, _, named = str(name).partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise InputError(f"{name}: no such folder, and not a valid repo id; expected 'owner/name'")
        if revision and named and revision != named:
            raise InputError(f"{name} names the revision {named}, and revision={revision!r} another; give one of them")
        snapshot = download_files(
            repo_id,
            [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in _with_detector(_DOWNLOADED)],
            revision=revision or named or None,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            check_names=lambda files: refuse_pickles(files, repo_id),
        )
        said = f"{repo_id}@{revision}" if revision else str(name)
        return cls(said, _inside(snapshot, subfolder, repo_id), snapshot.name)

    def __str__(self) -> str:
        return self.name

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def is_local(self) -> bool:
        """Whether the checkpoint is a folder of the user's own, which may be written to."""
        return self.revision is None

    @property
    def fingerprint(self) -> str:
        """The sha256 of the weights, whatever their files are called.

        Raises:
            InputError: There are no weights, or they are damaged.
        """
        return fingerprint_weights(self.folder, self.name)

    @property
    def config(self) -> dict[str, Any]:
        """The contents of config.json.

        Raises:
            InputError: It is missing or damaged.
        """
        return read_json(self.folder / CONFIG_FILE, self.name)

    @property
    def training(self) -> dict[str, Any]:
        """The contents of training.json; empty where there is none, or that of other weights.

        Raises:
            InputError: It is damaged.
        """
        notes = self._read(TRAINING_FILE)
        return notes if self.matches(notes, TRAINING_FILE) else {}

    @property
    def people(self) -> list[str]:
        """Names of the people that a face embedder was trained on, by label; empty where they are not known.

        From people.txt, where there are too many for config.json; it is read only here.

        Raises:
            InputError: config.json or people.txt is missing or damaged.
        """
        config = self.config
        if config.get("num_people"):
            return read_people(self.folder / PEOPLE_FILE, self.name, config["num_people"])
        return list((config.get("id2label") or {}).values())

    @property
    def split(self) -> dict[str, Any]:
        """Who was held out of the training: `held_out_share` and `seed`; empty where training.json does not say.

        Raises:
            InputError: training.json is damaged.
        """
        split = self.training.get("split", {})
        if not isinstance(split, dict):
            raise InputError(f"{self.name}: 'split' in {TRAINING_FILE} is not a JSON object; remove or restore it")
        return split

    @property
    def results(self) -> dict[str, Any]:
        """The contents of results.json without the evaluations of other weights; empty where there is none.

        Raises:
            InputError: It is damaged.
        """
        results = self._read(RESULTS_FILE)
        for evaluation in [key for key, details in results.items() if isinstance(details, dict)]:
            if not self.matches(results[evaluation], f"'{evaluation}' in {RESULTS_FILE}"):
                results = without_evaluation(results, evaluation)
        return results

    @property
    def thresholds(self) -> dict[str, Any] | None:
        """The thresholds on the cosine in config.json; None where there are none, or those of other weights.

        Raises:
            InputError: config.json is missing or damaged.
        """
        thresholds = self.config.get("thresholds")
        return thresholds if thresholds and self.matches(thresholds, f"'thresholds' in {CONFIG_FILE}") else None

    @property
    def latent_statistics(self) -> Path | None:
        """The file with the latents' statistics; None where there is none, or that of other weights.

        Raises:
            InputError: It is damaged.
        """
        path = self.folder / STATISTICS_FILE
        return path if path.is_file() and self.matches(file_metadata(path, self.name), STATISTICS_FILE) else None

    @property
    def detector(self) -> "Checkpoint | None":
        """The face detector beside a face embedder."""
        folder = self.folder / DETECTOR_FOLDER
        return Checkpoint(f"{self.name}/{DETECTOR_FOLDER}", folder, self.revision) if folder.is_dir() else None

    def write_note(self, file: str, content: dict[str, Any]) -> Path:
        """Write a JSON file beside the weights, with their fingerprint under "weights".

        Args:
            file: Its name, such as "training.json".
            content: What it says.

        Returns:
            The file.

        Raises:
            InputError: The checkpoint is on the Hub, has no weights, or a number is not finite.
            OSError: The file cannot be written; an earlier one is left as it was.
        """
        self.check_writable()
        write_json(self.folder / file, {**content, "weights": self.fingerprint})
        return self.folder / file

    def store_thresholds(self, thresholds: dict[str, Any], **fields: Any) -> None:
        """Put thresholds into config.json, with the weights' fingerprint.

        Args:
            thresholds: As in `FaceEmbedderConfig`.
            **fields: Other fields of the config that they were measured with: `mirror`.

        Raises:
            InputError: The checkpoint is on the Hub, damaged, or has no thresholds of this form.
            OSError: The file cannot be written; the earlier one is left as it was.
        """
        self.check_writable()
        config = {**self.config, **fields, "thresholds": {**thresholds, "weights": self.fingerprint}}
        parse_config(config, self.name)
        write_json(self.folder / CONFIG_FILE, config)

    def check_writable(self) -> None:
        """Refuse to write beside a checkpoint on the Hub; to be called before any work is done.

        Raises:
            InputError: It is on the Hub.
        """
        if not self.is_local:
            repo_id = self.name.partition("@")[0]
            raise InputError(
                f"{self.name} is on the Hub, and only a local folder can be written to: fetch it with "
                f"`hf download {repo_id} --local-dir FOLDER`, then name FOLDER"
            )

    def matches(self, note: dict[str, Any], what: str) -> bool:
        """Whether a note belongs to these weights; a line says so where it does not.

        Args:
            note: Carries the fingerprint of its weights under "weights"; notes of older versions do not.
            what: What to call it in that line.
        """
        stamp = note.get("weights")
        if not isinstance(stamp, str) or not self.has_weights or stamp == self.fingerprint:
            return True
        _warn_once(f"{self.name}: ignored {what}, which belongs to other weights; measure or train again")
        return False

    def validate(self) -> PreTrainedConfig:
        """Check that the checkpoint is complete: config, every weight, processor or words, nothing pickled.

        Returns:
            The model's config.

        Raises:
            InputError: Something is missing, damaged, not finite, or of another shape than the config says.
        """
        return check_checkpoint(self.folder)

    def push(self, repo_id: str, **options: Any) -> Pushed:
        """Share the checkpoint on the Hub; the options are those of `push_folder`.

        Raises:
            InputError: The checkpoint is incomplete or damaged, or the Hub refuses it.
            HubUnavailableError: The Hub cannot be reached; push later.
        """
        from hfembed.checkpoint.push import push_folder

        return push_folder(self.folder, repo_id, **options)

    @property
    def has_weights(self) -> bool:
        """Whether there are files of weights."""
        # the notes of published models are kept without their weights in model_cards/
        return (self.folder / WEIGHTS_FILE).is_file() or (self.folder / INDEX_FILE).is_file()

    def _read(self, file: str) -> dict[str, Any]:
        path = self.folder / file
        return read_json(path, self.name) if path.exists() else {}


def without_evaluation(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The contents of results.json without one evaluation: its details under `name`, and its figures."""
    return {key: value for key, value in results.items() if key != name and not belongs_to(results, name, key)}


def belongs_to(results: dict[str, Any], name: str, key: str) -> bool:
    """Whether a key of results.json is a figure of an evaluation, and not of one with a longer name that is there."""
    details = results.get(name)
    if isinstance(details, dict) and key in details.get("figures", ()):
        return True
    longer = (other for other, about in results.items() if isinstance(about, dict) and other.startswith(f"{name}_"))
    return key.startswith(f"{name}_") and not any(key == other or key.startswith(f"{other}_") for other in longer)


@functools.lru_cache(maxsize=1024)
def _warn_once(line: str) -> None:
    logger.warning(line)


def _with_detector(patterns: tuple[str, ...]) -> list[str]:
    return [*patterns, *(f"{DETECTOR_FOLDER}/{pattern}" for pattern in patterns)]


def _inside(folder: Path, subfolder: str, name: str) -> Path:
    if not (folder / subfolder).is_dir() or ".." in Path(subfolder).parts:
        raise InputError(f"{name} has no folder {subfolder}" if subfolder else f"{name} holds no model")
    return folder / subfolder
