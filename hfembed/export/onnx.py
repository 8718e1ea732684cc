"""Networks -> ONNX files with a free batch size, checked against torch by onnxruntime before they are kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed import __version__
from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.hub.completeness import read_config
from hfembed.hub.pull import find_checkpoint
from hfembed.loading import CONV_AUTOENCODER, FACE_EMBEDDER, load_autoencoder, load_face_embedder

TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written.

    Args:
        path: Where it is.
        largest_difference: Between its outputs and torch's, on random input in two batch sizes.
    """

    path: Path
    largest_difference: float


class _Part(nn.Module):
    """One function of a model as a module of its own.

    Args:
        model: The model.
        function: Of the model and one input.
        input_name: What the file calls the input (batch, ...).
        output_name: What it calls the output (batch, ...).
        shape: Of one input, without the batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        function: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor],
        input_name: str,
        output_name: str,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.model = model
        self.function = function
        self.input_name = input_name
        self.output_name = output_name
        self.shape = shape

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Input (batch, ...) -> output (batch, ...)."""
        return self.function(self.model, values)


def export_onnx(checkpoint: str, output: str | Path) -> list[OnnxFile]:
    """Write a checkpoint's networks as ONNX.

    A face embedder is one file, pixels to unit embeddings, the mirror image included as its config says. An
    autoencoder is two, encoder and decoder; one with skip connections is one file, image to image.

    Each file's metadata names the model's type, the input size, and how the image processor makes pixels: what is
    needed to use the file without this package.

    Args:
        checkpoint: Folder or Hub id.
        output: A file ending in .onnx; several parts put their name after its stem. Or a folder, for a file a part.

    Returns:
        The files.

    Raises:
        InputError: No such checkpoint, or of a family without networks to export; a package of the extra is missing.
        RuntimeError: A file's outputs are not torch's within 1e-4; it is not kept.
        OSError: A file cannot be written.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f'writing ONNX needs {error.name}: pip install "hfembed[onnx]"') from error
    model, processor, parts = _load(checkpoint)
    output = Path(output)
    files = []
    for name, part in parts.items():
        if output.suffix != ".onnx":
            path = output / f"{name}.onnx"
        else:
            path = output if len(parts) == 1 else output.with_name(f"{output.stem}_{name}.onnx")
        with atomic_write(path) as temporary:
            _write(part, temporary, _metadata(checkpoint, model, processor, name))
            files.append(OnnxFile(path, _check(part, temporary)))
    return files


def _load(checkpoint: str) -> tuple[PreTrainedModel, BaseImageProcessor, dict[str, _Part]]:
    model_type = read_config(find_checkpoint(checkpoint), checkpoint).model_type
    if model_type == FACE_EMBEDDER:
        model, processor = load_face_embedder(checkpoint, "cpu")
        pixels = (model.config.num_channels, *model.config.image_size)
        embed = _Part(
            model, lambda model, values: model.embed_with_mirror(values), "pixel_values", "embeddings", pixels
        )
        return model, processor, {"model": embed}
    if model_type == CONV_AUTOENCODER:
        model, processor = load_autoencoder(checkpoint, "cpu")
        config = model.config
        pixels = (config.num_channels, *config.image_size)
        if config.skip_connections:
            whole = _Part(
                model, lambda model, values: model(values).reconstruction, "pixel_values", "reconstruction", pixels
            )
            return model, processor, {"model": whole}
        encoder = _Part(model, lambda model, values: model.encode(values), "pixel_values", "latents", pixels)
        decoder = _Part(
            model, lambda model, values: model.decode(values), "latents", "reconstruction", config.latent_shape
        )
        return model, processor, {"encoder": encoder, "decoder": decoder}
    raise InputError(f"{checkpoint} holds a model of type {model_type}, of which no network is exported to ONNX")


def _metadata(checkpoint: str, model: PreTrainedModel, processor: BaseImageProcessor, part: str) -> dict[str, str]:
    config = model.config
    told = {
        "hfembed_version": __version__,
        "model_type": config.model_type,
        "part": part,
        "name": Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint,
        "input_size": config.image_size,
        "num_channels": config.num_channels,
        # pixels / 255, minus the mean, through the deviation; template and colours where it has them
        "preprocessor": processor.to_dict(),
    }
    if config.model_type == FACE_EMBEDDER:
        told |= {"mirror": config.mirror, "thresholds": config.thresholds}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def _write(part: _Part, path: Path, metadata: dict[str, str]) -> None:
    program = torch.onnx.export(
        part.eval(),
        (torch.randn(2, *part.shape),),
        input_names=[part.input_name],
        output_names=[part.output_name],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


@torch.no_grad()
def _check(part: _Part, path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch_size in (1, 3):
        values = torch.rand(batch_size, *part.shape, generator=torch.Generator().manual_seed(batch_size))
        (found,) = session.run([part.output_name], {part.input_name: values.numpy()})
        largest = max(largest, (torch.from_numpy(found) - part(values)).abs().max().item())
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the ONNX file differs from torch by {largest:.1e}, more than {TOLERANCE}")
    return largest
