"""What training a face embedder adds to the loop: its settings, its losses, and the start from another checkpoint."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedModel

from hfembed.data.augmentation import FaceAugmentation
from hfembed.distributed import gather_labels, gather_with_gradient
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.modeling_face_embedder import (
    FaceEmbedderForClassification,
    FaceEmbedderForTripletLearning,
    FaceEmbedderModel,
)
from hfembed.training.config import TrainingConfig, build_config, setting


@strict
@dataclass(kw_only=True)
class FaceTrainingConfig(TrainingConfig):
    """A recipe for a face embedder: the loop's settings, and the data, crop, network and loss."""

    data_dir: str = setting("", "folder that the relative paths of data below start from; empty: where you are")
    train_images: list[str] = setting(["synthetic"], "folders with a directory per person, archives, Hub ids; or synthetic")
    train_landmarks: str = setting("", "JSON file: image -> five points; empty: none")
    aligned: str = setting("", "arcface_112: the training images are crops on the standard 112x112 template already")
    min_photos: int = setting(2, "leave out people with fewer photos")
    exclude_files: str = setting("", "JSON list of training files to leave out")
    exclude_identities: str = setting("", "JSON list of people who may be in LFW, with a cosine")
    max_overlap: float = setting(0.55, "leave out those of exclude_identities above this cosine")
    lfw_images: str = setting("", "LFW archive or folder: also train on its people outside the tested folds")
    lfw_pairs: str = setting("", "View 2 pairs that say which people are in which fold")
    lfw_tested_folds: list[int] = setting([], "folds that will be tested, 0 to 9: none of their people is trained on")
    lfw_landmarks: str = setting("", "JSON file: LFW image -> five points")
    synthetic_people: int = setting(150, "people drawn for training when train_images is synthetic")
    synthetic_photos: int = setting(16, "photos of each")

    validation_images: str = setting("", "LFW archive or folder for View 1; empty: no validation, or drawn faces")
    validation_pairs: str = setting("", "pairsDevTest.txt")
    validation_threshold_pairs: str = setting("", "pairsDevTrain.txt: chooses the threshold")
    validation_landmarks: str = setting("", "JSON file: validation image -> five points")

    image_size: list[int] = setting([112, 112], "height and width of the network's input")
    color: str = setting("rgb", "rgb, bgr or gray (one channel)")
    face_zoom: float = setting(1.0, "magnify the face against the standard template; above 1 = tighter crop")
    image_mean: float = setting(0.5, "subtracted from pixels in [0, 1]")
    image_std: float = setting(0.5, "divided by after that")
    frame_margin: int = setting(0, "pixels kept around the training crops, for augmentation to move within")
    augmentation: dict[str, Any] = setting({}, "fields of FaceAugmentation; empty = none")

    init_from: str = setting("", "checkpoint folder or Hub id to start from; its network and crop replace those below")
    trunk: str = setting("iresnet18", "network: iresnet18|34|50|100, iresnet, mobilefacenet, inception_resnet_v1, timm/NAME")
    trunk_arguments: dict[str, Any] = setting({}, "more about the trunk; iresnet: depths, widths")
    embedding_size: int = setting(512, "numbers in an embedding")
    pooling: str = setting("", "flatten, average or depthwise; empty = the trunk's own")
    dropout: float = setting(0.0, "before the embedding layer")
    mirror: str = setting("sum", "test-time mirror: none, sum or concatenate")

    objective: str = setting("classification", "classification (DeepFace's way) or triplet (FaceNet's way)")
    head: str = setting("softmax", "classification: softmax, cosface, arcface or adaface")
    scale: float = setting(64.0, "s of a margin head")
    margin: float = setting(0.0, "m of a margin head")
    label_smoothing: float = setting(0.0, "classification: share of the target spread over all people")
    metric_loss: str = setting("triplet", "triplet or contrastive")
    triplet_margin: float = setting(0.2, "alpha, on squared distances of unit vectors")
    triplet_mining: str = setting("semi-hard", "semi-hard, hard, all or all-violating")
    photos_per_identity: int = setting(0, "photos of a person in a batch; 0 = samples at random")

    freeze_trunk: bool = setting(False, "train only the last layer, on a trunk in eval mode")
    unfreeze_last: int = setting(0, "with freeze_trunk: train this many of the trunk's last stages too")
    imprint: bool = setting(False, "start the classifier from the people's mean embeddings")

    def validate_face_choices(self) -> None:
        """Refuse combinations that cannot train."""
        if self.objective not in ("classification", "triplet"):
            raise ValueError(f"objective must be classification or triplet, not '{self.objective}'")
        if self.objective == "triplet" and self.photos_per_identity < 2:
            raise ValueError("objective triplet needs photos_per_identity of at least 2")
        if self.photos_per_identity and self.batch_size % self.photos_per_identity:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by photos_per_identity {self.photos_per_identity}"
            )
        if self.imprint and self.objective != "classification":
            raise ValueError("imprint starts a classifier; it needs objective classification")
        if (self.imprint or self.freeze_trunk) and not self.init_from:
            raise ValueError("imprint and freeze_trunk build on a trained network; name it with init_from")
        if len(self.image_size) != 2 or min(self.image_size) < 8:
            raise ValueError(f"image_size must be [height, width] of at least 8 pixels, not {self.image_size}")
        if self.face_zoom <= 0:
            raise ValueError(f"face_zoom must be positive, not {self.face_zoom}")
        if self.frame_margin < 0 or self.min_photos < 1:
            raise ValueError("frame_margin must not be negative, min_photos at least 1")
        if self.lfw_images and not (self.lfw_pairs and self.lfw_tested_folds):
            raise ValueError("lfw_images needs lfw_pairs and lfw_tested_folds: which people must not be trained on")

    def validate_parts(self) -> None:
        """Refuse what the network, the processor or the augmentation would refuse, before any data is loaded."""
        make_augmentation(self)
        if not self.init_from:
            make_model_config(self, num_labels=2)
            make_processor(self)

    def path(self, name: str) -> str:
        """A data path of this config; relative ones start from `data_dir`, Hub ids and URLs stay as they are."""
        return resolve_path(self.data_dir, getattr(self, name))


def resolve_path(data_dir: str, source: str) -> str:
    """`source` below `data_dir` where it exists there; else as it is (absolute, a URL, a Hub id, or empty)."""
    below = Path(data_dir) / source
    return str(below) if source and below.exists() else source


def make_processor(config: FaceTrainingConfig) -> FaceImageProcessor:
    """The image processor of a network trained by this recipe."""
    height, width = config.image_size
    centre = (np.array([width, height]) - 1) / 2
    template = (np.array(template_for_size(height, width)) - centre) * config.face_zoom + centre
    return FaceImageProcessor(
        size=list(config.image_size),
        template=template.tolist(),
        color=config.color,
        image_mean=config.image_mean,
        image_std=config.image_std,
    )


def add_margin(processor: FaceImageProcessor, margin: int) -> FaceImageProcessor:
    """The same crop with `margin` more pixels on each side: room for augmentation to move in."""
    settings = processor.to_dict()
    settings["size"] = {name: side + 2 * margin for name, side in processor.size.items()}
    settings["template"] = (np.array(processor.template) + margin).tolist()
    return FaceImageProcessor(**settings)


def make_augmentation(config: FaceTrainingConfig) -> FaceAugmentation | None:
    """The augmentation of this recipe, cutting the network's input out of crops with a margin."""
    if not config.augmentation and not config.frame_margin:
        return None
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in config.augmentation.items()}
    # init_from's own input size is set by `for_size` once the checkpoint is read
    return build_config(FaceAugmentation, {"seed": config.seed, "output_size": tuple(config.image_size), **settings})


def make_model_config(config: FaceTrainingConfig, num_labels: int) -> FaceEmbedderConfig:
    """The network's config for a start from random weights."""
    return FaceEmbedderConfig(
        trunk=config.trunk,
        trunk_arguments=config.trunk_arguments,
        image_size=config.image_size,
        num_channels=1 if config.color == "gray" else 3,
        embedding_size=config.embedding_size,
        pooling=config.pooling or None,
        dropout=config.dropout,
        mirror=config.mirror,
        num_labels=num_labels,
        **_loss_settings(config),
    )


def _loss_settings(config: FaceTrainingConfig) -> dict[str, Any]:
    return {
        "head": config.head,
        "scale": config.scale,
        "margin": config.margin,
        "label_smoothing": config.label_smoothing,
        "metric_loss": config.metric_loss,
        "triplet_margin": config.triplet_margin,
        "triplet_mining": config.triplet_mining,
    }


def classification_loss(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """DeepFace's objective: which of the people is it? Each rank on its own samples."""
    output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
    accuracy = (output.logits.argmax(dim=1) == batch["labels"]).float().mean()
    return output.loss, {"accuracy": accuracy}


class MetricLoss:
    """FaceNet's objective, over the embeddings of all ranks: every sample can be another rank's negative.

    Says in one line when the embeddings collapse onto a point, where the triplet loss stays at its margin.
    """

    collapsed_below = 1e-3  # mean squared distance of unit vectors; spread evenly they have 2

    def __init__(self, model: FaceEmbedderForTripletLearning):
        self.metric_loss = model.metric_loss
        self.warned = False

    def __call__(
        self, model: torch.nn.Module, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the whole step's batch, the share of active triplets, and how far the embeddings spread."""
        embeddings = gather_with_gradient(model(pixel_values=batch["pixel_values"]).embeddings)
        loss, active_share = self.metric_loss(embeddings, gather_labels(batch["labels"]))
        # the mean squared distance of all pairs of unit vectors
        spread = 2 - 2 * embeddings.detach().float().mean(dim=0).square().sum()
        if not self.warned and spread < self.collapsed_below:
            self.warned = True
            print(
                f"the embeddings have collapsed onto one point (mean squared distance {spread:.1e}): start from a "
                "softmax-trained checkpoint (init_from), use semi-hard mining, or lower learning_rate",
                file=sys.stderr,
            )
        return loss, {"active_share": active_share, "spread": spread}


def start_model(config: FaceTrainingConfig, people: list[str]) -> PreTrainedModel:
    """The model to train: random weights, or those of `init_from` with the recipe's objective and a new last layer.

    Raises:
        InputError: `init_from` is no face embedder's checkpoint.
    """
    model_class = (
        FaceEmbedderForClassification if config.objective == "classification" else FaceEmbedderForTripletLearning
    )
    labels = {"id2label": dict(enumerate(people)), "label2id": {name: number for number, name in enumerate(people)}}
    if not config.init_from:
        model_config = make_model_config(config, num_labels=len(people))
        model_config.id2label, model_config.label2id = labels["id2label"], labels["label2id"]
        return model_class(model_config)
    # the embedder alone is read, so that an old last layer of another size is out of the way
    embedder = load_embedder(resolve_path(config.data_dir, config.init_from))
    model_config = embedder.config
    for name, value in {**_loss_settings(config), **labels, "mirror": config.mirror, "thresholds": None}.items():
        setattr(model_config, name, value)
    model = model_class(model_config)
    model.embedder.load_state_dict(embedder.state_dict())
    if config.freeze_trunk:
        model.freeze_trunk(unfreeze_last=config.unfreeze_last)
    return model


def load_embedder(source: str) -> FaceEmbedderModel:
    """Read a face embedder's checkpoint from a folder or the Hub, in float32.

    Raises:
        InputError: It is missing, damaged, or another kind of model.
    """
    try:
        config = FaceEmbedderConfig.from_pretrained(source)
        return FaceEmbedderModel.from_pretrained(source, config=config, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{source} is no face embedder that can be loaded: {str(error).splitlines()[0]}") from error
