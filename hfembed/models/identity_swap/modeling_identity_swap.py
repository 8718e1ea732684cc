"""Identity-conditioned face swap: a face is corrected towards a person who is given as a vector."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from hfembed.models.face_swap_base import FaceSwapBase
from hfembed.models.point_warp import warp_points

from .configuration_identity_swap import NORM_GROUPS, POINT_CELL, IdentitySwapConfig

_COMPARED_AT = 16  # pixels of images of which one is looked for that is like another
# of the image's side, on the standard template: eyes, nose and corners of the mouth
_USUAL_POINTS = ((0.342, 0.462), (0.657, 0.460), (0.500, 0.641), (0.371, 0.825), (0.632, 0.823))
_SMALL = 0.1  # of the usual standard deviation: the last layer of a correction at its start


@dataclass
class IdentitySwapOutput(ModelOutput):
    """Output of `IdentitySwapModel`.

    Args:
        loss (`torch.FloatTensor`, *optional*): Mean absolute error of the reconstruction; present when targets are
            given.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Each face as the
            person of its vector, in [0, 1] up to overshoot, which is not clipped.
        mask (`torch.FloatTensor` of shape `(batch_size, 1, height, width)`): How much of its pixel a face was changed
            by, in [0, 1].
        points (`torch.FloatTensor` of shape `(batch_size, 5, 2)`, *optional*): [x, y] in pixels of each face's
            landmarks as the model estimates them; None where it does not (`config.reference_points`).
        reference_points (`torch.FloatTensor` of shape `(batch_size, 5, 2)`, *optional*): The references'.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, widths[-1])`): Mean of the lowest feature map, by
            the name that the image-feature-extraction pipeline looks for.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    points: torch.Tensor | None = None
    reference_points: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


class ModulatedBlock(nn.Module):
    """Residual block whose normalized input is scaled and shifted by the identity vector (AdaIN, FiLM).

    Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", 2017, with group
    instead of instance normalization: what a face has more of than others at all is kept.
    """

    def __init__(self, channels: int, identity_size: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(identity_size, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, h, w), vectors (B, identity_size) -> the same shape as the map."""
        scale, shift = self.modulation(identities)[:, :, None, None].chunk(2, dim=1)
        residual = F.group_norm(hidden, NORM_GROUPS) * (1 + scale) + shift
        residual = self.conv1(F.silu(residual))
        return hidden + self.conv2(F.silu(residual))


class ModulatedBlocks(nn.ModuleList):
    """Residual blocks one after another."""

    def __init__(self, count: int, channels: int, identity_size: int) -> None:
        super().__init__(ModulatedBlock(channels, identity_size) for _ in range(count))

    def forward(self, hidden: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, h, w), vectors (B, identity_size) -> the same shape as the map."""
        for block in self:
            hidden = block(hidden, identities)
        return hidden


class FacePoints(nn.Module):
    """Where five landmarks lie in an aligned face: for each the mean place under a map of probabilities.

    Nibali, He, Morgan and Prendergast, "Numerical Coordinate Regression with Convolutional Neural Networks", 2018.
    """

    def __init__(self, num_channels: int, image_size: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(POINT_CELL // 2)
        self.conv1 = nn.Conv2d(num_channels * (POINT_CELL // 2) ** 2, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_out = nn.Conv2d(64, len(_USUAL_POINTS), 3, padding=1)
        side = image_size // POINT_CELL
        self.usual_logits = nn.Parameter(torch.zeros(len(_USUAL_POINTS), side, side))

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (B, C, H, W) in [0, 1] -> (B, 5, 2): [x, y] in pixels."""
        hidden = F.silu(self.conv1(self.fold(faces - 0.5)))
        hidden = F.silu(self.conv2(hidden))
        hidden = F.silu(self.conv3(hidden))
        hidden = F.silu(self.conv4(hidden))
        maps = (self.conv_out(hidden) + self.usual_logits).float().flatten(2).softmax(2).unflatten(2, hidden.shape[2:])
        places = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) * POINT_CELL - 0.5
        return torch.stack([maps.sum(2) @ places, maps.sum(3) @ places], dim=2)


class IdentitySwapModel(FaceSwapBase):
    """One network for everybody: a face and an identity vector to the same face as that person.

    A person is a vector, the mean embedding of some photos, and a few of these photos, aligned; the one that is most
    like the face in pose and light is its reference. What is drawn is the face plus a correction, so that its detail
    stays. With `config.reference_points` the reference is first moved so that its landmarks lie where the face's do.
    The correction starts as the difference of reference and face, inside of an oval, without the finest detail
    and without skin color and light; a U-Net on the folded pixels of both, whose residual blocks are modulated by the
    vector, completes it and the mask that says where it holds.

    Vectors and photos of `config.people` are kept with the weights, in `people_vectors` and `people_photos`; both are
    None where the model knows nobody.
    """

    config: IdentitySwapConfig
    base_model_prefix = "identity_swap"
    corrects_photos = True

    people_vectors: torch.Tensor | None
    people_photos: torch.Tensor | None
    identity_mean: torch.Tensor
    identity_scale: torch.Tensor

    def __init__(self, config: IdentitySwapConfig) -> None:
        super().__init__(config)
        channels, widths, size = config.num_channels, config.widths, config.identity_size
        photos = (len(config.people), config.photos_per_person, channels, config.image_size, config.image_size)
        self.register_buffer("people_vectors", torch.zeros(len(config.people), size) if config.people else None)
        self.register_buffer("people_photos", torch.zeros(photos, dtype=torch.uint8) if config.people else None)
        self.register_buffer("identity_mean", torch.zeros(size))
        self.register_buffer("identity_scale", torch.full((size,), size**0.5))
        self.points = FacePoints(channels, config.image_size) if config.reference_points else None
        learned = 1 if config.gray_correction else channels
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.conv_in = nn.Conv2d(2 * channels * config.patch_size**2, widths[0], 3, padding=1)
        blocks = config.blocks_per_level
        self.down = nn.ModuleList(ModulatedBlocks(blocks, width, size) for width in widths[:-1])
        steps = list(zip(widths[:-1], widths[1:], strict=True))
        self.downsamplers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in steps)
        self.middle = ModulatedBlocks(config.middle_blocks, widths[-1], size)
        self.upsamplers = nn.ModuleList(nn.Conv2d(b, 4 * a, 3, padding=1) for a, b in steps)
        self.up = nn.ModuleList(ModulatedBlocks(blocks, width, size) for width in widths[:-1])
        self.grow = nn.PixelShuffle(2)
        self.mask_logits = nn.Parameter(torch.zeros(1, 1, config.image_size, config.image_size))
        self.conv_out = nn.Conv2d(widths[0], (learned + 1) * config.patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            is_last = module is self.conv_out or (self.points is not None and module is self.points.conv_out)
            init.normal_(module.weight, std=fan_in**-0.5 * (_SMALL if is_last else 1))
            if module.bias is not None:
                init.zeros_(module.bias)
        if isinstance(module, FacePoints):
            init.copy_(module.usual_logits, _usual_logits(self.config.image_size))
        if module is self:
            for people in (self.people_vectors, self.people_photos):
                if people is not None:
                    init.zeros_(people)
            init.copy_(self.mask_logits, _oval_logits(self.config.image_size))
            init.zeros_(self.identity_mean)
            init.constant_(self.identity_scale, self.config.identity_size**0.5)
            # transformers passes over modules without parameters of their own, so not as each block's turn comes
            for block in (part for part in self.modules() if isinstance(part, ModulatedBlock)):
                for layer in (block.conv2, block.modulation):
                    init.normal_(layer.weight, std=_SMALL * layer.weight[0].numel() ** -0.5)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        identities: torch.Tensor | None = None,
        references: torch.Tensor | None = None,
        target_pixel_values: torch.Tensor | None = None,
    ) -> IdentitySwapOutput:
        """Draw faces as other people.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            labels: (batch_size,) integer: whose face each is to be, by position in `config.people`; or
            identities: (batch_size, identity_size): their vectors, of unit length, with
            references: (batch_size, num_channels, height, width) in [0, 1]: an aligned photo of each.
            target_pixel_values: (batch_size, num_channels, height, width): what should come out.

        Raises:
            ValueError: The images or the vectors have another size, or neither labels nor identities are given.
        """
        self.check_pixel_values(pixel_values)
        if (labels is None) == (identities is None) or (identities is None) != (references is None):
            raise ValueError("give labels of the model's people, or identities and references: one of the two")
        if identities is None or references is None:
            if self.people_vectors is None or self.people_photos is None:
                raise ValueError("the model knows nobody yet; add people with `hfembed add-person`")
            identities = self.people_vectors[labels]
            references = nearest_photos(pixel_values, self.people_photos[labels])
        if references.shape != pixel_values.shape:
            raise ValueError(f"references must be {tuple(pixel_values.shape)}, got {tuple(references.shape)}")
        if identities.shape != (len(pixel_values), self.config.identity_size):
            raise ValueError(
                f"identities must be ({len(pixel_values)}, {self.config.identity_size}), got {tuple(identities.shape)}"
            )
        pixels = pixel_values.to(self.dtype)
        references = references.to(self.dtype)
        references, points, reference_points = self.move_references(pixels, references)
        # some embedders' vectors all point one way: what tells people apart is made as large in all numbers
        identities = (identities.to(self.dtype) - self.identity_mean) * self.identity_scale
        hidden = self.conv_in(torch.cat([self.fold(pixels - 0.5), self.fold(references - 0.5)], dim=1))
        skipped = []
        for level, downsample in zip(self.down, self.downsamplers, strict=True):
            hidden = level(hidden, identities)
            skipped.append(hidden)
            hidden = downsample(F.silu(hidden))
        hidden = self.middle(hidden, identities)
        pooled = hidden.mean((2, 3))
        for level, upsample in zip(reversed(self.up), reversed(self.upsamplers), strict=True):
            hidden = level(self.grow(upsample(F.silu(hidden))) + skipped.pop(), identities)
        drawn = self.unfold(self.conv_out(F.silu(hidden)))
        if self.config.correction_blur:
            drawn = blur(drawn, self.config.correction_blur)
        correction, mask = drawn[:, :-1], (drawn[:, -1:] + self.mask_logits).sigmoid()
        correction = correction + self.start_of_correction(pixels, references)
        reconstruction = pixels + mask * correction
        loss = None
        if target_pixel_values is not None:
            loss = F.l1_loss(reconstruction.float(), target_pixel_values.float())
        return IdentitySwapOutput(
            loss=loss,
            reconstruction=reconstruction,
            mask=mask,
            points=points,
            reference_points=reference_points,
            pooler_output=pooled,
        )

    def move_references(
        self, pixels: torch.Tensor, references: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """References, (B, C, H, W) as the faces, with the faces' landmarks, and the landmarks of both, (B, 5, 2).

        Without `config.reference_points` references stay as they are, and landmarks are None.
        """
        if self.points is None:
            return references, None, None
        points, reference_points = self.points(pixels), self.points(references)
        return warp_points(references, reference_points.detach(), points.detach()), points, reference_points

    def start_of_correction(self, pixels: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """The difference of references and faces, each (B, C, H, W), in the config's band of frequencies."""
        difference = references - pixels
        light = F.adaptive_avg_pool2d(difference, self.config.light_size)
        light = F.interpolate(light, pixels.shape[2:], mode="bilinear", align_corners=False)
        return blur(difference, self.config.reference_blur) - light

    def draw(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw each face as the person of its label; as `FaceSwapBase.draw`."""
        output = self(pixel_values, labels)
        assert output.reconstruction is not None
        return output.reconstruction.clamp(0, 1), output.mask

    @torch.no_grad()
    def set_people(self, people: list[str], vectors: torch.Tensor, photos: torch.Tensor) -> None:
        """Replace the people whom the model knows.

        Args:
            people: Their names.
            vectors: (number of people, identity_size); scaled to unit length here.
            photos: (number of people, photos_per_person, num_channels, height, width) uint8, aligned.

        Raises:
            ValueError: Vectors or photos have another shape or are not finite, or a name is empty or comes twice.
        """
        count, size = len(people), self.config.image_size
        for name, given, shape in (
            ("vectors", vectors, (count, self.config.identity_size)),
            ("photos", photos, (count, self.config.photos_per_person, self.config.num_channels, size, size)),
        ):
            if given.shape != shape:
                raise ValueError(f"{name} must be {shape}, one per person, got {tuple(given.shape)}")
            if not bool(given.isfinite().all()):
                raise ValueError(f"{name} must be finite")
        if count and not bool(vectors.norm(dim=1).min() > 0):
            raise ValueError("vectors must not be zero")
        self.config = type(self.config).from_dict(self.config.to_dict() | {"people": list(people)})
        device = self.identity_mean.device
        self.people_vectors = F.normalize(vectors.float()).to(self.identity_mean) if count else None
        self.people_photos = photos.to(device, torch.uint8) if count else None

    @torch.no_grad()
    def standardize(self, identities: torch.Tensor) -> None:
        """Take mean and deviation of vectors (N, identity_size) as those of all that will be given."""
        deviation, self.identity_mean = torch.std_mean(identities.to(self.identity_mean), dim=0)
        self.identity_scale = 1 / deviation.clamp(min=1e-6)


def _oval_logits(size: int) -> torch.Tensor:
    """Where the face is on the standard template: (1, 1, size, size), high inside of an oval, low outside."""
    axis = (torch.arange(size) + 0.5) / size
    across, down = (axis[None] - 0.5) / 0.36, (axis[:, None] - 0.643) / 0.425
    return (12 * (0.85 - torch.hypot(across, down))).clamp(-5, 3)[None, None]


def _usual_logits(size: int) -> torch.Tensor:
    """(5, squares, squares): Gaussians of a tenth of the side around where landmarks usually lie."""
    axis = (torch.arange(size // POINT_CELL) + 0.5) * POINT_CELL / size
    across, down = axis - torch.tensor(_USUAL_POINTS).T[..., None]
    squared = across[:, None, :] ** 2 + down[:, :, None] ** 2
    return -0.5 * squared / 0.1**2


def nearest_photos(faces: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
    """Of each person's photos the one that is most like a face in pose and light: by the cosine of small gray images.

    Args:
        faces: (B, C, H, W) in [0, 1].
        photos: (B, K, C, H, W) uint8.

    Returns:
        (B, C, H, W) in [0, 1].
    """

    def small(images: torch.Tensor) -> torch.Tensor:
        gray = F.adaptive_avg_pool2d(images.mean(-3, dtype=torch.float32), _COMPARED_AT).flatten(-2)
        return F.normalize(gray - gray.mean(-1, keepdim=True), dim=-1)

    nearest = (small(photos) @ small(faces)[:, :, None]).squeeze(-1).argmax(1)
    return photos[torch.arange(len(photos), device=photos.device), nearest].to(faces.dtype) / 255


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Images (B, C, H, W) through a Gaussian of `sigma` pixels, the border repeated outside; float32."""
    # as products of matrices, many times faster on a CPU than convolving single channels
    with torch.autocast(images.device.type, enabled=False):
        down, across = (_gaussian_rows(side, sigma, images.device) for side in images.shape[2:])
        return down @ images.float() @ across.T


def _gaussian_rows(size: int, sigma: float, device: torch.device) -> torch.Tensor:
    """(size, size): in each row the weights of all pixels of a line for one."""
    radius = min(math.ceil(3 * sigma), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = (torch.arange(size, device=device)[:, None] + offsets).clamp(0, size - 1)
    return torch.zeros(size, size, device=device).scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))


__all__ = ["IdentitySwapModel", "IdentitySwapOutput", "blur", "nearest_photos"]
