"""The one table that ties a model_type to its classes in the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel

AutoConfig.register("hfembed_face_embedder", FaceEmbedderConfig)
AutoModel.register(FaceEmbedderConfig, FaceEmbedderModel)
AutoModelForImageClassification.register(FaceEmbedderConfig, FaceEmbedderForClassification)
