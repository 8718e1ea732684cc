"""Foreign word vectors -> a checkpoint folder."""

from pathlib import Path
from typing import Literal

import torch

from hfembed.atomic import atomic_folder
from hfembed.convert.vector_files import refuse_other_kinds
from hfembed.errors import input_errors
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary


def convert_word2vec_file(
    source: str | Path,
    folder: str | Path,
    binary: bool | None = None,
    limit: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    counts_file: str | Path | None = None,
    unicode_errors: Literal["strict", "replace", "ignore"] = "strict",
    lowercase: bool = False,
    word_pattern: str | None = None,
) -> Word2VecModel:
    """Make a checkpoint folder from word2vec's text or binary format or GloVe's text.

    Args:
        source: The file; .gz, .xz and .bz2 are decompressed while reading.
        unicode_errors: What to do with words that are not UTF-8.
        lowercase: Texts are to be lowercased, as those that the vectors come from were.
        word_pattern: What a word of a text is, as in `TextRules`; default: what spaces separate.

    Raises:
        InputError: The file is damaged or of another format.
        OSError: It does not exist, or the folder cannot be written.
    """
    path = Path(source)
    if path.is_file():
        refuse_other_kinds(path, "word2vec's or GloVe's format")
    with input_errors():
        rules = TextRules(lowercase, word_pattern)
        model = Word2VecModel.from_word2vec_format(
            source, binary, limit, getattr(torch, dtype), counts_file, unicode_errors
        )
        if rules != TextRules():
            vocabulary = model.require_vocabulary()
            model.set_vocabulary(Vocabulary(vocabulary.words, vocabulary.counts, rules))
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return model
