"""Which regions make two faces alike? Cover them one by one and look how much the similarity falls.

Zeiler, Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2, with a pair's similarity
in the place of a class's probability.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from hfembed.atomic import atomic_write
from hfembed.faces.evaluation.embedding import embed_aligned
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor


def occlusion_map(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    crop: torch.Tensor,
    other: torch.Tensor,
    patch: int = 24,
    stride: int = 8,
) -> tuple[torch.Tensor, float]:
    """How much each position of a face contributes to its similarity to another face.

    A square of the crop's mean color is moved over it. A position's value is the mean loss of similarity over all
    squares that cover it; negative where covering it makes the faces more alike.

    Args:
        crop: (C, H, W) uint8, aligned.
        other: (C, H, W) uint8, the face it is compared with.
        patch: Side of the square, in pixels.
        stride: Its steps, in pixels; at most `patch`.

    Returns:
        (H, W) float32, and the similarity of the two uncovered faces.

    Raises:
        ValueError: The stride leaves gaps between the squares.
    """
    if not 1 <= stride <= patch:
        raise ValueError(f"a stride of {stride} leaves gaps between squares of {patch}")
    channels, height, width = crop.shape
    # squares reach over the border, so that the border's pixels are covered as often as others
    corners = [
        (top, left) for top in range(stride - patch, height, stride) for left in range(stride - patch, width, stride)
    ]
    color = crop.float().mean((1, 2)).round().to(torch.uint8).view(channels, 1, 1)
    covered = crop.repeat(len(corners), 1, 1, 1)
    masks = torch.zeros(len(corners), height, width)
    for picture, mask, (top, left) in zip(covered, masks, corners, strict=True):
        rows, columns = slice(max(top, 0), top + patch), slice(max(left, 0), left + patch)
        picture[:, rows, columns] = color
        mask[rows, columns] = 1
    pictures = torch.cat([other[None], crop[None], covered])
    embeddings = torch.from_numpy(embed_aligned(model, processor, pictures, progress=False))
    similarities = embeddings[1:] @ embeddings[0]
    losses = similarities[0] - similarities[1:]
    return (masks * losses.view(-1, 1, 1)).sum(0) / masks.sum(0), similarities[0].item()


def plot_occlusion(
    crops: tuple[torch.Tensor, torch.Tensor],
    maps: tuple[torch.Tensor, torch.Tensor],
    similarity: float,
    names: tuple[str, str],
    path: str | Path,
) -> None:
    """Draw two faces (C, H, W) uint8 with their names, and beside each what its regions add to the similarity."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    reach = max(values.abs().max().item() for values in maps)
    for column, (crop, values) in enumerate(zip(crops, maps, strict=True)):
        picture = crop.permute(1, 2, 0).numpy().squeeze()
        gray = picture if picture.ndim == 2 else picture.mean(2)
        axes[2 * column].imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes[2 * column].set_title(names[column], fontsize=9, loc="left", parse_math=False)
        axes[2 * column + 1].imshow(gray, cmap="gray", vmin=0, vmax=255)
        drawn = axes[2 * column + 1].imshow(values.numpy(), cmap="RdBu_r", vmin=-reach, vmax=reach, alpha=0.6)
    for each in axes:
        each.set_axis_off()
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="similarity lost when covered")
    figure.suptitle(f"cosine similarity {similarity:.3f}; red regions make the two alike, blue ones tell them apart")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
