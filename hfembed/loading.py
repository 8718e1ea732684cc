"""Load checkpoints for the commands; what is wrong with one is said in one line."""

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

import hfembed  # noqa: F401  registers the models
from hfembed.errors import InputError

FACE_EMBEDDER = "hfembed_face_embedder"


def load_face_embedder(checkpoint: str, device: str = "auto") -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a face embedder and its processor, ready to embed.

    Args:
        checkpoint: Folder or Hub id. One with a classification head gives the embedder inside.
        device: A torch device, or "auto" for the accelerator where there is one.

    Returns:
        The `FaceEmbedderModel` in eval mode, float32, and its `FaceImageProcessor`.

    Raises:
        InputError: There is no such checkpoint, it is of another kind, or weights or processor settings are missing.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise InputError(f"no model could be read from {checkpoint}: {_first_line(error)}") from error
    if config.model_type != FACE_EMBEDDER:
        raise InputError(f"{checkpoint} holds a model of type {config.model_type}, not a face embedder")

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the report on unused head weights would bury the answer; missing ones are checked
    try:
        model, report = AutoModel.from_pretrained(
            checkpoint, config=config, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{checkpoint} is not a whole face embedder checkpoint: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{checkpoint} lacks {len(missing)} weights, the first: {missing[0]}")
    return model.to(choose_device(device)).eval(), processor


def choose_device(device: str) -> torch.device:
    """Turn "auto" into this machine's accelerator, or the CPU where there is none.

    Args:
        device: "auto", or what torch calls a device.

    Returns:
        The device.

    Raises:
        InputError: Torch knows no such device.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device '{device}': {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
