"""A weight for each word, learned from text, that makes the mean of its words' vectors a better vector of a text."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.words.data.corpora import EncodedCorpus

_BATCH, _LONGEST_PART = 256, 32  # pairs of parts; words
_TEMPERATURE, _SIF = 0.05, 1e-3
_HELD_OUT = 0.1  # of the text, its end
_ASKED, _TIMES = 1000, 5
_PULL = 3e-4  # toward SIF's weights; without it words that are not frequent overfit


@dataclass(frozen=True)
class FittedWeights:
    """What `fit_weights` returns.

    Attributes:
        model: The words with their weighted vectors, whose plain mean is a text's vector.
        accuracies: Of "mean", "sif" and "fitted": the percentage of parts of the held-out text to whose vector, of the
            continuations of 1,000 parts, that of their own is the nearest.
    """

    model: Word2VecModel
    accuracies: dict[str, float]


def fit_weights(model: Word2VecModel, corpus: EncodedCorpus, steps: int = 1000, seed: int = 0) -> FittedWeights:
    """Learn one weight per word, starting with SIF's (Arora et al. 2017), by which parts of a text find each other.

    The vectors' common component is removed as in SIF, of every word, which is the same as of every mean. Then the
    weights alone learn: the mean of up to 32 words is to be nearer to that of the next words of the same line than to
    those of the other lines of a batch (InfoNCE over cosines, 256 pairs, temperature 0.05, Adam), and the logarithms
    of the weights near those of SIF's.

    Args:
        model: Word vectors with counts, without subwords.
        corpus: Text in ids of the model's vocabulary; its last tenth is held out.

    Raises:
        InputError: A model with subwords or without counts, or a text with too few words.
    """
    if model.config.subwords is not None:
        raise InputError("a model with subwords has no weights: its vectors are means of rows that words share")
    vocabulary = model.require_vocabulary()
    if vocabulary.counts is None:
        raise InputError("the model has no word counts, by which the weights start")
    if not np.array_equal(corpus.vocabulary.words, vocabulary.words):
        raise InputError("the corpus is not in ids of the model's words")
    boundary = int(len(corpus.ids) * (1 - _HELD_OUT))
    rng, asked_rng = np.random.default_rng(seed), np.random.default_rng(0)
    asked = [_draw_parts(corpus, boundary, len(corpus.ids), _ASKED, asked_rng) for _ in range(_TIMES)]

    vectors = model.word_vectors().float().cpu()
    frequencies = torch.from_numpy(vocabulary.counts / max(vocabulary.counts.sum(), 1)).float()
    logarithms = torch.log(_SIF / (_SIF + frequencies))
    accuracies = {"mean": _accuracy(vectors, torch.zeros_like(logarithms), asked)}
    sample = _means(vectors, logarithms, _draw_parts(corpus, 0, boundary, 4096, rng)[0])
    _, components = torch.linalg.eigh((sample.T @ sample).double())
    common = components[:, -1].to(vectors)
    vectors = vectors - (vectors @ common).unsqueeze(1) * common
    accuracies["sif"] = _accuracy(vectors, logarithms, asked)

    start = logarithms.clone()
    logarithms.requires_grad_()
    optimizer = torch.optim.Adam([logarithms], lr=0.02)
    targets = torch.arange(_BATCH)
    for _ in range(steps):
        first, second = (
            F.normalize(_means(vectors, logarithms, part), dim=1)
            for part in _draw_parts(corpus, 0, boundary, _BATCH, rng)
        )
        scores = first @ second.T / _TEMPERATURE
        loss = F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)
        loss = loss + _PULL * (logarithms - start).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logarithms = logarithms.detach()
    accuracies["fitted"] = _accuracy(vectors, logarithms, asked)
    weighted = vectors * logarithms.exp().unsqueeze(1)
    return FittedWeights(Word2VecModel.from_vectors(vocabulary, weighted.numpy()), accuracies)


Parts = tuple[torch.Tensor, torch.Tensor]
"""Ids of the words of all parts, and where each part begins."""


def _draw_parts(
    corpus: EncodedCorpus, begin: int, end: int, number: int, rng: np.random.Generator
) -> tuple[Parts, Parts]:
    """Pairs of neighbors: up to 32 words, and up to 32 words of the same sentence after them."""
    ends = corpus.sentence_ends
    middles = np.empty(0, np.int64)
    for _ in range(20):
        drawn = rng.integers(begin + 1, max(end, begin + 2), size=2 * number)
        sentence = np.searchsorted(ends, drawn, side="right")
        inside = (drawn < end) & (sentence < len(ends)) & (drawn > np.where(sentence, ends[sentence - 1], 0))
        middles = np.concatenate([middles, drawn[inside]])[:number]
        if len(middles) == number:
            break
    else:
        raise InputError(f"a text of {len(corpus.ids)} known words, most lines of one, is too little to fit weights")
    sentence = np.searchsorted(ends, middles, side="right")
    starts = np.maximum(np.where(sentence, ends[sentence - 1], 0), begin)
    lengths = rng.integers(4, _LONGEST_PART + 1, size=(2, number))
    before = np.maximum(starts, middles - lengths[0])
    after = np.minimum(np.minimum(ends[sentence], end), middles + lengths[1])
    return _collect(corpus, before, middles), _collect(corpus, middles, after)


def _collect(corpus: EncodedCorpus, begins: np.ndarray, ends: np.ndarray) -> Parts:
    ids = np.concatenate([corpus.ids[b:e] for b, e in zip(begins, ends, strict=True)]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(ends - begins)[:-1]])
    return torch.from_numpy(ids), torch.from_numpy(offsets)


def _means(vectors: torch.Tensor, logarithms: torch.Tensor, parts: Parts) -> torch.Tensor:
    """Weighted sums of the words of each part, which point where the means do: (parts, dimensions)."""
    ids, offsets = parts
    return F.embedding_bag(ids, vectors, offsets, mode="sum", per_sample_weights=logarithms[ids].exp())


@torch.no_grad()
def _accuracy(vectors: torch.Tensor, logarithms: torch.Tensor, asked: list[tuple[Parts, Parts]]) -> float:
    found = 0
    for pairs in asked:
        first, second = (F.normalize(_means(vectors, logarithms, parts), dim=1) for parts in pairs)
        found += int(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).sum())
    return 100 * found / (len(asked) * _ASKED)
