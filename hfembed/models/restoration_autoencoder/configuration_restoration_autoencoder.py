"""Configuration of a network that removes damage or fills holes."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from hfembed.models.autoencoder_config import AutoencoderConfig


@strict
class RestorationAutoencoderConfig(AutoencoderConfig):
    r"""Configuration of `RestorationAutoencoderModel`.

    Further fields, and errors: see `AutoencoderConfig`.

    Args:
        image_size (`list[int]`, *optional*, defaults to `[64, 64]`):
            Height and width the model is trained at. Others are accepted too, unless `fill` is `"gaussian"`.
        bottleneck (`str`, *optional*, defaults to `"conv"`):
            `"conv"`, or `"dense"`: one linear layer over the whole feature map, for images of `image_size` only.
        bottleneck_size (`int`, *optional*, defaults to 1):
            Side of the squares of the last feature map that one position of a convolutional bottleneck sees.
        latent_channels (`int`, *optional*, defaults to 8):
            Channels of the bottleneck.
        inpainting (`bool`, *optional*, defaults to `False`):
            Images come with a mask of holes, which the network sees.
        fill (`str`, *optional*, defaults to `"gaussian"`):
            What the network of an inpainting model corrects. `"gaussian"`: holes filled by their conditional mean
            under a Gaussian over images of `image_size`, for small images; what lies outside of holes stays as it is.
            `"smooth"`: holes of images of any size filled from their borders; the whole image is corrected.
        aligned_faces (`bool`, *optional*, defaults to `False`):
            The images are faces whose eyes, nose and mouth are where the standard template of 112 x 112 pixels, scaled
            to `image_size`, has them. Faces in photos can be aligned to it, restored and pasted back.
    """

    model_type: ClassVar[str] = "hfembed_restoration_autoencoder"

    bottleneck: Literal["conv", "dense"] = "conv"
    bottleneck_size: int = 1
    inpainting: bool = False
    fill: Literal["gaussian", "smooth"] = "gaussian"
    aligned_faces: bool = False

    @property
    def is_convolutional(self) -> bool:
        """Whether the bottleneck is a grid of latents, not a vector."""
        return self.bottleneck == "conv"

    @property
    def takes_any_size(self) -> bool:
        """Whether images of other sizes than `image_size` are accepted."""
        return self.is_convolutional and self.removes_damage

    @property
    def removes_damage(self) -> bool:
        """Whether images are corrected everywhere, not in holes alone."""
        return not self.inpainting or self.fill == "smooth"

    @property
    def stride(self) -> int:
        """What an image's height and width must be multiples of."""
        return self.map_stride * (self.bottleneck_size if self.bottleneck == "conv" else 1)

    def validate_bottleneck(self) -> None:
        """Reject impossible bottlenecks."""
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, got {self.bottleneck_size}")


__all__ = ["RestorationAutoencoderConfig"]
