"""The model card of a face detector."""

from huggingface_hub import ModelCard

from hfembed.checkpoint.card_data import CardNotes, fill

_PICTURES = {"detections.png": "Detections", "precision_recall.png": "Precision and recall"}


def render_detector_card(notes: CardNotes) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    return fill(
        "face_detector.md.jinja",
        notes,
        notes.card_data("object-detection", ["face-detection", "face-alignment"], []),
        tables={name: notes.table(name, {}) for name in notes.evaluations},
        pictures=notes.pictures(_PICTURES),
    )
