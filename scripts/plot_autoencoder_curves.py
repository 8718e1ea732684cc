"""Draw how training runs of autoencoders went, on photos they trained on and on other people.

python scripts/plot_autoencoder_curves.py outputs/ablation_none outputs/ablation_denoising --output curves.png
"""

import argparse
from pathlib import Path

from hfembed.errors import exit_on_input_error
from hfembed.images.evaluation.reconstruction_pictures import draw_curves


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
