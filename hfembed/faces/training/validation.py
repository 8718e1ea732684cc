"""What a face embedder is measured on while it trains: what chooses the model, and sets of pairs."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from hfembed.checkpoint.results import provenance, write_results
from hfembed.faces.evaluation.lfw import LfwResult, LfwVerification
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


class Validation:
    """Measures a model; on several ranks all of them call, each embeds a part, and all get the same figures.

    Args:
        chooses: View 1, held-out photos or synthetic faces; None leaves the choice of the model to the first set.
        pair_sets: Name -> where the set was read from, and its protocol, as `verify_pair_sets` gives them.

    Attributes:
        primary_metric: The figure that decides which model is best.
    """

    def __init__(
        self,
        chooses: Callable[[PreTrainedModel, FaceImageProcessor], dict[str, float]] | None,
        pair_sets: dict[str, tuple[str, LfwVerification]],
    ) -> None:
        self.chooses, self.pair_sets = chooses, pair_sets
        first = chooses if chooses is not None else next(iter(pair_sets.values()))[1]
        self.primary_metric: str = first.primary_metric  # type: ignore[attr-defined]  # every protocol has one
        self._measured: dict[str, LfwResult] = {}
        self._mirror = ""

    def __call__(self, model: PreTrainedModel, processor: FaceImageProcessor) -> dict[str, float]:
        """Figures of a model in eval mode, of all protocols together."""
        figures = {} if self.chooses is None else self.chooses(model, processor)
        self._mirror = model.config.mirror
        for name, (_, protocol) in self.pair_sets.items():
            self._measured[name] = protocol.evaluate(model, processor)
            figures |= self._measured[name].metrics
        return figures

    def write_results(self, folder: Path) -> None:
        """Write what was measured last of each set of pairs into results.json of the folder with that model."""
        for name, result in self._measured.items():
            source = self.pair_sets[name][0]
            details = {"mirror": self._mirror, **result.details, "thresholds": result.thresholds}
            if self.primary_metric in result.metrics:
                details["protocol"] += "; if several evaluations were made in training, the best of them on this set"
            write_results(folder, name, result.metrics, details | provenance({"pairs": source}))
