"""A linear code of an image and a smooth warp: motion is described as motion, not as changes of intensity."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# parameters are stored this factor larger than they are used: one learning rate then serves them and the encoder
_STORED = 10.0
# ridge on the warp's numbers and on the code's, in units of squared image distance
_WARP_RIDGE, _CODE_RIDGE = 2e-2, 1e-3
# movement, in pixels, of one warp latent: about as large a change of the image as one unit of the code
_PIXELS = 0.25


class _Unwarp(torch.autograd.Function):
    """The transpose of the linear map `image -> grid_sample(image, places)`; torch cannot differentiate its own."""

    @staticmethod
    def forward(ctx, warped: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) and (B, H, W, 2) -> (B, C, H, W): each value handed back to the pixels it was taken from."""
        ctx.save_for_backward(places)
        with torch.enable_grad():
            image = torch.zeros_like(warped, requires_grad=True)
            (gradient,) = torch.autograd.grad(_sample(image, places), image, warped)
        return gradient

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The transpose of the transpose."""
        (places,) = ctx.saved_tensors
        return _sample(gradient, places), None


def _sample(images: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """Images (B, C, H, W) at places (B, H, W, 2); as they are where nothing moves."""
    return images if places is None else F.grid_sample(images, places, padding_mode="border", align_corners=False)


class WarpedLinearCode(nn.Module):
    """Images as warp(mean + code @ basis): Cootes et al., "Active Appearance Models", 2001, sections 2 and 3.

    The first `warp_latents` numbers move the places that pixels are taken from, by smooth fields; the others are
    coefficients of basis images. Mean, basis and fields are learned. Latents are fitted to an image by Gauss-Newton:
    given a start for the warp, a few steps find the least squares.

    With `code_filters` the code also takes in what the basis cannot represent, by a filter for each number: an oblique
    projection instead of the orthogonal one of least squares, as codes for another distance than the squared error
    need it (`start_in_metric`).

    Args:
        latent_channels: Numbers in all.
        warp_latents: How many of them are the warp's.
    """

    def __init__(
        self,
        num_channels: int,
        image_size: Sequence[int],
        latent_channels: int,
        warp_latents: int,
        warp_grid: int,
        code_filters: bool = False,
    ) -> None:
        super().__init__()
        self.num_channels, self.height, self.width = num_channels, *image_size
        self.warp_latents = warp_latents
        self.mean = nn.Parameter(torch.empty(num_channels, *image_size))
        self.basis = nn.Parameter(torch.empty(latent_channels - warp_latents, num_channels, *image_size))
        self.fields = nn.Parameter(torch.empty(warp_latents, 2, warp_grid, warp_grid)) if warp_latents else None
        self.filters = nn.Parameter(torch.empty_like(self.basis)) if code_filters else None

    def starting_values(self) -> tuple[torch.Tensor, ...]:
        """A gray mean and the lowest cosine waves, of gray levels and, if there is a warp, of movements."""
        mean = torch.full((self.num_channels, self.height, self.width), 0.5)
        codes = len(self.basis)
        waves = cosine_waves(math.ceil(codes / self.num_channels), self.height, self.width)
        basis = torch.zeros(codes, self.num_channels, self.height, self.width)
        for number in range(codes):
            basis[number, number % self.num_channels] = waves[number // self.num_channels]
        if self.fields is None:
            return _STORED * mean, _STORED * basis
        fields = torch.zeros(self.fields.shape)
        moves = cosine_waves(math.ceil(self.warp_latents / 2), *self.fields.shape[2:])
        for number in range(self.warp_latents):
            wave = moves[number // 2]
            fields[number, number % 2] = _PIXELS * wave / wave.square().mean().sqrt()
        return _STORED * mean, _STORED * basis, fields

    @torch.no_grad()
    def start_from_images(self, pixel_values: torch.Tensor) -> None:
        """Take mean and basis from the principal components of images; no warp then explains them better yet.

        Args:
            pixel_values: (N, C, H, W) in [0, 1], N at least the code's length.
        """
        flat = pixel_values.flatten(1).float()
        mean = flat.mean(0)
        _, _, components = torch.pca_lowrank(
            flat - mean, min(len(self.basis) + 32, *flat.shape), center=False, niter=3
        )
        self.mean.copy_(_STORED * mean.view_as(self.mean))
        self.basis.copy_(_STORED * components[:, : len(self.basis)].T.reshape(self.basis.shape))

    @torch.no_grad()
    def start_in_metric(self, unwarped: torch.Tensor, slopes: torch.Tensor, weight: float) -> None:
        """Take mean, basis and filters from principal components in the metric of a network that sees images.

        Two images are as far apart as their squared distance and `weight` times the mean, over slopes, of the squared
        product of their difference with a slope. Among all linear codes of this length, the one whose mean distance
        to the images is least has an encoder and a decoder of their own (Jolliffe, "Principal Component Analysis",
        2002, section 14.2.1: the generalized singular value decomposition).

        Args:
            unwarped: (N, C, H, W), from `unwarp`; N at least the code's length.
            slopes: (M, C, H, W), gradients of what the network sees with respect to images before their warp. They
                are scaled: with weight 1 they count as much as the squared distance, on the residual of the current
                basis.
            weight: From 0, where it is the squared distance alone, up.
        """
        mean = self.mean.float().flatten() / _STORED
        flat = unwarped.flatten(1).float() - mean
        slopes = slopes.flatten(1).float()
        basis = self.basis.float().flatten(1) / _STORED
        left = flat[: len(slopes)] - flat[: len(slopes)] @ basis.T @ basis
        scale = weight * left.square().sum(1).mean() / (left @ slopes.T).square().mean()
        # the metric is 1 + directions' * lengths * directions: its powers are as short
        lengths, directions = torch.linalg.eigh(slopes @ slopes.T * (scale / len(slopes)))
        kept = lengths > 1e-4 * lengths[-1]
        lengths, directions = lengths[kept], F.normalize(directions[:, kept].T @ slopes, dim=1)

        def stretched(rows: torch.Tensor, power: float) -> torch.Tensor:
            return rows + ((1 + lengths) ** power - 1) * (rows @ directions.T) @ directions

        offset = flat.mean(0)
        components = torch.pca_lowrank(stretched(flat - offset, 0.5), len(basis) + 32, center=False, niter=3)[2]
        encoder = stretched(components[:, : len(basis)].T, 0.5)
        decoder = stretched(components[:, : len(basis)].T, -0.5)
        orthonormal, triangle = torch.linalg.qr(decoder.T)
        filters = triangle @ (encoder - (encoder @ orthonormal) @ orthonormal.T)
        self.mean.copy_(_STORED * (mean + offset).view_as(self.mean))
        self.basis.copy_(_STORED * orthonormal.T.reshape(self.basis.shape))
        assert self.filters is not None, "code_filters is off"
        self.filters.copy_(_STORED * filters.view_as(self.basis))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, latent_channels) -> images (B, C, H, W), float32."""
        latents = latents.float()
        warp, code = latents[:, : self.warp_latents], latents[:, self.warp_latents :]
        return self.warp(self._unwarped(code), warp)

    def warp(self, images: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
        """Images before the warp (B, C, H, W), and (B, warp_latents) -> the images."""
        return _sample(images, self._sampling_places(warp))

    def unwarp(self, pixel_values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) and their fitted latents -> (B, C, H, W), about what they were before the warp."""
        warp, code = latents.float().split([self.warp_latents, len(self.basis)], dim=1)
        places, drawn = self._sampling_places(warp), self._unwarped(code)
        # the warp's transpose is nearly its inverse; what is drawn, the most of an image, is spared the difference
        residual = pixel_values.float() - _sample(drawn, places)
        return drawn + (residual if places is None else _Unwarp.apply(residual, places))

    def project(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Codes (B, codes), float32, of images (B, C, H, W) in [0, 1] that no warp moves."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            centered = pixel_values.float().flatten(1) - self.mean.float().flatten() / _STORED
            return centered @ self._rows().float().flatten(1).T / _STORED

    def refit(self, latents: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """One step of the code, through which mean, basis and filters get gradients.

        Without filters it is a gradient step towards least squares. The warped basis is nearly orthonormal, so that
        the step is nearly the whole way, and its derivative that of the least-squares code: what a change of the basis
        does to the code counts too, in losses other than the squared error. Filters add what they see in the rest.

        Args:
            latents: (B, latent_channels), near the least squares; constants here.
            pixel_values: (B, C, H, W) in [0, 1].

        Returns:
            (B, latent_channels), float32.
        """
        return self._step(latents, pixel_values, self._rows())

    def _rows(self) -> torch.Tensor:
        """What a code's numbers are products with: the basis, and what filters see besides."""
        return self.basis if self.filters is None else self.basis + self.filters

    def _step(self, latents: torch.Tensor, pixel_values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The code moves by the products of rows with the residual."""
        warp, code = latents.float().detach().split([self.warp_latents, len(self.basis)], dim=1)
        places = self._sampling_places(warp)
        assert places is not None, "there is no warp"
        places = places.detach()
        residual = pixel_values.float() - _sample(self._unwarped(code), places)
        step = _Unwarp.apply(residual, places).flatten(1) @ rows.float().flatten(1).T / _STORED
        return torch.cat([warp, code + step], 1)

    @torch.no_grad()
    def fit(self, pixel_values: torch.Tensor, warp: torch.Tensor, steps: int, coarse: bool = False) -> torch.Tensor:
        """Least-squares latents of images, by Gauss-Newton steps from a start.

        Args:
            pixel_values: (B, C, H, W) in [0, 1].
            warp: (B, warp_latents) to start from.
            steps: Gauss-Newton steps at half the resolution, and then as many at full.
            coarse: Only those at half the resolution, and one gradient step for the code at full: several times
                faster, for training, which takes another step (`refit`).

        Returns:
            (B, latent_channels), float32.
        """
        with torch.autocast(pixel_values.device.type, enabled=False):
            parts = [
                self._fit(images, start, steps, coarse)
                # the Jacobians of a few images stay in a CPU's cache
                for images, start in zip(pixel_values.float().split(32), warp.float().split(32), strict=True)
            ]
        return torch.cat(parts)

    def _fit(self, images: torch.Tensor, warp: torch.Tensor, steps: int, coarse: bool) -> torch.Tensor:
        latents = self._gauss_newton(images, warp, None, steps, 2)
        if not coarse:
            return self._gauss_newton(
                images, latents[:, : self.warp_latents], latents[:, self.warp_latents :], steps, 1
            )
        return self._step(latents, images, self.basis)

    def _gauss_newton(
        self, images: torch.Tensor, warp: torch.Tensor, code: torch.Tensor | None, steps: int, factor: int
    ) -> torch.Tensor:
        """Steps on images shrunk by `factor`; the linear system of a step has the latents' length."""
        batch, channels, kinds = len(images), self.num_channels, self.warp_latents
        height, width = self.height // factor, self.width // factor
        places = height * width
        targets = F.avg_pool2d(images, factor).flatten(1)
        rows = torch.cat([self.basis, self.mean[None]]).float() / _STORED
        # (places, channels * (codes + 1)): the values of one position are adjacent in memory
        table = F.avg_pool2d(rows, factor).view(len(rows), channels, places).permute(2, 1, 0).reshape(places, -1)
        fields = self._fields(height, width)
        scale = factor**2  # a small pixel stands for several
        ridge = targets.new_full((kinds + len(self.basis),), _CODE_RIDGE)
        ridge[:kinds] = _WARP_RIDGE
        for _ in range(steps):
            grid = self._places(warp, height, width)
            x = ((grid[:, 0] + 1) * width / 2 - 0.5).clamp(0, width - 1)
            y = ((grid[:, 1] + 1) * height / 2 - 0.5).clamp(0, height - 1)
            left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
            x, y = x - left, y - top
            corner = (top * width + left).long()
            corners = torch.stack([corner, corner + 1, corner + width, corner + width + 1], -1)
            weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
            warped = F.embedding_bag(
                corners.view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum"
            )  # the basis and the mean, each warped
            warped = warped.view(batch, places, channels, -1).transpose(1, 2).reshape(batch, channels * places, -1)
            if code is None:
                code = scale * ((targets - warped[..., -1])[:, None] @ warped[..., :-1]).squeeze(1)
            unwarped = F.avg_pool2d(self._unwarped(code), factor).view(batch, channels, places)
            taken = unwarped.gather(2, corners.view(batch, 1, -1).expand(-1, channels, -1))
            upper_left, upper_right, lower_left, lower_right = taken.view(batch, channels, places, 4).unbind(-1)
            x, y = x[:, None], y[:, None]
            across = ((upper_right - upper_left) * (1 - y) + (lower_right - lower_left) * y) * (width / 2)
            down = ((lower_left - upper_left) * (1 - x) + (lower_right - upper_right) * x) * (height / 2)
            moves = across[:, None] * fields[:, 0, None] + down[:, None] * fields[:, 1, None]
            values = (warped[..., :-1] @ code[..., None]).squeeze(-1) + warped[..., -1]
            residual = targets - values
            jacobian = torch.cat([moves.flatten(2).transpose(1, 2), warped[..., :-1], residual[..., None]], 2)
            normal = scale * (jacobian.transpose(1, 2) @ jacobian)
            right = normal[:, :-1, -1].clone()
            right[:, :kinds] -= _WARP_RIDGE * warp
            step = torch.linalg.solve(normal[:, :-1, :-1] + torch.diag(ridge), right)
            warp, code = warp + step[:, :kinds], code + step[:, kinds:]
        assert code is not None, "at least one step"
        return torch.cat([warp, code], 1)

    def _unwarped(self, code: torch.Tensor) -> torch.Tensor:
        """Codes (B, codes) -> images (B, C, H, W)."""
        with torch.autocast(code.device.type, enabled=False):
            images = (self.mean.float().flatten() + code @ self.basis.float().flatten(1)) / _STORED
        return images.view(-1, self.num_channels, self.height, self.width)

    def _sampling_places(self, warp: torch.Tensor) -> torch.Tensor | None:
        """(B, H, W, 2), for `grid_sample`; None where there are no warps."""
        if self.fields is None:
            return None
        return self._places(warp, self.height, self.width).transpose(1, 2).reshape(-1, self.height, self.width, 2)

    def _fields(self, height: int, width: int) -> torch.Tensor:
        """(warp_latents, 2, height * width): movements across and down, where -1 to 1 is the whole image."""
        assert self.fields is not None, "there is no warp"
        fields = F.interpolate(self.fields.float(), size=(height, width), mode="bilinear", align_corners=False)
        return fields.flatten(2) * fields.new_tensor([[2 / self.width], [2 / self.height]])

    def _places(self, warp: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, 2, height * width): where each pixel comes from, x and y in [-1, 1]."""
        y = (torch.arange(height, device=warp.device) + 0.5) * (2 / height) - 1
        x = (torch.arange(width, device=warp.device) + 0.5) * (2 / width) - 1
        identity = torch.stack([x.repeat(height), y.repeat_interleave(width)])
        return identity + (warp @ self._fields(height, width).flatten(1)).view(-1, 2, height * width)


def cosine_waves(count: int, height: int, width: int) -> torch.Tensor:
    """The slowest two-dimensional cosine waves: orthonormal images.

    Returns:
        (count, height, width), the slowest first.
    """
    pairs = sorted(((i, j) for i in range(height) for j in range(width)), key=lambda p: (p[0] ** 2 + p[1] ** 2, p))
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    waves = torch.stack(
        [torch.outer(torch.cos(math.pi * i * y), torch.cos(math.pi * j * x)) for i, j in pairs[:count]]
    )
    return waves / torch.linalg.vector_norm(waves, dim=(1, 2), keepdim=True)


__all__ = ["WarpedLinearCode", "cosine_waves"]
