"""Tasks of MTEB (Muennighoff et al. 2023) with word vectors: texts as weighted means, measured by the package mteb."""

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError, first_line
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

_FITTED_ON = 10_000  # texts


def import_mteb() -> Any:
    """The package.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module("mteb")
    except ModuleNotFoundError as error:
        raise InputError(f"MTEB's tasks need {error.name}: pip install mteb") from None


class WordVectorEncoder:
    """Word vectors as an encoder of mteb (its `EncoderProtocol`).

    Args:
        model: The word vectors.
        weighting: As in `document_vectors`. The common component of "sif" and the document frequencies of "tf-idf" are
            those of the first texts of a task, at most 10,000, so that all its vectors lie in one space.
        name: What mteb calls the model, owner/name.
    """

    def __init__(self, model: Word2VecModel, weighting: str = "mean", name: str = "hfembed/words"):
        self.model = model
        self.weighting = weighting
        import_mteb()
        self.mteb_model_meta = importlib.import_module("mteb.models").ModelMeta.create_empty(
            {"name": name, "embed_dim": model.config.embedding_size, "modalities": ["text"]}
        )
        self._fitted_on: tuple[tuple[str, str], list[str]] | None = None

    def encode(
        self, inputs: Iterable[Any], *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> np.ndarray:
        """Vectors of the texts of all batches, float32 of shape (texts, dimensions)."""
        texts = [text for batch in inputs for text in batch["text"]]
        task = (task_metadata.name, hf_subset)
        if self._fitted_on is None or self._fitted_on[0] != task:
            self._fitted_on = (task, texts[:_FITTED_ON])
        fitted_on = None if self.weighting == "mean" else self._fitted_on[1]
        return self.model.document_vectors(texts, self.weighting, fitted_on).float().cpu().numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all to all, of shape (N, M)."""
        return importlib.import_module("mteb.similarity_functions").cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of pairs, of shape (N,)."""
        return importlib.import_module("mteb.similarity_functions").pairwise_cos_sim(embeddings1, embeddings2)


def find_tasks(names: Sequence[str], data: Path | None = None) -> list[Any]:
    """Tasks by name, to be read from a folder, the cache of `datasets` or the Hub.

    Args:
        names: As mteb has them, such as STS12.
        data: Folder with copies of the tasks' data sets, each as its repository is: owner/name or name.

    Raises:
        InputError: mteb is not installed, an unknown task, one of other things than texts, or no copy of its data.
    """
    mteb = import_mteb()
    tasks = []
    for name in names:
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            raise InputError(f"mteb has no such task: {first_line(error).removeprefix('KeyError: ')}") from None
        if task.metadata.modalities != ["text"]:
            raise InputError(f"the task {name} is not of texts but of {', '.join(task.metadata.modalities)}")
        if data is not None:
            path = task.metadata.dataset["path"]
            copy = next((folder for folder in (data / path, data / Path(path).name) if folder.is_dir()), None)
            if copy is None:
                raise InputError(f"{data} has no folder {path} with the data of {name}")
            task.metadata = task.metadata.model_copy(
                update={"dataset": {**task.metadata.dataset, "path": str(copy.resolve())}}
            )
        tasks.append(task)
    return tasks


def report_mteb(
    model: Word2VecModel, tasks: Sequence[Any], weighting: str, folder: str | Path, data: Path | None = None
) -> tuple[dict[str, float], str]:
    """Run tasks and write their main scores into the results.json of a folder; the figures, and one line per task.

    Args:
        model: Word vectors.
        tasks: From `find_tasks`, or objects of mteb's task classes.
        weighting: As in `document_vectors`.
        folder: Where results.json is, or will be.
        data: What `find_tasks` was given, for the record.

    Raises:
        InputError: mteb is not installed, the data of a task cannot be read, or weighting needs counts that are not
            there.
        OSError: results.json cannot be written.
    """
    mteb = import_mteb()
    if weighting == "sif":
        model.require_vocabulary().known_counts()
    encoder = WordVectorEncoder(model, weighting)
    figures, details, lines = {}, {}, []
    for task in tasks:
        try:
            task.load_data()
        except (OSError, ValueError) as error:
            dataset = task.metadata.dataset["path"]
            raise InputError(f"{task.metadata.name}: {dataset} cannot be read: {first_line(error)}") from None
        result = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, show_progress_bar=False)[0]
        metric, score = task.metadata.main_score, 100 * float(result.get_score())
        figures[f"mteb_{task.metadata.name}_{metric}"] = score
        details[task.metadata.name] = {
            "type": task.metadata.type,
            "metric": metric,
            "dataset": result.dataset_revision,
            "splits": sorted(result.scores),
        }
        lines.append(f"{task.metadata.name} ({task.metadata.type}): {metric} {score:.2f}")
    if len(lines) > 1:
        lines.append(f"mean of {len(lines)}: {sum(figures.values()) / len(figures):.2f}")
    record = provenance({"data": data})
    record["versions"]["mteb"] = mteb.__version__
    write_results(folder, "mteb", figures, {"tasks": details, "weighting": weighting, **record}, model)
    return figures, "\n".join(lines)
