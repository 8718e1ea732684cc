"""What the page does with photos of faces, whatever kind of model it has for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, input_errors
from hfembed.index.embedding_index import EmbeddingIndex


class Answer(NamedTuple):
    """Whether two faces are one person's.

    Attributes:
        same: The decision.
        similarity: Cosine.
        threshold: The cosine it was decided by.
        probability: At even odds beforehand; None for a checkpoint without a calibration.
    """

    same: bool
    similarity: float
    threshold: float
    probability: float | None


class FaceReader:
    """Embeds the largest face of a photo, found by a detector where the checkpoint has one, else the photo's centre.

    Args:
        checkpoint: Folder or Hub id of a face analyzer or of a face embedder.
        device: A torch device, or "auto".

    Attributes:
        rates: False accept rates that the checkpoint has thresholds for, falling.
        needs_crops: Whether photos have to be faces cut out already.

    Raises:
        InputError: There is no such checkpoint, or it has no thresholds to decide by.
    """

    def __init__(self, checkpoint: str, device: str = "auto") -> None:
        self.needs_crops = Checkpoint.resolve(checkpoint).detector is None
        if self.needs_crops:
            self.analyzer = None
            self.embedder, self.processor = load_face_embedder(checkpoint, device)
        else:
            from hfembed.faces.face_analyzer import FaceAnalyzer

            self.analyzer = FaceAnalyzer.from_pretrained(checkpoint, device)
            self.embedder = self.analyzer.embedder
        thresholds = self.embedder.config.thresholds or {}
        self.rates = sorted((float(rate) for rate in thresholds.get("far", {})), reverse=True)
        self.data = thresholds.get("data", "")
        if not self.rates:
            raise InputError(f"{checkpoint} has no thresholds: measure it (hfembed evaluate ... --store-thresholds)")

    def embed(self, photos: Sequence[str | Path]) -> np.ndarray:
        """The faces of photos, (N, D) float32.

        Raises:
            InputError: A photo cannot be read or shows no face.
        """
        if self.analyzer is None:
            with input_errors():
                pixel_values = self.processor([str(photo) for photo in photos], return_tensors="pt").pixel_values
            return self.embedder.embed(pixel_values.to(self.embedder.device)).cpu().numpy()
        found = self.analyzer([str(photo) for photo in photos], "largest")
        for photo in found:
            if photo.error:
                raise InputError(photo.error)
        return np.stack([photo.faces[0].embedding for photo in found])

    def compare(self, a: str, b: str, rate: float) -> Answer:
        """Decide whether two photos show one person, at a false accept rate.

        Raises:
            InputError: As for `embed`, or there is no threshold for this rate.
        """
        first, second = torch.from_numpy(self.embed([a, b])).split(1)
        with input_errors():
            same = self.embedder.verify(first, second, far=rate).item()
            probability = None
            if "calibration" in self.embedder.config.thresholds:
                probability = self.embedder.probability(first, second).item()
        return Answer(same, self.embedder.similarity(first, second).item(), self.threshold(rate), probability)

    def threshold(self, rate: float) -> float:
        """The cosine from which on two faces are one person's, at a false accept rate.

        Raises:
            InputError: There is no threshold for this rate.
        """
        with input_errors():
            return self.embedder.threshold(rate)

    def identify(
        self, photo: str, gallery: EmbeddingIndex, threshold: float, top_k: int = 5
    ) -> list[tuple[str, float, bool]]:
        """The nearest people: name, cosine, and whether they are as near as the threshold, a cosine, asks.

        Raises:
            InputError: As for `embed`, or the gallery is of another model.
        """
        matches = gallery.search(self.embed([photo]), top_k)
        return [
            (label, float(score), bool(score >= threshold))
            for label, score in zip(matches.labels[0], matches.scores[0], strict=True)
        ]

    def enrol(self, photos: Sequence[str | Path]) -> EmbeddingIndex:
        """A gallery of photos named after who is on them: "Ann_2.jpg" and "Ann.jpg" are Ann's.

        Raises:
            InputError: As for `embed`.
        """
        index = EmbeddingIndex()
        index.add(self.embed(photos), [_person(Path(photo)) for photo in photos])
        return index


def _person(photo: Path) -> str:
    return photo.stem.rstrip("0123456789").rstrip("_- ") or photo.stem
