"""Pictures of what a model does: ROC, DET and CMC curves, and its highest-scoring mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hfembed.atomic import atomic_write
from hfembed.faces.evaluation.groups import ALL, RATES
from hfembed.faces.evaluation.verification import MINIMUM_EXPECTED_FALSE_ACCEPTS, Roc
from hfembed.index.error_rates import rate_label

_BLUE, _RED, _GRAY = "#1f5fa8", "#b8341b", "#8a8a8a"


class Mistake(NamedTuple):
    """A pair decided wrongly.

    Attributes:
        crop_a: (C, H, W) uint8.
        crop_b: (C, H, W) uint8.
    """

    score: float
    crop_a: torch.Tensor
    crop_b: torch.Tensor
    name_a: str
    name_b: str


def plot_roc(curves: dict[str, Roc], path: str | Path, title: str = "") -> None:
    """Draw ROC curves twice: complete, and at low false accept rates. The first is the model, the others baselines."""
    curves = {name: _drawable(curve) for name, curve in curves.items()}
    figure = Figure(figsize=(11, 5), layout="constrained")
    whole, low = figure.subplots(1, 2)
    lowest = min(MINIMUM_EXPECTED_FALSE_ACCEPTS / curve.impostors for curve in curves.values())
    lowest_tar = min(float(curve.tar[curve.far <= lowest].max()) for curve in curves.values())
    for number, (name, curve) in enumerate(curves.items()):
        style = (
            {"color": _BLUE, "linewidth": 2.2, "zorder": 3}
            if number == 0
            else {"color": _GRAY, "linewidth": 1.3, "linestyle": ("--", "-.", ":")[(number - 1) % 3]}
        )
        whole.plot(curve.far, curve.tar, label=name, **style)
        low.step(np.maximum(curve.far, 1e-9), curve.tar, where="post", label=name, **style)
    whole.plot([0, 1], [1, 0], color="black", linewidth=0.6, linestyle=":", label="FAR = FRR")
    whole.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false accept rate", ylabel="true accept rate")
    whole.set_aspect("equal")
    low.set_xscale("log")
    low.set(
        xlim=(lowest, 1),
        ylim=(max(0, lowest_tar - 0.05), 1.005),
        xlabel="false accept rate",
        ylabel="true accept rate",
    )
    low.set_title(f"from FAR {rate_label(lowest)}, three false accepts, upwards", fontsize=10)
    whole.set_title("the whole curve", fontsize=10)
    for axes in (whole, low):
        axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    whole.legend(loc="lower right", frameon=False)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _drawable(curve: Roc, points: int = 4000) -> Roc:
    """At most this many of the curve's points, evenly spread over the logarithm of the FAR."""
    if len(curve.thresholds) <= points:
        return curve
    wanted = np.append(0, np.geomspace(1, curve.impostors, points - 2))
    chosen = np.unique(np.append(np.searchsorted(curve.false_accepts, wanted), len(curve.thresholds) - 1))
    chosen = chosen[chosen < len(curve.thresholds)]
    return curve._replace(
        thresholds=curve.thresholds[chosen],
        true_accepts=curve.true_accepts[chosen],
        false_accepts=curve.false_accepts[chosen],
    )


def plot_det(curves: dict[str, Roc], path: str | Path, title: str = "") -> None:
    """Draw the detection error trade-off: false rejects over false accepts, both logarithmic."""
    curves = {name: _drawable(curve) for name, curve in curves.items()}
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    lowest = min(MINIMUM_EXPECTED_FALSE_ACCEPTS / curve.impostors for curve in curves.values())
    for number, (name, curve) in enumerate(curves.items()):
        shown = (curve.far >= lowest) & (curve.tar < 1)
        axes.plot(curve.far[shown], 1 - curve.tar[shown], label=name, color=(_BLUE, _RED, _GRAY)[number % 3])
    axes.plot([lowest, 1], [lowest, 1], color="black", linewidth=0.6, linestyle=":", label="equal error")
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), xlabel="false accept rate", ylabel="false reject rate")
    axes.set_ylim(min(1 - float(curve.tar[curve.tar < 1].max(initial=0)) for curve in curves.values()) / 2, 1)
    _finish(axes, "lower left")
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def plot_cmc(curves: dict[str, np.ndarray], path: str | Path, title: str = "") -> None:
    """Draw cumulative match characteristics: per gallery the (ranks,) fractions from `cumulative_match`."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            np.arange(1, len(curve) + 1),
            100 * curve,
            marker="o",
            ms=3.5,
            label=name,
            color=(_BLUE, _RED, _GRAY)[number % 3],
        )
    axes.set(xlabel="rank k", ylabel="probes whose person is among the first k, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, "lower right")
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def plot_mistakes(
    false_accepts: Sequence[Mistake], false_rejects: Sequence[Mistake], path: str | Path, title: str = ""
) -> None:
    """Draw the most confident mistakes, as the crops the network saw."""
    rows = max(len(false_accepts), len(false_rejects), 1)
    figure = Figure(figsize=(8.2, 0.9 + 1.75 * rows), layout="constrained")
    figure.suptitle(title, fontsize=12)
    halves: Any = figure.subfigures(1, 2, wspace=0.06)
    for half, heading, mistakes, color in (
        (halves[0], "false accepts: two people taken for one", false_accepts, _RED),
        (halves[1], "false rejects: one person taken for two", false_rejects, _BLUE),
    ):
        half.suptitle(heading if mistakes else f"{heading}: none", fontsize=10.5, color=color, fontweight="bold")
        grid = half.subplots(rows, 3, squeeze=False, width_ratios=(1, 0.3, 1))
        for axes in grid.flat:
            axes.set_axis_off()
        for (left, middle, right), mistake in zip(grid, mistakes, strict=False):
            show_crop(left, mistake.crop_a, mistake.name_a)
            show_crop(right, mistake.crop_b, mistake.name_b)
            score = f"{mistake.score:.2f}".replace("-", "\N{MINUS SIGN}")
            middle.text(0.5, 0.5, score, ha="center", va="center", fontsize=10, color=color, fontweight="bold")
    save_figure(figure, path)


def plot_groups(details: Mapping[str, Any], path: str | Path, title: str) -> None:
    """Draw accuracy, FMR and FNMR of each group with their intervals."""
    figure = Figure(figsize=(11, 1.6 + 0.45 * len(details["rows"])), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names = list(details["rows"])
    for place, (key, label) in zip(axes, RATES.items(), strict=True):
        for height, name in enumerate(reversed(names)):
            row = details["rows"][name]
            if row[key] is None:
                continue
            low, high = row[f"{key}_interval_95"]
            color = "#8a8a8a" if name == ALL else "#1f5fa8"
            place.plot([low, high], [height, height], color=color, linewidth=2)
            place.plot([row[key]], [height], "o", color=color)
        place.set_yticks(range(len(names)), list(reversed(names)))
        place.set_xlabel(f"{label} in %, with 95 % intervals")
        place.set_ylim(-0.6, len(names) - 0.4)
        place.grid(True, axis="x", color="#dddddd", linewidth=0.7)
        place.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _finish(axes: Axes, legend: Literal["lower left", "lower right"]) -> None:
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc=legend, frameon=False)


def show_crop(axes: Axes, crop: torch.Tensor, name: str) -> None:
    """Draw a crop (C, H, W) uint8 under its name."""
    picture = crop.permute(1, 2, 0).numpy()
    axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_title(name, fontsize=7.5, pad=2)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically; the suffix chooses the format."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
