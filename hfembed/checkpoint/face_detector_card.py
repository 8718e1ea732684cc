"""The model card of a face detector."""

from huggingface_hub import ModelCard

from hfembed.checkpoint.card_data import Checkpoint, fill

_PICTURES = {"detections.png": "Detections", "precision_recall.png": "Precision and recall"}


def render_detector_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    return fill(
        "face_detector.md.jinja",
        checkpoint,
        checkpoint.card_data("object-detection", ["face-detection", "face-alignment"], []),
        tables={name: checkpoint.table(name, {}) for name in checkpoint.evaluations},
        pictures=checkpoint.pictures(_PICTURES),
    )
