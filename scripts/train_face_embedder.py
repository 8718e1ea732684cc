"""Train a face embedder: accelerate launch scripts/train_face_embedder.py --config NAME_OR_PATH."""

from hfembed.faces.training.train import main

if __name__ == "__main__":
    main()
