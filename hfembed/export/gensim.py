"""Word vectors -> the files of gensim and of word2vec."""

import tempfile
from pathlib import Path

from hfembed.atomic import atomic_write
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_word2vec
from hfembed.errors import InputError, input_errors
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.word2vec_format import write_word2vec_format


def export_word2vec_format(
    model: Word2VecModel,
    path: str | Path,
    binary: bool = False,
    header: bool = True,
    counts_file: str | Path | None = None,
) -> None:
    """Write word vectors in word2vec's format, as gensim's `save_word2vec_format` does.

    Raises:
        InputError: Words that the format cannot hold, or no counts.
        OSError: A file cannot be written; an earlier one is left as it was.
    """
    vocabulary = model.require_vocabulary()
    if counts_file is not None and vocabulary.counts is None:
        raise InputError("the model has no word counts to write")
    with input_errors(), atomic_write(path) as temporary:
        write_word2vec_format(temporary, vocabulary.words, model.numpy_vectors(), binary=binary, header=header)
    if counts_file is not None:
        with atomic_write(counts_file) as temporary:
            counted = zip(vocabulary.words, vocabulary.known_counts().tolist(), strict=True)
            temporary.write_text("".join(f"{word} {count}\n" for word, count in counted), encoding="utf-8")


def export_gensim_model(checkpoint: str | Path | Checkpoint, path: str | Path) -> str:
    """Write a gensim `Word2Vec` that continues training, or `KeyedVectors` where output rows or counts are lacking.

    Returns:
        What was written: "Word2Vec" or "KeyedVectors".

    Raises:
        InputError: The checkpoint has no word vectors.
        OSError: A file cannot be written.
    """
    model = load_word2vec(checkpoint, "cpu")
    kind, saved = "KeyedVectors", None
    if model.config.quantized_parts is None and model.require_vocabulary().counts is not None:
        whole, report = Word2VecForPreTraining.from_pretrained(
            Checkpoint.resolve(checkpoint).folder, output_loading_info=True
        )
        if not report["missing_keys"]:  # the output rows
            kind, saved = "Word2Vec", whole.to_gensim()
    if saved is None:
        saved = model.to_keyed_vectors()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        saved.save(str(Path(folder) / path.name))
        # the file that names the others comes last
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)
    return kind
