"""Draw how training runs of autoencoders went, on photos they trained on and on other people.

python scripts/plot_autoencoder_curves.py outputs/ablation_none outputs/ablation_denoising --output curves.png
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from hfembed.atomic import atomic_write
from hfembed.errors import InputError, exit_on_input_error


def draw_curves(runs: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw PSNR over the steps of training, on training photos and on people not trained on, side by side.

    Args:
        runs: Name -> the run's folder, with its training_log.jsonl.
        path: The picture file.

    Raises:
        InputError: A run has no log, or no evaluation in it.
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(3.4 * len(runs), 3.4), layout="constrained")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for place, (name, run) in zip(axes, runs.items(), strict=True):
        log = Path(run) / "training_log.jsonl"
        if not log.exists():
            raise InputError(f"{run} has no training_log.jsonl: train it first")
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        measured = [line for line in lines if "train_psnr" in line]
        if not measured:
            raise InputError(f"{log} has no evaluations: train with validation_share above 0 and evaluate_every")
        steps = [line["step"] for line in measured]
        place.plot(steps, [line["train_psnr"] for line in measured], label="trained on", color="#8a8a8a")
        place.plot(steps, [line["psnr"] for line in measured], label="other people", color="#1f5fa8", linewidth=2)
        gap = measured[-1]["train_psnr"] - measured[-1]["psnr"]
        place.set(title=f"{name}: gap {gap:.1f} dB", xlabel="step")
        place.grid(True, color="#dddddd", linewidth=0.7)
    axes[0].set_ylabel("PSNR (dB)")
    axes[0].legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


@exit_on_input_error
def main() -> None:
    """Folders of runs -> one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that train_autoencoder.py wrote")
    parser.add_argument("--output", type=Path, default=Path("outputs/curves.png"), help="the picture")
    arguments = parser.parse_args()
    draw_curves({run.name: run for run in arguments.runs}, arguments.output)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
