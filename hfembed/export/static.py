"""Word vectors -> a folder that sentence-transformers and model2vec load as static embeddings, without hfembed."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from hfembed.atomic import atomic_folder
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel


def export_static(model: Word2VecModel, folder: str | Path) -> None:
    """Write the vectors of all words with a tokenizer: a text's embedding is the mean over its words.

    Unknown words count as vectors of 0: the mean is shorter than that of the known words, in the same direction.

    Raises:
        OSError: The folder cannot be written.
    """
    vocabulary = model.require_vocabulary()
    vectors = model.word_vectors().float().cpu()
    special = torch.zeros(2, vectors.shape[1])  # [UNK] and [PAD]
    weight = torch.cat([vectors, special])
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": vectors.shape[1],
        "normalize": False,
    }
    with atomic_folder(folder) as unfinished:
        # model2vec's name; sentence-transformers reads it too
        save_file({"embeddings": weight.contiguous()}, unfinished / "model.safetensors")
        vocabulary.to_tokenizer().backend_tokenizer.save(str(unfinished / "tokenizer.json"))
        for name, content in (("modules.json", modules), ("config.json", config)):
            (unfinished / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
