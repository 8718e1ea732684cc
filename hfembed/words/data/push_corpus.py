"""A corpus as word ids -> a dataset repository on the Hub, and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.dataset_card import dataset_card
from hfembed.errors import InputError
from hfembed.hub.commit import Pushed
from hfembed.hub.dataset import Part, push_dataset
from hfembed.hub.download import download_files
from hfembed.words.data.corpora import EncodedCorpus
from hfembed.words.data.encoded_blocks import write_arrays
from hfembed.words.data.vocabulary import Vocabulary

CORPUS_FILE = "corpus.json"


def push_corpus(
    corpus: EncodedCorpus,
    repo_id: str,
    *,
    about: str,
    license: str | None = None,
    **options: Any,
) -> Pushed:
    """Push a corpus as ids, one row per sentence, with its vocabulary as a tokenizer and the words' counts.

    Args:
        corpus: From `prepare_corpus`.
        repo_id: "owner/name", or "name" for one of the token's owner.
        about: What text it is and where it comes from, for the card.
        license: The Hub's name of its license; "other" where it is not given.
        **options: private, revision, tag, token and overwrite_card of `hfembed.hub.dataset.push_dataset`.

    Returns:
        Where the data is now.
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
    parts = {
        "sentences": Part(sentences, about="A sentence: ids of its words in tokenizer.json, unknown ones left out.")
    }
    card = dataset_card(
        parts,
        title="A corpus as word ids",
        about=f"{about} {corpus.num_words:,} words, {len(corpus.vocabulary):,} of them distinct.",
        tags=["word2vec"],
        task="feature-extraction",
        license=license,
    )
    return push_dataset(parts, repo_id, card, extra_files=files, **options)


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
