"""A recipe for a face embedder: its settings, and the parts they stand for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoImageProcessor

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.errors import InputError, counted, first_line
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.lazy_faces import LazyFaces
from hfembed.faces.data.lfw import lfw_people_in_folds, read_pairs
from hfembed.faces.data.synthetic_faces import make_synthetic_faces, make_synthetic_pairs
from hfembed.faces.evaluation.lfw import LfwVerification, verify_pair_sets
from hfembed.models.face_embedder.configuration_face_embedder import MAX_NAMED_PEOPLE, FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.margin_softmax import MARGIN_HEADS
from hfembed.models.face_embedder.metric_losses import METRIC_LOSSES
from hfembed.models.face_embedder.modeling_face_embedder import (
    FaceEmbedderForClassification,
    FaceEmbedderForTripletLearning,
    FaceEmbedderModel,
    FaceEmbedderPreTrainedModel,
)
from hfembed.training.config import TrainingConfig, build_config, setting

KEPT_CROPS = 100_000  # at 112 x 112 they take 3.8 GB of disk


@strict
@dataclass(kw_only=True)
class FaceTrainingConfig(TrainingConfig):
    """A recipe for a face embedder: the loop's settings, and the data, crop, network and loss."""

    train_images: list[str] = setting(
        ["synthetic"],
        "folders with a directory per person, archives, RecordIO, Parquet, webdataset, Hub ids; or synthetic. "
        "Default: data_dir itself, if given",
        False,
    )
    train_landmarks: str = setting("", "JSON file: image -> five points; empty: none")
    aligned: str = setting("", "arcface_112: the training images are crops on the standard 112x112 template already")
    min_photos: int = setting(2, "leave out people with fewer photos")
    exclude_files: str = setting("", "JSON list of training files to leave out")
    exclude_identities: str = setting("", "JSON list of people who may be in LFW, with a cosine")
    max_overlap: float = setting(0.55, "leave out those of exclude_identities above this cosine")
    lfw_images: str = setting("", "LFW archive or folder: also train on its people outside the tested folds")
    lfw_pairs: str = setting("", "View 2 pairs that say which people are in which fold")
    lfw_tested_folds: list[int] = setting([], "folds that will be tested, 0 to 9: none of their people is trained on")
    lfw_max_photos: int = setting(0, "take at most this many photos of each of them; 0 = all")
    lfw_landmarks: str = setting("", "JSON file: LFW image -> five points")
    synthetic_people: int = setting(150, "people when train_images is synthetic")
    synthetic_photos: int = setting(16, "photos of each")

    held_out_share: float = setting(
        0.0, "hold out this fraction of each person's photos, to measure identification on"
    )
    train_photos: int = setting(0, "train on this many photos of each person, chosen by the seed; hold out the others")

    validation_images: str = setting("", "LFW archive or folder for View 1; empty: no validation, or synthetic faces")
    validation_pairs: str = setting("", "pairsDevTest.txt")
    validation_threshold_pairs: str = setting("", "pairsDevTrain.txt: chooses the threshold")
    validation_landmarks: str = setting("", "JSON file: validation image -> five points")
    validation_sets: list[str] = setting(
        [],
        "pair sets to measure at each evaluation, as `hfembed evaluate pairs --set`: .bin files, a folder of them, "
        "Parquet, a Hub id. Without other validation data the first one chooses the best model",
    )

    streaming: bool = setting(
        False, "read RecordIO, webdataset tars, Parquet or the Hub in order, without looking up or keeping photos"
    )
    shuffle_buffer: int = setting(10_000, "streaming: photos read ahead per worker process, to draw from")
    num_people: int = setting(0, "streaming: how many people there are, where the shards do not say it")
    steps_per_epoch: int = setting(  # the identity of a run has what it comes to
        0, "streaming from the Hub or Python, where photos are not counted; 0 = max_steps", False
    )
    crop_cache: str = setting(
        "auto",
        "keep aligned crops on disk (yes), or decode and align in each epoch (no); auto: keep up to "
        f"{KEPT_CROPS:,} photos",
        False,
    )
    image_size: list[int] = setting([112, 112], "height and width of the network's input")
    color: str = setting("rgb", "rgb, bgr or gray (one channel)")
    face_zoom: float = setting(1.0, "magnify the face against the standard template; above 1 = tighter crop")
    image_mean: float = setting(0.5, "subtracted from pixels in [0, 1]")
    image_std: float = setting(0.5, "divided by after that")
    frame_margin: int = setting(0, "pixels kept around the training crops, for augmentation to move within")
    augmentation: dict[str, Any] = setting({}, "fields of FaceAugmentation; empty = none")

    init_from: str = setting("", "checkpoint folder or Hub id to start from; its network and crop replace those below")
    trunk: str = setting(
        "iresnet18",
        "network: iresnet18|34|50|100|152|200, iresnet, mobilefacenet, inception_resnet_v1, sface, dlib_resnet29, "
        "vit_t|s|b|l, vit, timm/NAME",
    )
    trunk_arguments: dict[str, Any] = setting({}, "more about the trunk; iresnet: depths, widths")
    trunk_pretrained: bool = setting(False, "start a timm trunk from timm's pretrained weights, from the Hub")
    embedding_size: int = setting(512, "dimensions of an embedding")
    pooling: str = setting("", "flatten, average or depthwise; empty = the trunk's own")
    dropout: float = setting(0.0, "before the embedding layer")
    bn_neck: bool = setting(True, "BatchNorm after the embedding layer")
    mirror: str = setting("sum", "test-time mirror: none, sum or concatenate")

    objective: str = setting("classification", "classification (DeepFace's way) or triplet (FaceNet's way)")
    head: str = setting("softmax", "classification: softmax, " + ", ".join(MARGIN_HEADS))
    scale: float = setting(64.0, "s of a margin head")
    margin: float | None = setting(None, "m of a margin head; null = the paper's")
    margins: list[float] = setting([1.0, 0.3, 0.2], "head combined: m1, m2, m3 of cos(m1 theta + m2) - m3")
    sub_centers: int = setting(3, "head subcenter_arcface: centers per person")
    margin_deviation: float = setting(0.05, "head elasticface: standard deviation of its margins around m")
    norm_range: list[float] = setting([10.0, 110.0], "head magface: norms between which the margin grows")
    margin_range: list[float] = setting([0.45, 0.8], "head magface: the margin at both ends of norm_range")
    norm_penalty: float = setting(35.0, "head magface: weight of the regularizer of norms")
    label_smoothing: float = setting(0.0, "classification: fraction of the target spread over all people")
    sharded_head: bool = setting(
        False, "split a margin head's people over the ranks; the final model is the embedder without a head"
    )
    sample_rate: float = setting(
        1.0, "below 1: a sharded head that compares a step's photos with their people and this fraction of the others"
    )
    metric_loss: str = setting("triplet", "objective triplet: " + " or ".join(METRIC_LOSSES))
    contrastive_margin: float = setting(1.0, "distance up to which the contrastive loss pushes people apart")
    triplet_margin: float = setting(0.2, "alpha, on squared distances of unit vectors")
    triplet_mining: str = setting("semi-hard", "semi-hard, hard, all or all-violating")
    photos_per_identity: int = setting(0, "photos of a person in a batch; 0 = samples at random")

    freeze_trunk: bool = setting(
        False,
        "train only the last layer, on a trunk in eval mode; without augmentation its features are computed once",
    )
    feature_noise: float = setting(
        0.0, "with features computed once: noise with this multiple of the covariance that a person's photos have"
    )
    unfreeze_last: int = setting(0, "with freeze_trunk: train this many of the trunk's last stages too")
    imprint: bool = setting(False, "start the classifier from the people's mean embeddings")

    def validate_face_choices(self) -> None:
        """Refuse combinations that cannot train."""
        if self.objective not in ("classification", "triplet"):
            raise ValueError(f"objective must be classification or triplet, not '{self.objective}'")
        if self.objective == "classification" and self.metric_loss != "triplet":
            raise ValueError(f"metric_loss {self.metric_loss} has no effect with objective classification")
        if self.objective == "triplet" and self.photos_per_identity < 2:
            raise ValueError("objective triplet needs photos_per_identity of at least 2")
        if self.photos_per_identity and self.batch_size % self.photos_per_identity:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by photos_per_identity {self.photos_per_identity}"
            )
        if self.trunk_pretrained and (self.init_from or not self.trunk.startswith("timm/")):
            raise ValueError("trunk_pretrained needs a trunk timm/NAME, without init_from")
        if self.imprint and self.objective != "classification":
            raise ValueError("imprint starts a classifier; it needs objective classification")
        if (self.imprint or self.freeze_trunk) and not self.init_from:
            raise ValueError("imprint and freeze_trunk build on a trained network; name it with init_from")
        if self.crop_cache not in ("auto", "yes", "no"):
            raise ValueError(f"crop_cache must be auto, yes or no, not '{self.crop_cache}'")
        if len(self.image_size) != 2 or min(self.image_size) < 8:
            raise ValueError(f"image_size must be [height, width] of at least 8 pixels, not {self.image_size}")
        if self.face_zoom <= 0:
            raise ValueError(f"face_zoom must be positive, not {self.face_zoom}")
        if self.frame_margin < 0 or self.min_photos < 1:
            raise ValueError("frame_margin must not be negative, min_photos at least 1")
        if self.feature_noise and not self.features_once:
            raise ValueError("feature_noise needs freeze_trunk without unfreeze_last and without augmentation")
        if self.held_out_share and self.train_photos:
            raise ValueError("choose held_out_share or train_photos, not both")
        if not 0 <= self.held_out_share < 1 or self.train_photos < 0:
            raise ValueError("held_out_share must be in [0, 1), train_photos not negative")
        if self.held_out and self.objective != "classification":
            raise ValueError("held-out photos are identified by a classifier; they need objective classification")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], not {self.sample_rate}")
        if self.has_sharded_head:
            self._check_sharded_head()
        if self.streaming:
            self._check_streaming()
        elif self.num_people or self.steps_per_epoch:
            raise ValueError("num_people and steps_per_epoch belong to streaming")
        if self.lfw_images and not (self.lfw_pairs and self.lfw_tested_folds):
            raise ValueError("lfw_images needs lfw_pairs and lfw_tested_folds: which people must not be trained on")

    def _check_sharded_head(self) -> None:
        """Refuse what a head that is split over the ranks cannot do."""
        if self.objective != "classification" or self.head == "softmax":
            raise ValueError(f"a sharded head is a margin head: one of {', '.join(MARGIN_HEADS)}, not {self.head}")
        refused = {
            "label_smoothing": self.label_smoothing > 0,
            "imprint": self.imprint,
            "held_out_share or train_photos": self.held_out,
            "freeze_trunk without unfreeze_last": self.freeze_trunk and not self.unfreeze_last,
            "mixed_precision fp16 (take bf16)": self.mixed_precision == "fp16",
        }
        for setting_name, is_set in refused.items():
            if is_set:
                raise ValueError(f"{setting_name} is not possible with a sharded head (sharded_head, sample_rate < 1)")

    def _check_streaming(self) -> None:
        """Refuse what needs to look up photos, or to see all of them before the first step."""
        if min(self.num_people, self.steps_per_epoch) < 0 or self.shuffle_buffer < 1:
            raise ValueError("num_people and steps_per_epoch must not be negative, shuffle_buffer at least 1")
        refused = {
            "held_out_share or train_photos": self.held_out,
            "imprint": self.imprint,
            "freeze_trunk with features computed once (give an augmentation, or unfreeze_last)": self.features_once,
            "train_landmarks (landmarks are read from the shards; aligned: arcface_112 says where they are)": bool(
                self.train_landmarks
            ),
            "exclude_files or exclude_identities (convert-dataset leaves photos out)": bool(
                self.exclude_files or self.exclude_identities
            ),
            "lfw_images": bool(self.lfw_images),
            "crop_cache yes": self.crop_cache == "yes",
        }
        for setting_name, is_set in refused.items():
            if is_set:
                raise ValueError(f"streaming is not possible with {setting_name}")

    def validate_parts(self) -> None:
        """Refuse what the network, the processor or the augmentation would refuse, before any data is loaded."""
        make_augmentation(self, (self.image_size[0], self.image_size[1]))
        if self.init_from:
            FaceEmbedderConfig(**_use_and_loss(self))
        else:
            with torch.device("meta"):  # its layers, without weights
                FaceEmbedderModel(make_model_config(self, num_labels=2))
            make_processor(self)

    @property
    def sources(self) -> list[str]:
        """Where the training photos come from."""
        return self.train_images if "train_images" in self.named or not self.data_dir else [self.data_dir]

    @property
    def held_out(self) -> bool:
        """Whether photos of the trained people are held out."""
        return bool(self.held_out_share or self.train_photos)

    @property
    def has_sharded_head(self) -> bool:
        """Whether the class weights are split over the ranks."""
        return self.sharded_head or self.sample_rate < 1

    @property
    def noise_seed(self) -> int | None:
        """Seed of the noise that the head draws its margins from; None where it draws none."""
        return self.seed if self.objective == "classification" and self.head == "elasticface" else None

    @property
    def features_once(self) -> bool:
        """Whether the trunk sees the same pixels every epoch and learns nothing: once is then enough."""
        return self.freeze_trunk and self.unfreeze_last == 0 and not self.augmentation


def make_processor(config: FaceTrainingConfig) -> FaceImageProcessor:
    """The image processor of this recipe: that of `init_from`, or one by the recipe's crop.

    Raises:
        InputError: `init_from` has no image processor.
    """
    if config.init_from:
        try:
            return AutoImageProcessor.from_pretrained(config.path(config.init_from))
        except (OSError, ValueError) as error:
            raise InputError(f"init_from {config.init_from} has no image processor: {first_line(error)}") from error
    height, width = config.image_size
    center = (np.array([width, height]) - 1) / 2
    template = (np.array(template_for_size(height, width)) - center) * config.face_zoom + center
    return FaceImageProcessor(
        size=list(config.image_size),
        template=template.tolist(),
        color=config.color,
        image_mean=config.image_mean,
        image_std=config.image_std,
    )


def make_augmentation(config: FaceTrainingConfig, size: tuple[int, int], off: bool = False) -> FaceAugmentation:
    """The augmentation of this recipe; it also cuts the network's input out of crops with a margin.

    Args:
        config: The recipe.
        size: Height and width of the network's input.
        off: Only cut, change nothing.

    Raises:
        InputError: A field is unknown or has an impossible value.
    """
    ranges = {} if off else {k: tuple(v) if isinstance(v, list) else v for k, v in config.augmentation.items()}
    return build_config(FaceAugmentation, {"seed": config.seed, "output_size": size, **ranges})


def make_model_config(config: FaceTrainingConfig, num_labels: int) -> FaceEmbedderConfig:
    """The config of a network that starts from random weights."""
    return FaceEmbedderConfig(  # type: ignore[call-arg]  # num_labels is a field of PreTrainedConfig
        trunk=config.trunk,
        trunk_arguments=config.trunk_arguments,
        image_size=config.image_size,
        num_channels=1 if config.color == "gray" else 3,
        embedding_size=config.embedding_size,
        pooling=config.pooling or None,  # type: ignore[arg-type]
        dropout=config.dropout,
        bn_neck=config.bn_neck,
        num_labels=num_labels,
        **_use_and_loss(config),
    )


def make_model(config: FaceTrainingConfig, people: list[str]) -> FaceEmbedderPreTrainedModel:
    """The model to train: random weights, or those of `init_from` under the recipe's objective and a new last layer.

    Args:
        config: The recipe.
        people: Names, in the order of the labels.

    Raises:
        InputError: There is one person to tell apart, `init_from` is not a face embedder, its trunk has fewer stages
            than `unfreeze_last`, or there are no pretrained weights.
    """
    if config.objective == "classification" and len(people) < 2:
        raise InputError(f"a classifier needs two people or more, the training data has {len(people)}: {people}")
    model_class: type[FaceEmbedderPreTrainedModel] = FaceEmbedderForTripletLearning
    if config.objective == "classification":
        model_class = FaceEmbedderModel if config.has_sharded_head else FaceEmbedderForClassification
    embedder = load_face_embedder(config.path(config.init_from), "cpu")[0] if config.init_from else None
    model_config = make_model_config(config, len(people)) if embedder is None else embedder.config
    is_named = len(people) <= MAX_NAMED_PEOPLE
    model_config.num_people = None if is_named else len(people)
    model_config.id2label = dict(enumerate(people)) if is_named else None
    model_config.label2id = {name: label for label, name in enumerate(people)} if is_named else None
    if embedder is None:
        model = model_class(model_config)
        if config.trunk_pretrained:
            from hfembed.models.face_embedder.timm_trunk import load_pretrained_trunk  # imports timm

            try:
                load_pretrained_trunk(model)
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"trunk_pretrained: {config.trunk}: {first_line(error)}") from error
        return model
    for name, value in _use_and_loss(config).items():
        setattr(model_config, name, value)
    model_config.thresholds = None  # they belong to the old embeddings
    model_config.validate()
    model = model_class(model_config)
    model.face_embedder.load_state_dict(embedder.state_dict())
    if config.freeze_trunk:
        try:
            model.freeze_trunk(config.unfreeze_last)
        except ValueError as error:
            raise InputError(f"unfreeze_last {config.unfreeze_last}: {error}") from error
    return model


def _use_and_loss(config: FaceTrainingConfig) -> dict[str, Any]:
    """What a recipe may say anew about a network that is trained already."""
    return {
        "mirror": config.mirror,
        "head": config.head,
        "scale": config.scale,
        "margin": config.margin,
        "margins": config.margins,
        "sub_centers": config.sub_centers,
        "margin_deviation": config.margin_deviation,
        "norm_range": config.norm_range,
        "margin_range": config.margin_range,
        "norm_penalty": config.norm_penalty,
        "label_smoothing": config.label_smoothing,
        "metric_loss": config.metric_loss,
        "contrastive_margin": config.contrastive_margin,
        "triplet_margin": config.triplet_margin,
        "triplet_mining": config.triplet_mining,
    }


def load_training_faces(config: FaceTrainingConfig) -> datasets.Dataset:
    """The photos to train on, in the schema `image`, `label`, `file`, `landmarks`.

    Raises:
        InputError: A source is missing or damaged, or nobody is left.
    """
    if config.sources == ["synthetic"]:
        return make_synthetic_faces(
            num_identities=config.synthetic_people, photos_per_identity=config.synthetic_photos, seed=config.seed
        )
    sources = [
        FaceSource(
            config.path(source),
            landmarks=config.path(config.train_landmarks) or None,
            aligned=config.aligned or None,
            min_photos=config.min_photos,
            exclude_files=config.path(config.exclude_files) or None,
            exclude_identities=config.path(config.exclude_identities) or None,
            max_overlap=config.max_overlap,
        )
        for source in config.sources
    ]
    if config.lfw_images:
        tested = lfw_people_in_folds(read_pairs(config.path(config.lfw_pairs)), config.lfw_tested_folds)
        lfw = FaceSource(
            config.path(config.lfw_images),
            landmarks=config.path(config.lfw_landmarks) or None,
            need_landmarks=bool(config.lfw_landmarks),
            min_photos=config.min_photos,
            max_photos=config.lfw_max_photos or None,
            exclude_people=tested,
        )
        sources.append(lfw)
    return load_faces(sources)


def load_validation(config: FaceTrainingConfig) -> LfwVerification | None:
    """What chooses the best model: View 1 if the recipe names it, or up to 60 other synthetic people.

    Raises:
        InputError: A file is missing or not such a file.
    """
    quiet = _settings_of_validation(config)
    if config.validation_images:
        return LfwVerification(
            config.path(config.validation_images),
            config.path(config.validation_pairs),
            config.path(config.validation_landmarks) or None,
            config.path(config.validation_threshold_pairs) or None,
            **quiet,
        )
    if config.sources == ["synthetic"]:
        people = min(60, max(20, config.synthetic_people // 20 * 10))  # as many in each of the 10 folds
        faces, pairs = make_synthetic_pairs(people, max(2, min(8, config.synthetic_photos)), seed=config.seed + 1)
        return LfwVerification(faces, pairs, name="synthetic", **quiet)
    return None


def load_validation_sets(config: FaceTrainingConfig) -> dict[str, tuple[str, LfwVerification]]:
    """The recipe's pair sets: name -> where it was read from, and its protocol.

    Raises:
        InputError: As `verify_pair_sets`.
    """
    return verify_pair_sets(
        [config.path(source) for source in config.validation_sets], **_settings_of_validation(config)
    )


def _settings_of_validation(config: FaceTrainingConfig) -> dict[str, Any]:
    return {"progress": False, "num_workers": config.num_workers, "batch_size": 128, "spread": True}


def photo_facts(photos: AlignedFaces | LazyFaces) -> dict[str, Any]:
    """Arguments of `Run.describe_data`: how many photos of how many people, and a fingerprint of them.

    The fingerprint is of names, labels and some of the crops, not of places: data may move while a run is stopped.
    """
    digest = hashlib.sha256()
    separator = "["
    for values in (photos.files, photos.identities, photos.labels, photos.shape):
        for text in _json_pieces(values):
            digest.update((separator + text).encode(errors="surrogateescape"))
            separator = ""
        separator = ", "
    digest.update(b"]")
    digest.update(photos.pixels(200).numpy().tobytes())
    count, people = len(photos), len(photos.identities)
    fingerprint = f"{count} photos of {people} people, sha256 {digest.hexdigest()[:16]}"
    return {"fingerprint": fingerprint, "photos": count, "people": people}


def _json_pieces(values: Sequence[Any] | np.ndarray, at_once: int = 65536) -> Iterator[str]:
    """`json.dumps` of a long list, in pieces."""
    yield "["
    for start in range(0, len(values), at_once):
        piece = values[start : start + at_once]
        text = json.dumps(piece.tolist() if isinstance(piece, np.ndarray) else list(piece))
        yield (", " if start else "") + text[1:-1]
    yield "]"


def describe_faces(config: FaceTrainingConfig, photos: AlignedFaces | LazyFaces) -> str:
    """What was trained on and what was left out, in a few sentences for the card."""
    sources = [Path(source).name for source in config.sources]
    if config.lfw_images:
        folds = ", ".join(str(fold + 1) for fold in config.lfw_tested_folds)
        sources.append(f"the people of {Path(config.lfw_images).name} who are not in folds {folds} of View 2")
    text = f"{len(photos):,} photos of {len(photos.identities):,} people from {' and '.join(sources)}."
    if config.min_photos > 1:
        text += f" People with fewer than {config.min_photos} photos are left out."
    if config.exclude_files:
        text += f" Left out: the photos listed in {Path(config.exclude_files).name} (wrong faces, label noise)."
    if config.exclude_identities:
        text += (
            f" Left out: the people in {Path(config.exclude_identities).name} with a cosine above "
            f"{config.max_overlap}, who may also be in LFW."
        )
    if photos.failures:
        text += f" {counted(len(photos.failures), 'photo')} could not be read."
    return text
