"""Face embedder: a trunk, a vector of unit length; DeepFace's and FaceNet's ways of training it."""

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hfembed.models.device_loading import DeviceLoading

from .batch_norm_folding import fold_batch_norm
from .configuration_face_embedder import MAX_PARAMETERS, FaceEmbedderConfig
from .dlib_resnet29 import DlibResNet29
from .inception_resnet_v1 import InceptionResNetV1
from .iresnet import IRESNETS, IResNet
from .margin_softmax import MarginSoftmax
from .metric_losses import METRIC_LOSSES
from .mobilefacenet import MobileFaceNet
from .sface import SFace
from .vit import VITS, Vit

Embeddings = torch.Tensor | np.ndarray

# trunks that take no arguments
_PLAIN_TRUNKS: dict[str, type[nn.Module]] = {
    "inception_resnet_v1": InceptionResNetV1,
    "sface": SFace,
    "dlib_resnet29": DlibResNet29,
}


@dataclass
class FaceEmbedderOutput(ModelOutput):
    """Output of `FaceEmbedderModel`.

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, embedding_size)`): Unit length.
        norms (`torch.FloatTensor` of shape `(batch_size,)`): Length before normalization, a proxy for image quality.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, channels, h, w)`): The trunk's last map; from
            timm's transformers `(batch_size, tokens, channels)`, and as they lay it out.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, embedding_size)`): The embeddings, by the name that
            the image-feature-extraction pipeline looks for.
    """

    embeddings: torch.Tensor | None = None
    norms: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


@dataclass
class FaceClassificationOutput(ModelOutput):
    """Output of `FaceEmbedderForClassification`.

    Args:
        loss (`torch.FloatTensor`, *optional*): Mean cross entropy, with the margin, and MagFace's regularizer; present
            when labels are given.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`): Without margin.
        embeddings (`torch.FloatTensor` of shape `(batch_size, embedding_size)`): Unit length.
        norms (`torch.FloatTensor` of shape `(batch_size,)`): Length before normalization.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    norms: torch.Tensor | None = None


@dataclass
class FaceTripletOutput(ModelOutput):
    """Output of `FaceEmbedderForTripletLearning`.

    Args:
        loss (`torch.FloatTensor`, *optional*): Triplet or contrastive loss; present when labels are given.
        embeddings (`torch.FloatTensor` of shape `(batch_size, embedding_size)`): Unit length.
        norms (`torch.FloatTensor` of shape `(batch_size,)`): Length before normalization.
        active_share (`torch.FloatTensor`, *optional*): Fraction of the triplets (pairs) with a nonzero loss.
    """

    loss: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    norms: torch.Tensor | None = None
    active_share: torch.Tensor | None = None


class DepthwisePooling(nn.Module):
    """A learned weight for each position and channel, BatchNorm (MobileFaceNet's global depthwise convolution)."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (height, width), groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) -> (B, C)."""
        hidden = self.conv(hidden)
        hidden = self.norm(hidden)
        return hidden.flatten(1)


class AveragePooling(nn.Module):
    """Global average pooling."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) -> (B, C)."""
        return hidden.mean((2, 3))


class FaceEmbedderPreTrainedModel(DeviceLoading, PreTrainedModel):
    """What all face embedders share: loading, initialization, freezing, comparison of faces."""

    config: FaceEmbedderConfig
    base_model_prefix = "embedder"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["hfembed", "face-recognition"]
    accepts_loss_kwargs = False
    _no_split_modules = []
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            # by fan-in, for torch counts a depthwise convolution's fan-out as if it were a full one's
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, Vit):
            for weight in (module.positions, module.mask_token):
                if weight is not None:
                    init.trunc_normal_(weight, std=0.02)
            for layer in module.modules():  # already initialized as other linear layers are
                if isinstance(layer, nn.Linear):
                    init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(module, MarginSoftmax):
            init.normal_(module.weight, std=0.01)
            if module.kind == "adaface":
                init.constant_(module.norm_mean, MarginSoftmax.INITIAL_NORM_MEAN)
                init.constant_(module.norm_std, MarginSoftmax.INITIAL_NORM_STD)
            elif module.kind == "curricularface":
                init.zeros_(module.progress)
        else:
            super()._init_weights(module)

    def initialize_weights(self) -> None:
        """Initialize what no checkpoint filled, timm's computed buffers included."""
        super().initialize_weights()
        if self.config.trunk.startswith("timm/"):
            self.face_embedder.trunk.refill_buffers()

    @property
    def face_embedder(self) -> "FaceEmbedderModel":
        """The embedder inside, or this model itself."""
        return cast("FaceEmbedderModel", self.base_model)

    @classmethod
    def from_timm(cls, architecture: str, weights: str | None = None, **fields: Any) -> "FaceEmbedderPreTrainedModel":
        """Build a model on a timm network with timm's pretrained weights; the embedding head is new.

        Args:
            architecture: Name in timm, with a tag where one of several weights is meant: `"resnet18.a1_in1k"`.
            weights: File to take the weights from instead of the Hub (safetensors, or a state dict of torch).
            fields: Fields of `FaceEmbedderConfig`; `image_size` is [112, 112] unless given.

        Raises:
            ValueError: timm has no such architecture, or the config is wrong.
        """
        from .timm_trunk import load_pretrained_trunk

        model = cls(FaceEmbedderConfig(trunk=f"timm/{architecture}", **fields))
        load_pretrained_trunk(model, weights)
        return model

    def freeze_trunk(self, unfreeze_last: int = 0) -> None:
        """Train only what comes after the frozen part; the frozen part stays in eval mode, BatchNorm included.

        Args:
            unfreeze_last: 0 trains the classifier alone. n >= 1 trains also the embedding head (pooling, projection,
                BatchNorm) and the last n stages of the trunk; the stem counts as its first stage.

        Raises:
            ValueError: The trunk has fewer stages, or nothing would be left to train.
        """
        embedder = self.face_embedder
        stages = embedder.trunk.parameter_stages()
        if not 0 <= unfreeze_last <= len(stages):
            raise ValueError(f"trunk '{self.config.trunk}' has {len(stages)} stages, cannot unfreeze {unfreeze_last}")
        embedder.requires_grad_(False)
        if unfreeze_last > 0:
            for module in (embedder.pooling, embedder.projection, embedder.norm):
                if module is not None:
                    module.requires_grad_(True)
            for stage in stages[-unfreeze_last:]:
                for parameter in stage:
                    parameter.requires_grad_(True)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError("a frozen trunk leaves nothing to train here: unfreeze its last stages, or train a head")
        self.train(self.training)

    def train(self, mode: bool = True) -> "FaceEmbedderPreTrainedModel":
        """As usual, except that frozen parts (`requires_grad` off throughout) stay in eval mode."""
        super().train(mode)
        if mode:
            for module in self.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.eval()
        return self

    @torch.no_grad()
    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed faces for comparison: eval mode, no gradient, with the mirror image as the config says.

        Args:
            pixel_values: (B, C, H, W), from the image processor.

        Returns:
            (B, D), or (B, 2 D) where `config.mirror` is `"concatenate"`; unit length, float32.

        Raises:
            ValueError: The images do not have the config's size.
        """
        return self.embed_with_norms(pixel_values)[0]

    @torch.no_grad()
    def embed_with_norms(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed faces as `embed` does, and measure the length of each embedding before normalization.

        Args:
            pixel_values: (B, C, H, W), from the image processor.

        Returns:
            Embeddings as of `embed`, and norms (B,), a proxy for the quality of each image (not of its mirror image).

        Raises:
            ValueError: The images do not have the config's size, or an embedding is not finite or has length zero.
        """
        self.face_embedder.check_pixel_values(pixel_values)
        # on a CPU the feature maps of a few images stay in the cache: MobileFaceNet is twice as fast
        at_a_time = self.face_embedder.images_at_a_time
        parts = pixel_values.split(at_a_time) if pixel_values.device.type == "cpu" else [pixel_values]
        modes = {module: module.training for module in self.modules()}
        try:
            self.eval()
            embedded = [self._embed(part.contiguous(memory_format=torch.channels_last)) for part in parts]
        finally:
            for module, mode in modes.items():
                module.training = mode
        embeddings, norms = (torch.cat(column) for column in zip(*embedded, strict=True))
        if not torch.isfinite(norms).all() or not torch.isfinite(embeddings).all():
            raise ValueError(self._why_not_finite(pixel_values))
        if not norms.all():
            raise ValueError("an embedding has length zero, so it is like no face; the model's weights are damaged")
        return embeddings, norms

    def _why_not_finite(self, pixel_values: torch.Tensor) -> str:
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"the embeddings are not finite: the weights contain non-finite numbers, in '{name}'"
        if not torch.isfinite(pixel_values).all():
            return "the embeddings are not finite: pixel_values contain non-finite numbers"
        return f"the embeddings are not finite: numbers overflow in {self.dtype}; load the model with dtype=float32"

    def embed_with_mirror(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What `embed` computes for each part of a batch, in whatever mode the model is in; can be traced."""
        return self._embed(pixel_values)[0]

    def _embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.face_embedder(pixel_values)
        if self.config.mirror == "none":
            return outputs.embeddings, outputs.norms
        mirrored = self.base_model(pixel_values.flip(3))
        # before normalization, so that the better of the two views counts more
        views = [view.embeddings * view.norms.unsqueeze(1) for view in (outputs, mirrored)]
        embeddings = F.normalize(sum(views) if self.config.mirror == "sum" else torch.cat(views, 1))
        return embeddings, outputs.norms

    @torch.no_grad()
    def optimize_for_inference(self, dtype: torch.dtype | None = None) -> "FaceEmbedderPreTrainedModel":
        """A copy that embeds faster and can do nothing else: every BatchNorm that follows a layer is folded into it.

        MobileFaceNet's copy also takes more images through its later layers at a time than through its first.
        Embeddings are checked to differ by at most 1e-4 (float32) or 0.1 (half precision) in norm. Train and save the
        original.

        Args:
            dtype: Of the copy's weights; by default this model's. bfloat16 is faster on GPUs and on CPUs that compute
                in it (AVX512_BF16, AMX), and slower on others.

        Returns:
            The copy, in eval mode, its weights channels-last.

        Raises:
            ValueError: The trunk is of a kind whose outputs would change.
        """
        copied = copy.deepcopy(self).eval()
        fold_batch_norm(copied.base_model)
        copied = copied.to(dtype or self.dtype)
        pixels = torch.rand(2, self.config.num_channels, *self.config.image_size, device=self.device)
        difference = (copied.embed(pixels) - self.embed(pixels)).norm(dim=1)  # of unit vectors
        if difference.max() > (1e-4 if self.dtype == copied.dtype == torch.float32 else 0.1):
            raise ValueError(f"trunk '{self.config.trunk}' cannot be folded: its outputs would change")
        if self.config.trunk == "mobilefacenet" and self.device.type == "cpu":
            copied.face_embedder.trunk.run_in_parts()
            copied.face_embedder.images_at_a_time = 32
        return copied.to(memory_format=torch.channels_last)

    def similarity(self, embeddings_a: Embeddings, embeddings_b: Embeddings) -> torch.Tensor:
        """Cosine similarity of each of the embeddings with each of the others.

        Args:
            embeddings_a: (N, D), from `embed`, a tensor or an array.
            embeddings_b: (M, D), from `embed`.

        Returns:
            (N, M) in [-1, 1].

        Raises:
            ValueError: The shapes do not fit, or an embedding is not finite.
        """
        embeddings_a, embeddings_b = _checked_embeddings(embeddings_a, embeddings_b)
        cosines = F.normalize(embeddings_a.float()) @ F.normalize(embeddings_b.float()).T
        return cosines.clamp(-1, 1)

    def similarity_pairwise(self, embeddings_a: Embeddings, embeddings_b: Embeddings) -> torch.Tensor:
        """Cosine similarity row by row.

        Args:
            embeddings_a: (N, D), from `embed`.
            embeddings_b: (N, D), from `embed`.

        Returns:
            (N,) in [-1, 1].

        Raises:
            ValueError: The shapes differ or are not (N, D), or an embedding is not finite.
        """
        embeddings_a, embeddings_b = _checked_embeddings(embeddings_a, embeddings_b)
        if len(embeddings_a) != len(embeddings_b):
            raise ValueError(
                f"expected the same number of embeddings, got {len(embeddings_a)} and {len(embeddings_b)}"
            )
        return F.cosine_similarity(embeddings_a.float(), embeddings_b.float())

    def verify(self, embeddings_a: Embeddings, embeddings_b: Embeddings, far: float | None = None) -> torch.Tensor:
        """Decide for each row whether both faces are one person's, by a threshold stored in the config.

        Args:
            embeddings_a: (B, D), from `embed`.
            embeddings_b: (B, D), from `embed`.
            far: False accept rate to decide at; None takes the threshold of the highest accuracy.

        Returns:
            (B,) bool.

        Raises:
            ValueError: The config has no thresholds, or none for this rate.
        """
        return self.similarity_pairwise(embeddings_a, embeddings_b) >= self.threshold(far)

    def threshold(self, far: float | None = None) -> float:
        """Cosine threshold for `verify`.

        Args:
            far: False accept rate to decide at; None takes the threshold of the highest accuracy.

        Returns:
            The cosine, in [-1, 1].

        Raises:
            ValueError: The config has no thresholds, or none for this rate.
        """
        thresholds = self._thresholds()
        by_far = {float(rate): cosine for rate, cosine in thresholds.get("far", {}).items()}
        if far is None and "accuracy" not in thresholds:
            raise ValueError("this checkpoint has no threshold for the highest accuracy; give far=")
        if far is not None and float(far) not in by_far:
            known = ", ".join(str(rate) for rate in sorted(by_far)) or "none"
            raise ValueError(f"this checkpoint has no threshold for a false accept rate of {far}; it has: {known}")
        return thresholds["accuracy"] if far is None else by_far[float(far)]

    def probability(self, embeddings_a: Embeddings, embeddings_b: Embeddings, prior: float = 0.5) -> torch.Tensor:
        """Probability for each row that both faces are one person's, by the calibration stored in the config.

        Args:
            embeddings_a: (B, D), from `embed`.
            embeddings_b: (B, D), from `embed`.
            prior: How likely that was before looking, in (0, 1).

        Returns:
            (B,) in [0, 1].

        Raises:
            ValueError: The config has no calibration, or the prior is none.
        """
        if not 0 < prior < 1:
            raise ValueError(f"a prior lies between 0 and 1, got {prior}")
        calibration = self._thresholds().get("calibration")
        if calibration is None:
            raise ValueError(f"this checkpoint's thresholds have no calibration; {self._how_to_measure()}")
        log_odds = (
            calibration["slope"] * self.similarity_pairwise(embeddings_a, embeddings_b) + calibration["intercept"]
        )
        return torch.sigmoid(log_odds + math.log(prior / (1 - prior)))

    def _thresholds(self) -> dict[str, Any]:
        if self.config.thresholds is None:
            raise ValueError(f"this checkpoint has no thresholds; {self._how_to_measure()}, or set config.thresholds")
        return self.config.thresholds

    def _how_to_measure(self) -> str:
        name = self.config.name_or_path or "MODEL"
        return (
            f"measure it on photos of people it was not trained on: `hfembed evaluate identification {name} --images "
            "PEOPLE --output OUT --store-thresholds`, or on LFW (evaluate lfw)"
        )


class FaceEmbedderModel(FaceEmbedderPreTrainedModel):
    """Trunk, pooling, dropout, linear layer, BatchNorm ('BN neck', unless turned off), unit length.

    Attributes:
        images_at_a_time: Images that `embed` takes through the network at a time on a CPU: 4 of 112x112, more of
            smaller ones.
    """

    trunk: Any  # one of many classes, with the methods of `IResNet` or of `TimmTrunk`

    def __init__(self, config: FaceEmbedderConfig) -> None:
        super().__init__(config)
        self.trunk, self.pooling, features = _trunk_and_pooling(config)
        if features * config.embedding_size > MAX_PARAMETERS:
            raise ValueError(f"embedding_size {config.embedding_size} of {features:,} features is too large a layer")
        self.dropout = nn.Dropout(config.dropout)
        # no bias under BatchNorm, which takes every constant out again
        self.projection = nn.Linear(features, config.embedding_size, bias=not config.bn_neck)
        self.norm = nn.BatchNorm1d(config.embedding_size) if config.bn_neck else nn.Identity()
        self.images_at_a_time = max(1, round(4 * 112**2 / math.prod(config.image_size)))
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> FaceEmbedderOutput:
        """Embed a batch of faces.

        Args:
            pixel_values: (batch_size, num_channels, height, width), from the image processor.

        Returns:
            FaceEmbedderOutput; embeddings and norms in float32 whatever the weights are.

        Raises:
            ValueError: The images do not have the config's size.
        """
        self.check_pixel_values(pixel_values)
        last_hidden_state = self.trunk(pixel_values.to(self.dtype))
        features = self.trunk.pool(last_hidden_state) if self.pooling is None else self.pooling(last_hidden_state)
        features = self.dropout(features)
        features = self.projection(features)
        features = self.norm(features).float()
        norms = torch.linalg.vector_norm(features, dim=1)
        embeddings = F.normalize(features)
        return FaceEmbedderOutput(
            embeddings=embeddings, norms=norms, last_hidden_state=last_hidden_state, pooler_output=embeddings
        )

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """Refuse images of another shape than (batch, num_channels, height, width) of the config."""
        expected = (self.config.num_channels, *self.config.image_size)
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be normalized by the image processor, not {pixel_values.dtype}")
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}) for this model, got "
                f"{tuple(pixel_values.shape)}; use the model's image processor"
            )


class FaceEmbedderForClassification(FaceEmbedderPreTrainedModel):
    """Who of the known people is it? DeepFace's way to an embedding: the layer below the classifier.

    `"softmax"` is a linear layer with bias on the embedding before normalization; the other heads (`MARGIN_HEADS`)
    compare directions and ask for a margin.
    """

    def __init__(self, config: FaceEmbedderConfig) -> None:
        super().__init__(config)
        self.embedder = FaceEmbedderModel(config)
        self.classifier: Any = _classifier(config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        margin_noise: torch.Tensor | None = None,
    ) -> FaceClassificationOutput:
        """Classify a batch of faces.

        Args:
            pixel_values: (batch_size, num_channels, height, width), from the image processor.
            labels: (batch_size,) integer people.
            features: (batch_size, embedding_size), embeddings times norms computed before, instead of pixel_values:
                training a classifier on a frozen trunk then costs the trunk once, not once an epoch.
            margin_noise: (batch_size,) standard normal, from which the head `"elasticface"` makes its margins in
                training; by default it is drawn from torch's generator.

        Returns:
            FaceClassificationOutput; the loss carries the margin and label smoothing, the logits neither.

        Raises:
            ValueError: Both or neither of pixel_values and features are given.
        """
        if (pixel_values is None) == (features is None):
            raise ValueError("give either pixel_values or features")
        if features is None:
            outputs = self.embedder(pixel_values)
            embeddings, norms = outputs.embeddings, outputs.norms
        else:
            embeddings, norms = F.normalize(features), torch.linalg.vector_norm(features, dim=1)
        labels = None if labels is None else labels.long()
        if self.config.head == "softmax":
            features = embeddings * norms.unsqueeze(1)
            logits = training_logits = self.classifier(features.to(self.classifier.weight.dtype))
        else:
            cosines = self.classifier(embeddings)
            logits = self.classifier.scale * cosines
            training_logits = None
            if labels is not None:
                training_logits = self.classifier.margin_logits(cosines, norms, labels, margin_noise)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(training_logits.float(), labels, label_smoothing=self.config.label_smoothing)
            if self.config.head != "softmax":
                loss = loss + self.classifier.penalty(norms)
        return FaceClassificationOutput(loss=loss, logits=logits, embeddings=embeddings, norms=norms)

    @torch.no_grad()
    def imprint(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Start the class weights from the class means of embeddings (weight imprinting, Qi et al. 2018).

        A softmax head becomes the cosine to the class mean times `config.scale`, for features of average length. All
        sub-centers of a person start at the mean.

        Args:
            features: (N, D), embeddings times norms, without the mirror's half.
            labels: (N,) integer people; every person at least once.

        Raises:
            ValueError: The features have another size, or a person has none.
        """
        rows, size = self.classifier.weight.shape
        classes = self.config.num_labels or 0
        if features.ndim != 2 or features.shape[1] != size:
            raise ValueError(f"imprint needs features (N, {size}), got {tuple(features.shape)}")
        features = features.float()
        counts = torch.bincount(labels, minlength=classes)
        missing = (counts == 0).nonzero().flatten().tolist()
        if len(counts) > classes or missing:
            raise ValueError(f"imprint needs features of each of the {classes} people; none for {missing[:5]}")
        sums = torch.zeros(classes, size, device=features.device).index_add_(0, labels, F.normalize(features))
        weights = F.normalize(sums)
        if self.config.head == "softmax":
            weights = weights * (self.config.scale / torch.linalg.vector_norm(features, dim=1).mean())
            self.classifier.bias.zero_()
        self.classifier.weight.copy_(weights.repeat_interleave(rows // classes, dim=0))

    def replace_head(self, num_labels: int | None = None, id2label: dict[int, str] | None = None) -> None:
        """Put a new classifier for other people on the embedder, freshly initialized.

        Raises:
            ValueError: Not exactly one of the two is given.
        """
        if (num_labels is None) == (id2label is None):
            raise ValueError("replace_head takes either num_labels or id2label")
        self.config.id2label, self.config.label2id, self.config.num_people = id2label, None, None
        if id2label is None:
            self.config.num_labels = num_labels or 0
        else:
            self.config.label2id = {name: index for index, name in id2label.items()}
        weight = self.classifier.weight
        self.classifier = _classifier(self.config)
        self._init_weights(self.classifier)
        self.classifier.to(device=weight.device, dtype=weight.dtype)


class FaceEmbedderForTripletLearning(FaceEmbedderPreTrainedModel):
    """Same people near, others far: FaceNet's way, by triplets, or the contrastive loss."""

    def __init__(self, config: FaceEmbedderConfig) -> None:
        super().__init__(config)
        self.embedder = FaceEmbedderModel(config)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> FaceTripletOutput:
        """Embed a batch and compare its faces with each other.

        Args:
            pixel_values: (batch_size, num_channels, height, width), from the image processor.
            labels: (batch_size,) integer people; each should have several images in the batch.
        """
        outputs = self.embedder(pixel_values)
        loss = active_share = None
        if labels is not None:
            loss, active_share = self.metric_loss(outputs.embeddings, labels)
        return FaceTripletOutput(
            loss=loss, embeddings=outputs.embeddings, norms=outputs.norms, active_share=active_share
        )

    def metric_loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The config's loss on embeddings, which may come from all ranks.

        Args:
            embeddings: (B, D), unit length.
            labels: (B,) integer people.
        """
        config = self.config
        return METRIC_LOSSES[config.metric_loss](embeddings, labels, config)


def _trunk_and_pooling(config: FaceEmbedderConfig) -> tuple[nn.Module, nn.Module | None, int]:
    """The trunk, its pooling (None where it pools by itself), and the length of the pooled vector."""
    if config.trunk.startswith("timm/"):
        # only here: timm takes a second to import
        from .timm_trunk import TimmTrunk

        timm_trunk = TimmTrunk(
            config.trunk.removeprefix("timm/"), config.num_channels, config.image_size, config.trunk_arguments
        )
        return timm_trunk, None, timm_trunk.feature_size
    trunk: Any
    if config.trunk == "mobilefacenet":
        trunk = MobileFaceNet(config.num_channels, **config.trunk_arguments)
    elif config.trunk in _PLAIN_TRUNKS:
        trunk = _PLAIN_TRUNKS[config.trunk](config.num_channels)
    elif config.trunk == "iresnet":
        trunk = IResNet(config.num_channels, **config.trunk_arguments)
    elif config.trunk == "vit" or config.trunk in VITS:
        sizes = VITS.get(config.trunk, {})
        trunk = Vit(config.num_channels, config.image_size, **sizes, **config.trunk_arguments)
    else:
        trunk = IResNet(config.num_channels, **IRESNETS[config.trunk], **config.trunk_arguments)
    height, width = trunk.output_size(*config.image_size)
    if config.pooling == "flatten":
        return trunk, nn.Flatten(), trunk.out_channels * height * width
    if config.pooling == "average":
        return trunk, AveragePooling(), trunk.out_channels
    return trunk, DepthwisePooling(trunk.out_channels, height, width), trunk.out_channels


def _checked_embeddings(embeddings_a: Embeddings, embeddings_b: Embeddings) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings_a = torch.as_tensor(embeddings_a)
    embeddings_b = torch.as_tensor(embeddings_b, device=embeddings_a.device)
    if embeddings_a.ndim != 2 or embeddings_b.ndim != 2 or embeddings_a.shape[1] != embeddings_b.shape[1]:
        shapes = f"{tuple(embeddings_a.shape)} and {tuple(embeddings_b.shape)}"
        raise ValueError(f"expected embeddings (N, D) and (M, D), as embed() gives them; got {shapes}")
    if not torch.isfinite(embeddings_a).all() or not torch.isfinite(embeddings_b).all():
        raise ValueError("the embeddings contain non-finite numbers; cannot compute the similarity")
    return embeddings_a, embeddings_b


def _classifier(config: FaceEmbedderConfig) -> nn.Module:
    people = config.num_labels or 0
    if people < 2:
        raise ValueError("a classifier needs at least two people: with one, every face is classified right")
    if people * config.embedding_size > MAX_PARAMETERS:
        raise ValueError(f"embedding_size {config.embedding_size} times {people:,} people is too large a classifier")
    if config.head == "softmax":
        return nn.Linear(config.embedding_size, people)
    return make_margin_softmax(config, people)


def make_margin_softmax(config: FaceEmbedderConfig, people: int) -> MarginSoftmax:
    """The margin head that a config describes, for this many people; its class weights are not initialized."""
    return MarginSoftmax(
        config.embedding_size,
        people,
        config.head,
        config.scale,
        config.margin,
        margins=config.margins,
        sub_centers=config.sub_centers,
        norm_range=config.norm_range,
        margin_range=config.margin_range,
        norm_penalty=config.norm_penalty,
        margin_deviation=config.margin_deviation,
    )


__all__ = [
    "FaceClassificationOutput",
    "FaceEmbedderForClassification",
    "FaceEmbedderForTripletLearning",
    "FaceEmbedderModel",
    "FaceEmbedderOutput",
    "FaceEmbedderPreTrainedModel",
    "FaceTripletOutput",
]
