"""From image files to embeddings: worker processes decode and align, the model embeds batches of aligned crops."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hfembed.errors import InputError, input_errors
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.distributed import gather_arrays, gather_dicts, gather_objects, is_distributed, own_rows

Points = Sequence[Sequence[float]] | np.ndarray


class FaceFile(NamedTuple):
    """A photo to embed.

    Attributes:
        landmarks: Five points (x, y) in the photo's pixels; None leaves the crop to the processor (center crop).
    """

    file: str
    image: bytes | str | Path | Image.Image
    landmarks: Points | None = None


class AlignedCrops(NamedTuple):
    """Crops as the model wants them, before normalization.

    Attributes:
        pixels: (N, C, H, W) uint8, in the order of the files; zeros where a file failed.
    """

    files: list[str]
    pixels: torch.Tensor
    failures: dict[str, str]


def align_faces(
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> AlignedCrops:
    """Decode and align all faces into one array.

    Raises:
        InputError: There are no faces, or every one failed.
    """
    crops = align_each(processor, faces, batch_size, num_workers, progress)
    if len(crops.failures) == len(faces):
        raise nothing_left(crops.failures)
    return crops


def align_each(
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> AlignedCrops:
    """What `align_faces` does, where every one may fail."""
    height, width = processor.size["height"], processor.size["width"]
    pixels = torch.zeros(len(faces), processor.num_channels, height, width, dtype=torch.uint8)
    failures: dict[str, str] = {}
    for start, done, crops, failed in _crop_batches(processor, faces, batch_size, num_workers, progress, "aligning"):
        failures.update(failed)
        if len(crops):
            pixels[torch.tensor(done) + start] = crops
    return AlignedCrops([face.file for face in faces], pixels, failures)


def embed_aligned(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    pixels: torch.Tensor,
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """Embed aligned crops, with the model's own test-time mirror.

    Args:
        pixels: (N, C, H, W) uint8, from `align_faces`.

    Returns:
        (N, D) float32, unit length.

    Raises:
        InputError: An embedding is not finite: the weights are broken.
    """
    return embed_aligned_with_norms(model, processor, pixels, batch_size, progress)[0]


@torch.inference_mode()
def embed_aligned_with_norms(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    pixels: torch.Tensor,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """What `embed_aligned` returns, and the norms (N,) float32 before normalization."""
    embeddings, norms = [], []
    with tqdm(total=len(pixels), desc="embedding", unit=" images", disable=not progress) as bar:
        for batch in pixels.split(batch_size):
            embedded, lengths = _embed_batch(model, processor, batch)
            embeddings.append(embedded)
            norms.append(lengths)
            bar.update(len(batch))
    return torch.cat(embeddings).numpy(), torch.cat(norms).numpy()


def embed_faces(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, str]]:
    """Decode, align and embed batch by batch: any number of photos in little memory.

    Returns:
        Embeddings (N, D) float32 of unit length in the order of the faces, NaN where a file failed; and file name ->
        reason of those.

    Raises:
        InputError: There are no faces, every one failed, or an embedding is not finite.
    """
    embeddings, _, failures = embed_faces_with_norms(model, processor, faces, batch_size, num_workers, progress)
    return embeddings, failures


def embed_faces_with_norms(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """What `embed_faces` returns, and second the norms (N,) float32 before normalization."""
    embeddings, norms, failures = _embed_each(model, processor, faces, batch_size, num_workers, progress)
    if embeddings is None:
        raise nothing_left(failures)
    return embeddings, norms, failures


def embed_faces_on_all_ranks(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int = 64,
    num_workers: int = 2,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """What `embed_faces_with_norms` returns, on every rank; each embeds a part. All of them call."""
    if not is_distributed():
        return embed_faces_with_norms(model, processor, faces, batch_size, num_workers, progress)
    own = [faces[row] for row in own_rows(len(faces))]
    embeddings, norms, failed = _embed_each(model, processor, own, batch_size, num_workers, progress)
    dimensions = max(gather_objects(0 if embeddings is None else embeddings.shape[1]))
    failures = gather_dicts(failed)
    if not dimensions:
        raise nothing_left(failures)
    if embeddings is None:  # of this rank's part nothing could be used
        embeddings = np.full((len(own), dimensions), np.nan, dtype=np.float32)
    embeddings, norms = gather_arrays((embeddings, norms), len(faces), model.device)
    return embeddings, norms, failures


def _embed_each(
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> tuple[np.ndarray | None, np.ndarray, dict[str, str]]:
    """What `embed_faces_with_norms` returns; no embeddings where every one failed."""
    embeddings: np.ndarray | None = None
    norms = np.full(len(faces), np.nan, dtype=np.float32)
    failures: dict[str, str] = {}
    with torch.inference_mode():
        batches = _crop_batches(processor, faces, batch_size, num_workers, progress, "embedding")
        for start, done, crops, failed in batches:
            failures.update(failed)
            if len(crops):
                embedded, lengths = (values.numpy() for values in _embed_batch(model, processor, crops))
                if embeddings is None:
                    embeddings = np.full((len(faces), embedded.shape[1]), np.nan, dtype=np.float32)
                embeddings[start + np.array(done)] = embedded
                norms[start + np.array(done)] = lengths
    return embeddings, norms, failures


class _Crops(Dataset):
    """Aligned crop or the reason why there is none, by index."""

    def __init__(self, align: Callable[..., np.ndarray], faces: Sequence[FaceFile]) -> None:
        self.align = align
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> torch.Tensor | str:
        face = self.faces[index]
        try:
            crop = self.align(face.image, face.landmarks)
        except ValueError as error:  # what the processor raises on impossible images and landmarks
            return str(error)
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def _collate(items: list[torch.Tensor | str]) -> tuple[list[int], torch.Tensor, dict[int, str]]:
    done = [place for place, item in enumerate(items) if isinstance(item, torch.Tensor)]
    crops = [item for item in items if isinstance(item, torch.Tensor)]
    stacked = torch.stack(crops) if crops else torch.empty(0, dtype=torch.uint8)
    return done, stacked, {place: item for place, item in enumerate(items) if isinstance(item, str)}


def _crop_batches(
    processor: FaceImageProcessor,
    faces: Sequence[FaceFile],
    batch_size: int,
    num_workers: int,
    progress: bool,
    description: str,
) -> Iterator[tuple[int, list[int], torch.Tensor, dict[str, str]]]:
    """Yield (index of the batch's first face, places in the batch that succeeded, their crops, failures by name)."""
    loader = DataLoader(
        _Crops(processor.align, faces),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # otherwise each pass draws from the global generator of a training run
    )
    with tqdm(total=len(faces), desc=description, unit=" images", disable=not progress) as bar:
        for number, (done, crops, failed) in enumerate(loader):
            start = number * batch_size
            yield start, done, crops, {faces[start + place].file: reason for place, reason in failed.items()}
            bar.update(len(done) + len(failed))


def _embed_batch(
    model: PreTrainedModel, processor: FaceImageProcessor, crops: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    embedder = cast(FaceEmbedderModel, model.base_model)
    pixel_values = processor.normalize(crops.to(embedder.device)).to(embedder.dtype)
    # convolutions on a CPU are 1.6 times faster on channels-last input; the weights are left as they are
    with input_errors():  # an embedding is not finite
        embeddings, norms = embedder.embed_with_norms(pixel_values.to(memory_format=torch.channels_last))
    return embeddings.float().cpu(), norms.float().cpu()


def nothing_left(failures: dict[str, str]) -> InputError:
    """The error of a set in which every image failed."""
    if not failures:
        return InputError("there are no images to embed")
    file, reason = next(iter(failures.items()))
    return InputError(f"none of the {len(failures)} images could be used; the first, {file}: {reason}")
