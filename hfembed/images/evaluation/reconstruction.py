"""How well an autoencoder reconstructs images it has not seen: PSNR, SSIM, and the same for PCA and JPEG.

Images are (N, C, H, W) in [0, 1]; reconstructions are clipped to that range where they are measured.
"""

import io
from typing import cast

import numpy as np
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torchmetrics.functional.image import structural_similarity_index_measure
from transformers import PreTrainedModel

from hfembed.images.data.corruptions import Corruption
from hfembed.images.interpolation import gradient_energy
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor

ACTIVE_VARIANCE = 0.01


def psnr(reconstruction: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the squared error averaged over all images and pixels; at most 100."""
    error = (reconstruction.clamp(0, 1) - target).cpu().double().square().mean().item()
    return float(-10 * np.log10(max(error, 1e-10)))


def image_psnr(reconstruction: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of each image, averaged: higher than `psnr` where images differ in difficulty."""
    errors = (reconstruction.clamp(0, 1) - target).cpu().double().square().mean((1, 2, 3))
    return float((-10 * errors.clamp(min=1e-10).log10()).mean())


def ssim(reconstruction: torch.Tensor, target: torch.Tensor) -> float:
    """Structural similarity as torchmetrics computes it (Gaussian window of sigma 1.5, mirrored borders), averaged."""
    parts = zip(reconstruction.clamp(0, 1).split(256), target.split(256), strict=True)
    values = [
        cast(torch.Tensor, structural_similarity_index_measure(x, y, data_range=1.0, reduction="none"))
        for x, y in parts
    ]
    return torch.cat([value.reshape(-1) for value in values]).mean().item()


def sharpness(reconstruction: torch.Tensor, target: torch.Tensor) -> float:
    """Gradient energy of the reconstructions as a fraction of the images'; blur has less, noise has more."""
    return (gradient_energy(reconstruction.clamp(0, 1)).mean() / gradient_energy(target).mean()).item()


def active_latents(latents: torch.Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    """How many latent numbers (N, D) vary (Burda et al., "Importance Weighted Autoencoders", 2016, sec. 5).

    The threshold is a fraction of the largest variance: the scale of latents is free unless they are variational.
    """
    variance = latents.cpu().double().var(0)
    return int((variance > threshold * variance.max()).sum())


def takes_masks(model: PreTrainedModel) -> bool:
    """Whether a model fills holes, and so needs to be told where they are."""
    return getattr(model.config, "inpainting", False)


@torch.no_grad()
def reconstruct(
    model: PreTrainedModel, pixel_values: torch.Tensor, batch_size: int = 64, masks: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions of images (N, C, H, W) in [0, 1], not clipped, and flat latents (N, D); both on the CPU.

    `masks` (N, 1, H, W) bool are the holes that an inpainting model is to fill.
    """
    outputs = []
    for start in range(0, len(pixel_values), batch_size):
        part = slice(start, start + batch_size)
        inputs = {"pixel_values": pixel_values[part].to(model.device, memory_format=torch.channels_last)}
        if masks is not None:
            inputs["mask"] = masks[part].to(model.device)
        outputs.append(model(**inputs))
    return (
        torch.cat([output.reconstruction.float().cpu().contiguous() for output in outputs]),
        torch.cat([output.pooler_output.float().cpu() for output in outputs]),
    )


def pca_reconstruction(train: torch.Tensor, test: torch.Tensor, num_latents: int) -> torch.Tensor:
    """The baseline: PCA, fitted on `train`, with as many components as the autoencoder has latents."""
    if num_latents > len(train) / 10:
        return _pca_by_gram_matrix(train.flatten(1), test.flatten(1), num_latents).view_as(test)
    # randomised SVD: the leading components to four digits, in a hundredth of the time
    pca = PCA(num_latents, svd_solver="randomized", iterated_power=5, random_state=0).fit(train.flatten(1).numpy())
    again = pca.inverse_transform(pca.transform(test.flatten(1).numpy()))
    return torch.from_numpy(again).to(torch.float32).view_as(test)


def _pca_by_gram_matrix(train: torch.Tensor, test: torch.Tensor, num_latents: int) -> torch.Tensor:
    """PCA through the scalar products of the images: exact, and faster where components are nearly as many."""
    mean = train.mean(0)
    gram = torch.zeros(len(train), len(train), dtype=torch.float64)
    cross = torch.zeros(len(test), len(train), dtype=torch.float64)
    for columns in torch.arange(len(mean)).split(2048):
        centered = train[:, columns] - mean[columns]
        gram += centered @ centered.T
        cross += (test[:, columns] - mean[columns]) @ centered.T
    values, vectors = torch.linalg.eigh(gram)
    is_used = values > 1e-6 * values[-1]  # what float32 resolves
    is_used[:-num_latents] = False
    vectors = vectors[:, is_used]
    shares = (cross @ vectors / values[is_used]) @ vectors.T
    return mean + shares.float() @ train - shares.sum(1, keepdim=True).float() * mean


def jpeg_reconstruction(images: torch.Tensor, max_bytes: float) -> tuple[torch.Tensor, float]:
    """JPEG at the highest quality whose mean file size is at most `max_bytes`, or at the lowest; and that size."""
    low, high = 1, 95
    best = _jpeg(images, low)
    while low < high:  # sizes rise with the quality
        middle = (low + high + 1) // 2
        tried = _jpeg(images, middle)
        if tried[1] <= max_bytes:
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def _jpeg(images: torch.Tensor, quality: int) -> tuple[torch.Tensor, float]:
    files = [write_jpeg(image, quality) for image in to_images(images)]
    return read_images(files, images.shape[1]), float(np.mean([len(file) for file in files]))


def to_images(images: torch.Tensor) -> list[Image.Image]:
    """Pillow images of (N, 1 or 3, H, W) in [0, 1]."""
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in pixels]


def write_jpeg(image: Image.Image, quality: int) -> bytes:
    """A JPEG file with optimized tables."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def read_images(files: list[bytes], channels: int) -> torch.Tensor:
    """Decode files of one size: (N, channels, H, W) float32 in [0, 1]."""
    mode = "L" if channels == 1 else "RGB"
    pixels = np.stack([np.array(Image.open(io.BytesIO(file)).convert(mode), dtype=np.float32) for file in files])
    return torch.from_numpy(pixels).reshape(*pixels.shape[:3], channels).permute(0, 3, 1, 2) / 255


class HeldOutReconstruction:
    """PSNR and SSIM on images (N, C, H, W) uint8 that were not trained on; the metrics of a training run.

    Image i is damaged by the corruption's key (0, i), the same at every call; None lets the model see images as they
    are. Names of figures start with `name`.
    """

    def __init__(
        self, pixels: torch.Tensor, corruption: Corruption | None = None, batch_size: int = 64, name: str = ""
    ):
        self.pixels = pixels
        self.damaged, self.masks = pixels, None
        if corruption is not None:
            keys = [(0, index) for index in range(len(pixels))]
            self.damaged, self.masks = corruption(pixels, keys), corruption.hole_masks(keys, *pixels.shape[2:])
        self.batch_size = batch_size
        self.name = f"{name}_" if name else ""

    def __call__(self, model: PreTrainedModel, processor: ConvAutoencoderImageProcessor) -> dict[str, float]:
        """Measure "psnr" in dB and "ssim", with the protocol's name before them."""
        targets = processor.normalize(self.pixels)
        masks = self.masks if takes_masks(model) else None
        reconstruction, _ = reconstruct(model, processor.normalize(self.damaged), self.batch_size, masks)
        return {f"{self.name}psnr": psnr(reconstruction, targets), f"{self.name}ssim": ssim(reconstruction, targets)}
