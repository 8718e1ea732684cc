"""floret's table in text -> a checkpoint folder."""

from pathlib import Path

from hfembed.atomic import atomic_folder
from hfembed.convert.foreign_checkpoint import reading
from hfembed.convert.vector_files import refuse_other_kinds
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

_MOST_WORD_BYTES = 1 << 30


def convert_floret(source: str | Path, folder: str | Path, words: str | Path | None = None) -> Word2VecModel:
    """Make a checkpoint folder from a `.floret` file, also with .gz, .xz or .bz2.

    Args:
        words: A file with one word per line, which queries answer with. The table itself holds no words.

    Raises:
        InputError: A file is damaged or of another format.
        OSError: It does not exist, or the folder cannot be written.
    """
    refuse_other_kinds(Path(source), "a floret table")
    known: list[str] = []
    if words is not None:
        with reading(words, "list of words"):
            if Path(words).stat().st_size > _MOST_WORD_BYTES:
                raise ValueError(f"it has more than {_MOST_WORD_BYTES >> 20} MB")
            known = list(dict.fromkeys(Path(words).read_text(encoding="utf-8").split()))
    with reading(source, "floret table"):
        model = Word2VecModel.from_floret(source, known)
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return model
