"""The model card of a face swap model."""

from huggingface_hub import EvalResult, ModelCard

from hfembed.checkpoint.card_data import CardNotes, fill

_UNITS = {"closer_to_target": " %", "undetected": " %"}
_PICTURES = {
    "swaps.png": "Photos, and each drawn by every decoder",
    "pose_distance.png": "How the likeness falls with the distance of the pose",
    "curves.png": "Training curves",
}


def render_swap_card(notes: CardNotes) -> ModelCard:
    """Fill the template.

    Raises:
        InputError: The notes beside the checkpoint lack something the card needs.
    """
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="face swap",
            dataset_type="faces",
            dataset_name="held-out photos of the people it was trained on",
            dataset_split="test",
            metric_type="closer_to_target",
            metric_name="swaps closer to the target than to the source",
            metric_value=round(details["figures"]["closer_to_target"], 2),
        )
        for details in notes.evaluations.values()
        if "closer_to_target" in details["figures"]
    ]
    return fill(
        "face_swap.md.jinja",
        notes,
        notes.card_data("image-to-image", ["face-swap"], results),
        tables={name: notes.table(name, _UNITS) for name in notes.evaluations},
        pictures=notes.pictures(_PICTURES),
    )
