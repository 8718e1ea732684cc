"""The model card of a convolutional autoencoder."""

from huggingface_hub import EvalResult, ModelCard

from hfembed.checkpoint.card_data import Checkpoint, dataset_revision, fill
from hfembed.models.autoencoder_config import upgrade_config

_UNITS = {"psnr": " dB", "gain": " dB"}
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
    results = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name=name.replace("_", " "),
            dataset_type="images",
            dataset_name=str(details.get("data", "held-out images")),
            dataset_config=name,
            dataset_split="test",
            dataset_revision=dataset_revision(details, "images", "photos"),
            metric_type="psnr" if figure.endswith("psnr") else "ssim",
            metric_name=figure.replace("_", " "),
            metric_value=round(value, 3),
        )
        for name, details in checkpoint.evaluations.items()
        for figure, value in details["figures"].items()
        if figure.endswith(("psnr", "ssim"))
    ]
    # a config.json from before the families were separated is of a family that its fields name
    family = upgrade_config(checkpoint.config)["model_type"].split("_")[1]
    tags = ["autoencoder", "image-reconstruction"]
    if checkpoint.config.get("variational"):
        tags.append("variational-autoencoder")
    if family == "restoration":
        tags = ["image-restoration", "inpainting" if checkpoint.config.get("inpainting") else "denoising"]
    return fill(
        "conv_autoencoder.md.jinja",
        checkpoint,
        checkpoint.card_data("image-feature-extraction", tags, results),
        family=family,
        tables={name: checkpoint.table(name, _UNITS) for name in checkpoint.evaluations},
        pictures=checkpoint.pictures(_PICTURES),
    )
