"""A discriminator of image patches, and how an autoencoder learns from it."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from hfembed.training.distributed import is_distributed

_MOST = 1e4  # bound of the adaptive weight, as in the authors' code


class PatchDiscriminator(nn.Module):
    """Tell photos from reconstructions, patch by patch of 70 x 70 pixels.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017, section 6.1.2, with group
    instead of batch normalization: a patch is judged by its image alone, and ranks need not exchange statistics.

    Args:
        num_channels: Of the images.
        width: Channels of the first layer, a multiple of 8; each further one has twice as many, up to 8 times.
    """

    def __init__(self, num_channels: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(num_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for factor, stride in ((2, 2), (4, 2), (8, 1)):
            layers += [
                nn.Conv2d(width * factor // 2, width * factor, 4, stride=stride, padding=1),
                nn.GroupNorm(8, width * factor),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) in [0, 1], of at least 32 pixels -> logits (B, 1, h, w), high for photos."""
        return self.layers(2 * images - 1)


def hinge_loss(photos: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss on its logits: half of that of Lim and Ye, "Geometric GAN", 2017."""
    return 0.5 * (F.relu(1 - photos).mean() + F.relu(1 + reconstructions).mean())


def adaptive_weight(by_images: torch.Tensor, by_discriminator: torch.Tensor, delta: float = 1e-4) -> torch.Tensor:
    """Weight that makes the discriminator pull at the last layer as hard as the comparison of images does.

    Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021, eq. 7; at most 10,000.

    Args:
        by_images: Gradient of the distance to the photos with respect to the decoder's last layer, on this rank.
        by_discriminator: That of the discriminator's verdict, of the same shape.
        delta: Keeps a vanishing gradient from dividing by zero.

    Returns:
        Scalar: the ratio of the norms of both gradients, each averaged over all ranks.
    """
    gradients = torch.stack([by_images, by_discriminator]).float()
    if is_distributed():
        dist.all_reduce(gradients)
        gradients /= dist.get_world_size()
    images, discriminator = gradients.flatten(1).norm(dim=1)
    return (images / (discriminator + delta)).clamp(max=_MOST)


def with_gradient(value: torch.Tensor, at: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A scalar of this value whose gradient with respect to the tensor `at` is the one given."""
    linear = (at * gradient).sum()
    return value.detach() + linear - linear.detach()


def adversarial_loss(
    images: torch.Tensor,
    by_images: torch.Tensor,
    photos: torch.Tensor,
    last_layer: torch.Tensor,
    discriminator: nn.Module,
    weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a discriminator adds to the loss of generated images, its own loss included.

    The gradient is taken at the images, once: from there to the last layer, whose gradients are weighed, and to the
    rest of the model it is the same way.

    Args:
        images: (B, C, H, W), generated.
        by_images: The gradient, with respect to `images`, of the losses that the verdict is balanced with.
        photos: (B, C, H, W) in [0, 1], what the discriminator takes for real.
        last_layer: Weights that `images` come from.
        weight: Of the verdict, times `adaptive_weight`.

    Returns:
        The weighted verdict plus the discriminator's loss, a scalar, and figures to log.
    """
    # its parameters learn from its own loss alone, and the model from the verdict on generated images alone
    shown = images.detach().requires_grad_()
    real, made = discriminator(torch.cat([photos.to(shown.dtype), shown])).float().chunk(2)
    verdict = -made.mean()
    (pull,) = torch.autograd.grad(verdict, shown, retain_graph=True)
    by_images, by_verdict = (
        torch.autograd.grad(images, last_layer, part, retain_graph=True)[0] for part in (by_images, pull)
    )
    scale = weight * adaptive_weight(by_images, by_verdict)
    discriminator_loss = hinge_loss(real, made)
    figures = {"adversarial": verdict, "adversarial_weight": scale, "discriminator": discriminator_loss}
    return with_gradient(scale * verdict, images, scale * pull) + discriminator_loss, figures
