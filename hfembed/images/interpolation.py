"""Ways from one latent to another, and how sharp the pictures on the way are."""

import torch


def linear_path(start: torch.Tensor, end: torch.Tensor, steps: int) -> torch.Tensor:
    """Points (steps, *shape) of the straight line between two latents, both ends included.

    Raises:
        ValueError: Fewer than two steps, or two shapes.
    """
    shares = _shares(start, end, steps)
    return start + shares * (end - start)


def spherical_path(
    start: torch.Tensor, end: torch.Tensor, steps: int, center: torch.Tensor | None = None
) -> torch.Tensor:
    """Points (steps, *shape) of the great circle between two latents, both ends included.

    Shoemake, "Animating rotation with quaternion curves", 1985; for latents White, "Sampling generative networks",
    2016. The distance from the center, zero by default, goes evenly from one's to the other's, where the straight line
    would pass nearer to the center than any latent lies. Latents in one direction are joined by the straight line.

    Raises:
        ValueError: Fewer than two steps, two shapes, or latents in opposite directions: no one circle joins them.
    """
    shares = _shares(start, end, steps)
    middle = torch.zeros_like(start) if center is None else center
    a, b = (start - middle).cpu().double(), (end - middle).cpu().double()  # some accelerators have no float64
    lengths = a.norm(), b.norm()
    if min(lengths) == 0:
        return linear_path(start, end, steps)
    cosine = ((a / lengths[0]) * (b / lengths[1])).sum().clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle < 1e-4:
        return linear_path(start, end, steps)
    if torch.pi - angle < 1e-4:
        raise ValueError("the latents lie in opposite directions from the center: no one circle joins them")
    shares = shares.cpu().double()
    first, second = torch.sin((1 - shares) * angle), torch.sin(shares * angle)
    direction = (first * a / lengths[0] + second * b / lengths[1]) / torch.sin(angle)
    length = lengths[0] + shares * (lengths[1] - lengths[0])
    path = middle + (length * direction).to(start)
    path[0], path[-1] = start, end
    return path


def gradient_energy(images: torch.Tensor) -> torch.Tensor:
    """Sharpness (B,) of images: the mean squared difference of adjacent pixels, across and down.

    The average of two different pictures has less than each of them.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().mean((1, 2, 3))
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3))
    return across + down


def _shares(start: torch.Tensor, end: torch.Tensor, steps: int) -> torch.Tensor:
    if steps < 2:
        raise ValueError(f"a path has at least 2 steps, not {steps}")
    if start.shape != end.shape:
        raise ValueError(f"the latents differ in shape: {tuple(start.shape)} and {tuple(end.shape)}")
    return torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype).view(-1, *[1] * start.ndim)
