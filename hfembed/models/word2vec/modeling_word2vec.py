"""word2vec: two matrices, one input row and one output row per word (Mikolov et al. 2013), and rows of subwords."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, cached_file

from hfembed.models.device_loading import DeviceLoading

from .atomic_save import atomic_save
from .configuration_word2vec import Word2VecConfig
from .fasttext_format import FastTextFile, read_fasttext, write_fasttext
from .floret_format import read_floret, write_floret
from .gensim_exchange import (
    make_gensim_model,
    make_keyed_vectors,
    read_gensim_settings,
    read_keyed_vectors,
    read_ngram_vectors,
)
from .quantized_rows import QuantizedRows, make_quantized_rows, quantize_rows
from .subwords import hash_ngrams
from .vocabulary_word2vec import COUNTS_FILE, TOKENIZER_FILE, Vocabulary
from .word2vec_format import read_word2vec_format
from .word_vectors import WordVectorQueries

# all that a save may write, of this release or an earlier one
_WRITTEN = (
    "config.json", "generation_config.json", "model*.safetensors", "model*.safetensors.index.json", "tokenizer*.json",
    "special_tokens_map.json", COUNTS_FILE, "modules.json", "sentence_bert_config.json", "1_Pooling",
)  # fmt: skip
_COMPOSED_AT_ONCE = 65_536  # words
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass
class Word2VecPreTrainingOutput(ModelOutput):
    """What `Word2VecForPreTraining` returns.

    Attributes:
        loss (`torch.Tensor` of shape ()): Negative-sampling loss.
        positive_scores (`torch.Tensor`): Dot products of the true pairs: (batch, context), or (batch,) for CBOW.
        negative_scores (`torch.Tensor`): Dot products with the noise words: the same shape with one more axis.
    """

    loss: torch.Tensor | None = None
    positive_scores: torch.Tensor | None = None
    negative_scores: torch.Tensor | None = None


class Word2VecPreTrainedModel(DeviceLoading, PreTrainedModel):
    """Base of the word2vec models: initialization, and a vocabulary that is saved and loaded with the weights."""

    config: Word2VecConfig
    base_model_prefix = "word2vec"
    main_input_name = "input_ids"
    input_modalities = ["text"]
    model_tags = ["word2vec", "word-embeddings"]
    accepts_loss_kwargs = False
    _no_split_modules = []

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ContextEmbedding):
            init.zeros_(module.weight)
        elif isinstance(module, QuantizedRows):
            init.zeros_(module.codes)
            init.zeros_(module.centroids)
        elif isinstance(module, nn.Embedding):
            bound = self.config.initializer_scale / self.config.embedding_size
            init.uniform_(module.weight, -bound, bound)
            if isinstance(module, NgramEmbedding) and module.positions is not None:
                init.constant_(module.positions, -1)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load weights and, where the folder or repository has them, the words and their counts.

        The arguments are those of `transformers.PreTrainedModel.from_pretrained`, and `device`.

        Raises:
            ValueError: Damaged words, words of another save than the vectors, or a vector that is not finite.
        """
        with_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        where = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        files = [
            cached_file(pretrained_model_name_or_path, name, _raise_exceptions_for_missing_entries=False, **where)
            for name in (TOKENIZER_FILE, COUNTS_FILE)
        ]
        tokenizer_file, counts_file = files
        if tokenizer_file is not None and counts_file is not None:
            model.set_vocabulary(Vocabulary.from_files(tokenizer_file, counts_file))
            if not any(name.endswith("embeddings.weight") for name in info["missing_keys"]):
                _check_rows(model, counts_file)
        model._check_finite()
        if isinstance(model._input_rows(), QuantizedRows):
            model._input_rows().check_codes()
        ngrams = model._inputs().ngram_embeddings
        if ngrams is not None:
            ngrams.check_positions()
        return (model, info) if with_info else model

    def _check_finite(self) -> None:
        for name, parameter in self.named_parameters():
            of_words = name.endswith("embeddings.weight") and "ngram" not in name
            check_finite_rows(parameter, self.vocabulary if of_words else None)

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs) -> None:
        """Save weights, config, the tokenizer and the counts; `SentenceTransformer(save_directory)` loads it too.

        The folder changes in one step, and other files in it stay. The arguments are those of
        `transformers.PreTrainedModel.save_pretrained`.
        """
        pushed = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs}
        if kwargs.get("is_main_process", True):
            if os.path.isfile(save_directory):
                raise ValueError(f"{save_directory} is a file, not a folder to save to")
            with atomic_save(save_directory, _WRITTEN) as folder:
                super().save_pretrained(folder, *args, **kwargs)
                if self.vocabulary is not None:
                    sample = {"row_sample": _as_float(_sample_rows(self))}
                    subwords = self.config.subwords, self.config.buckets, self.config.hash_count
                    self.vocabulary.save(folder, sample, *subwords)
                    _save_sentence_transformers_files(folder)
        if push_to_hub:
            repo_id = pushed.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, token=kwargs.get("token"), **pushed)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words of the rows, or `None` for a model without words."""
        return self._inputs()._vocabulary

    def require_vocabulary(self) -> Vocabulary:
        """The words of the rows.

        Raises:
            ValueError: The model has none.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no words: load it from a folder with a tokenizer, or use set_vocabulary")
        return self.vocabulary

    def _inputs(self) -> "Word2VecModel":
        return cast(Word2VecModel, self.base_model)

    def _input_rows(self) -> Any:
        return self._inputs().get_input_embeddings()

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Set the words of the rows.

        Raises:
            ValueError: Their number is not that of the rows.
        """
        if len(vocabulary) != self.config.vocab_size:
            raise ValueError(f"{len(vocabulary)} words do not fit {self.config.vocab_size} rows")
        self._inputs()._vocabulary = vocabulary
        self._inputs()._word_ngrams = None


_PUSH_ARGUMENTS = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


class ContextEmbedding(nn.Embedding):
    """The output rows; a class of their own because they are initialized with 0."""


class NgramEmbedding(nn.Embedding):
    """The rows of the n-grams, with `hash_count` those of the words too.

    Where not every bucket has one, `positions` (buckets,) tells which, -1 for none.

    Buckets whose n-grams no training word has may share a row of zeros: their n-grams count in the mean of a word
    and add nothing.
    """

    def __init__(self, config: Word2VecConfig):
        super().__init__(config.ngram_rows or config.buckets, config.embedding_size)
        positions = None if config.ngram_rows is None else torch.full((config.buckets,), -1, dtype=torch.int32)
        self.register_buffer("positions", positions)
        self.positions: torch.Tensor | None

    @torch.no_grad()
    def store_buckets(self, buckets: np.ndarray) -> None:
        """Give the buckets, ascending, the rows before the last one, and all others the last one, which becomes 0."""
        assert self.positions is not None
        self.positions.fill_(len(buckets))
        self.positions[torch.from_numpy(buckets)] = torch.arange(len(buckets), dtype=torch.int32)
        self.weight[len(buckets)] = 0

    def stored_buckets(self) -> np.ndarray:
        """Buckets with a row that is not zero, ascending, int64."""
        not_zero = self.weight.detach().ne(0).any(dim=1).cpu()
        if self.positions is not None:
            positions = self.positions.cpu().long()
            not_zero = not_zero[positions.clamp(min=0)] & (positions >= 0)
        return not_zero.nonzero().flatten().numpy()

    def rows_of(self, buckets: torch.Tensor) -> torch.Tensor:
        """Rows of buckets, int64, -1 for none."""
        return buckets if self.positions is None else self.positions[buckets].long()

    def check_positions(self) -> None:
        """Refuse positions beyond the rows.

        Raises:
            ValueError: There are such.
        """
        positions = self.positions
        if positions is None or positions.is_meta:
            return
        if positions.dtype != torch.int32 or int(positions.min()) < -1 or int(positions.max()) >= len(self.weight):
            raise ValueError(f"ngram_embeddings.positions must be int32 from -1 to {len(self.weight) - 1}")


class Word2VecModel(WordVectorQueries, Word2VecPreTrainedModel):
    """The input rows: word vectors to look up, compare and average.

    As in gensim, `model[word]` is a word's vector, `word in model` tells whether it has one and `len(model)` is the
    number of words. Ids from `config.vocab_size` on (unknown words, padding) have no row: their vector is 0, and means
    skip them. With `config.subwords` a word's vector is the mean of its own row and its n-grams' rows, and unknown
    words have the mean of their n-grams' rows. With `config.hash_count` there are no own rows, `embeddings` is `None`,
    and any word has the mean of the rows that it and its n-grams are hashed to.

    Args:
        vocabulary: The words of the rows; `from_pretrained` finds them beside the weights.
    """

    _keys_to_ignore_on_load_unexpected = ["context_embeddings.weight"]

    def __init__(self, config: Word2VecConfig, vocabulary: Vocabulary | None = None):
        super().__init__(config)
        self.embeddings: Any  # nn.Embedding, or what stands for it
        if config.hash_count is not None:
            self.embeddings = None
        elif config.quantized_parts is None:
            self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        else:
            size, dimensions = config.vocab_size, config.embedding_size
            self.embeddings = QuantizedRows(size, dimensions, config.quantized_parts, config.centroids)
        self.ngram_embeddings = None if config.subwords is None else NgramEmbedding(config)
        self._vocabulary: Vocabulary | None = None
        self._word_ngrams: tuple[np.ndarray, np.ndarray] | None = None
        self._composed: tuple[Any, torch.Tensor] | None = None
        self.post_init()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def get_input_embeddings(self) -> Any:
        """The input rows; with subwords the words' own, with `hash_count` those of words and n-grams."""
        return self.ngram_embeddings if self.embeddings is None else self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the input rows."""
        if self.embeddings is None:
            self.ngram_embeddings = cast(NgramEmbedding, value)
        else:
            self.embeddings = cast(nn.Embedding, value)

    def __bool__(self) -> bool:
        return True  # `len` must not make an empty model false

    def extra_repr(self) -> str:
        """What `repr` shows besides the layers."""
        words = "no words" if self.vocabulary is None else repr(self.vocabulary)
        return f"{words}; {self.config.embedding_size} dimensions, {self.config.architecture}"

    @classmethod
    def from_vectors(
        cls,
        vocabulary: Vocabulary,
        vectors: np.ndarray,
        ngram_vectors: np.ndarray | None = None,
        ngram_positions: np.ndarray | None = None,
        **config: Any,
    ) -> "Word2VecModel":
        """Make a model from words and vectors; the vectors are not copied.

        Args:
            vectors: float16, float32 or float64 of shape (words, dimensions); with subwords the words' own rows.
            ngram_vectors: With `subwords=`, the rows of the n-grams, of the same type.
            ngram_positions: Where not every bucket has a row, the row of each, int32 of shape (buckets,), -1 for none.
            **config: Fields of `Word2VecConfig`, where more is known of the vectors.

        Raises:
            ValueError: A vector that is not finite, or another number of words than vectors.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32, np.float64):
            raise ValueError(
                f"vectors are float16, float32 or float64 of shape (words, dimensions), not {vectors.dtype} of shape "
                f"{vectors.shape}"
            )
        if len(vectors) != len(vocabulary):
            raise ValueError(f"{len(vocabulary)} words do not fit {len(vectors)} rows")
        if ngram_vectors is not None and ngram_positions is not None:
            config["ngram_rows"] = len(ngram_vectors)
        with torch.device("meta"):
            model = cls(Word2VecConfig(**config, vocab_size=len(vocabulary), embedding_size=vectors.shape[1]))
        model.embeddings.weight = nn.Parameter(_writeable(vectors))
        if model.ngram_embeddings is not None:
            if ngram_vectors is None or ngram_vectors.shape != model.ngram_embeddings.weight.shape:
                raise ValueError(f"subwords need ngram_vectors of shape {tuple(model.ngram_embeddings.weight.shape)}")
            model.ngram_embeddings.weight = nn.Parameter(_writeable(ngram_vectors))
            if ngram_positions is not None:
                model.ngram_embeddings.positions = torch.from_numpy(ngram_positions.astype(np.int32))
            model.ngram_embeddings.check_positions()
        model.config.dtype = model.embeddings.weight.dtype
        model.set_vocabulary(vocabulary)
        model._check_finite()
        return model.eval()

    @classmethod
    def from_quantized(cls, vocabulary: Vocabulary, codes: np.ndarray, centroids: np.ndarray) -> "Word2VecModel":
        """Make a model from product-quantized vectors, which it keeps and saves as they are.

        Args:
            codes: uint8 of shape (words, parts).
            centroids: float32 of shape (parts, centroids, dimensions / parts).

        Raises:
            ValueError: A code beyond the centroids, or another number of words than vectors.
        """
        return cls._with_rows(vocabulary, make_quantized_rows(codes, centroids))

    @classmethod
    def _with_rows(cls, vocabulary: Vocabulary, rows: QuantizedRows) -> "Word2VecModel":
        parts, number, size = rows.centroids.shape
        with torch.device("meta"):
            model = cls(
                Word2VecConfig(
                    vocab_size=len(rows.codes), embedding_size=parts * size, quantized_parts=parts, centroids=number
                )
            )
        model.embeddings = rows
        model.config.dtype = rows.centroids.dtype
        model.set_vocabulary(vocabulary)
        model._check_finite()
        return model.eval()

    @torch.no_grad()
    def compress(self, dimensions: int | None = None, parts: int | None = None) -> "Word2VecModel":
        """A product-quantized copy: `parts` bytes per word, and a table of centroids.

        Args:
            dimensions: Keep only this many principal components. Default: all dimensions.
            parts: Parts of a vector, a divisor of the dimensions. Default: two dimensions per part where it fits.

        Raises:
            ValueError: Impossible sizes, or a model with subwords: its n-grams are not quantized.
        """
        if self.config.subwords is not None:
            raise ValueError("a model with subwords cannot be product-quantized: its n-grams would be lost")
        vectors = self.word_vectors().float().cpu()
        if dimensions is not None and not 1 <= dimensions <= vectors.shape[1]:
            raise ValueError(f"dimensions must lie between 1 and {vectors.shape[1]}, got {dimensions}")
        if dimensions is not None and dimensions < vectors.shape[1]:
            _, components = torch.linalg.eigh((vectors.T @ vectors).double())
            vectors = vectors @ components[:, -dimensions:].flip(1).to(vectors)
        size = vectors.shape[1]
        parts = parts or (size // 2 if size % 2 == 0 else size)
        return self._with_rows(self.require_vocabulary(), quantize_rows(vectors.contiguous(), parts))

    @classmethod
    def from_word2vec_format(
        cls,
        path: str | Path,
        binary: bool | None = None,
        limit: int | None = None,
        dtype: torch.dtype = torch.float32,
        counts_file: str | Path | None = None,
        unicode_errors: str = "strict",
    ) -> "Word2VecModel":
        """Read word vectors in word2vec's text or binary format, or GloVe's text, in the memory of the matrix.

        Args:
            path: The file; .gz, .xz and .bz2 are decompressed while reading.
            binary: Which format it is. Default: detected.
            dtype: torch.float32, or torch.float16 for half the memory.
            counts_file: One word and its count per line (word2vec's `-save-vocab`, gensim's `fvocab`).
            unicode_errors: "strict", or "replace" or "ignore" for words that are not UTF-8.

        Raises:
            ValueError: One line that says what is wrong with the file.
            FileNotFoundError: There is no such file.
        """
        numpy_dtype = {torch.float32: np.float32, torch.float16: np.float16}.get(dtype)
        if numpy_dtype is None:
            raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype}")
        words, vectors, counts = read_word2vec_format(path, binary, limit, numpy_dtype, counts_file, unicode_errors)
        return cls.from_vectors(Vocabulary(words, counts), vectors)

    @classmethod
    def from_fasttext(cls, path: str | Path) -> "Word2VecModel":
        """Read fastText's `.bin` or `.ftz`, also .gz; `Word2VecForPreTraining.from_fasttext` reads output rows too.

        Raises:
            ValueError: One line that says what is wrong with the file, or that it is of a supervised model.
            FileNotFoundError: There is no such file.
        """
        return cls._from_fasttext_file(read_fasttext(path, with_output=False))

    @classmethod
    def _from_fasttext_file(cls, file: FastTextFile) -> "Word2VecModel":
        return cls.from_vectors(
            Vocabulary(file.words, file.counts), file.vectors, file.ngram_vectors, file.ngram_positions, **file.config
        )

    @classmethod
    def from_keyed_vectors(cls, keyed_vectors: Any) -> "Word2VecModel":
        """The words, vectors and counts of a gensim `KeyedVectors`; counts that gensim made up are left out.

        Of `FastTextKeyedVectors` the n-grams' rows too.
        """
        vocabulary, vectors = read_keyed_vectors(keyed_vectors)
        config, ngram_vectors = read_ngram_vectors(keyed_vectors)
        return cls.from_vectors(vocabulary, vectors.copy(), ngram_vectors, **config)

    @classmethod
    def from_gensim(cls, model: Any) -> "Word2VecModel":
        """The input rows of a gensim model; `Word2VecForPreTraining.from_gensim` takes the output rows too."""
        return Word2VecForPreTraining.from_gensim(model).word2vec

    @classmethod
    def from_floret(cls, path: str | Path, words: Sequence[str] = ()) -> "Word2VecModel":
        """Read floret's table in text (`.floret`, also .gz, .xz and .bz2).

        Args:
            words: The words that queries answer with, which the file does not hold; all others have vectors too.

        Raises:
            ValueError: One line that says what is wrong with the file.
            FileNotFoundError: There is no such file.
        """
        table, config = read_floret(path)
        vocabulary = Vocabulary(words)
        model = cls(Word2VecConfig(**config, vocab_size=len(vocabulary), embedding_size=table.shape[1]), vocabulary)
        cast(NgramEmbedding, model.ngram_embeddings).weight = nn.Parameter(torch.from_numpy(table))
        return model.eval()

    def to_floret(self, path: str | Path) -> None:
        """Write the table in floret's text format, without the words: spaCy's `init vectors --mode floret` reads it.

        Raises:
            ValueError: A model without `hash_count`.
            OSError: It cannot be written.
        """
        write_floret(path, self.hashed_rows(), self.config.to_dict())

    def hashed_rows(self) -> np.ndarray:
        """The table that words and n-grams are hashed into, float32 of shape (buckets, embedding_size).

        Raises:
            ValueError: A model without `hash_count`.
        """
        if self.config.hash_count is None:
            raise ValueError("words of this model have rows of their own, which floret does not know: no hash_count")
        return cast(NgramEmbedding, self.ngram_embeddings).weight.detach().float().cpu().numpy()

    def numpy_vectors(self) -> np.ndarray:
        """The words' vectors in float32, of shape (words, embedding_size); shares memory where it can."""
        return self.word_vectors().float().cpu().numpy()

    def to_keyed_vectors(self):
        """A gensim `KeyedVectors`, with subwords a `FastTextKeyedVectors`, with a copy of words, counts and vectors.

        Raises:
            ValueError: Some n-grams of the model have no row, which gensim does not know.
        """
        return make_keyed_vectors(self.config, self.require_vocabulary(), *self._own_rows())

    def _own_rows(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The words' own rows, and those of all buckets."""
        own, rows, positions = self._stored_rows()
        return own, rows if rows is None or positions is None else rows[positions]

    def _stored_rows(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The words' own rows, those of the n-grams, and where not every bucket has its own, the row of each."""
        if self.embeddings is None:
            raise ValueError(
                f"words and n-grams of this model share one table (hash_count {self.config.hash_count}), which gensim "
                "and fastText's .bin do not know: export it for floret or spaCy, or in word2vec's format"
            )
        own, ngrams = self.embeddings.weight.detach().float().cpu().numpy(), self.ngram_embeddings
        if ngrams is None:
            return own, None, None
        rows = ngrams.weight.detach().float().cpu().numpy()
        if ngrams.positions is None:
            return own, rows, None
        positions = ngrams.positions.cpu().numpy()
        if positions.min() < 0:
            raise ValueError(
                "some n-grams of this model have no row (it was pruned), which gensim and fastText's .bin do not know"
            )
        return own, rows, positions

    def to_fasttext(self, path: str | Path, output: np.ndarray | None = None) -> None:
        """Write fastText's `.bin`, which fastText and gensim load; unknown counts are written as 1.

        Args:
            output: Output rows, float32 of shape (words, embedding_size), which only training on needs. Default: 0.

        Raises:
            ValueError: A word that the format cannot hold, or n-grams without a row.
            OSError: It cannot be written.
        """
        vocabulary = self.require_vocabulary()
        counts = np.ones(len(vocabulary), np.int64) if vocabulary.counts is None else vocabulary.counts
        own, ngrams, positions = self._stored_rows()
        config = self.config.to_dict()
        write_fasttext(path, FastTextFile(vocabulary.words, counts, own, ngrams, positions, output, config))

    def to_gensim(self):
        """A gensim `Word2Vec`, or `FastText`, that continues training from these input rows.

        Output rows are not part of this class and start at 0; `Word2VecForPreTraining.to_gensim` carries them over.

        Raises:
            ValueError: A vocabulary without counts.
        """
        own, ngrams = self._own_rows()
        return make_gensim_model(self.config, self.require_vocabulary(), own, np.zeros_like(own), ngrams)

    def ngram_rows(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `ngram_embeddings` of the n-grams of words, with repetitions; with `hash_count` of the words too.

        Returns:
            (offsets int64 (words + 1,), rows int64 (n-grams,)): word i has the rows from offsets[i] to offsets[i + 1].
        """
        assert self.config.subwords is not None and self.ngram_embeddings is not None
        smallest, largest = self.config.subwords
        offsets, rows = hash_ngrams(words, smallest, largest, self.config.buckets, self.config.hash_count)
        if self.ngram_embeddings.positions is None:
            return offsets, rows
        rows = self.ngram_embeddings.positions.cpu().numpy()[rows].astype(np.int64)
        kept = np.concatenate([[0], np.cumsum(rows >= 0)])
        return kept[offsets], rows[rows >= 0]

    def _ngram_sums(self, offsets: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        weight = cast(NgramEmbedding, self.ngram_embeddings).weight
        bags = [torch.from_numpy(array).to(weight.device) for array in (rows, offsets)]
        return F.embedding_bag(bags[0], weight, bags[1], mode="sum", include_last_offset=True)

    def embed_words(self, ids: torch.Tensor, gradient: str = "true") -> torch.Tensor:
        """Vectors of words of the vocabulary, with gradients: with subwords, the mean of all rows of a word.

        Args:
            ids: int64 of any shape.
            gradient: "true", or "undivided": each row of a word gets the whole gradient of the mean, as in fastText.

        Returns:
            Shape of `ids` and embedding_size.
        """
        if self.ngram_embeddings is None:
            return self.embeddings(ids)
        if self._word_ngrams is None:
            self._word_ngrams = self.ngram_rows(self.require_vocabulary().words)
        offsets, rows = self._word_ngrams
        flat = ids.flatten().cpu().numpy()
        lengths = offsets[flat + 1] - offsets[flat]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        chosen = np.arange(ends[-1]) + np.repeat(offsets[flat] - ends[:-1], lengths)
        total = self._ngram_sums(ends, rows[chosen]).view(*ids.shape, self.config.embedding_size)
        if self.embeddings is not None:
            total, lengths = total + self.embeddings(ids), lengths + 1
        mean = total / torch.from_numpy(lengths).to(total).view(*ids.shape, 1)
        return mean if gradient == "true" else total + (mean - total).detach()

    @torch.no_grad()
    def word_vectors(self) -> torch.Tensor:
        """The vectors of all words, of shape (words, embedding_size), without gradient.

        Without subwords these are the input rows; with subwords they are computed at the first call, and again when
        the rows have changed.
        """
        if self.ngram_embeddings is None:
            return self.embeddings.weight.detach()
        weights = [rows.weight for rows in (self.embeddings, self.ngram_embeddings) if rows is not None]
        state: list[Any] = [(weight.data_ptr(), weight._version, weight.device, weight.dtype) for weight in weights]
        state.append(id(self._vocabulary))
        if self._composed is None or self._composed[0] != state:
            ids = torch.arange(self.config.vocab_size, device=self.device)
            chunks = [self.embed_words(chunk) for chunk in ids.split(_COMPOSED_AT_ONCE)]
            self._composed = state, torch.cat(chunks) if chunks else self._zeros(0)
        return self._composed[1]

    @torch.no_grad()
    def unknown_vectors(self, words: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of words that are not in the vocabulary: the means of the rows of `ngram_rows`.

        Words are written as the vocabulary's rules write them.

        Returns:
            Vectors (words, embedding_size), 0 where there is no n-gram, and bool (words,): whether there are any.
        """
        if self.ngram_embeddings is None:
            return self._zeros(len(words)), torch.zeros(len(words), dtype=torch.bool, device=self.device)
        rules = self.require_vocabulary().rules
        words = [rules.normalize_word(word) for word in words]
        offsets, rows = self.ngram_rows(words)
        sums = self._ngram_sums(offsets, rows)
        lengths = torch.from_numpy(np.diff(offsets)).to(sums.device)
        return sums / lengths.clamp(min=1).unsqueeze(1).to(sums.dtype), lengths > 0

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ngram_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Look up words.

        Args:
            input_ids: Ids of shape (batch, length), int64.
            attention_mask: 1 for words, 0 for padding, of the same shape.
            ngram_ids: The buckets + 1 of the n-grams of unknown words, int64 of shape (batch, length, n-grams), 0 for
                none; the tokenizer of a model with subwords gives them. Without them unknown words have no vector.

        Returns:
            `last_hidden_state` (batch, length, embedding_size), the words' vectors, and `pooler_output`
            (batch, embedding_size), their mean over known words (0 where there are none).
        """
        known = input_ids < self.config.vocab_size
        if attention_mask is not None:
            known = known & attention_mask.bool()
        # a word without a row is looked up as the first one, and its vector is not used
        vectors = self.embed_words(torch.where(known, input_ids, 0)) if self.config.vocab_size else None
        vectors = self._zeros(*input_ids.shape) if vectors is None else vectors * known.unsqueeze(-1).to(vectors.dtype)
        if ngram_ids is not None and self.ngram_embeddings is not None:
            rows = self.ngram_embeddings.rows_of(ngram_ids.clamp(min=1) - 1)
            there = (ngram_ids > 0) & (rows >= 0)
            number = there.sum(dim=2)
            ends = F.pad(number.flatten().cumsum(0), (1, 0))
            sums = F.embedding_bag(
                rows[there], self.ngram_embeddings.weight, ends, mode="sum", include_last_offset=True
            )
            vectors = vectors + sums.view_as(vectors) / number.clamp(min=1).unsqueeze(2).to(vectors.dtype)
            known = known | (number > 0)
        mean = vectors.sum(dim=1) / known.sum(dim=1, keepdim=True).clamp(min=1).to(vectors.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=vectors, pooler_output=mean)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, self.config.embedding_size, dtype=self.dtype, device=self.device)


class Word2VecForPreTraining(Word2VecPreTrainedModel):
    """Input and output rows with the negative-sampling loss, as a reference implementation.

    The engines in `hfembed.words.training` compute the same much faster and are tested against it.
    """

    def __init__(self, config: Word2VecConfig, vocabulary: Vocabulary | None = None):
        super().__init__(config)
        if config.quantized_parts is not None:
            raise ValueError("product-quantized vectors are for inference only: load them by Word2VecModel")
        self.word2vec = Word2VecModel(config)
        self.context_embeddings = ContextEmbedding(config.vocab_size, config.embedding_size)
        self.post_init()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_gensim(cls, model: Any) -> "Word2VecForPreTraining":
        """Words, counts, settings and all matrices of a gensim `Word2Vec` or `FastText`, to go on training here.

        Raises:
            ValueError: A model trained with hierarchical softmax alone.
        """
        vocabulary, vectors = read_keyed_vectors(model.wv, trained=True)
        subwords, ngram_vectors = read_ngram_vectors(model.wv)
        settings = read_gensim_settings(model)
        inputs = Word2VecModel.from_vectors(vocabulary, vectors.copy(), ngram_vectors, **subwords, **settings)
        return cls._with_rows(inputs, model.syn1neg.copy())

    @classmethod
    def from_fasttext(cls, path: str | Path) -> "Word2VecForPreTraining":
        """Read all of fastText's `.bin`, to go on training here.

        Raises:
            ValueError: One line that says what is wrong with the file, or why it cannot be trained on: supervised,
                quantized, or without negative sampling.
            FileNotFoundError: There is no such file.
        """
        file = read_fasttext(path)
        if file.output is None:
            raise ValueError(f"{path} cannot be trained on: it is quantized, or was not trained by negative sampling")
        return cls._from_fasttext_file(file)

    @classmethod
    def _from_fasttext_file(cls, file: FastTextFile) -> "Word2VecForPreTraining":
        return cls._with_rows(Word2VecModel._from_fasttext_file(file), cast(np.ndarray, file.output))

    @classmethod
    def _with_rows(cls, inputs: Word2VecModel, context: np.ndarray) -> "Word2VecForPreTraining":
        with torch.device("meta"):
            ours = cls(inputs.config)
        ours.word2vec = inputs
        ours.context_embeddings.weight = nn.Parameter(torch.from_numpy(context))
        check_finite_rows(ours.context_embeddings.weight, ours.vocabulary)
        return ours.eval()

    def to_gensim(self):
        """A gensim `Word2Vec` (`FastText`) with all matrices, that continues training where this stopped.

        Raises:
            ValueError: A vocabulary without counts.
        """
        own, ngrams = self.word2vec._own_rows()
        return make_gensim_model(self.config, self.require_vocabulary(), own, self._output_rows(), ngrams)

    def to_fasttext(self, path: str | Path) -> None:
        """Write fastText's `.bin` with all matrices, as `Word2VecModel.to_fasttext`."""
        self.word2vec.to_fasttext(path, self._output_rows())

    def _output_rows(self) -> np.ndarray:
        return self.context_embeddings.weight.detach().float().cpu().numpy()

    def forward(
        self,
        center_ids: torch.Tensor,
        context_ids: torch.Tensor,
        negative_ids: torch.Tensor,
        context_mask: torch.Tensor | None = None,
        negative_weights: torch.Tensor | None = None,
        reduction: str = "sum",
    ) -> Word2VecPreTrainingOutput:
        """Negative-sampling loss (Mikolov et al. 2013b, equation 4), predicting the center word from its context.

        With y the output row of the center, y_k those of the noise words and h the input row of one context word
        (skip-gram, one term for each) or the mean of all (CBOW): -log s(y . h) - sum_k w_k log s(-y_k . h).

        Args:
            center_ids: Center words, int64 of shape (batch,).
            context_ids: Their neighbors, int64 of shape (batch, context).
            negative_ids: Noise words, of shape (batch, context, negatives), or (batch, negatives) for the same ones
                for a whole context; CBOW takes only the latter.
            context_mask: Which neighbors exist, bool of the shape of `context_ids`. Default: all.
            negative_weights: w_k, of the shape of `negative_ids`. Default: 1. A 0 leaves out a noise word, as word2vec
                does where it drew the center word itself.
            reduction: "sum" over all terms, or "mean": divided by the number of positive pairs (CBOW: of centers).

        Returns:
            The loss, with gradients through autograd. As in gensim, CBOW's error reaches every context row
            undivided when `cbow_mean`, and divided by their number when not. As in fastText, the gradient of a word's
            vector reaches its own row and those of its n-grams undivided.
        """
        mask = torch.ones_like(context_ids, dtype=torch.bool) if context_mask is None else context_mask.bool()
        context = self.word2vec.embed_words(context_ids, gradient="undivided") * mask.unsqueeze(-1)  # (B, C, D)
        center = self.context_embeddings(center_ids)  # (B, D)
        noise = self.context_embeddings(negative_ids)
        weights = torch.ones(negative_ids.shape, device=noise.device) if negative_weights is None else negative_weights

        if self.config.architecture == "cbow":
            total = context.sum(dim=1)
            mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
            # the value of one, the gradient of the other
            if self.config.cbow_mean:
                hidden = total + (mean - total).detach()  # (B, D)
            else:
                hidden = mean + (total - mean).detach()
            mask = mask.any(dim=1)  # (B,)
            positive = torch.einsum("bd,bd->b", hidden, center)
            negative = torch.einsum("bd,bkd->bk", hidden, noise)
        else:
            if noise.dim() == 3:
                noise, weights = noise.unsqueeze(1), weights.unsqueeze(1)
            positive = torch.einsum("bcd,bd->bc", context, center)
            negative = torch.einsum("bcd,bckd->bck", context, noise.expand(-1, context.shape[1], -1, -1))

        pairs = F.logsigmoid(positive) + (weights * F.logsigmoid(-negative)).sum(dim=-1)
        loss = -(pairs * mask).sum()
        if reduction == "mean":
            loss = loss / mask.sum().clamp(min=1)
        elif reduction != "sum":
            raise ValueError(f"reduction is 'sum' or 'mean', not {reduction!r}")
        return Word2VecPreTrainingOutput(loss=loss, positive_scores=positive, negative_scores=negative)


def _writeable(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _save_sentence_transformers_files(folder: Path) -> None:
    """Write what sentence-transformers (5.4 or later) loads the folder by: the model's mean over known words."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "sentence_embedding",
    }
    for name, content in (("modules.json", modules), ("sentence_bert_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sample_rows(model: Word2VecPreTrainedModel) -> torch.Tensor:
    """Numbers of up to 256 rows, which tell the vectors of one run from those of another; no others are decoded."""
    size = model.config.vocab_size if model.config.hash_count is None else model.config.buckets
    number = min(size, 256)
    rows = torch.arange(number) * size // max(number, 1)
    return model._input_rows()(rows.to(model.device))[:, :8].detach().cpu().contiguous()


def _as_float(sample: torch.Tensor) -> np.ndarray:
    return sample.numpy() if sample.dtype == torch.float64 else sample.float().numpy()


def _check_rows(model: Word2VecPreTrainedModel, counts_file: str) -> None:
    """Refuse words that were saved with other vectors; saves of earlier releases have no sample to compare."""
    with safe_open(counts_file, "pt") as file:
        saved = file.get_tensor("row_sample") if "row_sample" in file.keys() else None
    if saved is None or model.device.type == "meta":
        return
    found = _sample_rows(model)
    if not np.array_equal(_as_float(saved.to(found.dtype)), _as_float(found)):
        raise ValueError(
            f"{counts_file} was saved with other vectors than those beside it, or is damaged: save the model again"
        )


def check_finite_rows(matrix: torch.Tensor, vocabulary: Vocabulary | None = None) -> None:
    """Refuse vectors with NaN or infinity, which would spoil every search.

    Raises:
        ValueError: It names the word, or the row of a model without words.
    """
    if matrix.is_meta:
        return
    for start in range(0, len(matrix), 65_536):
        chunk = matrix.detach()[start : start + 65_536]
        # a sum that overflows on a device without float64 is looked into below
        widest = torch.float32 if chunk.device.type == "mps" else torch.float64
        if bool(torch.isfinite(chunk.sum(dtype=widest))):
            continue
        rows = (~torch.isfinite(chunk).all(dim=1)).nonzero().flatten().tolist()
        for row in rows[:1]:
            name = f"row {start + row}" if vocabulary is None else f"the word {vocabulary.words[start + row]!r}"
            raise ValueError(f"the vector of {name} is not finite; {len(rows)} such rows: remove them or train again")


__all__ = ["Word2VecForPreTraining", "Word2VecModel", "Word2VecPreTrainedModel", "Word2VecPreTrainingOutput"]
