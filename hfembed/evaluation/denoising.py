"""How well a denoiser removes noise and fills holes, on images it has not seen, beside the classic methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from transformers import PreTrainedModel

from hfembed.data.corruptions import Corruption
from hfembed.errors import InputError
from hfembed.evaluation import classic_denoisers
from hfembed.evaluation.results import provenance, write_results
from hfembed.generation.films import picture_grid, to_pictures, write_picture

_TUNING_IMAGES = 48  # of the training images, to choose the strengths of the classic methods on


@dataclass
class Denoising:
    """Figures and pictures of one test.

    Attributes:
        metrics: What `DenoisingTest.__call__` returns.
        images: Name -> (N, C, H, W) float32 in [0, 1]: "clean", "corrupted", one of each method, "model".
        strengths: Method -> the strength it was given.
    """

    metrics: dict[str, float]
    images: dict[str, np.ndarray]
    strengths: dict[str, float] = field(default_factory=dict)


class DenoisingTest:
    """PSNR and SSIM of denoised images, the noise fixed by a seed, and those of the classic methods on the same.

    The classics (`classic_denoisers`) are told the noise's strength and get the strength of theirs that is best on
    images of the training side, so that the network is not compared with a badly set opponent. The mean is over
    images, of each image's PSNR.

    Args:
        clean: (N, C, H, W) uint8, images that the network was not trained on.
        known: (M, C, H, W) uint8, images of the training side.
        sigma: Standard deviation of the noise, as a share of the range; what leaves [0, 1] is clipped.
        seed: Of the noise.
        components: Of the PCA behind the Wiener filter.
        batch_size: Images the network takes at once.
    """

    greater_is_better = True

    def __init__(
        self,
        clean: torch.Tensor,
        known: torch.Tensor,
        sigma: float,
        seed: int = 0,
        components: int = 512,
        batch_size: int = 64,
    ):
        self.name = f"denoising_sigma{sigma:g}"
        self.primary_metric = f"{self.name}_psnr"
        self.sigma = sigma
        self.clean, self.noisy = _corrupt(clean, Corruption(seed, noise=(sigma, sigma)))
        self.known = known
        self.seed = seed
        self.components = components
        self.batch_size = batch_size
        self._classics: tuple[dict[str, np.ndarray], dict[str, float]] | None = None

    def __call__(self, model: PreTrainedModel, processor: object = None) -> dict[str, float]:
        """The figures of `run`."""
        return self.run(model).metrics

    def run(self, model: PreTrainedModel) -> Denoising:
        """Denoise every image.

        Args:
            model: Images (B, C, H, W) in [0, 1] -> an output with `reconstruction`; in eval mode.

        Returns:
            `denoising_sigma<s>_psnr` (dB), `..._ssim`, `..._input_psnr`, `..._<method>_psnr` and `_ssim`,
            `..._best_classic_psnr` and `..._gain`, the model's lead over it in dB; and the images.
        """
        classics, strengths = self._denoise_classically()
        images = {"clean": self.clean, "corrupted": self.noisy, **classics}
        images["model"] = reconstruct(model, self.noisy, self.batch_size)
        metrics = {}
        for name, denoised in images.items():
            if name == "clean":
                continue
            prefix = {"model": self.name, "corrupted": f"{self.name}_input"}.get(name, f"{self.name}_{name}")
            metrics[f"{prefix}_psnr"] = mean_psnr(denoised, self.clean)
            metrics[f"{prefix}_ssim"] = mean_ssim(denoised, self.clean)
        best = max(metrics[f"{self.name}_{name}_psnr"] for name in classics)
        metrics[f"{self.name}_best_classic_psnr"] = best
        metrics[f"{self.name}_gain"] = metrics[f"{self.name}_psnr"] - best
        return Denoising(metrics, images, strengths)

    def _denoise_classically(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        if self._classics is None:
            known = self.known.numpy().astype(np.float32) / 255
            tuning, tuning_noisy = _corrupt(
                self.known[:_TUNING_IMAGES], Corruption(self.seed + 1, noise=(self.sigma, self.sigma))
            )
            wiener = classic_denoisers.PcaWiener(known[_TUNING_IMAGES:], self.components)
            methods = {
                method.__name__: (method, strengths) for method, strengths in classic_denoisers.STRENGTHS.items()
            }
            methods["pca_wiener"] = (wiener, classic_denoisers.PCA_STRENGTHS)
            denoised, chosen = {}, {}
            for name, (method, strengths) in methods.items():
                chosen[name] = classic_denoisers.choose_strength(method, strengths, tuning, tuning_noisy, self.sigma)
                denoised[name] = np.clip(method(self.noisy, self.sigma, chosen[name]), 0, 1).astype(np.float32)
            self._classics = denoised, chosen
        return self._classics


class InpaintingTest:
    """PSNR inside a square hole, one in each image at a place fixed by a seed; beside it a biharmonic fill.

    Args:
        clean: (N, C, H, W) uint8, images that the network was not trained on.
        size: Side of the hole in pixels.
        seed: Of the places.
        level: What fills the hole in the network's input, in [0, 1], as in training.
        batch_size: Images the network takes at once.
    """

    greater_is_better = True

    def __init__(self, clean: torch.Tensor, size: int = 16, seed: int = 0, level: float = 0.5, batch_size: int = 64):
        self.name = f"denoising_hole{size}"
        self.primary_metric = f"{self.name}_psnr"
        hole = Corruption(seed, holes=1, hole_size=(size, size), hole_level=level)
        self.clean, self.masked = _corrupt(clean, hole)
        # the same draws on a white and on a black image show where the hole is
        white, black = (_corrupt(torch.full_like(clean[:, :1], value), hole)[1] for value in (255, 0))
        self.masks = (white == black)[:, 0]
        self.seed = seed
        self.batch_size = batch_size

    def __call__(self, model: PreTrainedModel, processor: object = None) -> dict[str, float]:
        """The figures of `run`."""
        return self.run(model).metrics

    def run(self, model: PreTrainedModel) -> Denoising:
        """Fill every hole.

        Args:
            model: Images (B, C, H, W) in [0, 1] -> an output with `reconstruction`; in eval mode.

        Returns:
            `denoising_hole<s>_psnr` (dB, inside the hole), `..._biharmonic_psnr` and `..._gain`; and the images, whole
            outside of the holes.
        """
        inside = self.masks[:, None]
        filled = {
            "biharmonic": np.clip(classic_denoisers.biharmonic_fill(self.masked, self.masks), 0, 1),
            "model": np.where(inside, reconstruct(model, self.masked, self.batch_size), self.masked),
        }
        psnr = {name: mean_psnr(images, self.clean, self.masks) for name, images in filled.items()}
        metrics = {
            f"{self.name}_psnr": psnr["model"],
            f"{self.name}_biharmonic_psnr": psnr["biharmonic"],
            f"{self.name}_gain": psnr["model"] - psnr["biharmonic"],
        }
        return Denoising(metrics, {"clean": self.clean, "corrupted": self.masked, **filled})


def report_denoising(
    tests: Sequence[DenoisingTest | InpaintingTest],
    model: PreTrainedModel,
    output: str | Path,
    files: dict[str, str | Path | None],
    columns: int = 10,
) -> dict[str, float]:
    """Run tests; write results.json, and a picture of each: a row of clean images, of corrupted ones, of each method.

    Args:
        tests: What to run.
        model: The denoiser, in eval mode.
        output: Folder for results.json and <test>.png.
        files: Role -> file or folder, for the provenance.
        columns: Images in a row.

    Returns:
        The metrics of all tests.

    Raises:
        InputError: The model takes images of other channels or sizes.
        OSError: Something cannot be written.
    """
    metrics: dict[str, float] = {}
    details: dict[str, object] = {"images": len(tests[0].clean)}
    for test in tests:
        result = test.run(model)
        metrics |= result.metrics
        chosen = np.linspace(0, len(test.clean) - 1, min(columns, len(test.clean))).astype(int)
        rows = [to_pictures(torch.from_numpy(images[chosen])) for images in result.images.values()]
        write_picture(picture_grid(rows), Path(output) / f"{test.name}.png", scale=2)
        details[test.name] = {"seed": test.seed, "strengths": result.strengths, "rows": list(result.images)}
    write_results(output, "denoising", metrics, details | provenance(files))
    return metrics


@torch.no_grad()
def reconstruct(model: PreTrainedModel, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """What the model makes of images.

    Args:
        model: Images (B, C, H, W) in [0, 1] -> an output with `reconstruction`; in eval mode.
        images: (N, C, H, W) float32 in [0, 1].
        batch_size: Images at once.

    Returns:
        (N, C, H, W) float32, clipped to [0, 1].

    Raises:
        InputError: The model takes images of other channels or sizes.
    """
    try:
        parts = [
            model(part.to(model.device)).reconstruction.float().cpu()
            for part in torch.from_numpy(images).split(batch_size)
        ]
    except ValueError as error:
        raise InputError(str(error)) from error
    return torch.cat(parts).clamp_(0, 1).numpy()


def mean_psnr(images: np.ndarray, clean: np.ndarray, masks: np.ndarray | None = None) -> float:
    """Peak signal to noise ratio, 10 log10(1 / mean squared error), mean over images.

    Args:
        images: (N, C, H, W) in [0, 1].
        clean: The same shape.
        masks: (N, H, W) bool: count these pixels only.

    Returns:
        Decibels; infinite where an image is met exactly.
    """
    squared = ((images.astype(np.float64) - clean) ** 2).mean(axis=1)
    errors = squared.mean(axis=(1, 2)) if masks is None else (squared * masks).sum((1, 2)) / masks.sum((1, 2))
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(errors).mean())


def mean_ssim(images: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity by torchmetrics (Gaussian window of sigma 1.5, 11 pixels), mean over images.

    Args:
        images: (N, C, H, W) float32 in [0, 1].
        clean: The same shape.

    Returns:
        At most 1.
    """
    pairs = zip(torch.from_numpy(images).split(256), torch.from_numpy(clean).split(256), strict=True)
    values = [
        structural_similarity_index_measure(image, target, data_range=1.0, reduction="none") for image, target in pairs
    ]
    return float(torch.cat(values).mean())


def _corrupt(clean: torch.Tensor, corruption: Corruption) -> tuple[np.ndarray, np.ndarray]:
    """Clean and corrupted images, float32 in [0, 1]."""
    keys = [(0, index) for index in range(len(clean))]
    return clean.numpy().astype(np.float32) / 255, corruption(clean, keys).numpy() / 255
