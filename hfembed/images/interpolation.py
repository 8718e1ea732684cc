"""Ways from one latent to another, and how sharp the pictures on the way are."""

import torch


def even_shares(steps: int) -> torch.Tensor:
    """Shares (steps,) of the way from one latent to another, from 0 to 1.

    Raises:
        ValueError: Fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"a path has at least 2 steps, not {steps}")
    return torch.linspace(0, 1, steps)


def linear_path(start: torch.Tensor, end: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Points (S, *shape) of the straight line between two latents, at `shares` (S,) of the way.

    Raises:
        ValueError: The latents differ in shape.
    """
    if start.shape != end.shape:
        raise ValueError(f"the latents differ in shape: {tuple(start.shape)} and {tuple(end.shape)}")
    return start + shares.to(start).view(-1, *[1] * start.ndim) * (end - start)


def spherical_path(
    start: torch.Tensor, end: torch.Tensor, shares: torch.Tensor, center: torch.Tensor | None = None
) -> torch.Tensor:
    """Points (S, *shape) of the great circle between two latents, at `shares` (S,) of the way.

    Shoemake, "Animating rotation with quaternion curves", 1985; for latents White, "Sampling generative networks",
    2016. The distance from the center, zero by default, goes evenly from one's to the other's, where the straight line
    would pass nearer to the center than any latent lies. Latents in one direction are joined by the straight line.

    Raises:
        ValueError: The latents differ in shape, or lie in opposite directions: no one circle joins them.
    """
    straight = linear_path(start, end, shares)
    middle = torch.zeros_like(start) if center is None else center
    a, b = (start - middle).cpu().double(), (end - middle).cpu().double()  # some accelerators have no float64
    lengths = a.norm(), b.norm()
    if min(lengths) == 0:
        return straight
    cosine = ((a / lengths[0]) * (b / lengths[1])).sum().clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle < 1e-4:
        return straight
    if torch.pi - angle < 1e-4:
        raise ValueError("the latents lie in opposite directions from the center: no one circle joins them")
    shares = shares.cpu().double().view(-1, *[1] * start.ndim)
    first, second = torch.sin((1 - shares) * angle), torch.sin(shares * angle)
    direction = (first * a / lengths[0] + second * b / lengths[1]) / torch.sin(angle)
    length = lengths[0] + shares * (lengths[1] - lengths[0])
    ends = ((shares == 0) | (shares == 1)).to(start.device)
    return torch.where(ends, straight, middle + (length * direction).to(start))


def gradient_energy(images: torch.Tensor) -> torch.Tensor:
    """Sharpness (B,) of images: the mean squared difference of adjacent pixels, across and down.

    The average of two different pictures has less than each of them.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().mean((1, 2, 3))
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3))
    return across + down
