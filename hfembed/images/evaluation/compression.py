"""Bytes against quality: compressed latents beside JPEG, WebP, AVIF and JPEG XL."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from hfembed.atomic import atomic_write
from hfembed.checkpoint.results import provenance, write_results
from hfembed.images.compression import LatentCodec
from hfembed.images.evaluation.photo_formats import PhotoFormat, photo_formats
from hfembed.images.evaluation.reconstruction import psnr, read_images, ssim, to_images
from hfembed.images.latent_statistics import decode_latents, encode_images

BITS_PER_PIXEL = (0.05, 0.15, 0.3, 0.5)  # at which methods are compared

# reconstructions (N, C, H, W) -> identity kept and perceptual distance, by a network that took no part in training
Judge = Callable[[torch.Tensor], tuple[float, float]]

_TICKS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_LABELS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "identity_kept": "identity kept (cosine)",
    "perceptual_distance": "perceptual distance (lower is better)",
}


class RatePoint(NamedTuple):
    """One setting of one method: mean sizes, and quality over all images.

    Methods are the formats, "latents", and, of a codec with an entropy model, "independent": the same latents, rounded
    to the same steps, each under a Gaussian of its own as in files of version 1.

    `data_bytes` leaves out what all files of one kind have in common: our header, a JPEG's tables, the containers of
    WebP and AVIF. That is what counts where the parties have agreed on the rest, as they have on the model. Identity
    and perceptual distance are None where nobody judges them.
    """

    method: str
    quality: int
    file_bytes: float
    data_bytes: float
    psnr: float
    ssim: float
    identity_kept: float | None = None
    perceptual_distance: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Those that were measured."""
        return {name: value for name in _LABELS if (value := getattr(self, name)) is not None}


def latent_points(
    codec: LatentCodec,
    images: torch.Tensor,
    qualities: Sequence[int] | None = None,
    judge: Judge | None = None,
    method: str = "latents",
) -> list[RatePoint]:
    """Measure the codec on images that were not trained on.

    Raises:
        InputError: A quality is impossible, or the model's codes are quantized and have none.
    """
    points = []
    height, width = images.shape[2:]
    latents = encode_images(codec.model, images)
    for quality in qualities or (codec.qualities if codec.has_quality else (None,)):
        files = [codec.compress_latent(latent, height, width, quality) for latent in latents]
        decoded = decode_latents(codec.model, torch.stack([codec.decompress_latent(file) for file in files]))
        size = float(np.mean([len(file) for file in files]))
        points.append(_point(method, quality or 0, size, codec.header_bytes, decoded, images, judge))
    return points


def photo_points(
    images: torch.Tensor, method: str, qualities: Sequence[int] | None = None, judge: Judge | None = None
) -> list[RatePoint]:
    """Measure a format of `photo_formats` with its settings for small files."""
    photo_format: PhotoFormat = photo_formats()[method]
    pictures = to_images(images)
    points = []
    for quality in qualities or photo_format.qualities:
        files = [photo_format.write(picture, quality) for picture in pictures]
        decoded = read_images(files, images.shape[1])
        size = float(np.mean([len(file) for file in files]))
        common = float(np.mean([photo_format.overhead(file) for file in files]))
        points.append(_point(method, quality, size, common, decoded, images, judge))
    return points


def at_bytes(points: Sequence[RatePoint], size: float, which: str = "data_bytes") -> dict[str, float]:
    """The figures of one method at a mean size, between its two nearest settings, linear in the size's logarithm.

    Args:
        which: "data_bytes" or "file_bytes".

    Returns:
        Figure -> value; empty where the method has no files that small or that large.
    """
    line = sorted(points, key=lambda point: getattr(point, which))
    sizes = np.log([getattr(point, which) for point in line])
    if not sizes[0] <= np.log(size) <= sizes[-1]:
        return {}
    return {
        name: float(np.interp(np.log(size), sizes, [point.figures[name] for point in line]))
        for name in line[0].figures
    }


def plot_rates(points: Sequence[RatePoint], path: str | Path, pixels: int) -> None:
    """Plot each figure over bits per pixel; the suffix of `path` chooses the format.

    Args:
        pixels: Of an image.
    """
    names = list(points[0].figures)
    figure = Figure(figsize=(11, 4.5 * ((len(names) + 1) // 2)), layout="constrained")
    for axes, name in zip(figure.subplots((len(names) + 1) // 2, 2, squeeze=False).flat, names, strict=True):
        for method in dict.fromkeys(point.method for point in points):
            line = [point for point in points if point.method == method]
            values = [point.figures[name] for point in line]
            (drawn,) = axes.plot(
                [8 * point.file_bytes / pixels for point in line], values, "o-", label=f"{method}, whole files"
            )
            axes.plot(
                [8 * point.data_bytes / pixels for point in line], values, "o:", color=drawn.get_color(), alpha=0.5,
                label=f"{method}, without headers and tables",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="bits per pixel", ylabel=_LABELS[name])
        axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.set_xlim(left=min(point.data_bytes for point in points) * 7 / pixels)
        axes.grid(True, which="both", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def report_rates(
    codec: LatentCodec,
    images: torch.Tensor,
    output: str | Path,
    files: dict[str, str | Path | None],
    split: dict[str, Any],
    qualities: Sequence[int] | None = None,
    judge: Judge | None = None,
) -> tuple[list[RatePoint], str]:
    """Measure latents, with the entropy model and without, and all formats that are there, on images of the held-out
    people of a split; write results.json and rates.png.

    Returns:
        The points, and the figures as lines to print.
    """
    formats = photo_formats()
    points = latent_points(codec, images, qualities, judge)
    if codec.entropy_model is not None:
        independent = LatentCodec(codec.model, codec.statistics)
        points += latent_points(independent, images, qualities, judge, "independent")
    for method in [name for name, photo_format in formats.items() if not photo_format.needs]:
        points += photo_points(images, method, judge=judge)
    pixels = images.shape[2] * images.shape[3]
    plot_rates(points, Path(output) / "rates.png", pixels)
    metrics = {
        f"compression_{point.method}_q{point.quality}_{name}": value
        for point in points
        for name, value in {"file_bytes": point.file_bytes, "data_bytes": point.data_bytes, **point.figures}.items()
    }
    left_out = {name: photo_format.needs for name, photo_format in formats.items() if photo_format.needs}
    equal_bytes = {
        f"{rate} bits per pixel": {
            which: {method: at_bytes(_of(points, method), rate * pixels / 8, which) for method in _methods(points)}
            for which in ("file_bytes", "data_bytes")
        }
        for rate in BITS_PER_PIXEL
    }
    details = {
        "images": len(images),
        "split": split,
        "left_out": left_out,
        "equal_bytes": equal_bytes,
        "points": [point._asdict() for point in points],
    }
    write_results(output, "compression", metrics, details | provenance(files), codec.model)
    return points, _summary(points, left_out, pixels)


def _point(
    method: str,
    quality: int,
    size: float,
    common: float,
    decoded: torch.Tensor,
    images: torch.Tensor,
    judge: Judge | None,
) -> RatePoint:
    judged = (None, None) if judge is None else judge(decoded)
    return RatePoint(method, quality, size, size - common, psnr(decoded, images), ssim(decoded, images), *judged)


def _methods(points: Sequence[RatePoint]) -> list[str]:
    return list(dict.fromkeys(point.method for point in points))


def _of(points: Sequence[RatePoint], method: str) -> list[RatePoint]:
    return [point for point in points if point.method == method]


def _summary(points: Sequence[RatePoint], left_out: dict[str, str], pixels: int) -> str:
    names = list(points[0].figures)
    short = {"psnr": "PSNR", "ssim": "SSIM", "identity_kept": "identity", "perceptual_distance": "perceptual"}

    def cells(figures: dict[str, float]) -> str:
        return "".join(
            f"{figures[name]:11.{2 if name == 'psnr' else 3}f}" if figures else f"{'-':>11}" for name in names
        )

    header = "".join(f"{short[name]:>11}" for name in names)
    lines = [f"{'':12}{'quality':>8}{'file bytes':>12}{'data bytes':>12}{header}"]
    lines += [
        f"{point.method:12}{point.quality:8}{point.file_bytes:12.0f}{point.data_bytes:12.0f}{cells(point.figures)}"
        for point in points
    ]
    for which, said in (("data_bytes", "without headers and tables"), ("file_bytes", "whole files")):
        lines.append(f"at equal bytes, {said} (-: no files of this size)")
        lines += [
            f"{method:12}{rate:8} bpp{rate * pixels / 8:6.0f} bytes{'':4}"
            + cells(at_bytes(_of(points, method), rate * pixels / 8, which))
            for rate in BITS_PER_PIXEL
            for method in _methods(points)
        ]
    lines += [f"{name} was left out: it needs {needs}" for name, needs in left_out.items()]
    return "\n".join(lines)
