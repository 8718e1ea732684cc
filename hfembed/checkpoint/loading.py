"""Load models from a folder or the Hub, each as its own class; what is wrong with one is said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import IMAGE_PROCESSOR_MAPPING, MODEL_MAPPING, PreTrainedModel
from transformers.utils import logging

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.validation import check_weights, read_config
from hfembed.errors import InputError, counted, first_line
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap_base import FaceSwapBase
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel
from hfembed.models.photo_image_processor import PhotoImageProcessor
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

FACE_DETECTOR = "hfembed_face_detector"
RETINAFACE = "hfembed_retinaface"
YUNET = "hfembed_yunet"
FACE_EMBEDDER = "hfembed_face_embedder"
FACE_SWAP = "hfembed_face_swap"
IDENTITY_SWAP = "hfembed_identity_swap"
CONV_AUTOENCODER = "hfembed_conv_autoencoder"
APPEARANCE_AUTOENCODER = "hfembed_appearance_autoencoder"
RESTORATION_AUTOENCODER = "hfembed_restoration_autoencoder"
AUTOENCODERS = (CONV_AUTOENCODER, APPEARANCE_AUTOENCODER, RESTORATION_AUTOENCODER)
WORD2VEC = "hfembed_word2vec"

Model = TypeVar("Model", bound=PreTrainedModel)


def load_face_embedder(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[FaceEmbedderModel, FaceImageProcessor]:
    """Load a face embedder, without its classification head, and its processor; as `load_image_model`."""
    return load_image_model(checkpoint, FaceEmbedderModel, "a face embedder", device, dtype, **hub)


def load_face_detector(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[FaceDetector, PhotoImageProcessor]:
    """Load a face detector, of any family, and its processor; as `load_image_model`."""
    return load_image_model(checkpoint, FaceDetector, "a face detector", device, dtype, **hub)


def load_autoencoder(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[AutoencoderModelBase, ConvAutoencoderImageProcessor]:
    """Load an autoencoder, of any of the `AUTOENCODERS`, and its processor; as `load_image_model`."""
    return load_image_model(checkpoint, AutoencoderModelBase, "an autoencoder", device, dtype, **hub)


def load_face_swap(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[FaceSwapBase, FaceImageProcessor]:
    """Load a face swap model, of any family, and its processor; as `load_image_model`."""
    return load_image_model(checkpoint, FaceSwapBase, "a face swap model", device, dtype, **hub)


def load_identity_swap(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[IdentitySwapModel, FaceImageProcessor]:
    """Load an identity-conditioned face swap model and its processor; as `load_image_model`."""
    return load_image_model(checkpoint, IdentitySwapModel, "an identity-conditioned swap model", device, dtype, **hub)


def load_word2vec(
    checkpoint: str | Path | Checkpoint, device: str = "auto", dtype: torch.dtype | str = torch.float32, **hub: Any
) -> Word2VecModel:
    """Load word vectors with their words, without output rows; as `load_image_model`.

    Raises:
        InputError: The words are missing too, or there are none.
    """
    checkpoint = Checkpoint.resolve(checkpoint, **hub)
    model = _load_model(checkpoint, Word2VecModel, "word vectors", device, dtype)
    if model.vocabulary is None:
        raise InputError(f"{checkpoint.name} lacks its words: tokenizer.json, vocab_counts.safetensors")
    if not model.vocabulary.words:
        raise InputError(f"{checkpoint.name} has a vocabulary of no words: train it on text, or convert word vectors")
    return model


def load_image_model(
    checkpoint: str | Path | Checkpoint,
    model_class: type[Model],
    kind: str,
    device: str = "auto",
    dtype: torch.dtype | str = torch.float32,
    **hub: Any,
) -> tuple[Model, Any]:
    """Load a model of one family and its image processor, ready to use.

    Args:
        checkpoint: Folder, "owner/name", "owner/name@revision", or a resolved one.
        model_class: What the checkpoint must hold.
        kind: What a person calls the family, with its article: "a face embedder".
        device: A torch device, or "auto" for the accelerator where there is one.
        dtype: Of the weights; a name too, or "auto" for the checkpoint's own.
        **hub: revision, subfolder, token, cache_dir, local_files_only of `Checkpoint.resolve`.

    Returns:
        The model in eval mode, and its processor, of the class registered for the model.

    Raises:
        InputError: There is no such checkpoint, it is of another family, weights are missing, damaged or not finite,
            or the processor's settings are missing.
    """
    checkpoint = Checkpoint.resolve(checkpoint, **hub)
    model = _load_model(checkpoint, model_class, kind, device, dtype)
    processors: Any = IMAGE_PROCESSOR_MAPPING  # its type in transformers is that of older versions
    with quiet_one_line(checkpoint.name, kind):
        return model, processors[type(model.config)]["pil"].from_pretrained(checkpoint.folder)


def _load_model(
    checkpoint: Checkpoint, model_class: type[Model], kind: str, device: str, dtype: torch.dtype | str
) -> Model:
    torch_device, dtype = choose_device(device), choose_dtype(dtype)
    folder, name = checkpoint.folder, checkpoint.name
    config = read_config(folder, name)
    if not isinstance(config, model_class.config_class or ()):
        raise InputError(f"{name} holds a model of type {config.model_type}, not {kind}")
    check_weights(folder, name)
    found: Any = MODEL_MAPPING[type(config)]
    model_class = found if issubclass(found, model_class) else model_class  # one of several families
    if getattr(config, "thresholds", None):
        config.thresholds = checkpoint.thresholds
    with quiet_one_line(name, kind):
        # transformers types this call as if it gave the model alone
        loaded: Any = model_class.from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True)
        model: Model = loaded[0]
        report: dict[str, Any] = loaded[1]
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{name} lacks {counted(len(missing), 'weight')}, the first: {missing[0]}")
    model.name_or_path = model.config.name_or_path = name  # not the place in the cache
    model.__dict__["checkpoint"] = checkpoint  # what is measured with it carries its fingerprint
    model.to(torch_device)  # type: ignore[arg-type]
    return model.eval()


@contextmanager
def quiet_one_line(name: str, kind: str) -> Iterator[None]:
    """Load without transformers' reports, since missing weights are looked for; a failure is an `InputError`."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except MemoryError:
        raise
    # what a damaged file makes the libraries stumble over is anybody's guess
    except Exception as error:
        raise InputError(f"{name}: incomplete or damaged checkpoint of {kind}: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def choose_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """Turn "bfloat16" into torch's type of that name; "auto", the checkpoint's own, stays for transformers.

    Raises:
        InputError: Torch has no such type of floating-point numbers.
    """
    chosen = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not (isinstance(chosen, torch.dtype) and chosen.is_floating_point):
        raise InputError(f"dtype '{dtype}': expected auto, float32, float16 or bfloat16")
    return "auto" if dtype == "auto" else cast(torch.dtype, chosen)


def choose_device(device: str) -> torch.device:
    """Turn "auto" into this machine's accelerator, or the CPU where there is none.

    Raises:
        InputError: Torch knows no such device, or this machine has none.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device '{device}': {first_line(error)}") from error
    if chosen.type != "cpu" and (
        accelerator is None
        or chosen.type != accelerator.type
        or (chosen.index or 0) >= torch.accelerator.device_count()
    ):
        raise InputError(f"device '{device}' is not on this machine: take cpu or auto")
    return chosen
