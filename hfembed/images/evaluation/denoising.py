"""How well a denoiser removes noise and fills holes, on images it has not seen, beside the classic methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError
from hfembed.images.data.corruptions import Corruption
from hfembed.images.evaluation import classic_denoisers
from hfembed.images.evaluation.reconstruction import psnr, reconstruct, ssim, takes_masks
from hfembed.images.evaluation.reconstruction_pictures import draw_rows
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.restoration_autoencoder.gaussian_fill import GaussianFill

_TUNING_IMAGES = 48  # of the training images, to choose the strengths of the classic methods on
_ROWS = {"clean": "photo", "corrupted": "damaged", "model": "this model"}


@dataclass
class Denoising:
    """Figures and pictures of one test.

    Attributes:
        images: Name -> (N, C, H, W) in [0, 1]: "clean", "corrupted", "model", one of each classic method.
    """

    metrics: dict[str, float]
    images: dict[str, torch.Tensor]
    strengths: dict[str, float] = field(default_factory=dict)


class DenoisingTest:
    """PSNR and SSIM of denoised images, the noise fixed by a seed, and those of the classic methods on the same.

    The classics (`classic_denoisers`) are told the noise's strength and get the strength of theirs that is best on
    images of the training side, so that the network is not compared with a badly set opponent.

    Args:
        clean: (N, C, H, W) uint8, images that the network was not trained on.
        known: (M, C, H, W) uint8, images of the training side.
        sigma: Standard deviation of the noise, as a fraction of the range; what leaves [0, 1] is clipped.
    """

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
        self.sigma = sigma
        self.clean, self.noisy = _corrupt(clean, Corruption(seed, noise=(sigma, sigma)))
        self.known = known
        self.seed = seed
        self.components = components
        self.batch_size = batch_size

    def run(self, model: AutoencoderModelBase) -> Denoising:
        """Denoise every image.

        The figures are `denoising_sigma<s>_psnr` (dB, of the squared error over all images) and `..._ssim`,
        `..._input_psnr`, those of each classic, `..._best_classic_psnr` and `..._gain`, the model's lead in dB.

        Raises:
            InputError: The model takes images of other channels or sizes.
        """
        classics, strengths = self.denoise_classically()
        restored = {"corrupted": self.noisy, "model": _restored(model, self.noisy, self.batch_size), **classics}
        metrics = {}
        for name, images in restored.items():
            prefix = {"model": self.name, "corrupted": f"{self.name}_input"}.get(name, f"{self.name}_{name}")
            metrics[f"{prefix}_psnr"] = psnr(images, self.clean)
            metrics[f"{prefix}_ssim"] = ssim(images, self.clean)
        best = max(metrics[f"{self.name}_{name}_psnr"] for name in classics)
        metrics[f"{self.name}_best_classic_psnr"] = best
        metrics[f"{self.name}_gain"] = metrics[f"{self.name}_psnr"] - best
        return Denoising(metrics, {"clean": self.clean, **restored}, strengths)

    def denoise_classically(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The classic methods' images (N, C, H, W), clipped to [0, 1], and the strength of each."""
        tuning, rest = self.known[:_TUNING_IMAGES], self.known[_TUNING_IMAGES:]
        clean, noisy = (
            images.numpy() for images in _corrupt(tuning, Corruption(self.seed + 1, noise=(self.sigma, self.sigma)))
        )
        wiener = classic_denoisers.PcaWiener(rest.numpy().astype(np.float32) / 255, self.components)
        methods = {method.__name__: (method, strengths) for method, strengths in classic_denoisers.STRENGTHS.items()}
        methods["pca_wiener"] = (wiener, classic_denoisers.PCA_STRENGTHS)
        denoised, chosen = {}, {}
        for name, (method, strengths) in methods.items():
            chosen[name] = classic_denoisers.choose_strength(method, strengths, clean, noisy, self.sigma)
            denoised[name] = torch.from_numpy(method(self.noisy.numpy(), self.sigma, chosen[name])).float().clamp(0, 1)
        return denoised, chosen


class InpaintingTest:
    """PSNR inside a square hole of `size` pixels, one per image at a position fixed by a seed, beside classic fills.

    These are the biharmonic, which looks at the hole's border, and the conditional mean under a Gaussian of the
    training images, which looks at the whole image, its strength chosen as in `DenoisingTest`.
    """

    def __init__(self, clean: torch.Tensor, known: torch.Tensor, size: int = 16, seed: int = 0, batch_size: int = 64):
        self.name = f"denoising_hole{size}"
        self.size = size
        self.clean, self.masked, self.masks = self._cut(clean, seed)
        self.known = known
        self.seed = seed
        self.batch_size = batch_size

    def run(self, model: AutoencoderModelBase) -> Denoising:
        """Fill every hole.

        The figures are `denoising_hole<s>_psnr` (dB, of the squared error inside all holes), `..._biharmonic_psnr`,
        `..._gaussian_psnr`, `..._best_classic_psnr` and `..._gain`, the model's lead over it in dB.

        Raises:
            InputError: The model does not fill holes, or takes images of other channels or sizes.
        """
        if not takes_masks(model):
            raise InputError("this autoencoder does not fill holes: train one with inpainting (recipes/inpaint.yaml)")
        biharmonic = classic_denoisers.biharmonic_fill(self.masked.numpy(), self.masks[:, 0].numpy())
        fill, strength = self._gaussian_fill()
        classics = {
            "biharmonic": torch.from_numpy(biharmonic).float().clamp(0, 1),
            "gaussian": fill(self.masked, self.masks).clamp(0, 1),
        }
        filled = {"model": _restored(model, self.masked, self.batch_size, self.masks), **classics}
        inside = {name: psnr(self._inside(images), self._inside(self.clean)) for name, images in filled.items()}
        best = max(inside[name] for name in classics)
        metrics = {f"{self.name}_psnr": inside["model"]}
        metrics |= {f"{self.name}_{name}_psnr": inside[name] for name in classics}
        metrics |= {f"{self.name}_best_classic_psnr": best, f"{self.name}_gain": inside["model"] - best}
        return Denoising(metrics, {"clean": self.clean, "corrupted": self.masked, **filled}, {"gaussian": strength})

    def _gaussian_fill(self) -> tuple[GaussianFill, float]:
        """The fill of the strength that is best on some of the known images, measured on the others."""
        clean, masked, masks = self._cut(self.known[:_TUNING_IMAGES], self.seed + 1)
        measured = self.known[_TUNING_IMAGES:].float() / 255
        fills, errors = {}, {}
        for strength in classic_denoisers.FILL_STRENGTHS:
            fills[strength] = GaussianFill(clean.shape[1], list(clean.shape[2:]))
            fills[strength].start_from_images(measured, strength)
            errors[strength] = float((fills[strength](masked, masks).clamp(0, 1) - clean).square().sum())
        chosen = min(errors, key=lambda strength: errors[strength])
        return fills[chosen], chosen

    def _cut(self, clean: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clean images, images with holes, both float32 in [0, 1], and where the holes are, bool (N, 1, H, W)."""
        holes = Corruption(seed, holes=1, hole_size=(self.size, self.size))
        return *_corrupt(clean, holes), holes.hole_masks(_keys(clean), *clean.shape[2:])

    def _inside(self, images: torch.Tensor) -> torch.Tensor:
        # all holes are of one size: cut out, they are images of their own
        return images[self.masks.expand_as(images)].view(len(images), images.shape[1], self.size, self.size)


def report_denoising(
    tests: Sequence[DenoisingTest | InpaintingTest],
    model: AutoencoderModelBase,
    output: str | Path,
    files: dict[str, str | Path | None],
    split: dict[str, Any],
    columns: int = 10,
) -> dict[str, float]:
    """Run tests; write results.json and a picture per test, with a row of images for every method."""
    if len(tests[0].known) <= _TUNING_IMAGES:
        raise InputError(
            f"{len(tests[0].known)} images of people who are not held out are too few: the classic methods are set on "
            f"{_TUNING_IMAGES} of them and fitted on the others"
        )
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"images": len(tests[0].clean), "split": split}
    for test in tests:
        result = test.run(model)
        metrics |= result.metrics
        chosen = torch.linspace(0, len(test.clean) - 1, min(columns, len(test.clean))).long()
        rows = {_ROWS.get(name, name.replace("_", " ")): images[chosen] for name, images in result.images.items()}
        draw_rows(rows, Path(output) / f"{test.name}.png")
        details[test.name] = {"seed": test.seed, "strengths": result.strengths, "rows": list(result.images)}
    write_results(output, "denoising", metrics, details | provenance(files), model)
    return metrics


def _restored(
    model: AutoencoderModelBase, images: torch.Tensor, batch_size: int, masks: torch.Tensor | None = None
) -> torch.Tensor:
    """What `hfembed denoise` makes of images: the mean of what becomes of each and of its mirror image."""
    mirrored_masks = masks if masks is None else masks.flip(3)
    try:
        plain = reconstruct(model, images, batch_size, masks)[0]
        mirrored = reconstruct(model, images.flip(3), batch_size, mirrored_masks)[0]
    except ValueError as error:
        raise InputError(str(error)) from error
    return ((plain + mirrored.flip(3)) / 2).clamp(0, 1)


def _corrupt(clean: torch.Tensor, corruption: Corruption) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupted images, float32 in [0, 1]."""
    return clean.float() / 255, corruption(clean, _keys(clean)) / 255


def _keys(images: torch.Tensor) -> list[tuple[int, int]]:
    return [(0, index) for index in range(len(images))]
