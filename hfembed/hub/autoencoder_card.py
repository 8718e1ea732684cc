"""The model card of a convolutional autoencoder."""

from huggingface_hub import ModelCard, ModelCardData

from hfembed.hub.page import Checkpoint, fill

_PICTURES = {
    "reconstructions.png": "Photos and their reconstructions",
    "samples.png": "Samples",
    "morph.png": "A morph",
    "curves.png": "Training curves",
}


def render_autoencoder_card(checkpoint: Checkpoint) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    data = ModelCardData(
        library_name="hfembed",
        pipeline_tag="image-feature-extraction",
        license="other",
        license_name="as-the-training-data",
        license_link="#training-data",
        tags=["hfembed", "autoencoder"],
        model_name=checkpoint.name,
    )
    return fill("conv_autoencoder.md.jinja", checkpoint, data, pictures=checkpoint.pictures(_PICTURES))
