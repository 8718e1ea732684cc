"""`pipeline("face-embedding")` and `pipeline("face-verification")`: transformers' way to the face analyzer."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_detector
from hfembed.errors import InputError
from hfembed.faces.quality import FaceQuality, describe_poor
from hfembed.index.min_quality import MIN_QUALITY, check_min_quality
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.photo_image_processor import PhotoSource

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from hfembed.faces.face_analyzer import WhichFaces


class _AutoFaceModel(AutoModel):
    """Remembers what a model was loaded with, for the detector beside it: `pipeline` does not hand it on."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: Any, *arguments: Any, **kwargs: Any
    ) -> PreTrainedModel:
        model: PreTrainedModel = super().from_pretrained(name, *arguments, **kwargs)
        hub = ("revision", "token", "cache_dir", "subfolder", "local_files_only")
        model.loaded_with = {key: kwargs[key] for key in hub if kwargs.get(key)}  # type: ignore[assignment]
        return model


class FaceEmbeddingPipeline(ChunkPipeline):
    """A photo -> one dictionary per face in it: `box`, `landmarks`, `score`, `quality`, `norm` and `embedding`.

    The model is a folder or repository of a `FaceAnalyzer`, or a face embedder together with `detector=`. With
    `batch_size` above 1 the faces of several photos go through the embedder together. Photos are searched one at a
    time; `FaceAnalyzer` itself searches many at once, and continues if one cannot be read.

    Args:
        detector: Folder or Hub id of a face detector; by default the one beside the model, of the same revision.

    Example:
        ```python
        embed = pipeline("face-embedding", model="outputs/analyzer")
        embed(["a.jpg", "b.jpg"], faces="largest", batch_size=8)
        ```
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = True  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, *args: Any, detector: str | None = None, **kwargs: Any) -> None:
        from hfembed.faces.face_analyzer import FaceAnalyzer  # imported late, since `import hfembed` must be quick

        super().__init__(*args, **kwargs)
        place = str(self.model.config.name_or_path)
        hub = getattr(self.model, "loaded_with", {})
        if detector is None:
            found = Checkpoint.resolve(place, **hub).detector
            if found is None:
                raise InputError(f"{place} has no detector in it; pass detector=")
        else:
            found = Checkpoint.resolve(detector, **{key: value for key, value in hub.items() if key == "token"})
        loaded = load_face_detector(found, str(self.device))
        self.face_processor = cast(FaceImageProcessor, self.image_processor)
        self.analyzer = FaceAnalyzer(*loaded, cast(FaceEmbedderModel, self.model.base_model), self.face_processor)

    def _sanitize_parameters(
        self, faces: "WhichFaces | None" = None, min_quality: float | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if faces not in (None, "all", "largest", "only"):
            raise InputError(f"unknown faces={faces!r}; expected one of 'all', 'largest', 'only'")
        if min_quality is not None:
            check_min_quality(min_quality)
        return (
            {} if faces is None else {"faces": faces},
            {},
            {} if min_quality is None else {"min_quality": min_quality},
        )

    def preprocess(  # type: ignore[override]
        self, inputs: PhotoSource, faces: "WhichFaces" = "all"
    ) -> Iterator[dict[str, Any]]:
        """Yield one item per face; a photo without faces is one item without a face."""
        yield from self._items(inputs, faces, is_last_photo=True)

    def _items(self, source: PhotoSource, faces: "WhichFaces", is_last_photo: bool) -> Iterator[dict[str, Any]]:
        photo = self.analyzer.detector_processor.open(source, self.analyzer.detector.config.max_image_size)
        detected = self.analyzer.find([photo], faces)[0]
        count = len(detected.scores)
        if faces == "only" and count != 1:
            raise InputError(f"{count} faces in a photo, where only one was expected")
        size = self.face_processor.size
        for index in range(max(count, 1)):
            face: dict[str, Any] = {}
            assess = None
            if index < count:
                face = {
                    "box": detected.boxes[index].tolist(),
                    "landmarks": detected.landmarks[index].tolist(),
                    "score": detected.scores[index].item(),
                }
                landmarks = detected.landmarks[index].numpy()
                crop = self.analyzer.crop(source, photo, landmarks)
                assess = self.analyzer.assess(photo, face["score"], detected.boxes[index].numpy(), landmarks, crop)
            else:
                crop = np.zeros((size["height"], size["width"], self.face_processor.num_channels), np.uint8)
            yield {
                "is_last": is_last_photo and index == max(count, 1) - 1,
                "face": face,
                "assess": assess,
                "pixel_values": self.face_processor.normalize(torch.from_numpy(crop).permute(2, 0, 1)[None]),
            }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        embeddings, norms = self.analyzer.embedder.embed_with_norms(model_inputs.pop("pixel_values"))
        return {**model_inputs, "embedding": embeddings, "norm": norms}

    def postprocess(  # type: ignore[override]
        self, model_outputs: Sequence[dict[str, Any]], min_quality: float = MIN_QUALITY
    ) -> list[dict[str, Any]]:
        """The faces of one photo that are good enough."""
        if not all(torch.isfinite(output["embedding"]).all() for output in model_outputs if output["face"]):
            raise InputError("an embedding is not finite; the model's weights are damaged")
        found = [(output, self._quality(output)) for output in model_outputs if output["face"]]
        poor = [quality for _, quality in found if quality.overall < min_quality]
        if poor:
            logger.warning("%s; min_quality=0 takes all", describe_poor(poor, len(found)))
        return [
            {
                **output["face"],
                "quality": quality.overall,
                "norm": quality.norm,
                "embedding": output["embedding"].flatten().tolist(),
            }
            for output, quality in found
            if quality.overall >= min_quality
        ]

    def _quality(self, output: dict[str, Any]) -> FaceQuality:
        assess = output["assess"][0] if isinstance(output["assess"], list) else output["assess"]
        return cast(FaceQuality, assess(output["norm"].item()))


class FaceVerificationPipeline(FaceEmbeddingPipeline):
    """A pair of photos -> whether they show one person: what `FaceAnalyzer.verify` returns, as a dictionary.

    Of a photo with several faces the largest is compared. A photo without a face is an error, and one whose face has a
    quality below `min_quality`.

    Example:
        ```python
        verify = pipeline("face-verification", model="outputs/analyzer")
        verify([("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")], far=1e-3, batch_size=8)
        ```
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Compare one pair of photos, (a, b), or each pair of a list or a generator of pairs.

        Args:
            kwargs: `far`, `faces` ("largest" or "only"), `min_quality`, `batch_size`, `num_workers`.
        """
        if (
            isinstance(inputs, tuple | list)
            and len(inputs) == 2
            and all(isinstance(one, PhotoSource) for one in inputs)
        ):
            return super().__call__({"pair": tuple(inputs)}, **kwargs)
        return super().__call__([{"pair": tuple(pair)} for pair in inputs], **kwargs)

    def _sanitize_parameters(
        self,
        faces: "WhichFaces | None" = None,
        min_quality: float | None = None,
        far: float | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if faces == "all":
            raise InputError("faces='all' cannot be compared; expected 'largest' or 'only'")
        preprocess, forward, postprocess = super()._sanitize_parameters(faces, min_quality, **kwargs)
        return preprocess, forward, postprocess if far is None else {**postprocess, "far": far}

    def preprocess(  # type: ignore[override]
        self, inputs: dict[str, Any], faces: "WhichFaces" = "largest"
    ) -> Iterator[dict[str, Any]]:
        """Yield both photos' faces."""
        for position, photo in enumerate(inputs["pair"]):
            for item in self._items(photo, faces, is_last_photo=position == 1):
                if not item["face"]:
                    name = photo if isinstance(photo, str) else f"photo {position}"
                    raise InputError(f"no face was found in {name}")
                yield item

    def postprocess(  # type: ignore[override]
        self, model_outputs: Sequence[dict[str, Any]], min_quality: float = MIN_QUALITY, far: float | None = None
    ) -> dict[str, Any]:
        """The decision on one pair."""
        qualities = [self._quality(output) for output in model_outputs]
        for position, quality in enumerate(qualities):
            if quality.overall < min_quality:
                raise InputError(
                    f"photo {position} of a pair: quality {quality.overall:.2f} ({quality.weakness}); min_quality=0 "
                    "compares it"
                )
        a, b = (output["embedding"].flatten().float().cpu().numpy() for output in model_outputs)
        return self.analyzer.compare(a, b, far, min(quality.overall for quality in qualities))._asdict()


class _DefaultModel(dict[str, Any]):
    """What `pipeline` takes without a model, found when it is asked for."""

    def __getitem__(self, key: str) -> Any:
        from hfembed.faces.default_model import resolve_face_model  # imported late, as FaceAnalyzer

        return (str(resolve_face_model().folder), None) if key == "model" else super().__getitem__(key)


_TASKS: dict[str, type] = {"face-embedding": FaceEmbeddingPipeline, "face-verification": FaceVerificationPipeline}
for task, pipeline_class in _TASKS.items():
    PIPELINE_REGISTRY.register_pipeline(
        task, pipeline_class, pt_model=_AutoFaceModel, default=_DefaultModel(model=None), type="image"
    )

__all__ = ["FaceEmbeddingPipeline", "FaceVerificationPipeline"]
