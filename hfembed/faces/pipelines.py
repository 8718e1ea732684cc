"""`pipeline("face-embedding")` and `pipeline("face-verification")`: transformers' way to the face analyzer."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline

from hfembed.errors import InputError
from hfembed.models.face_detector.image_processing_face_detector import PhotoSource

if TYPE_CHECKING:
    from hfembed.faces.face_analyzer import WhichFaces


class FaceEmbeddingPipeline(ChunkPipeline):
    """A photo -> a dictionary for each face in it: `box`, `landmarks`, `score`, `norm` and `embedding`.

    The model is a folder of a `FaceAnalyzer`, or a face embedder together with `detector=`. A face is an item of a
    batch: with `batch_size` above 1 the faces of several photos go through the embedder together. Photos are searched
    one at a time; `FaceAnalyzer` itself searches many at once, and goes on where one cannot be read.

    Args:
        detector: Folder or Hub id of a face detector; by default the one in the model's folder.

    Example:
        ```python
        embed = pipeline("face-embedding", model="outputs/analyzer")
        embed(["a.jpg", "b.jpg"], faces="largest", batch_size=8)
        ```
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, detector: str | None = None, **kwargs: Any) -> None:
        # only here: the Auto classes learn of this pipeline when the package is imported, which should stay light
        from hfembed.faces.face_analyzer import FaceAnalyzer

        super().__init__(*args, **kwargs)
        place = str(self.model.config.name_or_path)
        if detector is None:
            loaded = FaceAnalyzer.from_pretrained(place, str(self.device))
        else:
            loaded = FaceAnalyzer.from_models(detector, place, str(self.device))
        self.analyzer = FaceAnalyzer(
            loaded.detector, loaded.detector_processor, self.model.base_model, self.image_processor
        )

    def _sanitize_parameters(
        self, faces: "WhichFaces | None" = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if faces not in (None, "all", "largest", "only"):
            raise InputError(f"faces='{faces}': choose 'all', 'largest' or 'only'")
        return ({} if faces is None else {"faces": faces}), {}, {}

    def preprocess(self, inputs: PhotoSource, faces: "WhichFaces" = "all") -> Iterator[dict[str, Any]]:
        """Yield an item a face; a photo without faces is one item without a face."""
        yield from self._items(inputs, faces, is_last_photo=True)

    def _items(self, source: PhotoSource, faces: "WhichFaces", is_last_photo: bool) -> Iterator[dict[str, Any]]:
        photo = self.analyzer.detector_processor.open(source, self.analyzer.detector.config.max_image_size)
        detected = self.analyzer.find([photo], faces)[0]
        count = len(detected.scores)
        if faces == "only" and count != 1:
            raise InputError(f"{count} faces were found in a photo, where just one was expected")
        size = self.image_processor.size
        for index in range(max(count, 1)):
            if index < count:
                face = {
                    "box": detected.boxes[index].tolist(),
                    "landmarks": detected.landmarks[index].tolist(),
                    "score": detected.scores[index].item(),
                }
                crop = self.analyzer.crop(source, photo, detected.landmarks[index].numpy())
            else:
                face = {}
                crop = np.zeros((size["height"], size["width"], self.image_processor.num_channels), np.uint8)
            yield {
                "is_last": is_last_photo and index == max(count, 1) - 1,
                "face": face,
                "pixel_values": self.image_processor.normalize(torch.from_numpy(crop).permute(2, 0, 1)[None]),
            }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        embeddings, norms = self.model.embed_with_norms(model_inputs.pop("pixel_values"))
        return {**model_inputs, "embedding": embeddings, "norm": norms}

    def postprocess(self, model_outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The faces of one photo."""
        return [
            {**output["face"], "norm": output["norm"].item(), "embedding": output["embedding"].flatten().tolist()}
            for output in model_outputs
            if output["face"]
        ]


class FaceVerificationPipeline(FaceEmbeddingPipeline):
    """A pair of photos -> whether they show one person, as `FaceAnalyzer.verify` says it, in a dictionary.

    Of a photo with several faces the largest is compared. A photo without a face is an error.

    Example:
        ```python
        verify = pipeline("face-verification", model="outputs/analyzer")
        verify([("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")], far=1e-3, batch_size=8)
        ```
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Compare one pair of photos, (a, b), or each pair of a list or a generator of pairs.

        Args:
            inputs: The pair or pairs.
            kwargs: `far`, `faces` ("largest" or "only"), `batch_size`, `num_workers`.

        Returns:
            A dictionary a pair.
        """
        if (
            isinstance(inputs, tuple | list)
            and len(inputs) == 2
            and all(isinstance(one, PhotoSource) for one in inputs)
        ):
            return super().__call__({"pair": tuple(inputs)}, **kwargs)
        return super().__call__([{"pair": tuple(pair)} for pair in inputs], **kwargs)

    def _sanitize_parameters(
        self, faces: "WhichFaces | None" = None, far: float | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if faces == "all":
            raise InputError("faces='all': one face of each photo is compared, the 'largest' or the 'only' one")
        preprocess, forward, _ = super()._sanitize_parameters(faces, **kwargs)
        return preprocess, forward, {} if far is None else {"far": far}

    def preprocess(self, inputs: dict[str, Any], faces: "WhichFaces" = "largest") -> Iterator[dict[str, Any]]:
        """Yield both photos' faces."""
        for place, photo in enumerate(inputs["pair"]):
            for item in self._items(photo, faces, is_last_photo=place == 1):
                if not item["face"]:
                    raise InputError(f"no face was found in {photo if isinstance(photo, str) else f'photo {place}'}")
                yield item

    def postprocess(self, model_outputs: Sequence[dict[str, Any]], far: float | None = None) -> dict[str, Any]:
        """The decision on one pair."""
        embeddings = [output["embedding"].flatten().float().cpu().numpy() for output in model_outputs]
        return self.analyzer.compare(*embeddings, far)._asdict()


PIPELINE_REGISTRY.register_pipeline(
    "face-embedding", pipeline_class=FaceEmbeddingPipeline, pt_model=AutoModel, type="image"
)
PIPELINE_REGISTRY.register_pipeline(
    "face-verification", pipeline_class=FaceVerificationPipeline, pt_model=AutoModel, type="image"
)

__all__ = ["FaceEmbeddingPipeline", "FaceVerificationPipeline"]
