"""Configuration of an active appearance model whose warp is predicted by a convolutional encoder."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hfembed.models.autoencoder_config import AutoencoderConfig


@strict
class AppearanceAutoencoderConfig(AutoencoderConfig):
    r"""Configuration of `AppearanceAutoencoderModel`.

    Further fields, and errors: see `AutoencoderConfig`.

    Args:
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width of the images; both even.
        latent_channels (`int`, *optional*, defaults to 64):
            How many numbers an image is described by, the warp's included.
        warp_latents (`int`, *optional*, defaults to 16):
            How many of the latents describe the warp; 0 is a linear code of the whole image, without a fit.
        warp_grid (`int`, *optional*, defaults to 8):
            Control points, across and down, between which the warp is interpolated.
        refinement_steps (`int`, *optional*, defaults to 2):
            Gauss-Newton steps of the fit.
        code_filters (`bool`, *optional*, defaults to `False`):
            Besides what its basis can represent, the linear code takes in what filters of its own see in the residual.
            For codes that are to be good by another measure than the squared error.
        detail (`bool`, *optional*, defaults to `False`):
            A U-Net of `widths` corrects what warp and code have drawn: it adds detail for which there are no numbers.
    """

    model_type: ClassVar[str] = "hfembed_appearance_autoencoder"

    latent_channels: int = 64
    warp_latents: int = 16
    warp_grid: int = 8
    refinement_steps: int = 2
    code_filters: bool = False
    detail: bool = False

    @property
    def is_convolutional(self) -> bool:
        """False: the latents are a vector."""
        return False

    def validate_warp(self) -> None:
        """Reject warps that leave no number to the linear code."""
        if not 0 <= self.warp_latents < self.latent_channels:
            raise ValueError(
                f"warp_latents must lie between 0 and latent_channels - 1, {self.latent_channels - 1}, "
                f"got {self.warp_latents}"
            )
        if self.warp_grid < 2 or self.refinement_steps < 1:
            raise ValueError("warp_grid must be at least 2, refinement_steps at least 1")
        if any(side % 2 for side in self.image_size):
            raise ValueError(f"image_size must be even numbers, got {self.image_size}")


__all__ = ["AppearanceAutoencoderConfig"]
