"""Files that run a program when they are unpickled, given to everything that reads files: none is run."""

import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch

from hfembed import EmbeddingIndex
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_autoencoder, load_face_embedder
from hfembed.convert import adaface, facenet_pytorch, insightface, mobilefacenet, mtcnn, timm_face, word2vec
from hfembed.errors import exit_on_input_error
from tests.checkpoint.checkpoints import write_checkpoint


class Runs:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(mark):
    """Ways to say it, by name -> the pickle's bytes."""
    import builtins
    import os
    import subprocess

    command = f"mkdir {mark}"
    text = os.fsencode(command)
    state = {"state_dict": {"fc.weight": torch.zeros(2, 2), "x": Runs(os.system, command)}}
    return {
        **{f"os.system, protocol {n}": pickle.dumps(Runs(os.system, command), n) for n in range(6)},
        "eval": pickle.dumps(Runs(builtins.eval, f"__import__('os').mkdir({str(mark)!r})")),
        "exec": pickle.dumps(Runs(builtins.exec, f"import os; os.mkdir({str(mark)!r})")),
        "subprocess": pickle.dumps(Runs(subprocess.check_call, ["mkdir", str(mark)])),
        "among tensors": pickle.dumps(state),
        "as a key": pickle.dumps({Runs(os.mkdir, str(mark)): 1}),
        "INST": b"(S'" + text + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + text + b"'\no.",
        "a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c"
        + struct.pack("<B", len(text) + 27) + b"__import__('os').system('" + text + b"')\x85R.",
        "a class' own state": b"c__builtin__\nexec\n(S'import os; os.system(\"" + text + b"\")'\ntR.",
        "twice": pickle.dumps(Runs(pickle.loads, pickle.dumps(Runs(os.system, command)))),
        "through torch": pickle.dumps(Runs(torch.hub.load, str(mark), "x", "local")),
        "through numpy": pickle.dumps(Runs(np.load, str(mark / "x.npy"), None, True)),
    }  # fmt: skip


def as_torch_zip(content):
    """A file of torch.save, its pickle replaced."""

    def write(path):
        torch.save({"a": torch.zeros(1)}, path)
        with zipfile.ZipFile(path) as whole:
            files = {name: whole.read(name) for name in whole.namelist()}
        with zipfile.ZipFile(path, "w") as changed:
            for name, old in files.items():
                changed.writestr(name, content if name.endswith("data.pkl") else old)

    return write


def as_bytes(content):
    return lambda path: path.write_bytes(content)


def beside_the_weights(family, name):
    def read(write, path):
        folder = write_checkpoint(family, path / "model")
        write(folder / name)
        Checkpoint.resolve(folder).validate()

    return read


def in_place_of_the_weights(family, name, load):
    def read(write, path):
        folder = write_checkpoint(family, path / "model")
        (folder / "model.safetensors").unlink()
        write(folder / name)
        load(folder)

    return read


def convert(function, name):
    def read(write, path):
        write(path / name)
        function(str(path / name), path / "out")

    return read


def index(name):
    def read(write, path):
        made = EmbeddingIndex()
        made.add(np.eye(3, dtype=np.float32), ["a", "b", "c"])
        made.save_pretrained(path / "index")
        write(path / "index" / name)
        EmbeddingIndex.from_pretrained(path / "index")

    return read


DOORS = {
    "convert mtcnn": convert(mtcnn.convert_mtcnn, "pnet.pt"),
    "convert mobilefacenet": convert(mobilefacenet.convert_mobilefacenet, "net.pt"),
    "convert facenet-pytorch": convert(facenet_pytorch.convert_facenet_pytorch, "net.pt"),
    "convert insightface": convert(insightface.convert_insightface, "backbone.pth"),
    "convert insightface, onnx": convert(insightface.convert_insightface, "net.onnx"),
    "convert adaface": convert(adaface.convert_adaface, "net.ckpt"),
    "convert timm-face": convert(timm_face.convert_timm_face, "pytorch_model.bin"),
    "convert word2vec": convert(word2vec.convert_word2vec_file, "vectors.model"),
    "convert word2vec, text": convert(word2vec.convert_word2vec_file, "vectors.txt"),
    "a face embedder": in_place_of_the_weights("hfembed_face_embedder", "pytorch_model.bin", load_face_embedder),
    "a face embedder, safetensors": in_place_of_the_weights(
        "hfembed_face_embedder", "model.safetensors", load_face_embedder
    ),
    "beside a face embedder": beside_the_weights("hfembed_face_embedder", "optimizer.pt"),
    "an autoencoder": in_place_of_the_weights("hfembed_conv_autoencoder", "pytorch_model.bin", load_autoencoder),
    "words": beside_the_weights("hfembed_word2vec", "tokenizer.json"),
    "an index' vectors": index("embeddings.safetensors"),
    "an index' labels": index("labels.arrow"),
}


@pytest.mark.attack
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.filterwarnings("ignore")
def test_no_pickle_is_run(door, tmp_path, capsys):
    mark = tmp_path / "was_run"
    for number, (name, content) in enumerate(payloads(mark).items()):
        for wrap in (as_bytes, as_torch_zip):
            folder = tmp_path / f"{number}-{wrap.__name__}"
            folder.mkdir()
            with pytest.raises(SystemExit) as refused:
                exit_on_input_error(DOORS[door])(wrap(content), folder)
            assert not mark.exists(), f"{door}: {name} was run"
            said = capsys.readouterr().err.rpartition("\r")[2].rpartition("it/s]")[2].strip()  # after progress bars
            assert refused.value.code == 1 and said.startswith("error: ") and "\n" not in said, f"{name}: {said}"
            shutil.rmtree(folder)


def test_the_payloads_are_live(tmp_path):
    """Unpickled freely, they do what they say."""
    mark = tmp_path / "was_run"
    alive = 0
    for name, content in payloads(mark).items():
        try:
            pickle.loads(content)
        except Exception:  # those that end in nonsense after the deed
            pass
        alive += mark.exists()
        if mark.exists():
            mark.rmdir()
        elif not name.startswith("through"):
            raise AssertionError(f"{name} does nothing")
    assert alive >= 16
