"""Bytes against quality: compressed latents beside JPEG and WebP."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.checkpoint.results import provenance, write_results
from hfembed.images.compression import HEADER_BYTES, LatentCodec
from hfembed.images.evaluation.reconstruction import psnr, read_images, ssim, to_images, write_jpeg

LATENT_QUALITIES = (2, 4, 6, 8, 10, 12, 14)
PHOTO_QUALITIES = (1, 5, 10, 20, 35, 50, 70)


class RatePoint(NamedTuple):
    """One setting of one method ("latents", "jpeg" or "webp"): mean sizes, and quality over all images.

    `data_bytes` leaves out what all files of one kind have in common: our header, a JPEG's tables, WebP's container.
    That is what counts where the parties have agreed on the rest, as they have on the model.
    """

    method: str
    quality: int
    file_bytes: float
    data_bytes: float
    psnr: float
    ssim: float


def latent_points(
    codec: LatentCodec, images: torch.Tensor, qualities: Sequence[int] = LATENT_QUALITIES
) -> list[RatePoint]:
    """Measure the codec on images that were not trained on."""
    points = []
    for quality in (None,) if codec.levels else qualities:  # a quantized model has one size
        files = [codec.compress(image, quality) for image in images]
        decoded = torch.stack([codec.decompress(file) for file in files])
        size = float(np.mean([len(file) for file in files]))
        points.append(
            RatePoint("latents", quality or 0, size, size - HEADER_BYTES, psnr(decoded, images), ssim(decoded, images))
        )
    return points


def photo_points(images: torch.Tensor, method: str, qualities: Sequence[int] = PHOTO_QUALITIES) -> list[RatePoint]:
    """Measure "jpeg" or "webp" of Pillow with the settings for small files (optimized tables; method 6)."""
    write = write_jpeg if method == "jpeg" else _webp
    pictures = to_images(images)
    points = []
    for quality in qualities:
        files = [write(picture, quality) for picture in pictures]
        decoded = read_images(files, images.shape[1])
        common = [_jpeg_overhead(file) if method == "jpeg" else _WEBP_CONTAINER for file in files]
        size = float(np.mean([len(file) for file in files]))
        data_size = size - float(np.mean(common))
        points.append(RatePoint(method, quality, size, data_size, psnr(decoded, images), ssim(decoded, images)))
    return points


def plot_rates(points: Sequence[RatePoint], path: str | Path) -> None:
    """Plot PSNR and SSIM over bytes; the suffix of `path` chooses the format."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, figure_name, label in zip(figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for method in dict.fromkeys(point.method for point in points):
            line = [point for point in points if point.method == method]
            values = [getattr(point, figure_name) for point in line]
            (drawn,) = axes.plot([point.file_bytes for point in line], values, "o-", label=f"{method}, whole files")
            axes.plot(
                [point.data_bytes for point in line], values, "o:", color=drawn.get_color(), alpha=0.5,
                label=f"{method}, without headers and tables",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="bytes per image", ylabel=label)
        axes.grid(True, color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def report_rates(
    codec: LatentCodec,
    images: torch.Tensor,
    output: str | Path,
    files: dict[str, str | Path | None],
    split: dict[str, Any],
) -> list[RatePoint]:
    """Measure latents, JPEG and WebP on images of the held-out people of a split; write results.json and rates.png."""
    points = [*latent_points(codec, images), *photo_points(images, "jpeg"), *photo_points(images, "webp")]
    plot_rates(points, Path(output) / "rates.png")
    metrics = {
        f"compression_{point.method}_q{point.quality}_{name}": getattr(point, name)
        for point in points
        for name in ("file_bytes", "data_bytes", "psnr", "ssim")
    }
    details = {"images": len(images), "split": split} | provenance(files)
    write_results(output, "compression", metrics, details, codec.model)
    return points


_WEBP_CONTAINER = 20  # RIFF header and chunk header of a simple lossy file


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=quality, method=6)
    return file.getvalue()


def _jpeg_overhead(file: bytes) -> int:
    """Bytes up to the first coded coefficient: signature, quantisation and Huffman tables, headers."""
    start = file.index(b"\xff\xda")
    return start + 2 + int.from_bytes(file[start + 2 : start + 4], "big")
