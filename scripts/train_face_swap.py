"""Train a face swap model: accelerate launch scripts/train_face_swap.py --config NAME_OR_PATH."""

from hfembed.faces.swap.train import main

if __name__ == "__main__":
    main()
