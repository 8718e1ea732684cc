"""Word vectors -> floret's table in text."""

from pathlib import Path

from hfembed.atomic import atomic_write
from hfembed.errors import input_errors
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel


def export_floret(model: Word2VecModel, path: str | Path) -> None:
    """Write floret's table in text, which spaCy's `init vectors --mode floret` reads.

    Raises:
        InputError: A model without `hash_count`.
        OSError: The file cannot be written; an earlier one is left as it was.
    """
    with input_errors(), atomic_write(path) as temporary:
        model.to_floret(temporary)
