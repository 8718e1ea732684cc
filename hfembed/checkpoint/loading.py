"""Load checkpoints for the commands, from a folder or the Hub; what is wrong with one is said in one line."""

from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

import hfembed.auto  # noqa: F401  registers the models
from hfembed.checkpoint.validation import check_weights, read_config
from hfembed.errors import InputError
from hfembed.hub.download import find_checkpoint
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

FACE_DETECTOR = "hfembed_face_detector"
FACE_EMBEDDER = "hfembed_face_embedder"
FACE_SWAP = "hfembed_face_swap"
CONV_AUTOENCODER = "hfembed_conv_autoencoder"
APPEARANCE_AUTOENCODER = "hfembed_appearance_autoencoder"
RESTORATION_AUTOENCODER = "hfembed_restoration_autoencoder"
AUTOENCODERS = (CONV_AUTOENCODER, APPEARANCE_AUTOENCODER, RESTORATION_AUTOENCODER)
WORD2VEC = "hfembed_word2vec"


def load_face_embedder(
    checkpoint: str, device: str = "auto", **hub: Any
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a face embedder and its processor, ready to embed.

    Args:
        checkpoint: Folder or Hub id, "@revision" after it where it is not main. One with a classification head gives
            the embedder inside.
        device: A torch device, or "auto" for the accelerator where there is one.
        **hub: revision, subfolder, token, cache_dir, local_files_only, as of `find_checkpoint`.

    Returns:
        The `FaceEmbedderModel` in eval mode, float32, and its `FaceImageProcessor`.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or processor settings are missing.
    """
    return load_image_model(checkpoint, FACE_EMBEDDER, "a face embedder", device, **hub)


def load_autoencoder(checkpoint: str, device: str = "auto") -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load an autoencoder and its processor, ready to encode and decode.

    Args:
        checkpoint: Folder or Hub id.
        device: A torch device, or "auto" for the accelerator where there is one.

    Returns:
        The autoencoder, of any of the three families, in eval mode, float32, and its `ConvAutoencoderImageProcessor`.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or processor settings are missing.
    """
    return load_image_model(checkpoint, AUTOENCODERS, "an autoencoder", device)


def load_face_swap(checkpoint: str, device: str = "auto", **hub: Any) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a face swap model and its processor, ready to swap.

    Args:
        checkpoint: Folder or Hub id.
        device: A torch device, or "auto" for the accelerator where there is one.
        **hub: revision, subfolder, token, cache_dir, local_files_only, as of `find_checkpoint`.

    Returns:
        The `FaceSwapModel` in eval mode, float32, and its `FaceImageProcessor`.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or processor settings are missing.
    """
    return load_image_model(checkpoint, FACE_SWAP, "a face swap model", device, **hub)


def load_image_model(
    checkpoint: str, model_type: str | tuple[str, ...], kind: str, device: str = "auto", **hub: Any
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a model of one family and its image processor, ready to use.

    Args:
        checkpoint: Folder or Hub id, "@revision" after it where it is not main.
        model_type: The family, or one of the families, it must be of.
        kind: What a person calls the family, with its article: "a face embedder".
        device: A torch device, or "auto" for the accelerator where there is one.
        **hub: revision, subfolder, token, cache_dir, local_files_only, as of `find_checkpoint`.

    Returns:
        The family's base model in eval mode, float32, and its processor.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or processor settings are missing.
    """
    torch_device = choose_device(device)
    folder = find_checkpoint(checkpoint, **hub)
    config = read_config(folder, checkpoint)
    if config.model_type not in ((model_type,) if isinstance(model_type, str) else model_type):
        raise InputError(f"{checkpoint} holds a model of type {config.model_type}, not {kind}")
    check_weights(folder, checkpoint)

    # the report on unused head weights and the bar would bury the answer; missing weights are looked for here
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{checkpoint} is not a whole checkpoint of {kind}: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{checkpoint} lacks {len(missing)} weights, the first: {missing[0]}")
    model.name_or_path = model.config.name_or_path = str(checkpoint)  # not the place in the cache
    return model.to(torch_device).eval(), processor


def load_word2vec(checkpoint: str, device: str = "auto", **hub: Any) -> Word2VecModel:
    """Load word vectors with their words, ready to be asked.

    Args:
        checkpoint: Folder or Hub id, "@revision" after it where it is not main. One with output rows too gives the
            input rows.
        device: A torch device, or "auto" for the accelerator where there is one.
        **hub: revision, subfolder, token, cache_dir, local_files_only, as of `find_checkpoint`.

    Returns:
        The `Word2VecModel` in eval mode.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or words are missing.
    """
    folder = find_checkpoint(checkpoint, **hub)
    config = read_config(folder, checkpoint)
    if config.model_type != WORD2VEC:
        raise InputError(f"{checkpoint} holds a model of type {config.model_type}, not word vectors")
    check_weights(folder, checkpoint)
    try:
        model, report = Word2VecModel.from_pretrained(folder, config=config, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no word vectors could be read from {checkpoint}: {_first_line(error)}") from error
    if report["missing_keys"]:
        raise InputError(f"{checkpoint} lacks the weights {', '.join(sorted(report['missing_keys']))}")
    if model.vocabulary is None:
        raise InputError(f"{checkpoint} lacks its words: tokenizer.json, vocab_counts.safetensors")
    return model.to(choose_device(device)).eval()


def choose_device(device: str) -> torch.device:
    """Turn "auto" into this machine's accelerator, or the CPU where there is none.

    Args:
        device: "auto", or what torch calls a device.

    Returns:
        The device.

    Raises:
        InputError: Torch knows no such device, or this machine has none.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device '{device}': {_first_line(error)}") from error
    if chosen.type != "cpu" and (
        accelerator is None
        or chosen.type != accelerator.type
        or (chosen.index or 0) >= torch.accelerator.device_count()
    ):
        raise InputError(f"device '{device}' is not on this machine: take cpu or auto")
    return chosen


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
