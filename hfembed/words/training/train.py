"""Train word vectors by a recipe, on CPU threads, a GPU, or several ranks.

hfembed train words --config word2vec_skip_gram --corpus FILE --output_dir outputs/mine
hfembed train words --config word2vec_skip_gram --corpus FILE --output_dir outputs/mine --resume
hfembed train words --init_from outputs/mine --corpus NEW_TEXT --output_dir outputs/longer
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from hfembed.training.config import read_config
from hfembed.training.distributed import check_plain_ranks, ranks_without_device
from hfembed.training.run import PATIENT, Run, training_program
from hfembed.words.training.engine import fingerprint_corpus, train_word2vec
from hfembed.words.training.recipe import (
    TrainingTests,
    Word2VecTrainingConfig,
    keep_objective,
    load_corpus,
    start_model,
)

CONFIG = Word2VecTrainingConfig


@training_program
def main(arguments: Sequence[str] | None = None) -> None:
    """Recipe -> ids -> model -> engine -> a folder for `from_pretrained`."""
    config = read_config(Word2VecTrainingConfig, arguments, __doc__)
    config.check_sources()
    tests = TrainingTests(config.analogies, config.word_pairs, config.restrict_vocab)
    check_plain_ranks()
    accelerator = Accelerator(cpu=ranks_without_device(), kwargs_handlers=[PATIENT])
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    if changes := keep_objective(config):
        accelerator.print(changes)
    run = Run(config, "words", accelerator)
    corpus = run.prepare(lambda: load_corpus(config))
    text = f"{corpus.num_words:,} words, {len(corpus.vocabulary):,} distinct, of {Path(config.corpus).name}."
    run.describe_data(f"{text} {config.corpus_note}".strip(), fingerprint_corpus(corpus))
    words = config.epochs * corpus.num_words
    if not run.identify(words, "words"):
        return
    model = start_model(config, corpus)

    def evaluate(words: int) -> None:
        if figures := tests.describe(model.word2vec):
            accelerator.print(f"after {words:,} words: {figures}")

    report = train_word2vec(
        model,
        corpus,
        config.engine_settings(),
        accelerator,
        checkpoint_folder=run.checkpoints,
        resume=config.resume,
        evaluate=evaluate,
        share=lambda words: run.sharing.push_step(words, model.save_pretrained),
        identity=run.identity,
    )

    if accelerator.is_main_process:
        print(f"{report.words_per_second:,.0f} words/s ({report.engine})")  # noqa: T201
        training = {**dataclasses.asdict(report), "corpus": run.data}
        run.finish(
            model.save_pretrained,
            words,
            report.seconds,
            machine=report.engine,
            write_results=lambda folder: tests.write(model.word2vec, folder, training),
        )
    accelerator.end_training()


@training_program
def prepare(arguments: Sequence[str] | None = None) -> None:
    """Count the words of the recipe's text and write it as ids: the first step of a training."""
    config = read_config(Word2VecTrainingConfig, arguments, __doc__)
    config.check_sources()
    keep_objective(config)
    corpus = load_corpus(config)
    print(f"{corpus.num_words:,} words, {len(corpus.vocabulary):,} distinct, are ready to train on")  # noqa: T201


if __name__ == "__main__":
    main()
