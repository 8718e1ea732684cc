"""Softmax with a margin on the cosines between embeddings and class weights: CosFace, ArcFace and those after them.

All in float32 (or float64 where the input is), also under autocast: with a scale of 64, the eight bits of bfloat16 are
off by a quarter of a logit.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# below this 1 - cos^2 the sine counts as constant: its slope is infinite at cos = +-1
_MIN_SQUARED_SINE = 1e-7


def cosine_similarities(embeddings: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Cosines between embeddings and class weights."""
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    with torch.autocast(embeddings.device.type, enabled=False):
        cosines = F.linear(F.normalize(embeddings.to(dtype)), F.normalize(class_weights.to(dtype)))
    # rounding may leave [-1, 1]; the gradient passes unchanged
    return cosines + (cosines.clamp(-1, 1) - cosines).detach()


def sub_center_cosines(embeddings: torch.Tensor, centers: torch.Tensor, sub_centers: int) -> torch.Tensor:
    """Cosine to the nearest of each class's K centers (sub-center ArcFace, Deng et al. 2020, equation 3).

    A class with wrong labels or several looks (age, pose) keeps them at centers of their own, so that they do not pull
    at the main one. For sets that were not cleaned; on clean ones one center is better. K = 1 is the plain cosine.

    Args:
        embeddings: (B, D).
        centers: (N K, D), the K centers of a class next to each other.
        sub_centers: K.

    Returns:
        (B, N) in [-1, 1]. The gradient goes to the nearest center alone.
    """
    cosines = cosine_similarities(embeddings, centers)
    return cosines if sub_centers == 1 else cosines.unflatten(1, (-1, sub_centers)).max(dim=2).values


def _cosine_of_sum(cosines: torch.Tensor, angles: torch.Tensor | float) -> torch.Tensor:
    """Cosine of theta + angle for angle >= 0; past pi - angle, cos(theta) - angle sin(angle), which falls on."""
    angles = torch.as_tensor(angles, dtype=cosines.dtype, device=cosines.device)
    sines = (1 - cosines.square()).clamp(min=_MIN_SQUARED_SINE).sqrt()
    turned = cosines * angles.cos() - sines * angles.sin()
    return torch.where(cosines > -angles.cos(), turned, cosines - angles * angles.sin())


def _replace_targets(cosines: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cosines.scatter(1, labels.unsqueeze(1), targets.unsqueeze(1))


def cosface_logits(cosines: torch.Tensor, labels: torch.Tensor, scale: float, margin: float) -> torch.Tensor:
    """CosFace (Wang et al. 2018, equation 4): s (cos theta_y - m) for the own class, s cos theta for the others.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        margin: m, a difference of cosines.

    Returns:
        Logits (B, N).
    """
    targets = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    return scale * _replace_targets(cosines, labels, targets - margin)


def arcface_logits(
    cosines: torch.Tensor, labels: torch.Tensor, scale: float, margin: float | torch.Tensor
) -> torch.Tensor:
    """ArcFace (Deng et al. 2019, equation 3): s cos(theta_y + m) for the own class, s cos theta for the others.

    The gradient is the true one, sin(theta + m) / sin(theta), finite also at cos theta = +-1. Past theta = pi - m,
    where cos(theta + m) would rise again, the own logit is s (cos theta - m sin m), so that it falls all the way.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        margin: m in radians, or one (B,) per row.

    Returns:
        Logits (B, N).
    """
    targets = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    return scale * _replace_targets(cosines, labels, _cosine_of_sum(targets, margin))


def combined_margin_logits(
    cosines: torch.Tensor, labels: torch.Tensor, scale: float, margins: Sequence[float]
) -> torch.Tensor:
    """Combined margin (Deng et al. 2019, equation 4): s (cos(m1 theta_y + m2) - m3) for the own class.

    m1 is SphereFace's margin, m2 ArcFace's, m3 CosFace's: (1, m, 0) is ArcFace, (1, 0, m) CosFace, (1, 0, 0) softmax
    on cosines. For tuning beyond one of them; the paper compares (1, 0.3, 0.2) and (0.9, 0.4, 0.15) with ArcFace. Past
    m1 theta + m2 = pi, where the cosine would rise again, the own logit falls on as ArcFace's does.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        margins: m1 in [0.5, 2], m2 in radians in [0, 1.5), m3 a difference of cosines.

    Returns:
        Logits (B, N).
    """
    factor, angle, difference = margins
    targets = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    sines = (1 - targets.square()).clamp(min=_MIN_SQUARED_SINE).sqrt()
    turned = (factor * torch.atan2(sines, targets) + angle).cos()
    turning_point = (math.pi - angle) / factor
    if turning_point < math.pi:
        added = math.pi - turning_point  # the angle that the margins add there
        beyond = targets - added * math.sin(added)
        turned = torch.where(targets > math.cos(turning_point), turned, beyond)
    return scale * _replace_targets(cosines, labels, turned - difference)


def adaface_logits(
    cosines: torch.Tensor, labels: torch.Tensor, norm_scores: torch.Tensor, scale: float, margin: float
) -> torch.Tensor:
    """AdaFace (Kim et al. 2022): s (cos(theta_y + g_angle) - g_add) for the own class.

    g_angle = -m q and g_add = m q + m with the score q of the embedding's length (`adaface_norm_scores`): images of
    high quality get a margin that presses on hard examples, those of low quality one that forgives them.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        norm_scores: q (B,) in [-1, 1]; no gradient goes through it.

    Returns:
        Logits (B, N).
    """
    targets = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    scores = norm_scores.detach().to(cosines.dtype)
    angles = -margin * scores
    # a negative angle turns no further than to theta = 0, where the cosine is 1
    sines = (1 - targets.square()).clamp(min=_MIN_SQUARED_SINE).sqrt()
    forward = torch.where(targets < angles.cos(), targets * angles.cos() - sines * angles.sin(), 1.0)
    turned = torch.where(angles > 0, _cosine_of_sum(targets, angles.clamp(min=0)), forward)
    return scale * _replace_targets(cosines, labels, turned - (margin * scores + margin))


def adaface_norm_scores(
    norms: torch.Tensor, norm_mean: torch.Tensor, norm_std: torch.Tensor, concentration: float = 0.333
) -> torch.Tensor:
    """Image quality q from embedding lengths: standardized, times h, clipped to [-1, 1] (AdaFace)."""
    norms = norms.detach().float().clamp(0.001, 100)
    return ((norms - norm_mean) / (norm_std + 0.001) * concentration).clamp(-1, 1)


def curricularface_logits(
    cosines: torch.Tensor, labels: torch.Tensor, progress: torch.Tensor, scale: float, margin: float
) -> torch.Tensor:
    """CurricularFace (Huang et al. 2020, equations 4 to 6): ArcFace's own logit, and weighted ones of hard classes.

    Another class whose cosine is above cos(theta_y + m) counts as cos theta_j (t + cos theta_j): less than it is in
    early training, when t is small, and more in late training. For sets with many hard samples; on noisy ones it leans
    on wrong labels.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        progress: t, scalar in [-1, 1]: the running mean of the own class's cosine; no gradient goes through it.
        margin: m in radians.

    Returns:
        Logits (B, N).
    """
    targets = _cosine_of_sum(cosines.gather(1, labels.unsqueeze(1)).squeeze(1), margin)
    hard = cosines > targets.detach().unsqueeze(1)
    others = torch.where(hard, cosines * (progress.detach().to(cosines.dtype) + cosines), cosines)
    return scale * _replace_targets(others, labels, targets)


def magface_margins(norms: torch.Tensor, norm_range: Sequence[float], margin_range: Sequence[float]) -> torch.Tensor:
    """MagFace's margin m(a) (Meng et al. 2021, section 4.1): linear in the embedding's length, from l_m to u_m.

    Args:
        norms: a (B,), counted as l_a below and as u_a above the range; the gradient goes through it inside.
        norm_range: (l_a, u_a).
        margin_range: (l_m, u_m) in radians.

    Returns:
        (B,) in radians.
    """
    (norm_low, norm_high), (margin_low, margin_high) = norm_range, margin_range
    share = (norms.clamp(norm_low, norm_high) - norm_low) / (norm_high - norm_low)
    return margin_low + (margin_high - margin_low) * share


def magface_logits(cosines: torch.Tensor, labels: torch.Tensor, margins: torch.Tensor, scale: float) -> torch.Tensor:
    """MagFace (Meng et al. 2021, equation 3): s cos(theta_y + m(a)) for the own class, a margin for each sample.

    With `magface_penalty`, easy faces grow long and hard ones stay short, so that an embedding's length tells how good
    its photo is. For a model that is to give quality scores too; it needs lengths that may move in `norm_range`.

    Args:
        cosines: (B, N) in [-1, 1].
        labels: (B,) integer class of each row.
        margins: m(a) (B,) in radians (`magface_margins`); the gradient goes on into the lengths.

    Returns:
        Logits (B, N).
    """
    targets = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    return scale * _replace_targets(cosines, labels, _cosine_of_sum(targets, margins.to(cosines.dtype)))


def magface_penalty(norms: torch.Tensor, norm_range: Sequence[float]) -> torch.Tensor:
    """MagFace's regularizer, mean over the batch of g(a) = 1 / a + a / u_a^2, smallest at a = u_a.

    Args:
        norms: a (B,), clamped to the range, outside which it has no gradient, as in the paper's own training.
        norm_range: (l_a, u_a).

    Returns:
        Scalar.
    """
    norms = norms.clamp(*norm_range)
    return (1 / norms + norms / norm_range[1] ** 2).mean()


def elasticface_margins(noise: torch.Tensor, margin: float, deviation: float) -> torch.Tensor:
    """ElasticFace-Arc's margins (Boutros et al. 2022, equation 6): one per sample, drawn from N(m, sigma^2).

    People differ in how much their photos vary, which one fixed margin does not allow for. With `arcface_logits` it is
    ArcFace for sets with many people of uneven variation; sigma = 0 is ArcFace. The variant ElasticFace+, which gives
    large margins to hard samples, is not offered: its margins depend on who else is in the batch.

    Args:
        noise: (B,) standard normal.
        margin: m in radians.
        deviation: sigma in radians.

    Returns:
        (B,), kept in [0, 1.5].
    """
    return (margin + deviation * noise).clamp(0, 1.5)


class MarginSoftmax(nn.Module):
    """Class weights and the margin on the own class's cosine.

    `weight` has one row per class, or `sub_centers` successive ones with a head that has sub-centers.

    With several ranks, each takes AdaFace's length statistics from its own samples; CurricularFace's progress is the
    mean over all ranks' samples.
    """

    # AdaFace's smoothing of its length statistics over batches, and where they start
    NORM_MOMENTUM = 0.01
    INITIAL_NORM_MEAN = 20.0
    INITIAL_NORM_STD = 100.0
    PROGRESS_MOMENTUM = 0.01  # CurricularFace's, equation 7

    progress: torch.Tensor
    norm_mean: torch.Tensor
    norm_std: torch.Tensor

    def __init__(
        self,
        embedding_size: int,
        num_labels: int,
        kind: str,
        scale: float,
        margin: float | None,
        margins: Sequence[float] = (1.0, 0.3, 0.2),
        sub_centers: int = 3,
        norm_range: Sequence[float] = (10.0, 110.0),
        margin_range: Sequence[float] = (0.45, 0.8),
        norm_penalty: float = 35.0,
        margin_deviation: float = 0.05,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.scale = scale
        self.margin: float = (MARGIN_HEADS[kind].margin or 0.0) if margin is None else margin
        self.margins: Sequence[float] = margins
        self.norm_range: Sequence[float] = norm_range
        self.margin_range: Sequence[float] = margin_range
        self.norm_penalty = norm_penalty
        self.margin_deviation = margin_deviation
        self.sub_centers = sub_centers if MARGIN_HEADS[kind].has_sub_centers else 1
        self.weight = nn.Parameter(torch.empty(num_labels * self.sub_centers, embedding_size))
        if kind == "adaface":
            self.register_buffer("norm_mean", torch.tensor(self.INITIAL_NORM_MEAN))
            self.register_buffer("norm_std", torch.tensor(self.INITIAL_NORM_STD))
        if kind == "curricularface":
            self.register_buffer("progress", torch.tensor(0.0))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines (B, N) between embeddings (B, D) and the class weights, the nearest where a class has several."""
        return sub_center_cosines(embeddings, self.weight, self.sub_centers)

    def margin_logits(
        self, cosines: torch.Tensor, norms: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits with the margin on the own class; running statistics move in training mode.

        Args:
            noise: (B,) standard normal, for ElasticFace's margins; without it they are drawn from torch's generator.
        """
        return MARGIN_HEADS[self.kind].logits(self, Batch(cosines, norms, labels, noise))

    def penalty(self, norms: torch.Tensor) -> torch.Tensor | float:
        """What the loss adds for embedding norms (B,): a scalar, 0 with heads that leave them free."""
        return self.norm_penalty * magface_penalty(norms, self.norm_range) if self.kind == "magface" else 0.0

    def drawn_margins(self, batch: "Batch") -> torch.Tensor:
        """ElasticFace's margins (B,) in training mode; m throughout in evaluation."""
        if not self.training:
            noise = torch.zeros_like(batch.norms)
        else:
            noise = torch.randn_like(batch.norms) if batch.noise is None else batch.noise
        return elasticface_margins(noise, self.margin, self.margin_deviation)

    def quality_scores(self, norms: torch.Tensor) -> torch.Tensor:
        """AdaFace's scores of embedding norms (B,), by the running statistics, which move in training mode."""
        if self.training:
            self._update_norm_statistics(norms)
        return adaface_norm_scores(norms, self.norm_mean, self.norm_std)

    def advance(self, cosines: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """CurricularFace's t, the running mean of the own class's cosine (B, N), which moves in training mode."""
        if self.training:
            mean = cosines.detach().gather(1, labels.unsqueeze(1)).mean()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(mean)
                mean = mean / dist.get_world_size()
            self.progress.lerp_(mean.to(self.progress.dtype), self.PROGRESS_MOMENTUM)
        return self.progress

    @torch.no_grad()
    def _update_norm_statistics(self, norms: torch.Tensor) -> None:
        norms = norms.float().clamp(0.001, 100)
        self.norm_mean.lerp_(norms.mean().to(self.norm_mean.dtype), self.NORM_MOMENTUM)
        if len(norms) > 1:
            self.norm_std.lerp_(norms.std().to(self.norm_std.dtype), self.NORM_MOMENTUM)


class Batch(NamedTuple):
    """What a head makes logits of: cosines (B, N), embedding norms (B,), labels (B,), noise (B,) if it was drawn."""

    cosines: torch.Tensor
    norms: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor | None


class MarginHead(NamedTuple):
    """A kind of head.

    Attributes:
        margin: The paper's, unless the config has one; None where the head has other fields for it.
        logits: Of the head and a batch: logits (B, N) with the margin.
        has_sub_centers: Whether a class has several centers.
    """

    margin: float | None
    logits: Callable[[MarginSoftmax, Batch], torch.Tensor]
    has_sub_centers: bool = False


# to add a head: its function above, its name here, its test in tests/models/face_embedder/test_margin_softmax.py
MARGIN_HEADS = {
    "cosface": MarginHead(
        0.35, lambda head, batch: cosface_logits(batch.cosines, batch.labels, head.scale, head.margin)
    ),
    "arcface": MarginHead(
        0.5, lambda head, batch: arcface_logits(batch.cosines, batch.labels, head.scale, head.margin)
    ),
    "subcenter_arcface": MarginHead(
        0.5,
        lambda head, batch: arcface_logits(batch.cosines, batch.labels, head.scale, head.margin),
        has_sub_centers=True,
    ),
    "elasticface": MarginHead(
        0.5, lambda head, batch: arcface_logits(batch.cosines, batch.labels, head.scale, head.drawn_margins(batch))
    ),
    # no single margin: `margins`
    "combined": MarginHead(
        None, lambda head, batch: combined_margin_logits(batch.cosines, batch.labels, head.scale, head.margins)
    ),
    # no single margin: `margin_range`
    "magface": MarginHead(
        None,
        lambda head, batch: magface_logits(
            batch.cosines,
            batch.labels,
            magface_margins(batch.norms, head.norm_range, head.margin_range),
            head.scale,
        ),
    ),
    "adaface": MarginHead(
        0.4,
        lambda head, batch: adaface_logits(
            batch.cosines, batch.labels, head.quality_scores(batch.norms), head.scale, head.margin
        ),
    ),
    "curricularface": MarginHead(
        0.5,
        lambda head, batch: curricularface_logits(
            batch.cosines, batch.labels, head.advance(batch.cosines, batch.labels), head.scale, head.margin
        ),
    ),
}
