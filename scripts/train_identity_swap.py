"""Train an identity-conditioned swap model: accelerate launch scripts/train_identity_swap.py --config NAME_OR_PATH."""

from hfembed.faces.identity_swap.train import main

if __name__ == "__main__":
    main()
