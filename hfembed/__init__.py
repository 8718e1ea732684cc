"""Train, measure and share embeddings of faces, images and words the Hugging Face way."""

import importlib
import sys
from pathlib import Path

from hfembed.version import __version__ as __version__

# public name -> module, resolved on first use
_PUBLIC_NAMES = {
    "EmbeddingIndex": "hfembed.index.embedding_index",
    "AppearanceAutoencoderConfig": "hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder",
    "AppearanceAutoencoderModel": "hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder",
    "ConvAutoencoderConfig": "hfembed.models.conv_autoencoder.configuration_conv_autoencoder",
    "ConvAutoencoderModel": "hfembed.models.conv_autoencoder.modeling_conv_autoencoder",
    "ConvAutoencoderImageProcessor": "hfembed.models.conv_autoencoder.image_processing_conv_autoencoder",
    "FaceDetectorConfig": "hfembed.models.face_detector.configuration_face_detector",
    "FaceDetectorModel": "hfembed.models.face_detector.modeling_face_detector",
    "FaceDetectorImageProcessor": "hfembed.models.face_detector.image_processing_face_detector",
    "FaceAnalyzer": "hfembed.faces.face_analyzer",
    "FaceEmbedderConfig": "hfembed.models.face_embedder.configuration_face_embedder",
    "FaceEmbedderModel": "hfembed.models.face_embedder.modeling_face_embedder",
    "FaceEmbedderForClassification": "hfembed.models.face_embedder.modeling_face_embedder",
    "FaceEmbedderForTripletLearning": "hfembed.models.face_embedder.modeling_face_embedder",
    "FaceImageProcessor": "hfembed.models.face_embedder.image_processing_face_embedder",
    "FaceSwapConfig": "hfembed.models.face_swap.configuration_face_swap",
    "FaceSwapModel": "hfembed.models.face_swap.modeling_face_swap",
    "IdentitySwapConfig": "hfembed.models.identity_swap.configuration_identity_swap",
    "IdentitySwapModel": "hfembed.models.identity_swap.modeling_identity_swap",
    "RestorationAutoencoderConfig": "hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder",
    "RestorationAutoencoderModel": "hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder",
    "RetinaFaceConfig": "hfembed.models.retinaface.configuration_retinaface",
    "RetinaFaceModel": "hfembed.models.retinaface.modeling_retinaface",
    "RetinaFaceImageProcessor": "hfembed.models.retinaface.image_processing_retinaface",
    "Word2VecConfig": "hfembed.models.word2vec.configuration_word2vec",
    "Word2VecModel": "hfembed.models.word2vec.modeling_word2vec",
    "Word2VecForPreTraining": "hfembed.models.word2vec.modeling_word2vec",
    "YuNetConfig": "hfembed.models.yunet.configuration_yunet",
    "YuNetModel": "hfembed.models.yunet.modeling_yunet",
    "YuNetImageProcessor": "hfembed.models.yunet.image_processing_yunet",
}

__all__ = [*_PUBLIC_NAMES, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'hfembed' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command() -> bool:
    """Whether this process is the `hfembed` command, which registers the models when it loads one."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    return Path(program).stem == "hfembed" or (program == "-m" and "hfembed.cli" in sys.orig_argv)


# whoever imports hfembed may use its models through the Auto classes and pipelines of transformers;
# `hfembed --help` is to answer without importing torch
if not _is_command():
    from hfembed import auto as auto
    from hfembed.faces import pipelines as pipelines
