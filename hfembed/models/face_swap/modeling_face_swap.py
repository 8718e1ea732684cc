"""Face swap: one shared encoder for pose, expression and light, one decoder per person."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from hfembed.models.face_swap_base import FaceSwapBase
from hfembed.models.structural_similarity import structural_similarity

from .configuration_face_swap import FaceSwapConfig

_SLOPE = 0.1  # of the leaky rectifiers


@dataclass
class FaceSwapOutput(ModelOutput):
    """Output of `FaceSwapModel`.

    Args:
        loss (`torch.FloatTensor`, *optional*): `reconstruction_loss` of the outputs; present when targets are given.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*): Each
            face as the person of its label, in [0, 1]; present when labels are given.
        mask (`torch.FloatTensor` of shape `(batch_size, 1, height, width)`, *optional*): Where the face is, in [0, 1];
            present when labels are given and `config.predict_mask`.
        latents (`torch.FloatTensor`): `(batch_size, latent_size)`, or `(batch_size, latent_size, h, w)` from a
            convolutional bottleneck.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, numbers)`): The latents, flat, by the name that the
            image-feature-extraction pipeline looks for.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


def reconstruction_loss(
    reconstruction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    target_mask: torch.Tensor | None = None,
    dssim_weight: float = 0.5,
    mask_weight: float = 0.2,
) -> torch.Tensor:
    """Mean absolute error and structural dissimilarity, (1 - SSIM) / 2, mixed; where there are masks, theirs too.

    The mixture is that of Zhao et al., "Loss Functions for Image Restoration with Neural Networks", 2017.

    Args:
        reconstruction: (batch, channels, height, width) in [0, 1].
        mask: (batch, 1, height, width) in [0, 1].
        dssim_weight: Share of the dissimilarity, in [0, 1].

    Returns:
        A scalar, float32: means over images and pixels.
    """
    loss = (1 - dssim_weight) * F.l1_loss(reconstruction.float(), target.float())
    if dssim_weight:
        loss = loss + dssim_weight * (1 - structural_similarity(reconstruction, target).mean()) / 2
    if mask is not None and target_mask is not None:
        loss = loss + mask_weight * F.l1_loss(mask.float(), target_mask.float())
    return loss


class Downscale(nn.Module):
    """Convolution of stride 2, leaky rectifier."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, h / 2, w / 2)."""
        hidden = self.conv(hidden)
        return F.leaky_relu(hidden, _SLOPE)


class Upscale(nn.Module):
    """Convolution to four times the channels, which PixelShuffle lays out as 2 x 2 pixels; leaky rectifier."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, 2 h, 2 w)."""
        hidden = self.conv(hidden)
        hidden = F.pixel_shuffle(hidden, 2)
        return F.leaky_relu(hidden, _SLOPE)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> the same shape."""
        residual = self.conv1(hidden)
        residual = F.leaky_relu(residual, _SLOPE)
        residual = self.conv2(residual)
        return F.leaky_relu(hidden + residual, _SLOPE)


class Encoder(nn.Module):
    """Faces to latents, the same for everybody."""

    def __init__(self, config: FaceSwapConfig) -> None:
        super().__init__()
        widths = [config.num_channels, *config.encoder_widths]
        self.stages = nn.ModuleList(Downscale(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.width, self.map_size = widths[-1], config.map_size
        if config.bottleneck == "dense":
            self.latent: nn.Module = nn.Linear(self.width * self.map_size**2, config.latent_size)
        else:
            self.latent = nn.Conv2d(self.width, config.latent_size, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, latent_size) or (B, latent_size, h, w)."""
        hidden = pixel_values
        for stage in self.stages:
            hidden = stage(hidden)
        if isinstance(self.latent, nn.Linear):
            hidden = hidden.flatten(1)
        return self.latent(hidden)


class Decoder(nn.Module):
    """Latents to one person's face."""

    def __init__(self, config: FaceSwapConfig) -> None:
        super().__init__()
        width = config.encoder_widths[-1]
        self.map_shape = (width, config.map_size, config.map_size)
        if config.bottleneck == "dense":
            self.latent: nn.Module = nn.Linear(config.latent_size, width * config.map_size**2)
        else:
            self.latent = nn.Conv2d(config.latent_size, width, 1)
        self.stages = nn.ModuleList()
        for number, out in enumerate(config.decoder_widths, start=1):
            self.stages.append(Upscale(width, out))
            if number < len(config.decoder_widths):
                self.stages.extend(ResidualBlock(out) for _ in range(config.residual_blocks))
            width = out
        self.num_channels = config.num_channels
        self.output = nn.Conv2d(width, config.num_channels + config.predict_mask, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent_size[, h, w]) -> (B, num_channels [+ 1], H, W) in [0, 1]; the last channel is the mask."""
        hidden = self.latent(latents)
        hidden = hidden.view(-1, *self.map_shape)
        hidden = F.leaky_relu(hidden, _SLOPE)
        for stage in self.stages:
            hidden = stage(hidden)
        hidden = self.output(hidden)
        return hidden.sigmoid()


class FaceSwapModel(FaceSwapBase):
    """One encoder and one decoder per person, trained to reconstruct each person's own faces from distorted ones.

    A face that goes through another person's decoder comes out as that person, in the same pose and light: all that
    the decoders have in common is the latent code, and distortion during training keeps it from holding who it is.
    """

    config: FaceSwapConfig
    base_model_prefix = "face_swap"

    def __init__(self, config: FaceSwapConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoders = nn.ModuleList(Decoder(config) for _ in config.people)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight, a=_SLOPE, mode="fan_in", nonlinearity="leaky_relu")
            if module.bias is not None:
                init.zeros_(module.bias)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        target_pixel_values: torch.Tensor | None = None,
        target_masks: torch.Tensor | None = None,
    ) -> FaceSwapOutput:
        """Encode faces, and reconstruct each with the decoder of its label.

        With targets, everybody must be among the labels: one call then gives every decoder its gradient, as
        distributed training wants it on each rank and in each step.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            labels: (batch_size,) integer: which decoder reconstructs it.
            target_pixel_values: (batch_size, num_channels, height, width): what should come out.
            target_masks: (batch_size, 1, height, width) in [0, 1]: where the face is in it.

        Raises:
            ValueError: The images do not have the config's size, targets come without labels, or with labels that
                leave somebody out.
        """
        if target_pixel_values is not None:
            present = set() if labels is None else set(labels.tolist())
            absent = [name for label, name in enumerate(self.config.people) if label not in present]
            if absent:
                raise ValueError(f"a training step needs faces of all people; labels contain none of '{absent[0]}'")
        latents = self.encode(pixel_values)
        reconstruction = mask = loss = None
        if labels is not None:
            reconstruction, mask = self.decode(latents, labels)
        if target_pixel_values is not None and reconstruction is not None:
            loss = reconstruction_loss(
                reconstruction,
                target_pixel_values,
                mask,
                target_masks,
                self.config.dssim_weight,
                self.config.mask_weight,
            )
        return FaceSwapOutput(
            loss=loss, reconstruction=reconstruction, mask=mask, latents=latents, pooler_output=latents.flatten(1)
        )

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode faces.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1].

        Returns:
            (batch_size, latent_size), or (batch_size, latent_size, h, w) from a convolutional bottleneck.

        Raises:
            ValueError: The images do not have the config's size.
        """
        self.check_pixel_values(pixel_values)
        return self.encoder(pixel_values.to(self.dtype))

    def decode(self, latents: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode latents to faces.

        Args:
            latents: (batch_size, ...), from `encode`.
            labels: (batch_size,) integer: which decoder reconstructs it.

        Returns:
            (batch_size, num_channels, height, width) in [0, 1], and the masks (batch_size, 1, height, width) in [0, 1]
            or None.
        """
        people = labels.unique().tolist()
        rows = [(labels == person).nonzero().flatten() for person in people]
        drawn = torch.cat([self.decoders[person](latents[row]) for person, row in zip(people, rows, strict=True)])
        drawn = drawn[torch.cat(rows).argsort()]
        channels = self.config.num_channels
        return drawn[:, :channels], drawn[:, channels:] if self.config.predict_mask else None

    def draw(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode faces, and reconstruct each with the decoder of its label; as `FaceSwapBase.draw`."""
        return self.decode(self.encode(pixel_values), labels)


__all__ = ["FaceSwapModel", "FaceSwapOutput", "reconstruction_loss"]
