"""The model card of a convolutional autoencoder."""

from huggingface_hub import EvalResult, ModelCard

from hfembed.checkpoint.card_data import CardNotes, dataset_revision, fill

_UNITS = {"psnr": " dB", "gain": " dB"}
_PICTURES = {
    "reconstructions.png": "Photos and their reconstructions",
    "samples.png": "Samples",
    "morph.png": "A morph",
    "curves.png": "Training curves",
}


def render_autoencoder_card(notes: CardNotes) -> ModelCard:
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
        for name, details in notes.evaluations.items()
        for figure, value in details["figures"].items()
        if figure.endswith(("psnr", "ssim"))
    ]
    tags = ["autoencoder", "image-reconstruction"]
    if notes.config.get("variational"):
        tags.append("variational-autoencoder")
    return fill(
        "conv_autoencoder.md.jinja",
        notes,
        notes.card_data("image-feature-extraction", tags, results),
        tables={name: notes.table(name, _UNITS) for name in notes.evaluations},
        pictures=notes.pictures(_PICTURES),
    )
