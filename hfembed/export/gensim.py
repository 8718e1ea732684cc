"""Word vectors -> the files of gensim, word2vec and fastText."""

import tempfile
from pathlib import Path

from hfembed.atomic import atomic_write
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_word2vec, quiet_one_line
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


def export_fasttext(checkpoint: str | Path | Checkpoint, path: str | Path) -> bool:
    """Write fastText's `.bin`, with subwords where the model has them.

    Returns:
        Whether the output rows are in it, by which training goes on; otherwise they are 0.

    Raises:
        InputError: The checkpoint has no word vectors, or words or n-grams that the format cannot hold.
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    model = load_all_rows(checkpoint)
    with input_errors(), atomic_write(path) as temporary:
        model.to_fasttext(temporary)
    return isinstance(model, Word2VecForPreTraining)


def load_all_rows(checkpoint: str | Path | Checkpoint) -> Word2VecModel | Word2VecForPreTraining:
    """Load word vectors with their output rows where there are any."""
    model = load_word2vec(checkpoint, "cpu")
    if model.config.quantized_parts is not None:
        return model
    source = Checkpoint.resolve(checkpoint)
    with quiet_one_line(source.name, "word vectors"):
        whole, report = Word2VecForPreTraining.from_pretrained(source.folder, output_loading_info=True)
    return model if report["missing_keys"] else whole  # the output rows are missing


def export_gensim_model(checkpoint: str | Path | Checkpoint, path: str | Path) -> str:
    """Write a gensim `Word2Vec` that continues training, or `KeyedVectors` where output rows or counts are lacking.

    Returns:
        What was written: "Word2Vec" or "KeyedVectors".

    Raises:
        InputError: The checkpoint has no word vectors, or such as gensim does not know.
        OSError: A file cannot be written.
    """
    model = load_all_rows(checkpoint)
    with input_errors():
        if isinstance(model, Word2VecModel) or model.require_vocabulary().counts is None:
            inputs = model if isinstance(model, Word2VecModel) else model.word2vec
            kind, saved = "KeyedVectors", inputs.to_keyed_vectors()
        else:
            kind, saved = "Word2Vec", model.to_gensim()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        saved.save(str(Path(folder) / path.name))
        # the file that names the others comes last
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)
    return kind
