"""Start a warped linear code from what a face embedder looks at, before any training."""

import numpy as np
import torch

from hfembed.faces.perceptual_networks import FaceEmbeddings
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor


def start_from_identity(
    model: AppearanceAutoencoderModel,
    processor: ConvAutoencoderImageProcessor,
    embeddings: FaceEmbeddings,
    pixels: torch.Tensor,
    weight: float,
    num_slopes: int = 3200,
    seed: int = 0,
    batch_size: int = 32,
) -> None:
    """Find the linear code that keeps most of images and of their embeddings, to first order, in closed form.

    How far embeddings are apart is the squared distance of images in a metric: the mean, over faces, of the squared
    Jacobian of the embedding (`WarpedLinearCode.start_in_metric`). It is measured by the slopes of the embedding in
    random directions, each at a random position between a photo and its reconstruction. Averaged over many faces,
    these are what faces have in common for networks of this kind, so that other networks see the gain too.

    Args:
        model: Trained, with a warped code that has filters; changed in place.
        pixels: (N, C, H, W) uint8, faces to measure on; half of them are mirrored.
        weight: Of the embedder's metric: with 1, what the model cannot draw yet counts as much in it as in pixels.
    """
    rng = np.random.default_rng(seed)
    pixels = pixels[rng.permutation(len(pixels))]
    mirrored = torch.from_numpy(rng.random(len(pixels)) < 0.5)
    code, device = model.bottleneck.code, next(model.parameters()).device
    unwarped, slopes = [], []
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        images = processor.normalize(pixels[part]).to(device)
        images = torch.where(mirrored[part, None, None, None].to(device), images.flip(3), images)
        with torch.no_grad():
            output = model(images.contiguous(memory_format=torch.channels_last))
            unwarped.append(code.unwarp(images, output.pooler_output).cpu())
        if start < num_slopes:
            share = torch.from_numpy(rng.uniform(size=(len(images), 1, 1, 1))).float().to(device)
            between = torch.lerp(output.reconstruction, images, share)
            change = torch.zeros_like(between, requires_grad=True)  # before the warp
            warp = output.pooler_output[:, : code.warp_latents]
            seen = embeddings(between + code.warp(change, warp), embeddings.jittered_points(len(images), rng))
            directions = torch.from_numpy(rng.standard_normal(seen.shape)).float().to(device)
            slopes.append(torch.autograd.grad((seen * directions).sum(), change)[0].cpu())
    code.cpu().start_in_metric(torch.cat(unwarped), torch.cat(slopes)[:num_slopes], weight)
    code.to(device)
