"""A fixed picture by which face embedders are told apart."""

import numpy as np
import torch
from transformers import PreTrainedModel


def probe_embedding(embedder: PreTrainedModel) -> np.ndarray:
    """What an embedder makes of a fixed pattern: nearly the same for the same weights in any folder and precision.

    Args:
        embedder: A face embedder.

    Returns:
        (D,) float32, unit length; for `EmbeddingIndex.probe`.
    """
    height, width = embedder.config.image_size
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    channels = [torch.sin((5 + channel) * x + (3 - channel) * y) for channel in range(embedder.config.num_channels)]
    pattern = torch.stack(channels)[None].to(embedder.device, embedder.dtype)
    return embedder.embed(pattern)[0].float().cpu().numpy()
