"""Configuration of the word2vec models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hfembed.models.config_fields import check_fields, check_sizes

from .subwords import LONGEST_NGRAM, MOST_BUCKETS, MOST_HASHES

MOST_CENTROIDS = 256
"""What a code of one byte tells apart."""


@strict
class Word2VecConfig(PreTrainedConfig):
    """Configuration of a word2vec model and its training (Mikolov et al. 2013), with or without subwords.

    Args:
        architecture (`str`, *optional*, defaults to `"skip-gram"`):
            `"skip-gram"` (each context word predicts the center word) or `"cbow"` (their mean predicts it).
        vocab_size (`int`, *optional*, defaults to 0):
            Number of words = number of embedding rows. The tokenizer has two more tokens, `[UNK]` and `[PAD]`; their
            ids follow those of the words and have no row.
        embedding_size (`int`, *optional*, defaults to 100):
            Number of dimensions of a word vector.
        window (`int`, *optional*, defaults to 5):
            Largest distance between center and context word.
        shrink_windows (`bool`, *optional*, defaults to `True`):
            Whether each center word draws its window from 1 to `window`, so that near words count more.
        negative (`int`, *optional*, defaults to 5):
            Number of noise words per pair.
        sample (`float`, *optional*, defaults to 1e-3):
            Subsampling threshold: words that are a larger fraction of the corpus are dropped at random; 0 keeps all.
        ns_exponent (`float`, *optional*, defaults to 0.75):
            Noise words are drawn in proportion to count ** `ns_exponent`.
        cbow_mean (`bool`, *optional*, defaults to `True`):
            CBOW's hidden vector is the mean (otherwise the sum) of the context vectors.
        min_count (`int`, *optional*, defaults to 5):
            Words seen less often are not in the vocabulary.
        initializer_scale (`float`, *optional*, defaults to 1.0):
            Input rows start at U(-1, 1) * `initializer_scale` / `embedding_size` (gensim: 1, word2vec.c: 0.5).
        subwords (`list[int]`, *optional*):
            Least and greatest length of the character n-grams (Bojanowski et al. 2017), such as (3, 6): a word's
            vector is the mean of its own row and the rows of its n-grams, and words that are not in the vocabulary
            have vectors too. Default: words only.
        buckets (`int`, *optional*, defaults to 2000000):
            Hash buckets of the n-grams; each has a row, unless `ngram_rows` says otherwise.
        hash_count (`int`, *optional*):
            floret's variant, for small files: words and their n-grams have no rows of their own but `hash_count`
            rows each, from 1 to 4, chosen by hashes from one table of `buckets` rows, such as 50,000. Default:
            fastText's, a row per word and one per n-gram.
        ngram_rows (`int`, *optional*):
            Number of stored n-gram rows where only some buckets have one; the others have none, or share a row of
            zeros. Default: `buckets`.
        quantized_parts (`int`, *optional*):
            Where the rows are product-quantized, for inference: parts of a vector, one byte each.
        centroids (`int`, *optional*, defaults to 256):
            Centroids that each part chooses from.
    """

    model_type = "hfembed_word2vec"

    architecture: str = "skip-gram"
    vocab_size: int = 0
    embedding_size: int = 100
    window: int = 5
    shrink_windows: bool = True
    negative: int = 5
    sample: float | int = 1e-3
    ns_exponent: float | int = 0.75
    cbow_mean: bool = True
    min_count: int = 5
    initializer_scale: float | int = 1.0
    subwords: list[int] | tuple[int, ...] | None = None
    buckets: int = 2_000_000
    hash_count: int | None = None
    ngram_rows: int | None = None
    quantized_parts: int | None = None
    centroids: int = MOST_CENTROIDS

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        if isinstance(self.subwords, tuple):
            self.subwords = list(self.subwords)  # as config.json has it
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse an unknown architecture and impossible sizes."""
        if self.architecture not in ("skip-gram", "cbow"):
            raise ValueError(f"architecture must be 'skip-gram' or 'cbow', not {self.architecture!r}")
        for name in ("embedding_size", "window", "min_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("vocab_size", "negative", "sample"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.quantized_parts is not None:
            check_sizes(self, {"quantized_parts": self.embedding_size, "centroids": MOST_CENTROIDS})
            if self.embedding_size % self.quantized_parts:
                raise ValueError(f"quantized_parts must divide embedding_size {self.embedding_size}")
        if self.subwords is None:
            for name in ("hash_count", "ngram_rows"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs subwords")
            return
        if len(self.subwords) != 2 or not 1 <= self.subwords[0] <= self.subwords[1] <= LONGEST_NGRAM:
            raise ValueError(
                f"subwords must be the least and the greatest length of n-grams, from 1 to {LONGEST_NGRAM}, not "
                f"{self.subwords}"
            )
        check_sizes(self, {"buckets": MOST_BUCKETS, "ngram_rows": self.buckets + 1, "hash_count": MOST_HASHES})
        if self.hash_count is not None and self.ngram_rows is not None:
            raise ValueError("with hash_count every bucket has a row: ngram_rows must be None")

    @property
    def hidden_size(self) -> int:
        """`embedding_size`, under the name that other libraries use."""
        return self.embedding_size


__all__ = ["MOST_CENTROIDS", "Word2VecConfig"]
