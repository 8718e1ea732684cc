"""A corpus in a GPU's memory: segments are gathered there, and the host only says which chunks they are made of."""

import numpy as np
import torch

from hfembed.words.training.segments import SegmentPlan

BYTES_PER_WORD = 5
_AT_ONCE = 1 << 24  # words per transfer


class ResidentCorpus:
    """The words of an encoded corpus and where its sentences begin, on a device.

    Args:
        ids: int32 (num_words,); a memory map is read once, piece by piece.
        sentence_ends: int64, ascending, exclusive ends of the sentences as offsets into `ids`.
        device: Where to keep them.
    """

    def __init__(self, ids: np.ndarray, sentence_ends: np.ndarray, device: torch.device):
        self.ids = torch.empty(len(ids), dtype=torch.int32, device=device)
        self.begins_sentence = torch.zeros(len(ids) + 1, dtype=torch.bool, device=device)
        for begin in range(0, len(ids), _AT_ONCE):
            piece = np.array(ids[begin : begin + _AT_ONCE])
            self.ids[begin : begin + len(piece)] = torch.from_numpy(piece)
        for begin in range(0, len(sentence_ends), _AT_ONCE):
            ends = torch.from_numpy(np.array(sentence_ends[begin : begin + _AT_ONCE])).to(device)
            self.begins_sentence.index_fill_(0, ends, True)

    def read(self, plan: SegmentPlan, epoch: int, segment: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather a segment's words, as `SegmentPlan.read` does, without waiting for the device.

        Returns:
            words int32 (n,) and sentence int32 (n,), on the device.
        """
        chunks = plan.chunks(epoch, segment)
        number = len(chunks) * plan.chunk_words
        if plan.num_chunks - 1 in chunks:  # it is read last, and may be short
            number -= plan.num_chunks * plan.chunk_words - plan.num_words
        starts = torch.from_numpy(chunks * plan.chunk_words).to(self.ids.device)
        places = (starts[:, None] + torch.arange(plan.chunk_words, device=starts.device)).flatten()[:number]
        borders = self.begins_sentence.index_select(0, places)
        borders[:: plan.chunk_words] = True
        return self.ids.index_select(0, places), borders.cumsum(0, dtype=torch.int32) - 1
