"""One small, complete checkpoint per family, as training would leave it; and how a loaded one is compared."""

import hashlib
import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel

import hfembed
from hfembed import (
    AppearanceAutoencoderConfig,
    AppearanceAutoencoderModel,
    ConvAutoencoderConfig,
    ConvAutoencoderImageProcessor,
    ConvAutoencoderModel,
    FaceDetectorConfig,
    FaceDetectorImageProcessor,
    FaceDetectorModel,
    FaceEmbedderConfig,
    FaceEmbedderForClassification,
    FaceImageProcessor,
    FaceSwapConfig,
    FaceSwapModel,
    IdentitySwapConfig,
    IdentitySwapModel,
    RestorationAutoencoderConfig,
    RestorationAutoencoderModel,
    RetinaFaceConfig,
    RetinaFaceImageProcessor,
    RetinaFaceModel,
    Word2VecConfig,
    Word2VecForPreTraining,
    YuNetConfig,
    YuNetImageProcessor,
    YuNetModel,
)
from hfembed.checkpoint.card import write_card
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

SIZE = (24, 16)


def face_embedder(folder: Path) -> None:
    config = FaceEmbedderConfig(
        trunk="iresnet",
        trunk_arguments={"depths": [1, 1], "widths": [8, 16]},
        image_size=list(SIZE),
        num_channels=3,
        embedding_size=12,
        num_labels=5,
        thresholds={"data": "drawn", "impostors": 99, "accuracy": 0.3, "eer": 0.25, "far": {"0.1": 0.2}},
    )
    FaceEmbedderForClassification(config).eval().save_pretrained(folder)
    FaceImageProcessor(size=list(SIZE), image_mean=0.4, image_std=0.3).save_pretrained(folder)


def face_detector(folder: Path) -> None:
    config = FaceDetectorConfig(min_face_size=14, score_thresholds=[0.5, 0.5, 0.5])
    model = FaceDetectorModel(config).eval()
    # a random box shift is many window sides long, and no window is left in its photo
    with torch.no_grad():
        for head in (model.proposal.box, model.refinement.box, model.landmark.box, model.landmark.landmarks):
            head.weight.mul_(0.01), head.bias.mul_(0.01)
    model.save_pretrained(folder)
    FaceDetectorImageProcessor().save_pretrained(folder)


def yunet(folder: Path) -> None:
    config = YuNetConfig(widths=[4, 8, 8, 8, 8, 8], score_threshold=0.5)
    YuNetModel(config).eval().save_pretrained(folder)
    YuNetImageProcessor().save_pretrained(folder)


def retinaface(folder: Path) -> None:
    config = RetinaFaceConfig(base_width=2, feature_width=8, score_threshold=0.5)
    RetinaFaceModel(config).eval().save_pretrained(folder)
    RetinaFaceImageProcessor().save_pretrained(folder)


def conv_autoencoder(folder: Path) -> None:
    config = ConvAutoencoderConfig(image_size=list(SIZE), widths=[8, 12], latent_channels=3, variational=True)
    ConvAutoencoderModel(config).eval().save_pretrained(folder)
    ConvAutoencoderImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(folder)


def appearance_autoencoder(folder: Path) -> None:
    config = AppearanceAutoencoderConfig(image_size=list(SIZE), widths=[8, 12], latent_channels=9, warp_latents=4)
    AppearanceAutoencoderModel(config).eval().save_pretrained(folder)
    ConvAutoencoderImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(folder)


def restoration_autoencoder(folder: Path) -> None:
    fields = {"inpainting": True, "fill": "smooth"}
    config = RestorationAutoencoderConfig(image_size=list(SIZE), widths=[8, 12], latent_channels=3, **fields)
    model = RestorationAutoencoderModel(config).eval()
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.05)
    model.save_pretrained(folder)
    ConvAutoencoderImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(folder)


def face_swap(folder: Path) -> None:
    widths = {"encoder_widths": [4, 8], "decoder_widths": [8, 4]}
    config = FaceSwapConfig(people=["anna", "bert"], image_size=16, latent_size=6, predict_mask=True, **widths)
    FaceSwapModel(config).eval().save_pretrained(folder)
    FaceImageProcessor(size=[16, 16], image_mean=0.0, image_std=1.0).save_pretrained(folder)


def identity_swap(folder: Path) -> None:
    sizes = {"image_size": 16, "identity_size": 6, "patch_size": 4, "widths": [8]}
    model = IdentitySwapModel(IdentitySwapConfig(people=["anna", "bert"], identity_models=["0" * 64], **sizes)).eval()
    model.set_people(["anna", "bert"], torch.randn(2, 6), torch.randint(0, 256, (2, 8, 3, 16, 16), dtype=torch.uint8))
    model.save_pretrained(folder)
    FaceImageProcessor(size=[16, 16], image_mean=0.0, image_std=1.0).save_pretrained(folder)


def word2vec(folder: Path) -> None:
    words = ["the", "king", "queen", "man", "woman", "приве́т", "naïve", "猫", "new_york"]
    model = Word2VecForPreTraining(Word2VecConfig(vocab_size=9, embedding_size=6, window=3)).eval()
    torch.nn.init.normal_(model.context_embeddings.weight)
    model.set_vocabulary(Vocabulary(words, np.arange(90, 0, -10)))
    model.save_pretrained(folder)


@dataclass(frozen=True)
class Family:
    """How to make a checkpoint, and every way to load it: classes of transformers and of hfembed."""

    write: Callable[[Path], None]
    models: tuple[str, ...]
    others: tuple[str, ...]


FAMILIES = {
    "hfembed_face_embedder": Family(
        face_embedder,
        ("AutoModel", "AutoModelForImageClassification", "FaceEmbedderModel", "FaceEmbedderForClassification"),
        ("AutoConfig", "AutoImageProcessor", "FaceEmbedderConfig", "FaceImageProcessor"),
    ),
    "hfembed_face_detector": Family(
        face_detector,
        ("AutoModel", "FaceDetectorModel"),
        ("AutoConfig", "AutoImageProcessor", "FaceDetectorConfig", "FaceDetectorImageProcessor"),
    ),
    "hfembed_yunet": Family(
        yunet,
        ("AutoModel", "YuNetModel"),
        ("AutoConfig", "AutoImageProcessor", "YuNetConfig", "YuNetImageProcessor"),
    ),
    "hfembed_retinaface": Family(
        retinaface,
        ("AutoModel", "RetinaFaceModel"),
        ("AutoConfig", "AutoImageProcessor", "RetinaFaceConfig", "RetinaFaceImageProcessor"),
    ),
    "hfembed_conv_autoencoder": Family(
        conv_autoencoder,
        ("AutoModel", "ConvAutoencoderModel"),
        ("AutoConfig", "AutoImageProcessor", "ConvAutoencoderConfig", "ConvAutoencoderImageProcessor"),
    ),
    "hfembed_appearance_autoencoder": Family(
        appearance_autoencoder,
        ("AutoModel", "AppearanceAutoencoderModel"),
        ("AutoConfig", "AutoImageProcessor", "AppearanceAutoencoderConfig"),
    ),
    "hfembed_restoration_autoencoder": Family(
        restoration_autoencoder,
        ("AutoModel", "RestorationAutoencoderModel"),
        ("AutoConfig", "AutoImageProcessor", "RestorationAutoencoderConfig"),
    ),
    "hfembed_face_swap": Family(
        face_swap,
        ("AutoModel", "FaceSwapModel"),
        ("AutoConfig", "AutoImageProcessor", "FaceSwapConfig"),
    ),
    "hfembed_identity_swap": Family(
        identity_swap,
        ("AutoModel", "IdentitySwapModel"),
        ("AutoConfig", "AutoImageProcessor", "IdentitySwapConfig"),
    ),
    "hfembed_word2vec": Family(
        word2vec,
        ("AutoModel", "AutoModelForPreTraining", "Word2VecModel", "Word2VecForPreTraining"),
        ("AutoConfig", "AutoTokenizer", "Word2VecConfig"),
    ),
}


SWAP_MODELS = ("hfembed_face_swap", "hfembed_identity_swap")


def write_checkpoint(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Model, processor or words, notes and card."""
    torch.manual_seed(seed)
    FAMILIES[model_type].write(folder)
    (folder / "training.json").write_text(json.dumps({"name": "tiny", "data": f"Generated with seed {seed}."}))
    write_card(folder)
    return folder


def fingerprint(source: str, loader: str, **options) -> dict[str, str]:
    """What `loader.from_pretrained(source, **options)` gives, in a form that can be compared to the bit."""
    loader_class = getattr(hfembed, loader) if loader in hfembed.__all__ else getattr(transformers, loader)
    loaded = loader_class.from_pretrained(source, **options)
    if not isinstance(loaded, PreTrainedModel):
        return {"class": type(loaded).__name__, "settings": _settings(loaded), "works": _used(loaded)}
    torch.manual_seed(0)
    for tensor in (*loaded.parameters(), *loaded.buffers()):
        # a file's tensors lie at odd addresses, where convolutions take another path: the last bit would differ
        tensor.data = tensor.data.clone()
    with torch.no_grad():
        # word vectors' pre-training takes pairs to learn from; what people use is inside
        network = loaded.base_model if loaded.config.model_type == "hfembed_word2vec" else loaded
        outputs = network(**_inputs(loaded))
    tensors = {name: value for name, value in outputs.items() if torch.is_tensor(value)}
    config = _settings(loaded.config)
    return {
        "class": type(loaded).__name__,
        "weights": _digest(loaded.state_dict()),
        "outputs": _digest(tensors),
        "settings": config,
    }


def _inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    config = model.config
    if config.model_type == "hfembed_word2vec":
        return {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 9]])}
    if config.model_type in ("hfembed_face_detector", "hfembed_retinaface", "hfembed_yunet"):
        return {"pixel_values": torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8)}
    size = config.image_size if isinstance(config.image_size, list) else [config.image_size] * 2
    inputs = {"pixel_values": torch.rand(2, config.num_channels, *size)}
    return inputs | ({"labels": torch.tensor([0, 1])} if config.model_type in SWAP_MODELS else {})


def _digest(tensors: dict[Hashable, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(
            f"{name} {value.dtype} {tuple(value.shape)}".encode()
            + torch.as_tensor(value).contiguous().numpy().tobytes()
        )
    return digest.hexdigest()


def _settings(loaded) -> str:
    if isinstance(loaded, transformers.PreTrainedTokenizerBase):
        return json.dumps(loaded.get_vocab(), sort_keys=True)
    settings = {name: value for name, value in loaded.to_dict().items() if name != "_name_or_path"}
    return json.dumps(settings, sort_keys=True, default=str)


def _used(loaded) -> str:
    """What a tokenizer or a processor makes of something."""
    if isinstance(loaded, transformers.PreTrainedTokenizerBase):
        return json.dumps(loaded("the king zebra 猫")["input_ids"])
    if isinstance(loaded, transformers.BaseImageProcessor):
        photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
        return _digest(dict(enumerate(loaded([photo])["pixel_values"])))
    return ""
