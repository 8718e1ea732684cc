"""How well a model removes damage and fills holes, on images it has not seen, beside the classic methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
_FITTED_NUMBERS = 2**26  # pixels and channels that the Wiener filter is fitted on
_GAUSSIAN_NUMBERS = 8192  # of an image, whose covariance has their square
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


class KnownImages:
    """Images of the training side, on which the classic methods are set and fitted.

    Args:
        pixels: (M, C, H, W) uint8.
        components: Of the Wiener filter.
    """

    def __init__(self, pixels: torch.Tensor, components: int = 512) -> None:
        self.tuning, self.rest = pixels[:_TUNING_IMAGES], pixels[_TUNING_IMAGES:]
        self.components = components

    @cached_property
    def wiener(self) -> classic_denoisers.PcaWiener:
        """The linear filter of these images, spread evenly where all are more than fit into memory."""
        count = max(1, min(len(self.rest), _FITTED_NUMBERS // self.rest[0].numel()))
        rows = torch.linspace(0, len(self.rest) - 1, count).round().long()
        return classic_denoisers.PcaWiener(self.rest[rows].numpy().astype(np.float32) / 255, self.components)


class DamageTest:
    """PSNR and SSIM of restored images, the damage fixed by a seed, and those of the classic methods on the same.

    The classics (`classic_denoisers`) are told how strong the damage is and get the strength of theirs that is best on
    images of the training side, so that the network is not compared with a badly set opponent.

    Args:
        clean: (N, C, H, W) uint8, images that the network was not trained on.
        known: Images of the training side.
        name: Of the figures.
        damage: What is done to the images; its seed is replaced.
        sigma: Standard deviation of the damage, as a fraction of the range; None: as measured on known images.
        input_is_classic: The damaged image is what a classic method makes of a smaller one, bicubic enlargement: no
            other is measured.
    """

    def __init__(
        self,
        clean: torch.Tensor,
        known: KnownImages,
        name: str,
        damage: Corruption,
        sigma: float | None = None,
        input_is_classic: bool = False,
        seed: int = 0,
        batch_size: int = 64,
    ):
        self.name = name
        self.damage = damage
        self.sigma = sigma
        self.input_is_classic = input_is_classic
        self.clean, self.damaged = _corrupt(clean, replace(damage, seed=seed))
        self.known = known
        self.seed = seed
        self.batch_size = batch_size

    def run(self, model: AutoencoderModelBase) -> Denoising:
        """Restore every image.

        The figures are `<name>_psnr` (dB, of the squared error over all images) and `..._ssim`, `..._input_psnr`,
        those of each classic, `..._best_classic_psnr` and `..._gain`, the model's lead in dB.

        Raises:
            InputError: The model takes images of other channels or sizes.
        """
        classics, strengths = ({"bicubic": self.damaged}, {}) if self.input_is_classic else self.restore_classically()
        restored = {"corrupted": self.damaged, "model": _restored(model, self.damaged, self.batch_size), **classics}
        if self.input_is_classic:
            del restored["corrupted"]
        metrics = {}
        for name, images in restored.items():
            metrics[f"{_prefix(self.name, name)}_psnr"] = psnr(images, self.clean)
            metrics[f"{_prefix(self.name, name)}_ssim"] = ssim(images, self.clean)
        best = max(metrics[f"{self.name}_{name}_psnr"] for name in classics)
        metrics[f"{self.name}_best_classic_psnr"] = best
        metrics[f"{self.name}_gain"] = metrics[f"{self.name}_psnr"] - best
        return Denoising(metrics, {"clean": self.clean, **restored}, strengths)

    def restore_classically(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The classic methods' images (N, C, H, W), clipped to [0, 1], and the strength of each."""
        clean, damaged = (
            images.numpy() for images in _corrupt(self.known.tuning, replace(self.damage, seed=self.seed + 1))
        )
        sigma = float(np.sqrt(np.mean((damaged - clean) ** 2))) if self.sigma is None else self.sigma
        methods = {method.__name__: (method, strengths) for method, strengths in classic_denoisers.STRENGTHS.items()}
        methods["pca_wiener"] = (self.known.wiener, classic_denoisers.PCA_STRENGTHS)
        restored, chosen = {}, {}
        for name, (method, strengths) in methods.items():
            chosen[name] = classic_denoisers.choose_strength(method, strengths, clean, damaged, sigma)
            restored[name] = torch.from_numpy(method(self.damaged.numpy(), sigma, chosen[name])).float().clamp(0, 1)
        return restored, chosen


def noise_test(clean: torch.Tensor, known: KnownImages, sigma: float, seed: int = 0) -> DamageTest:
    """Gaussian noise of this standard deviation, as a fraction of the range; what leaves [0, 1] is clipped."""
    return DamageTest(clean, known, f"denoising_sigma{sigma:g}", Corruption(noise=(sigma, sigma)), sigma, seed=seed)


def jpeg_test(clean: torch.Tensor, known: KnownImages, quality: int, seed: int = 0) -> DamageTest:
    """What JPEG of this quality loses."""
    return DamageTest(clean, known, f"denoising_jpeg{quality}", Corruption(jpeg=(quality, quality)), seed=seed)


def enlargement_test(clean: torch.Tensor, known: KnownImages, factor: int, seed: int = 0) -> DamageTest:
    """Images that were reduced by this factor, bicubically, and enlarged again."""
    damage = Corruption(reduction=(factor, factor))
    return DamageTest(clean, known, f"denoising_x{factor}", damage, input_is_classic=True, seed=seed)


class InpaintingTest:
    """PSNR inside of holes, at positions fixed by a seed, beside classic fills.

    These are the biharmonic, which looks at the hole's border, and, of small images, the conditional mean under a
    Gaussian of the training images, which looks at the whole image, its strength chosen as in `DamageTest`.

    Args:
        holes: What cuts them; its seed is replaced.
    """

    def __init__(
        self,
        clean: torch.Tensor,
        known: KnownImages,
        name: str,
        holes: Corruption,
        seed: int = 0,
        batch_size: int = 64,
    ):
        self.name = name
        self.holes = holes
        self.clean, self.masked, self.masks = self._cut(clean, seed)
        self.known = known
        self.seed = seed
        self.batch_size = batch_size

    def run(self, model: AutoencoderModelBase) -> Denoising:
        """Fill every hole.

        The figures are `<name>_psnr` (dB, of the squared error inside all holes), `..._biharmonic_psnr`, of small
        images `..._gaussian_psnr`, `..._best_classic_psnr` and `..._gain`, the model's lead over it in dB.

        Raises:
            InputError: The model does not fill holes, or takes images of other channels or sizes.
        """
        if not takes_masks(model):
            raise InputError("this autoencoder does not fill holes: train one with inpainting (recipes/inpaint.yaml)")
        biharmonic = classic_denoisers.biharmonic_fill(self.masked.numpy(), self.masks[:, 0].numpy())
        classics, strengths = {"biharmonic": torch.from_numpy(biharmonic).float().clamp(0, 1)}, {}
        if self.clean[0].numel() <= _GAUSSIAN_NUMBERS:
            fill, strengths["gaussian"] = self._gaussian_fill()
            classics["gaussian"] = fill(self.masked, self.masks).clamp(0, 1)
        network = _restored(model, self.masked, self.batch_size, self.masks)
        filled = {"model": torch.where(self.masks, network, self.masked), **classics}
        inside = {name: psnr(self._inside(images), self._inside(self.clean)) for name, images in filled.items()}
        best = max(inside[name] for name in classics)
        metrics = {f"{self.name}_psnr": inside["model"]}
        metrics |= {f"{self.name}_{name}_psnr": inside[name] for name in classics}
        metrics |= {f"{self.name}_best_classic_psnr": best, f"{self.name}_gain": inside["model"] - best}
        return Denoising(metrics, {"clean": self.clean, "corrupted": self.masked, **filled}, strengths)

    def _gaussian_fill(self) -> tuple[GaussianFill, float]:
        """The fill of the strength that is best on some of the known images, measured on the others."""
        clean, masked, masks = self._cut(self.known.tuning, self.seed + 1)
        measured = self.known.rest.float() / 255
        fills, errors = {}, {}
        for strength in classic_denoisers.FILL_STRENGTHS:
            fills[strength] = GaussianFill(clean.shape[1], list(clean.shape[2:]))
            fills[strength].start_from_images(measured, strength)
            errors[strength] = float((fills[strength](masked, masks).clamp(0, 1) - clean).square().sum())
        chosen = min(errors, key=lambda strength: errors[strength])
        return fills[chosen], chosen

    def _cut(self, clean: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clean images, images with holes, both float32 in [0, 1], and where the holes are, bool (N, 1, H, W)."""
        holes = replace(self.holes, seed=seed)
        return *_corrupt(clean, holes), holes.hole_masks(_keys(clean), *clean.shape[2:])

    def _inside(self, images: torch.Tensor) -> torch.Tensor:
        return images[self.masks.expand_as(images)]


def hole_test(clean: torch.Tensor, known: KnownImages, size: int = 16, seed: int = 0) -> InpaintingTest:
    """A square hole of `size` pixels in every image."""
    return InpaintingTest(clean, known, f"denoising_hole{size}", Corruption(holes=1, hole_size=(size, size)), seed)


def strokes_test(clean: torch.Tensor, known: KnownImages, count: int, seed: int = 0) -> InpaintingTest:
    """This many free-form strokes in every image, from a 28th to an eighth of its shorter side broad."""
    side = min(clean.shape[2:])
    holes = Corruption(strokes=(count, count), stroke_width=(max(side / 28, 1), max(side / 8, 1)))
    return InpaintingTest(clean, known, f"denoising_strokes{count}", holes, seed)


def report_denoising(
    tests: Sequence[DamageTest | InpaintingTest],
    model: AutoencoderModelBase,
    output: str | Path,
    files: dict[str, str | Path | None],
    split: dict[str, Any],
    columns: int = 10,
    identity: Callable[[torch.Tensor, torch.Tensor], float] | None = None,
) -> dict[str, float]:
    """Run tests; write results.json and a picture per test, with a row of images for every method.

    Args:
        identity: How much of the people is kept, (clean images, restored images) -> `..._identity_kept` of all rows.
    """
    known = tests[0].known
    if not len(known.rest):
        raise InputError(
            f"{len(known.tuning)} images of people who are not held out are too few: the classic methods are set on "
            f"{_TUNING_IMAGES} of them and fitted on the others"
        )
    metrics: dict[str, float] = {}
    clean = tests[0].clean
    details: dict[str, Any] = {"images": len(clean), "image_size": list(clean.shape[2:]), "split": split}
    for test in tests:
        result = test.run(model)
        metrics |= result.metrics
        if identity is not None:
            for name, images in result.images.items():
                if name != "clean":
                    metrics[f"{_prefix(test.name, name)}_identity_kept"] = identity(test.clean, images)
        chosen = torch.linspace(0, len(test.clean) - 1, min(columns, len(test.clean))).long()
        rows = {_ROWS.get(name, name.replace("_", " ")): images[chosen] for name, images in result.images.items()}
        draw_rows(rows, Path(output) / f"{test.name}.png")
        details[test.name] = {"seed": test.seed, "strengths": result.strengths, "rows": list(result.images)}
    write_results(output, "denoising", metrics, details | provenance(files), model)
    return metrics


def _prefix(test: str, name: str) -> str:
    """What the figures of a test's images begin with."""
    return {"model": test, "corrupted": f"{test}_input"}.get(name, f"{test}_{name}")


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
