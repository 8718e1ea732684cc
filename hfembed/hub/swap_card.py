"""The model card of a face swap model."""

from huggingface_hub import ModelCard, ModelCardData

from hfembed.hub.page import Checkpoint, fill

_PICTURES = {
    "swaps.png": "Photos, their reconstructions, and each with the other decoder",
    "curves.png": "Training curves",
}


def render_swap_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    data = ModelCardData(
        library_name="hfembed",
        pipeline_tag="image-to-image",
        license="other",
        license_name="as-the-training-data",
        license_link="#training-data",
        tags=["hfembed", "face-swap"],
        model_name=checkpoint.name,
    )
    return fill("face_swap.md.jinja", checkpoint, data, pictures=checkpoint.pictures(_PICTURES))
