"""Configuration of a network that removes noise or fills holes."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from hfembed.models.autoencoder_config import AutoencoderConfig


@strict
class RestorationAutoencoderConfig(AutoencoderConfig):
    r"""Configuration of `RestorationAutoencoderModel`.

    Further fields, and errors: see `AutoencoderConfig`.

    Args:
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width the model is trained at. A denoiser accepts others too, an inpainting model does not.
        bottleneck (`str`, *optional*, defaults to `"conv"`):
            `"conv"`, or `"dense"`: one linear layer over the whole feature map, for images of `image_size` only.
        bottleneck_size (`int`, *optional*, defaults to 1):
            Side of the squares of the last feature map that one position of a convolutional bottleneck sees.
        latent_channels (`int`, *optional*, defaults to 8):
            Channels of the bottleneck.
        inpainting (`bool`, *optional*, defaults to `False`):
            Images come with a mask of holes. These are filled by their conditional mean under a Gaussian over images
            of `image_size`, and the network, which sees the mask, predicts the correction inside of them.
    """

    model_type: ClassVar[str] = "hfembed_restoration_autoencoder"

    bottleneck: Literal["conv", "dense"] = "conv"
    bottleneck_size: int = 1
    inpainting: bool = False

    @property
    def is_convolutional(self) -> bool:
        """Whether the bottleneck is a grid of latents, not a vector."""
        return self.bottleneck == "conv"

    @property
    def takes_any_size(self) -> bool:
        """Whether images of other sizes than `image_size` are accepted."""
        return self.is_convolutional and not self.inpainting

    @property
    def stride(self) -> int:
        """What an image's height and width must be multiples of."""
        return self.map_stride * (self.bottleneck_size if self.bottleneck == "conv" else 1)

    def validate_bottleneck(self) -> None:
        """Reject impossible bottlenecks."""
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, got {self.bottleneck_size}")


__all__ = ["RestorationAutoencoderConfig"]
