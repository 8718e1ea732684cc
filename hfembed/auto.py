"""The one table that ties a model_type to its classes in the Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel

AutoConfig.register("hfembed_face_embedder", FaceEmbedderConfig)
AutoModel.register(FaceEmbedderConfig, FaceEmbedderModel)
AutoModelForImageClassification.register(FaceEmbedderConfig, FaceEmbedderForClassification)
# one processor under both names: published numbers depend on the resampling
AutoImageProcessor.register(
    FaceEmbedderConfig, image_processor_classes={"pil": FaceImageProcessor, "torchvision": FaceImageProcessor}
)
