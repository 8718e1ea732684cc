"""word2vec: two matrices, one input row and one output row per word (Mikolov et al. 2013)."""

import json
import os
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
from .gensim_exchange import make_gensim_model, make_keyed_vectors, read_gensim_config, read_keyed_vectors
from .vocabulary_word2vec import COUNTS_FILE, TOKENIZER_FILE, Vocabulary
from .word2vec_format import read_word2vec_format
from .word_vectors import WordVectorQueries

# all that a save may write, of this release or an earlier one
_WRITTEN = (
    "config.json", "generation_config.json", "model*.safetensors", "model*.safetensors.index.json", "tokenizer*.json",
    "special_tokens_map.json", COUNTS_FILE, "modules.json", "sentence_bert_config.json", "1_Pooling",
)  # fmt: skip
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
        elif isinstance(module, nn.Embedding):
            bound = self.config.initializer_scale / self.config.embedding_size
            init.uniform_(module.weight, -bound, bound)

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
                _check_rows(model._input_rows().weight, counts_file)
        for parameter in model.parameters():
            check_finite_rows(parameter, model.vocabulary)
        return (model, info) if with_info else model

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
                    self.vocabulary.save(folder, {"row_sample": _sample_rows(self._input_rows().weight)})
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

    def _input_rows(self) -> nn.Embedding:
        return self._inputs().embeddings

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Set the words of the rows.

        Raises:
            ValueError: Their number is not that of the rows.
        """
        if len(vocabulary) != self.config.vocab_size:
            raise ValueError(f"{len(vocabulary)} words do not fit {self.config.vocab_size} rows")
        self._inputs()._vocabulary = vocabulary


_PUSH_ARGUMENTS = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


class ContextEmbedding(nn.Embedding):
    """The output rows; a class of their own because they are initialized with 0."""


class Word2VecModel(WordVectorQueries, Word2VecPreTrainedModel):
    """The input rows: word vectors to look up, compare and average.

    As in gensim, `model[word]` is a word's vector, `word in model` tells whether it has one and `len(model)` is the
    number of words. Ids from `config.vocab_size` on (unknown words, padding) have no row: their vector is 0, and means
    skip them.

    Args:
        vocabulary: The words of the rows; `from_pretrained` finds them beside the weights.
    """

    _keys_to_ignore_on_load_unexpected = ["context_embeddings.weight"]

    def __init__(self, config: Word2VecConfig, vocabulary: Vocabulary | None = None):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self._vocabulary: Vocabulary | None = None
        self.post_init()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def get_input_embeddings(self) -> nn.Embedding:
        """The input rows."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the input rows."""
        self.embeddings = cast(nn.Embedding, value)

    def __bool__(self) -> bool:
        return True  # `len` must not make an empty model false

    def extra_repr(self) -> str:
        """What `repr` shows besides the layers."""
        words = "no words" if self.vocabulary is None else repr(self.vocabulary)
        return f"{words}; {self.config.embedding_size} dimensions, {self.config.architecture}"

    @classmethod
    def from_vectors(cls, vocabulary: Vocabulary, vectors: np.ndarray, **config: Any) -> "Word2VecModel":
        """Make a model from words and vectors; the vectors are not copied.

        Args:
            vectors: float16, float32 or float64 of shape (words, dimensions).
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
        with torch.device("meta"):
            model = cls(Word2VecConfig(**config, vocab_size=len(vocabulary), embedding_size=vectors.shape[1]))
        weight = torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy())
        check_finite_rows(weight, vocabulary)
        model.embeddings.weight = nn.Parameter(weight)
        model.config.dtype = weight.dtype
        model.set_vocabulary(vocabulary)
        return model.eval()

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
    def from_keyed_vectors(cls, keyed_vectors: Any) -> "Word2VecModel":
        """The words, vectors and counts of a gensim `KeyedVectors`; counts that gensim made up are left out."""
        vocabulary, vectors = read_keyed_vectors(keyed_vectors)
        return cls.from_vectors(vocabulary, vectors.copy())

    @classmethod
    def from_gensim(cls, model: Any) -> "Word2VecModel":
        """The input rows of a gensim `Word2Vec`; `Word2VecForPreTraining.from_gensim` takes the output rows too."""
        return Word2VecForPreTraining.from_gensim(model).word2vec

    def numpy_vectors(self) -> np.ndarray:
        """The vectors in float32, of shape (words, embedding_size); shares memory where it can."""
        return self.embeddings.weight.detach().float().cpu().numpy()

    def to_keyed_vectors(self):
        """A gensim `KeyedVectors` with a copy of words, counts and vectors."""
        return make_keyed_vectors(self.require_vocabulary(), self.numpy_vectors())

    def to_gensim(self):
        """A gensim `Word2Vec` that continues training from these input rows.

        Output rows are not part of this class and start at 0; `Word2VecForPreTraining.to_gensim` carries them over.

        Raises:
            ValueError: A vocabulary without counts.
        """
        vectors = self.numpy_vectors()
        return make_gensim_model(self.config, self.require_vocabulary(), vectors, np.zeros_like(vectors))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Look up words.

        Args:
            input_ids: Ids of shape (batch, length), int64.
            attention_mask: 1 for words, 0 for padding, of the same shape.

        Returns:
            `last_hidden_state` (batch, length, embedding_size), the words' vectors, and `pooler_output`
            (batch, embedding_size), their mean over known words (0 where there are none).
        """
        known = input_ids < self.config.vocab_size
        if attention_mask is not None:
            known = known & attention_mask.bool()
        rows = input_ids.clamp(max=max(self.config.vocab_size - 1, 0))
        vectors = self.embeddings(rows) * known.unsqueeze(-1).to(self.embeddings.weight.dtype)
        mean = vectors.sum(dim=1) / known.sum(dim=1, keepdim=True).clamp(min=1).to(vectors.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=vectors, pooler_output=mean)


class Word2VecForPreTraining(Word2VecPreTrainedModel):
    """Input and output rows with the negative-sampling loss, as a reference implementation.

    The engines in `hfembed.words.training` compute the same much faster and are tested against it.
    """

    def __init__(self, config: Word2VecConfig, vocabulary: Vocabulary | None = None):
        super().__init__(config)
        self.word2vec = Word2VecModel(config)
        self.context_embeddings = ContextEmbedding(config.vocab_size, config.embedding_size)
        self.post_init()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_gensim(cls, model: Any) -> "Word2VecForPreTraining":
        """Words, counts, settings and both matrices of a gensim `Word2Vec`, to go on training here.

        Raises:
            ValueError: A model trained with hierarchical softmax alone.
        """
        vocabulary, vectors = read_keyed_vectors(model.wv, trained=True)
        with torch.device("meta"):
            ours = cls(read_gensim_config(model))
        ours.word2vec.embeddings.weight = nn.Parameter(torch.from_numpy(vectors.copy()))
        ours.context_embeddings.weight = nn.Parameter(torch.from_numpy(model.syn1neg.copy()))
        ours.set_vocabulary(vocabulary)
        for parameter in ours.parameters():
            check_finite_rows(parameter, vocabulary)
        return ours.eval()

    def to_gensim(self):
        """A gensim `Word2Vec` with both matrices, that continues training where this stopped.

        Raises:
            ValueError: A vocabulary without counts.
        """
        context = self.context_embeddings.weight.detach().float().cpu().numpy()
        return make_gensim_model(self.config, self.require_vocabulary(), self.word2vec.numpy_vectors(), context)

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
            undivided when `cbow_mean`, and divided by their number when not.
        """
        mask = torch.ones_like(context_ids, dtype=torch.bool) if context_mask is None else context_mask.bool()
        context = self.word2vec.embeddings(context_ids) * mask.unsqueeze(-1)  # (B, C, D)
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


def _sample_rows(weight: torch.Tensor) -> np.ndarray:
    """Numbers of up to 256 rows, which tell the vectors of one run from those of another."""
    number = min(len(weight), 256)
    rows = torch.arange(number) * len(weight) // max(number, 1)
    sample = weight.detach()[rows.to(weight.device), :8].cpu()
    return sample.numpy() if sample.dtype == torch.float64 else sample.float().numpy()


def _check_rows(weight: torch.Tensor, counts_file: str) -> None:
    """Refuse words that were saved with other vectors; saves of earlier releases have no sample to compare."""
    with safe_open(counts_file, "pt") as file:
        sample = file.get_tensor("row_sample") if "row_sample" in file.keys() else None
    if sample is None or weight.is_meta:
        return
    if not np.array_equal(_sample_rows(sample.to(weight.dtype)) if len(sample) else sample, _sample_rows(weight)):
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
