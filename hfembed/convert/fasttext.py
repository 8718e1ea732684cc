"""fastText's `.bin` and `.ftz` -> a checkpoint folder, with n-grams and, where the file has them, output rows."""

from pathlib import Path

from hfembed.atomic import atomic_folder
from hfembed.convert.foreign_checkpoint import reading
from hfembed.convert.vector_files import refuse_other_kinds
from hfembed.models.word2vec.fasttext_format import read_fasttext
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel


def convert_fasttext(source: str | Path, folder: str | Path, output_rows: bool = True) -> Word2VecModel:
    """Make a checkpoint folder from a file of fastText, also with .gz.

    Args:
        output_rows: Keep the output rows, which only training on needs.

    Raises:
        InputError: The file is damaged, of another format, or of a supervised model.
        OSError: It does not exist, or the folder cannot be written.
    """
    refuse_other_kinds(Path(source), "a fastText .bin")
    with reading(source, "fastText file"):
        file = read_fasttext(source, output_rows)
        kind = Word2VecModel if file.output is None else Word2VecForPreTraining
        model = kind._from_fasttext_file(file)
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return model if isinstance(model, Word2VecModel) else model.word2vec
