"""Every word once an epoch, no context across a border, the same order whenever it is asked for."""

import numpy as np
import pytest
import torch

from hfembed.words.training.resident_corpus import ResidentCorpus
from hfembed.words.training.segments import SegmentPlan


def test_an_epoch_holds_every_word_once():
    ids = np.arange(100_003, dtype=np.int32)
    ends = np.array([10, 5_000, 5_001, 70_000, 100_003])
    plan = SegmentPlan.for_corpus(len(ids), num_workers=3, seed=1)
    assert plan.num_segments % 3 == 0
    for epoch in range(2):
        parts = [plan.read(ids, ends, epoch, segment) for segment in range(plan.num_segments)]
        assert np.array_equal(np.sort(np.concatenate([words for words, _ in parts])), ids)
    # segments are about equal, and progress counts every word
    sizes = [len(words) for words, _ in parts]
    assert max(sizes) - min(sizes) <= 2 * plan.chunk_words
    assert plan.words_before(0) == 0 and plan.words_before(plan.num_segments) == len(ids)


def test_neighbors_in_a_sentence_are_neighbors_in_the_corpus():
    ids = np.arange(50_000, dtype=np.int32)
    ends = np.unique(np.append(np.random.default_rng(0).integers(1, 50_000, 4_000), 50_000))
    plan = SegmentPlan.for_corpus(len(ids), num_workers=1, seed=0)
    lengths = np.diff(ends, prepend=0)
    sentence_of = np.repeat(np.arange(len(ends)), lengths)
    for segment in range(plan.num_segments):
        words, sentences = plan.read(ids, ends, 0, segment)
        together = sentences[1:] == sentences[:-1]
        assert np.all((np.diff(words) == 1)[together])
        assert np.all((sentence_of[words[1:]] == sentence_of[words[:-1]])[together])
        # what was cut without need: at most one border a chunk
        needless = ~together & (np.diff(words) == 1) & (sentence_of[words[1:]] == sentence_of[words[:-1]])
        assert needless.sum() <= len(plan.chunks(0, segment))


def test_order_depends_on_seed_and_epoch_alone():
    plan = SegmentPlan.for_corpus(1_000_000, 1, seed=3)
    assert np.array_equal(plan.chunks(1, 0), SegmentPlan.for_corpus(1_000_000, 1, seed=3).chunks(1, 0))
    assert not np.array_equal(plan.chunks(1, 0), plan.chunks(2, 0))
    assert not np.array_equal(plan.chunks(1, 0), SegmentPlan.for_corpus(1_000_000, 1, seed=4).chunks(1, 0))


@pytest.mark.parametrize("num_words", [50_000, 65_536, 300])
def test_a_corpus_in_the_memory_of_a_gpu_is_read_as_from_the_host(num_words):
    ids = np.random.default_rng(1).integers(0, 1000, num_words).astype(np.int32)
    ends = np.unique(np.append(np.random.default_rng(0).integers(1, num_words, num_words // 30), num_words))
    plan = SegmentPlan.for_corpus(num_words, num_workers=4, seed=0)
    resident = ResidentCorpus(ids, ends, torch.device("cpu"))
    for segment in range(plan.num_segments):
        for host, device in zip(plan.read(ids, ends, 1, segment), resident.read(plan, 1, segment), strict=True):
            assert device.dtype == torch.int32
            assert np.array_equal(host, device.numpy())
