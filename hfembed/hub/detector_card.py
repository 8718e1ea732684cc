"""The model card of a face detector."""

from huggingface_hub import ModelCard, ModelCardData

from hfembed.hub.page import Checkpoint, fill

_PICTURES = {"detections.png": "Detections", "precision_recall.png": "Precision and recall"}


def render_detector_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    data = ModelCardData(
        library_name="hfembed",
        pipeline_tag="object-detection",
        license="other",
        license_name="as-the-training-data",
        license_link="#training-data",
        tags=["hfembed", "face-detection"],
        model_name=checkpoint.name,
    )
    return fill("face_detector.md.jinja", checkpoint, data, pictures=checkpoint.pictures(_PICTURES))
