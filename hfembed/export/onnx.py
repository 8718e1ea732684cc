"""Networks -> ONNX files with a free batch size, checked against torch by onnxruntime before they are kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.atomic import atomic_write
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import (
    AUTOENCODERS,
    FACE_DETECTOR,
    FACE_EMBEDDER,
    RESTORATION_AUTOENCODER,
    RETINAFACE,
    YUNET,
    load_autoencoder,
    load_face_detector,
    load_face_embedder,
)
from hfembed.checkpoint.validation import read_config
from hfembed.errors import InputError
from hfembed.version import __version__

TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written."""

    path: Path
    largest_difference: float


class _Part(nn.Module):
    """One function of a model as a module of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        function: Callable[[Any, torch.Tensor], torch.Tensor | tuple[torch.Tensor, ...]],
        input_name: str,
        output_names: tuple[str, ...],
        shape: tuple[int, ...],
        multiple: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.function = function
        self.input_name = input_name
        self.output_names = output_names
        self.shape = shape
        # of which height and width may be any multiples; 0: they are fixed
        self.multiple = multiple

    def forward(self, values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Input (batch, ...) -> outputs (batch, ...)."""
        return self.function(self.model, values)


def export_onnx(checkpoint: str | Checkpoint, output: str | Path) -> list[OnnxFile]:
    """Write a checkpoint's networks as ONNX.

    A face embedder is one file, pixels to unit embeddings, the mirror image included as its config says. An
    autoencoder is two, encoder and decoder; a restoration autoencoder is one file, image to image. A face detector is
    its three networks, the first for pictures of any size (MTCNN), or one for pictures whose sides are multiples of
    32, whose feature maps are the output (YuNet, RetinaFace).

    Each file's metadata names the model's type, the input size, and how the image processor makes pixels: what is
    needed to use the file without this package.

    Raises:
        InputError: No such checkpoint, or of a family without networks to export; a package of the extra is missing.
        RuntimeError: A file's outputs are not torch's within 1e-4, of the largest value where that is above 1; it is
            not kept.
        OSError: A file cannot be written.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f'writing ONNX needs {error.name}: pip install "hfembed[onnx]"') from error
    processor, parts = _load(checkpoint)
    output = Path(output)
    files = []
    for name, part in parts.items():
        if output.suffix != ".onnx":
            path = output / f"{name}.onnx"
        else:
            path = output if len(parts) == 1 else output.with_name(f"{output.stem}_{name}.onnx")
        with atomic_write(path) as temporary:
            _write(part, temporary, _metadata(Checkpoint.resolve(checkpoint), processor, name, part))
            files.append(OnnxFile(path, _check(part, temporary)))
    return files


def _load(checkpoint: str | Checkpoint) -> tuple[BaseImageProcessor, dict[str, _Part]]:
    model: Any
    processor: BaseImageProcessor
    model_type = read_config(Checkpoint.resolve(checkpoint).folder, str(checkpoint)).model_type
    if model_type == FACE_EMBEDDER:
        model, processor = load_face_embedder(checkpoint, "cpu")
        pixels = (model.config.num_channels, *model.config.image_size)
        embed = _Part(model, lambda model, x: model.embed_with_mirror(x), "pixel_values", ("embeddings",), pixels)
        return processor, {"model": embed}
    if model_type in AUTOENCODERS:
        model, processor = load_autoencoder(checkpoint, "cpu")
        pixels, latents = (model.config.num_channels, *model.config.image_size), model.config.latent_shape
        made = ("reconstruction",)
        if model_type == RESTORATION_AUTOENCODER:
            if model.config.inpainting:
                raise InputError(f"{checkpoint} takes masks of holes, which is not exported to ONNX")
            whole = _Part(model, lambda model, x: model(x).reconstruction, "pixel_values", made, pixels)
            return processor, {"model": whole}
        encoder = _Part(model, lambda model, x: model.encode(x), "pixel_values", ("latents",), pixels)
        decoder = _Part(model, lambda model, x: model.decode(x), "latents", made, latents)
        return processor, {"encoder": encoder, "decoder": decoder}
    if model_type == FACE_DETECTOR:
        model, processor = load_face_detector(checkpoint, "cpu")
        # what lies between the three, the pyramid and the sorting of windows, is no network
        boxes = ("scores", "boxes")
        proposal = _Part(model, lambda model, x: model.proposal(x), "pixel_values", boxes, (3, 40, 30), multiple=1)
        refinement = _Part(model, lambda model, x: model.refinement(x), "pixel_values", boxes, (3, 24, 24))
        landmark = _Part(model, lambda model, x: model.landmark(x), "pixel_values", (*boxes, "landmarks"), (3, 48, 48))
        return processor, {"proposal": proposal, "refinement": refinement, "landmark": landmark}
    if model_type in (YUNET, RETINAFACE):
        model, processor = load_face_detector(checkpoint, "cpu")
        maps = ("maps_8", "maps_16", "maps_32")
        whole = _Part(model, lambda model, x: model.predict(x), "pixel_values", maps, (3, 64, 96), multiple=32)
        return processor, {"model": whole}
    raise InputError(f"{checkpoint} holds a model of type {model_type}, of which no network is exported to ONNX")


def _metadata(checkpoint: Checkpoint, processor: BaseImageProcessor, name: str, part: _Part) -> dict[str, str]:
    config = part.model.config
    told = {
        "hfembed_version": __version__,
        "model_type": config.model_type,
        "part": name,
        "name": checkpoint.folder.resolve().name if checkpoint.is_local else checkpoint.name,
        "input_shape": ["batch", part.shape[0], *(("height", "width") if part.multiple else part.shape[1:])],
        # pixels / 255, minus the mean, through the deviation; template and colors where it has them
        "preprocessor": processor.to_dict(),
    }
    if config.model_type == FACE_EMBEDDER:
        told |= {"mirror": config.mirror, "thresholds": config.thresholds}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def _write(part: _Part, path: Path, metadata: dict[str, str]) -> None:
    free = {0: torch.export.Dim("batch")}
    if part.multiple > 1:
        free |= {
            2: part.multiple * torch.export.Dim("rows", min=1),
            3: part.multiple * torch.export.Dim("columns", min=1),
        }
    elif part.multiple:
        free |= {2: torch.export.Dim("height", min=12), 3: torch.export.Dim("width", min=12)}
    program = torch.onnx.export(
        part.eval(),
        (torch.randn(2, *part.shape),),
        input_names=[part.input_name],
        output_names=list(part.output_names),
        dynamic_shapes=(free,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # what dynamo=True returns
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


@torch.no_grad()
def _check(part: _Part, path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch_size in (1, 3):
        shape = (part.shape[0], *(side + batch_size * part.multiple for side in part.shape[1:]))
        values = torch.rand(batch_size, *shape, generator=torch.Generator().manual_seed(batch_size))
        found = session.run(list(part.output_names), {part.input_name: values.numpy()})
        expected = part(values)
        for ours, theirs in zip((expected,) if torch.is_tensor(expected) else expected, found, strict=True):
            # of feature maps, whose values may be large, relative to the largest
            scale = max(ours.abs().max().item(), 1.0)
            largest = max(largest, (torch.from_numpy(theirs) - ours).abs().max().item() / scale)
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the ONNX file differs from torch by {largest:.1e}, more than {TOLERANCE}")
    return largest
