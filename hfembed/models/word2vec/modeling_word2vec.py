"""word2vec: two matrices, an input row and an output row a word (Mikolov et al. 2013)."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, cached_file

from .configuration_word2vec import Word2VecConfig
from .gensim_exchange import make_gensim_model, make_keyed_vectors, read_gensim_config, read_keyed_vectors
from .vocabulary_word2vec import COUNTS_FILE, TOKENIZER_FILE, Vocabulary
from .word2vec_format import read_word2vec_format
from .word_vectors import WordVectorQueries

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass
class Word2VecPreTrainingOutput(ModelOutput):
    """What `Word2VecForPreTraining` returns.

    Attributes:
        loss (`torch.Tensor` of shape ()): Negative-sampling loss.
        positive_scores (`torch.Tensor`): Dot products of the true pairs: (batch, context), or (batch,) for CBOW.
        negative_scores (`torch.Tensor`): Dot products with the noise words: the same shape and an axis more.
    """

    loss: torch.Tensor | None = None
    positive_scores: torch.Tensor | None = None
    negative_scores: torch.Tensor | None = None


class Word2VecPreTrainedModel(PreTrainedModel):
    """What the word2vec models share: how rows start, and a vocabulary that travels with the weights."""

    config: Word2VecConfig
    base_model_prefix = "word2vec"
    main_input_name = "input_ids"
    input_modalities = ("text",)
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

        The arguments are those of `transformers.PreTrainedModel.from_pretrained`.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        where = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        files = [
            cached_file(pretrained_model_name_or_path, name, _raise_exceptions_for_missing_entries=False, **where)
            for name in (TOKENIZER_FILE, COUNTS_FILE)
        ]
        if all(files):
            model.set_vocabulary(Vocabulary.from_files(*files))
        return loaded

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs) -> None:
        """Save weights, config, the tokenizer and the counts; `SentenceTransformer(save_directory)` loads it too.

        The arguments are those of `transformers.PreTrainedModel.save_pretrained`.
        """
        pushed = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.vocabulary is not None and kwargs.get("is_main_process", True):
            self.vocabulary.save(save_directory)
            _save_sentence_transformers_files(Path(save_directory), self.config.embedding_size)
        if push_to_hub:
            repo_id = pushed.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, token=kwargs.get("token"), **pushed)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words of the rows, or `None` for a model that was never given any."""
        return self.base_model._vocabulary

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Name the rows.

        Raises:
            ValueError: As many words as rows are needed.
        """
        if len(vocabulary) != self.config.vocab_size:
            raise ValueError(f"{len(vocabulary)} words do not fit {self.config.vocab_size} rows")
        self.base_model._vocabulary = vocabulary


_PUSH_ARGUMENTS = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


class ContextEmbedding(nn.Embedding):
    """The output rows; a class of their own because they start at 0."""


class Word2VecModel(WordVectorQueries, Word2VecPreTrainedModel):
    """The input rows: word vectors to look up, compare and average.

    Ids from `config.vocab_size` on (unknown words, padding) have no row: their vector is 0 and means skip them.

    Args:
        config: The model's configuration.
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

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the input rows."""
        self.embeddings = value

    @classmethod
    def from_vectors(cls, vocabulary: Vocabulary, vectors: np.ndarray, **config) -> "Word2VecModel":
        """A model of given words and vectors, which it takes over without a copy.

        Args:
            vocabulary: The words.
            vectors: float32 or float16 of shape (words, dimensions).
            **config: Fields of `Word2VecConfig`, where more is known of the vectors.
        """
        with torch.device("meta"):
            model = cls(Word2VecConfig(**config, vocab_size=len(vocabulary), embedding_size=vectors.shape[1]))
        weight = torch.from_numpy(vectors)
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
        """Read word vectors in word2vec's text or binary format, or GloVe's text; memory is the matrix.

        Args:
            path: The file; .gz, .xz and .bz2 are unpacked on the way.
            binary: Which format it is. Default: found out.
            limit: Read only the first so many words.
            dtype: torch.float32, or torch.float16 for half the memory.
            counts_file: A word and its count a line (word2vec's `-save-vocab`, gensim's `fvocab`).
            unicode_errors: "strict", or "replace" or "ignore" for words that are not UTF-8.

        Raises:
            ValueError: One line that says what is wrong with the file.
            FileNotFoundError: There is no such file.
        """
        numpy_dtype = {torch.float32: np.float32, torch.float16: np.float16}.get(dtype)
        if numpy_dtype is None:
            raise ValueError(f"dtype is torch.float32 or torch.float16, not {dtype}")
        words, vectors, counts = read_word2vec_format(path, binary, limit, numpy_dtype, counts_file, unicode_errors)
        return cls.from_vectors(Vocabulary(words, counts), vectors)

    @classmethod
    def from_keyed_vectors(cls, keyed_vectors) -> "Word2VecModel":
        """The words, counts and vectors of a gensim `KeyedVectors`."""
        vocabulary, vectors = read_keyed_vectors(keyed_vectors)
        return cls.from_vectors(vocabulary, vectors.copy())

    @classmethod
    def from_gensim(cls, model) -> "Word2VecModel":
        """The input rows of a gensim `Word2Vec`; `Word2VecForPreTraining.from_gensim` takes the output rows too."""
        return Word2VecForPreTraining.from_gensim(model).word2vec

    def numpy_vectors(self) -> np.ndarray:
        """The vectors in float32, of shape (words, embedding_size); shares memory where it can."""
        return self.embeddings.weight.detach().float().cpu().numpy()

    def to_keyed_vectors(self):
        """A gensim `KeyedVectors` with a copy of words, counts and vectors."""
        return make_keyed_vectors(self._words(), self.numpy_vectors())

    def to_gensim(self):
        """A gensim `Word2Vec` that goes on training from these input rows.

        Output rows are not part of this class and start at 0; `Word2VecForPreTraining.to_gensim` carries them over.

        Raises:
            ValueError: A vocabulary without counts.
        """
        vectors = self.numpy_vectors()
        return make_gensim_model(self.config, self._words(), vectors, np.zeros_like(vectors))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Look words up.

        Args:
            input_ids: Ids of shape (batch, length), int64.
            attention_mask: 1 for words, 0 for padding, of the same shape.
            **kwargs: Ignored; pipelines pass flags that mean nothing here.

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
    """Input and output rows with the negative-sampling loss, written to be read.

    The engines in `hfembed.training.word2vec` compute the same thing much faster and are tested against this.

    Args:
        config: The model's configuration.
        vocabulary: The words of the rows.
    """

    def __init__(self, config: Word2VecConfig, vocabulary: Vocabulary | None = None):
        super().__init__(config)
        self.word2vec = Word2VecModel(config)
        self.context_embeddings = ContextEmbedding(config.vocab_size, config.embedding_size)
        self.post_init()
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_gensim(cls, model) -> "Word2VecForPreTraining":
        """Words, counts, settings and both matrices of a gensim `Word2Vec`, to go on training here.

        Raises:
            ValueError: A model trained with hierarchical softmax alone.
        """
        vocabulary, vectors = read_keyed_vectors(model.wv)
        with torch.device("meta"):
            ours = cls(read_gensim_config(model))
        ours.word2vec.embeddings.weight = nn.Parameter(torch.from_numpy(vectors.copy()))
        ours.context_embeddings.weight = nn.Parameter(torch.from_numpy(model.syn1neg.copy()))
        ours.set_vocabulary(vocabulary)
        return ours.eval()

    def to_gensim(self):
        """A gensim `Word2Vec` with both matrices, that goes on training where this stopped.

        Raises:
            ValueError: A vocabulary without counts.
        """
        context = self.context_embeddings.weight.detach().float().cpu().numpy()
        return make_gensim_model(self.config, self.word2vec._words(), self.word2vec.numpy_vectors(), context)

    def forward(
        self,
        center_ids: torch.Tensor,
        context_ids: torch.Tensor,
        negative_ids: torch.Tensor,
        context_mask: torch.Tensor | None = None,
        negative_weights: torch.Tensor | None = None,
        reduction: str = "sum",
    ) -> Word2VecPreTrainingOutput:
        """Negative-sampling loss (Mikolov et al. 2013b, equation 4), predicting the centre word from its context.

        With y the output row of the centre, y_k those of the noise words and h the input row of one context word
        (skip-gram, a term for each) or the mean of all (CBOW): -log s(y . h) - sum_k w_k log s(-y_k . h).

        Args:
            center_ids: Centre words, int64 of shape (batch,).
            context_ids: Their neighbours, int64 of shape (batch, context).
            negative_ids: Noise words, of shape (batch, context, negatives), or (batch, negatives) for the same ones
                for a whole context; CBOW takes the latter only.
            context_mask: Which neighbours exist, bool of the shape of `context_ids`. Default: all.
            negative_weights: w_k, of the shape of `negative_ids`. Default: 1. A 0 leaves a noise word out, as word2vec
                does where it drew the centre word itself.
            reduction: "sum" over all terms, or "mean": divided by the number of positive pairs (CBOW: of centres).

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


def _save_sentence_transformers_files(folder: Path, dimension: int) -> None:
    """The files by which sentence-transformers loads the folder: word vectors, then their mean."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {"word_embedding_dimension": dimension, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in (("modules.json", modules), ("1_Pooling/config.json", pooling)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


__all__ = ["Word2VecForPreTraining", "Word2VecModel", "Word2VecPreTrainedModel", "Word2VecPreTrainingOutput"]
