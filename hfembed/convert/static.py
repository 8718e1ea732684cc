"""Static embeddings of sentence-transformers and model2vec -> a checkpoint folder of word vectors."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from tokenizers.models import Unigram

from hfembed.atomic import atomic_folder
from hfembed.convert.foreign_checkpoint import find_beside, find_file, reading
from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

_MODULE_FOLDER = "0_StaticEmbedding"
_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"
_LAYOUT = "folder of a static embedding"
_LARGEST_TOKENIZER, _LARGEST_NOTE, _LONGEST_TOKEN, _MOST_NUMBERS = 512 << 20, 1 << 20, 1000, 1 << 31
_WORD_START = "▁"  # of Unigram's tokens
_PUNCTUATION = r"\p{P}$+<=>^`|~"
_WORDS_AND_MARKS = rf"\p{{Han}}|[^\p{{Han}}{_PUNCTUATION}]+|[{_PUNCTUATION}]"  # as BERT splits text
_PATTERNS = {(): None, ("WhitespaceSplit",): None, ("Whitespace",): r"\w+|[^\w\s]+"}
_PATTERNS[("BertPreTokenizer",)] = _WORDS_AND_MARKS
_WITHOUT_EFFECT = ("NFC", "Strip", "Prepend")  # on single words in NFC


@dataclass(frozen=True)
class StaticConversion:
    """What became of a static embedding.

    Attributes:
        model: The word vectors.
        pieces: Tokens that are no whole words, which have no vector in `model`.
        differences: What the source does with texts and `model` does not, such as "StripAccents".
    """

    model: Word2VecModel
    pieces: int
    differences: tuple[str, ...]


def convert_static(source: str | Path, folder: str | Path) -> StaticConversion:
    """Make a checkpoint folder from a `StaticEmbedding` of sentence-transformers or a `StaticModel` of model2vec.

    Whole words become words: all tokens of a WordLevel tokenizer; of WordPiece those that begin a word; of Unigram
    those that begin a word and that the tokenizer does not split. The tokenizer's file is read as data: text is split
    by `TextRules` that resemble its rules.

    Args:
        source: The folder, or `owner/name` on the Hub.

    Raises:
        InputError: The folder is damaged or of another kind; a vector is not finite.
        OSError: The folder cannot be written.
    """
    source = str(source)
    file = find_file(source, (f"{_MODULE_FOLDER}/{_WEIGHTS}", _WEIGHTS))
    inside = f"{_MODULE_FOLDER}/" if file.parent.name == _MODULE_FOLDER and not Path(source).is_file() else ""
    if file.suffix != ".safetensors":
        raise InputError(f"{source} has no {_WEIGHTS}, only {file.name}, which is not loaded: save it as safetensors")
    normalizes = _check_modules(_read_note(source, file, "modules.json", []))
    config = _read_note(source, file, "config.json", {})
    with reading(source, _LAYOUT):
        tokenizer = _read_json(source, file, f"{inside}{_TOKENIZER}", _LARGEST_TOKENIZER)
        if tokenizer is None:
            raise InputError(f"{source} has no {inside}{_TOKENIZER}, which says what the rows are of")
        tokens, ids, rules, differences = _read_tokenizer(tokenizer)
        kept = _whole_words(tokenizer["model"], tokens, rules)
        vocabulary = Vocabulary([kept[row] for row in sorted(kept)], rules=rules)
        vectors = _read_rows(file, np.array([ids[row] for row in sorted(kept)], dtype=np.int64))
        model = Word2VecModel.from_vectors(vocabulary, vectors)
    if normalizes or (isinstance(config, dict) and config.get("normalize") is True):
        differences.append("Normalize")
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return StaticConversion(model, len(tokens) - len(kept), tuple(dict.fromkeys(differences)))


def _read_json(source: str, file: Path, name: str, largest: int) -> Any:
    path = find_beside(source, file, name)
    if path is None:
        return None
    if path.stat().st_size > largest:
        raise InputError(f"{path} has more than {largest >> 20} MB")
    return json.loads(path.read_bytes())


def _read_note(source: str, file: Path, name: str, default: Any) -> Any:
    with reading(source, _LAYOUT):
        note = _read_json(source, file, name, _LARGEST_NOTE)
    return default if note is None else note


def _check_modules(modules: Any) -> bool:
    """Whether the vector of a text is normalized; other modules than this one and the embedding are refused."""
    types = [str(module.get("type")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    for other in set(types) - {"StaticEmbedding", "Normalize"}:
        raise InputError(f"modules.json: a module '{other[:40]}'; expected a StaticEmbedding alone, or with Normalize")
    return "Normalize" in types


def _read_tokenizer(content: Any) -> tuple[list[str], list[int], TextRules, list[str]]:
    """Tokens that are not special, their ids in ascending order, the rules of text, and what these leave out."""
    model = content["model"]
    kind, vocabulary = model.get("type"), model.get("vocab")
    if kind == "Unigram":
        ids = {token: row for row, (token, _) in enumerate(vocabulary)}
        unknown = None if model.get("unk_id") is None else vocabulary[model["unk_id"]][0]
    elif kind in ("WordLevel", "WordPiece"):
        ids, unknown = dict(vocabulary), model.get("unk_token")
    else:
        raise InputError(
            f"tokenizer.json: a tokenizer of type {str(kind)[:40]!r}, whose tokens are no words; expected WordLevel, "
            "WordPiece or Unigram"
        )
    special = {unknown}
    for token in content.get("added_tokens") or []:
        if token["special"]:
            special.add(token["content"])
        else:
            ids.setdefault(token["content"], token["id"])
    rows = sorted((row, token) for token, row in ids.items() if token not in special)
    for row, token in rows:
        if not isinstance(token, str) or type(row) is not int or not token:
            raise ValueError(f"tokenizer.json: {str(token)[:40]!r} is no token, or has no id")
    rules, differences = _read_rules(content)
    return [token for _, token in rows], [row for row, _ in rows], rules, differences


def _read_rules(content: Any) -> tuple[TextRules, list[str]]:
    lowercase = fold_yo = False
    differences = []
    for step in _steps(content.get("normalizer"), "normalizers"):
        kind = step["type"]
        if kind == "BertNormalizer":
            lowercase |= step["lowercase"] is True
            accents = step.get("strip_accents")
            if accents or (accents is None and step["lowercase"]):
                differences.append("StripAccents")
        elif kind == "Lowercase":
            lowercase = True
        elif kind == "Replace" and step["content"] == "е" and step["pattern"] == {"String": "ё"}:
            fold_yo = True
        elif kind == "Replace" and step["pattern"] in ({"String": "\ufeff"}, {"String": " "}, {"String": "Ё"}):
            continue
        elif kind not in _WITHOUT_EFFECT:
            differences.append(str(kind)[:40])
    steps = list(_steps(content.get("pre_tokenizer"), "pretokenizers"))
    kinds = tuple(step["type"] for step in steps)
    pattern: str | None = _WORDS_AND_MARKS
    if kinds == ("WhitespaceSplit", "Split") and steps[1]["behavior"] == "Removed" and steps[1]["invert"] is True:
        pattern = str(steps[1]["pattern"]["Regex"])  # as `hfembed export static` writes it
    elif kinds in _PATTERNS and content["model"]["type"] != "Unigram":
        pattern = _PATTERNS[kinds]
    else:
        differences += [str(kind)[:40] for kind in kinds]
    return TextRules(lowercase, pattern, fold_yo=fold_yo), differences


def _steps(step: Any, name: str) -> Iterator[Any]:
    if step is not None and step["type"] == "Sequence":
        for part in step[name]:
            yield from _steps(part, name)
    elif step is not None:
        yield step


def _whole_words(model: Any, tokens: list[str], rules: TextRules) -> dict[int, str]:
    """Position of a token -> the word that it is."""
    if model["type"] == "WordLevel":
        return dict(enumerate(tokens))
    if model["type"] == "WordPiece":
        prefix = str(model.get("continuing_subword_prefix", "##"))
        words = {row: token for row, token in enumerate(tokens) if not (prefix and token.startswith(prefix))}
    else:
        splitter = Unigram([(token, float(score)) for token, score in model["vocab"]], model.get("unk_id"))
        words = {
            row: token[1:]
            for row, token in enumerate(tokens)
            if token[:1] == _WORD_START and 1 < len(token) <= _LONGEST_TOKEN and len(splitter.tokenize(token)) == 1
        }
    split = Vocabulary([], rules=rules).split(list(words.values()))
    whole = {row: word for (row, word), found in zip(words.items(), split, strict=True) if list(found) == [word]}
    if not whole:
        raise ValueError("none of its tokens is a whole word")
    return whole


def _read_rows(file: Path, ids: np.ndarray) -> np.ndarray:
    """A row per id: `embeddings[mapping[id]] * weights[id]`, as model2vec has it."""
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
        name = next((name for name in ("embedding.weight", "embeddings") if name in names), None)
        if name is None or not names <= {name, "mapping", "weights"}:
            raise InputError(f"{file} holds no static embedding, but {', '.join(sorted(names)[:3])}")
        shape = tensors.get_slice(name).get_shape()
        if len(shape) != 2 or not shape[1] or len(ids) * shape[1] > _MOST_NUMBERS:
            raise ValueError(f"its '{name}' has the shape {shape} for {len(ids)} words")
        table = tensors.get_tensor(name)
        rows = torch.from_numpy(ids)
        weights = _per_token(tensors, "weights", rows) if "weights" in names else None
        if "mapping" in names:
            rows = _per_token(tensors, "mapping", rows)
            if rows.is_floating_point():
                raise ValueError(f"its 'mapping' is of {rows.dtype}")
            rows = rows.long()
    if int(rows.min()) < 0 or int(rows.max()) >= len(table):
        raise ValueError(
            f"its tokenizer.json or 'mapping' names rows from {rows.min()} to {rows.max()} of {len(table)}"
        )
    if table.dtype not in (torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int8):
        raise ValueError(f"its '{name}' is of {table.dtype}")
    vectors = table[rows]
    if weights is not None or vectors.dtype in (torch.bfloat16, torch.int8):
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    if weights is not None:
        vectors = vectors * weights.to(vectors.dtype)[:, None]
    return vectors.numpy()


def _per_token(tensors: Any, name: str, ids: torch.Tensor) -> torch.Tensor:
    shape = tensors.get_slice(name).get_shape()
    if len(shape) != 1 or int(ids.min()) < 0 or int(ids.max()) >= shape[0]:
        raise ValueError(f"its '{name}' has the shape {shape} for ids up to {ids.max()}")
    return tensors.get_tensor(name)[ids]
