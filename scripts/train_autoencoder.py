"""Train an autoencoder: accelerate launch scripts/train_autoencoder.py --config NAME_OR_PATH."""

from hfembed.images.training.train import main

if __name__ == "__main__":
    main()
