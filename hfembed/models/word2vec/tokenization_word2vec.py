"""The tokenizer of a model with subwords or an analyzer: analyzed text, ids of words, n-grams of unknown words."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerFast

from .subwords import LONGEST_NGRAM, MOST_BUCKETS, MOST_HASHES, hash_ngrams
from .text_rules import TextRules

_WIDTH = 128  # n-grams per word are padded to a multiple, so that batches of a pipeline fit together


class Word2VecTokenizer(PreTrainedTokenizerFast):
    """A WordLevel tokenizer that analyzes text first, and returns `ngram_ids` of words outside the vocabulary.

    With an analyzer, offsets are those in the analyzed text, and texts given as lists of words are not analyzed. With
    subwords, `ngram_ids` has the shape (batch, length, n-grams): the hash bucket of each n-gram + 1, and 0 for none;
    with `hash_count` those of the word itself too.
    Texts in pairs and overflowing tokens get no `ngram_ids`.

    It is made by `Vocabulary.to_tokenizer`, with `subwords` (least and greatest length), `buckets` and
    `hash_count`, with `text_rules`, or with both.
    """

    @cached_property
    def _text_rules(self) -> TextRules:
        """The rules with the analyzer, from tokenizer_config.json.

        Raises:
            ValueError: They are impossible.
        """
        try:
            return TextRules(**self.init_kwargs.get("text_rules", {}))
        except TypeError as error:
            raise ValueError(f"tokenizer_config.json: impossible text_rules: {error}") from None

    @property
    def ngram_sizes(self) -> tuple[int, int, int, int | None]:
        """Least and greatest length of the n-grams, and the numbers of buckets and hashes, from tokenizer_config.json.

        Raises:
            ValueError: They are missing or impossible.
        """
        (smallest, largest), buckets = self.init_kwargs.get("subwords", (0, 0)), self.init_kwargs.get("buckets", 0)
        hash_count = self.init_kwargs.get("hash_count")
        if not (
            isinstance(buckets, int) and 1 <= smallest <= largest <= LONGEST_NGRAM and 1 <= buckets <= MOST_BUCKETS
        ):
            raise ValueError(f"tokenizer_config.json: impossible subwords {smallest, largest} or buckets {buckets}")
        if not (hash_count is None or (isinstance(hash_count, int) and 1 <= hash_count <= MOST_HASHES)):
            raise ValueError(f"tokenizer_config.json: hash_count must lie between 1 and {MOST_HASHES}")
        return smallest, largest, buckets, hash_count

    def _encode_plus(  # type: ignore[override]
        self, text: Any, text_pair: Any = None, is_split_into_words: bool = False, **kwargs: Any
    ) -> BatchEncoding:
        tensors = kwargs.pop("return_tensors", None)
        if not is_split_into_words:
            text, text_pair = self._analyze(text), self._analyze(text_pair)
        encoded = super()._encode_plus(text, text_pair, is_split_into_words=is_split_into_words, **kwargs)
        single = isinstance(text, str) or (is_split_into_words and not (text and isinstance(text[0], list | tuple)))
        texts = [text] if single else text
        encodings = encoded.encodings if "subwords" in self.init_kwargs and text_pair is None else None
        if encodings is not None and len(encodings) == len(texts):
            ngram_ids = self._ngram_ids(texts, encodings)
            encoded["ngram_ids"] = (ngram_ids[0] if single else ngram_ids).tolist()
        if tensors is None:
            return encoded
        # a single text becomes a batch of one, as in transformers
        return BatchEncoding(dict(encoded), encoded.encodings, tensors, prepend_batch_axis=single)

    def _analyze(self, text: Any) -> Any:
        if isinstance(text, list | tuple):
            return [self._analyze(item) for item in text]
        return self._text_rules.analyze(text) if isinstance(text, str) else text

    def _ngram_ids(self, texts: Sequence[Any], encodings: Sequence[Any]) -> np.ndarray:
        places: list[tuple[int, int]] = []
        unknown: list[str] = []
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            if self.unk_token_id not in encoding.ids:
                continue
            pieces = [text] if isinstance(text, str) else text
            words = [word for piece in pieces for word in split_text(self.backend_tokenizer, piece)]
            there = [place for place, real in enumerate(encoding.attention_mask) if real]
            words = words[-len(there) :] if self.truncation_side == "left" else words[: len(there)]
            for place, word in zip(there, words, strict=True):
                if encoding.ids[place] == self.unk_token_id:
                    places.append((row, place))
                    unknown.append(word)
        offsets, hashes = hash_ngrams(unknown, *self.ngram_sizes)
        longest = int(np.diff(offsets).max(initial=1))
        length = max((len(encoding.ids) for encoding in encodings), default=0)
        ngram_ids = np.zeros((len(texts), length, -(-longest // _WIDTH) * _WIDTH), dtype=np.int64)
        for (row, place), begin, end in zip(places, offsets[:-1], offsets[1:], strict=True):
            ngram_ids[row, place, : end - begin] = hashes[begin:end] + 1
        return ngram_ids


def split_text(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words that a WordLevel tokenizer looks up."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


__all__ = ["Word2VecTokenizer"]
