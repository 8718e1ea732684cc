"""What the page does with photos of faces, whatever kind of model it has for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, input_errors
from hfembed.faces.face_analyzer import FaceAnalyzer, Verification, compare_embeddings
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.index.origin import Origin
from hfembed.photos import open_photo


class FaceReader:
    """Embeds the largest face of a photo, found by a detector, or the photo's center if the checkpoint has none.

    Raises:
        InputError: There is no such checkpoint, or it has no thresholds to decide by.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.needs_crops = checkpoint.detector is None
        self.analyzer = None if self.needs_crops else FaceAnalyzer.from_pretrained(checkpoint, device)
        if self.analyzer is None:
            self.embedder, self.processor = load_face_embedder(checkpoint, device)
        else:
            self.embedder, self.processor = self.analyzer.embedder, self.analyzer.embedder_processor
        thresholds = self.embedder.config.thresholds or {}
        self.rates = sorted((float(rate) for rate in thresholds.get("far", {})), reverse=True)
        self.data = thresholds.get("data", "")
        if not self.rates:
            raise InputError(
                f"{checkpoint.name} has no thresholds; measure it by `hfembed evaluate identification`, with "
                "--store-thresholds"
            )

    def check_gallery(self, index: EmbeddingIndex, name: str) -> None:
        """Refuse a gallery of another model.

        Raises:
            InputError: It is.
        """
        config = self.embedder.config
        views = 2 if config.mirror == "concatenate" else 1
        index.check_origin(Origin.of(self.embedder, mirror=config.mirror), views * config.embedding_size, name)

    def embed(self, photos: Sequence[str]) -> np.ndarray:
        """The faces of photos, (N, D) float32.

        Raises:
            InputError: A photo cannot be read, shows no face or one of too low a quality.
        """
        return self._embed(photos)[0]

    def _embed(self, photos: Sequence[str]) -> tuple[np.ndarray, float | None]:
        """Embeddings, and the lowest quality where it is known."""
        if self.analyzer is None:
            with input_errors():
                pixel_values = self.processor([open_photo(photo) for photo in photos]).pixel_values
            return self.embedder.embed(pixel_values.to(self.embedder.device)).cpu().numpy(), None
        found = self.analyzer(photos, "largest")
        for photo in found:
            if photo.error:
                raise InputError(photo.error)
        faces = [photo.faces[0] for photo in found]
        return np.stack([face.embedding for face in faces]), min(face.quality.overall for face in faces)

    def compare(self, a: str, b: str, rate: float) -> Verification:
        """Decide whether two photos show one person, at a false accept rate.

        Raises:
            InputError: As for `embed`, or there is no threshold for this rate.
        """
        (first, second), quality = self._embed([a, b])
        return compare_embeddings(self.embedder, first, second, rate, quality)

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
        """The nearest people: name, cosine, and whether the cosine reaches the threshold.

        Raises:
            InputError: As for `embed`.
        """
        matches = gallery.search(self.embed([photo]), top_k)
        return [
            (label, float(score), bool(score >= threshold))
            for label, score in zip(matches.labels[0], matches.scores[0], strict=True)
        ]

    def enroll(self, photos: Sequence[str]) -> EmbeddingIndex:
        """A gallery of photos named after who is on them: "Ann_2.jpg" and "Ann.jpg" are Ann's.

        Raises:
            InputError: As for `embed`.
        """
        index = EmbeddingIndex()
        index.add(self.embed(photos), [_person(Path(photo)) for photo in photos])
        return index


def _person(photo: Path) -> str:
    return photo.stem.rstrip("0123456789").rstrip("_- ") or photo.stem
