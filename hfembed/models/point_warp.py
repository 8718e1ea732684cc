"""Images moved so that some of their points come to lie where they are wanted; models carry it to the Hub."""

import torch
import torch.nn.functional as F


def warp_points(images: torch.Tensor, points: torch.Tensor, wanted: torch.Tensor, reach: float = 0.2) -> torch.Tensor:
    """Move images smoothly, so that what lies at `points` comes to lie at `wanted`; far from them they stay.

    Displacements are interpolated by radial basis functions, here Gaussians (Arad, Dyn, Reisfeld and Yeshurun, "Image
    Warping by Radial Basis Functions: Application to Facial Expressions", 1994). Outside of an image its border is
    repeated.

    Args:
        images: (B, C, H, W).
        points: (B, K, 2), [x, y] in pixels; no two of the wanted ones in one place.
        wanted: (B, K, 2).
        reach: Standard deviation of the Gaussians, as a share of an image's width.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    points, wanted = points.float(), wanted.float()
    sigma = reach * width

    def closeness(squared: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.5 * squared / sigma**2)

    pairs = (wanted[:, :, None] - wanted[:, None]).square().sum(-1)
    # the small addition keeps two points that nearly meet from tearing the image apart
    steady = 1e-3 * torch.eye(points.shape[1], device=points.device)
    weights = torch.linalg.solve(closeness(pairs) + steady, points - wanted)
    # a Gaussian of both coordinates is the product of one of each
    x, y = (torch.arange(side, device=points.device, dtype=torch.float32) for side in (width, height))
    across = closeness((x - wanted[:, :, :1]).square())
    down = closeness((y - wanted[:, :, 1:]).square())
    moves = torch.einsum("bkh,bkw,bkd->bhwd", down, across, weights)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) + moves
    sides = torch.tensor([width, height], device=points.device)
    places = (2 * places + 1) / sides - 1
    return F.grid_sample(images, places.to(images.dtype), "bicubic", "border", align_corners=False)


__all__ = ["warp_points"]
