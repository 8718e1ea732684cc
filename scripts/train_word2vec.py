"""Train word vectors: accelerate launch scripts/train_word2vec.py --config NAME_OR_PATH."""

from hfembed.words.training.train import main

if __name__ == "__main__":
    main()
