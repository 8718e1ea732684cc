"""The one table that ties a model_type to its classes in the Auto classes; importing it registers them."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoTokenizer,
)

from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.face_detector.configuration_face_detector import FaceDetectorConfig
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from hfembed.models.identity_swap.configuration_identity_swap import IdentitySwapConfig
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel
from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from hfembed.models.retinaface.configuration_retinaface import RetinaFaceConfig
from hfembed.models.retinaface.image_processing_retinaface import RetinaFaceImageProcessor
from hfembed.models.retinaface.modeling_retinaface import RetinaFaceModel
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.tokenization_word2vec import Word2VecTokenizer
from hfembed.models.yunet.configuration_yunet import YuNetConfig
from hfembed.models.yunet.image_processing_yunet import YuNetImageProcessor
from hfembed.models.yunet.modeling_yunet import YuNetModel

# config -> model, image processor
image_families: dict[Any, tuple[type, type]] = {
    FaceEmbedderConfig: (FaceEmbedderModel, FaceImageProcessor),
    FaceDetectorConfig: (FaceDetectorModel, FaceDetectorImageProcessor),
    RetinaFaceConfig: (RetinaFaceModel, RetinaFaceImageProcessor),
    YuNetConfig: (YuNetModel, YuNetImageProcessor),
    # one image processor for all autoencoders: it knows sizes and channels, and no network
    ConvAutoencoderConfig: (ConvAutoencoderModel, ConvAutoencoderImageProcessor),
    AppearanceAutoencoderConfig: (AppearanceAutoencoderModel, ConvAutoencoderImageProcessor),
    RestorationAutoencoderConfig: (RestorationAutoencoderModel, ConvAutoencoderImageProcessor),
    # the crop is the face embedder's: with five landmarks a face lies where the template says
    FaceSwapConfig: (FaceSwapModel, FaceImageProcessor),
    IdentitySwapConfig: (IdentitySwapModel, FaceImageProcessor),
}
for config_class, (model_class, processor_class) in image_families.items():
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    # one processor under both names: published numbers depend on the resampling
    AutoImageProcessor.register(
        config_class, image_processor_classes={"pil": processor_class, "torchvision": processor_class}
    )
AutoModelForImageClassification.register(FaceEmbedderConfig, FaceEmbedderForClassification)

AutoConfig.register("hfembed_word2vec", Word2VecConfig)
AutoModel.register(Word2VecConfig, Word2VecModel)
AutoModelForPreTraining.register(Word2VecConfig, Word2VecForPreTraining)
AutoTokenizer.register(Word2VecConfig, fast_tokenizer_class=Word2VecTokenizer)
