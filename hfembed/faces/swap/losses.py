"""The training step of a face swap model, as the loop wants it: (model, batch) -> (loss, figures to log)."""

from typing import Any

import torch
import torch.nn.functional as F

from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.swap.recrop import Recrop
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import reconstruction_loss

Figures = dict[str, torch.Tensor]


class Likeness:
    """How much generated faces look like a person to a face embedder, with gradients into the faces.

    Args:
        embedder: A `FaceEmbedderModel`; a frozen copy is made.
        embedder_processor: Its processor.
        photos: The people, as the swap model sees them; everybody's mean embedding is what their likeness is held to.
        processor: The swap model's processor.
        device: Where to compute.
    """

    def __init__(
        self,
        embedder: FaceEmbedderModel,
        embedder_processor: FaceImageProcessor,
        photos: AlignedFaces,
        processor: FaceImageProcessor,
        device: torch.device,
    ):
        self.embedder = embedder.to(device).optimize_for_inference().requires_grad_(False)  # type: ignore[arg-type]
        self.recrop = Recrop(processor, embedder_processor).to(device)
        with torch.no_grad():
            for index in range(len(photos)):
                sample = photos[0, index]
                pixels = sample["pixels"].to(device).float().unsqueeze(0) / 255
                embedding = self.embed(pixels)[0]
                if index == 0:
                    sums = torch.zeros(len(photos.identities), len(embedding), device=device)
                sums[sample["label"]] += embedding
        self.people = F.normalize(sums)

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (batch, channels, height, width) in [0, 1] -> unit embeddings (batch, D)."""
        pixel_values = self.recrop(faces).contiguous(memory_format=torch.channels_last)
        return self.embedder.base_model(pixel_values).embeddings.float()

    def __call__(self, faces: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cosine (batch,) between each face and the person of its label."""
        return (self.embed(faces) * self.people[labels]).sum(dim=1)


class SwapLoss:
    """Reconstruction of everybody's own faces; optionally the likeness of swapped ones too.

    With a likeness, the first `swaps` targets of a batch are also drawn as somebody else, in the same forward pass,
    and 1 - cosine to that person is added. It is the only term that sees swaps in training: reconstruction alone
    leaves open what a decoder makes of a stranger's latents.

    Args:
        config: The model's.
        likeness: Judges swapped faces; None: reconstruction only.
        weight: Of 1 - cosine.
        swaps: Faces of a rank's batch to swap.
    """

    def __init__(self, config: FaceSwapConfig, likeness: Likeness | None = None, weight: float = 0.0, swaps: int = 0):
        self.config = config
        self.likeness = likeness
        self.weight = weight
        self.swaps = swaps

    def __call__(self, model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, Figures]:
        """The loss of one step, and its parts."""
        if self.likeness is None:
            output = model(**batch)
            return output.loss, {}
        labels, targets = batch["labels"], batch["target_pixel_values"]
        own, count = len(labels), len(self.config.people)
        # samples come in turns of everybody: each turn goes one person further, so that all become all
        steps = torch.arange(self.swaps, device=labels.device) // count % (count - 1) + 1
        others = (labels[: self.swaps] + steps) % count
        output = model(torch.cat([batch["pixel_values"], targets[: self.swaps]]), torch.cat([labels, others]))
        reconstruction = reconstruction_loss(
            output.reconstruction[:own],
            targets,
            None if output.mask is None else output.mask[:own],
            batch.get("target_masks"),
            self.config.dssim_weight,
            self.config.mask_weight,
        )
        cosine = self.likeness(output.reconstruction[own:], others).mean()
        loss = reconstruction + self.weight * (1 - cosine)
        return loss, {"reconstruction": reconstruction.detach(), "swap_likeness": cosine.detach()}
