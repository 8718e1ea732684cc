"""Train word vectors by a recipe, on CPU threads, a GPU, or several ranks.

accelerate launch scripts/train_word2vec.py --config hfembed/recipes/word2vec_skip_gram.yaml --corpus FILE
accelerate launch scripts/train_word2vec.py --config FILE --corpus FILE --engine numba --output_dir outputs/mine
accelerate launch scripts/train_word2vec.py --config FILE --corpus FILE --resume
accelerate launch scripts/train_word2vec.py --init_from outputs/mine --corpus NEW_TEXT --output_dir outputs/longer
"""

import dataclasses
import logging
from pathlib import Path

from accelerate import Accelerator

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.results import write_results
from hfembed.errors import exit_on_input_error
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining
from hfembed.training.config import read_config
from hfembed.training.record import write_notes
from hfembed.training.sharing import HubSharing
from hfembed.words.training.engine import train_word2vec
from hfembed.words.training.recipe import TrainingTests, Word2VecTrainingConfig, load_corpus, start_model


@exit_on_input_error
def main() -> None:
    """Recipe -> ids -> model -> engine -> a folder for `from_pretrained`."""
    config = read_config(Word2VecTrainingConfig, description=__doc__)
    tests = TrainingTests(config.analogies, config.word_pairs, config.restrict_vocab)
    accelerator = Accelerator()
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    output_dir = Path(config.output_dir)
    with accelerator.main_process_first():
        corpus = load_corpus(config)
    accelerator.print(f"{corpus.num_words:,} words of {len(corpus.vocabulary):,} kinds from {config.corpus}")
    model = start_model(config, corpus)

    def measure(model: Word2VecForPreTraining) -> dict[str, float]:
        return tests(corpus.vocabulary.words, model.word2vec.embeddings.weight.detach())

    def evaluate(words: int) -> None:
        metrics = measure(model)
        if metrics:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            accelerator.print(f"after {words:,} words: {shown}")

    sharing = HubSharing(config, output_dir, accelerator.print)
    report = train_word2vec(
        model,
        corpus,
        config.engine_settings(),
        accelerator,
        checkpoint_folder=output_dir / "checkpoints",
        resume=config.resume,
        evaluate=evaluate,
        share=lambda words: sharing.push_step(words, model.save_pretrained),
    )
    if accelerator.is_main_process:
        model.save_pretrained(output_dir)
        details = {
            **dataclasses.asdict(report),
            "config": dataclasses.asdict(config),
            "corpus_fingerprint": corpus.fingerprint,
        }
        write_results(output_dir, "word2vec_training", {}, details)
        write_results(output_dir, "words", measure(model), {"restrict_vocab_of_analogies": config.restrict_vocab})
        text = f"{report.words:,} words learnt from, of a text of {corpus.num_words:,} ({Path(config.corpus).name})."
        text = f"{text} {config.corpus_note}".strip()
        write_notes(config, {"data": text, "seconds": round(report.seconds, 3), "machine": report.engine})
        write_card(output_dir)
        print(f"{report.words_per_second:,.0f} words/s ({report.engine}); the model is in {output_dir}")
        sharing.push_result()
    accelerator.end_training()


if __name__ == "__main__":
    main()
