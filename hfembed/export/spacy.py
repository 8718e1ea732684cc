"""Word vectors -> a folder that spaCy 3 loads into its vocabulary; written without spaCy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.atomic import atomic_folder
from hfembed.errors import input_errors
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.subwords import FLORET_SEED

_LOWER = 66  # spaCy's symbol for the lowercase form of a token
# Words that spaCy knows as symbols have these numbers from here on as keys, all others a hash (its features and flags,
# which are no words, are left out).
_SYMBOLS = {
    64: """ID ORTH LOWER NORM SHAPE PREFIX SUFFIX LENGTH CLUSTER LEMMA POS TAG DEP ENT_IOB ENT_TYPE HEAD SENT_START
    SPACY PROB LANG ADJ ADP ADV AUX CONJ CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X EOL SPACE""",
    380: """PERSON NORP FACILITY ORG GPE LOC PRODUCT EVENT WORK_OF_ART LANGUAGE LAW DATE TIME PERCENT MONEY QUANTITY
    ORDINAL CARDINAL acomp advcl advmod agent amod appos attr aux auxpass cc ccomp complm conj cop csubj csubjpass dep
    det dobj expl hmod hyph infmod intj iobj mark meta neg nmod nn npadvmod nsubj nsubjpass num number oprd obj obl
    parataxis partmod pcomp pobj poss possessive preconj prep prt punct quantmod relcl rcmod root xcomp acl ENT_KB_ID
    MORPH ENT_ID IDX _""",
}
_ENTRY = np.dtype([("uint64", "u1"), ("key", ">u8"), ("uint32", "u1"), ("row", ">u4")])  # of a map of msgpack


def export_spacy(model: Word2VecModel, folder: str | Path) -> None:
    """Write vectors for `nlp.vocab.from_disk(folder)`; lowercase words are found by tokens of any case.

    A model with `hash_count` becomes floret vectors, which unknown words have too.

    Raises:
        InputError: A word is not valid Unicode.
        OSError: The folder cannot be written.
    """
    vocabulary, config = model.require_vocabulary(), model.config
    settings: dict[str, Any] = {"attr": _LOWER} if vocabulary.rules.lowercase else {}
    if config.subwords is not None and config.hash_count is not None:
        smallest, largest = config.subwords
        settings |= {"mode": "floret", "minn": smallest, "maxn": largest, "bow": "<", "eow": ">"}
        settings |= {"hash_count": config.hash_count, "hash_seed": FLORET_SEED}
        entries, vectors = np.empty(0, dtype=_ENTRY), model.hashed_rows()
    else:
        settings["mode"] = "default"
        entries, vectors = np.empty(len(vocabulary), dtype=_ENTRY), model.numpy_vectors()
        with input_errors():
            entries["key"], entries["row"] = spacy_keys(vocabulary.words), np.arange(len(vocabulary))
        entries["uint64"], entries["uint32"] = 0xCF, 0xCE
    with atomic_folder(folder) as unfinished:
        with (unfinished / "vectors").open("wb") as file:
            np.save(file, vectors.astype("<f4", copy=False), allow_pickle=False)
        (unfinished / "key2row").write_bytes(b"\xdf" + len(entries).to_bytes(4, "big") + entries.tobytes())
        (unfinished / "strings.json").write_text(json.dumps(sorted(vocabulary.words)), encoding="utf-8")
        (unfinished / "vectors.cfg").write_text(json.dumps(settings), encoding="utf-8")


def spacy_keys(words: Sequence[str]) -> np.ndarray:
    """The keys of spaCy's string store: symbols have a number, other strings MurmurHash64A of UTF-8 with seed 1.

    Returns:
        uint64 of shape (len(words),).

    Raises:
        ValueError: A word has no UTF-8 form.
    """
    encoded = [word.encode() for word in words]
    lengths = np.array([len(word) for word in encoded], dtype=np.int64)
    keys = np.empty(len(words), dtype=np.uint64)
    for length in np.unique(lengths):  # words of equal length are hashed together
        rows = np.flatnonzero(lengths == length)
        keys[rows] = _murmur(
            np.frombuffer(b"".join(encoded[row] for row in rows), np.uint8).reshape(len(rows), length)
        )
    symbols = {name: key for first, names in _SYMBOLS.items() for key, name in enumerate(names.split(), first)}
    for row, word in enumerate(words):
        if word in symbols:
            keys[row] = symbols[word]
    return keys


def _murmur(texts: np.ndarray, seed: int = 1) -> np.ndarray:
    """Austin Appleby's MurmurHash64A of texts of equal length, uint8 of shape (texts, length)."""
    factor, shift = np.uint64(0xC6A4A7935BD1E995), np.uint64(47)
    length = texts.shape[1]
    whole = length // 8 * 8
    padded = np.zeros((len(texts), whole + 8), dtype=np.uint8)
    padded[:, :length] = texts
    blocks = padded.view("<u8")
    hashes = np.full(len(texts), seed, dtype=np.uint64) ^ (np.array([length], dtype=np.uint64) * factor)
    for block in blocks[:, :-1].T:
        mixed = block * factor
        hashes = (hashes ^ (mixed ^ mixed >> shift) * factor) * factor
    if length > whole:
        hashes = (hashes ^ blocks[:, -1]) * factor
    hashes = (hashes ^ hashes >> shift) * factor
    return hashes ^ hashes >> shift
