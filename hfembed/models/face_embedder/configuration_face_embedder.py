"""Configuration of the face embedders: network, training losses and thresholds."""

import math
import re
from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hfembed.models.config_fields import check_fields, check_sizes

from .margin_softmax import MARGIN_HEADS
from .metric_losses import METRIC_LOSSES

# trunk -> (what its trunk_arguments may hold, the poolings it allows; the first is the default)
_TRUNKS = {
    **{
        f"iresnet{layers}": ({"use_se", "stochastic_depth"}, ("flatten", "average", "depthwise"))
        for layers in (18, 34, 50, 100, 152, 200)
    },
    "iresnet": (
        {"depths", "widths", "use_se", "stochastic_depth", "stem_width", "stride_first", "bottleneck"},
        ("flatten", "average", "depthwise"),
    ),
    "mobilefacenet": ({"activation", "stem", "stem_activation"}, ("depthwise", "flatten", "average")),
    "inception_resnet_v1": (set(), ("average", "flatten", "depthwise")),
    "sface": (set(), ("flatten", "average", "depthwise")),
    "dlib_resnet29": (set(), ("average", "flatten", "depthwise")),
    **{name: ({"mask_ratio", "stochastic_depth"}, ("flatten",)) for name in ("vit_t", "vit_s", "vit_b", "vit_l")},
    "vit": ({"width", "depth", "num_heads", "patch_size", "mask_ratio", "stochastic_depth"}, ("flatten",)),
}
_TIMM_POOLINGS = ("average",)

# arguments of timm.create_model that shape a network, and only those: it also takes paths, URLs and weights to fetch
_TIMM_ARGUMENTS = {
    *("act_layer", "attn_drop_rate", "attn_layer", "avg_down", "base_width", "cardinality", "channels", "class_token"),
    *("depth", "depths", "dims", "drop_block_rate", "drop_path_rate", "drop_rate", "dynamic_img_pad"),
    *("dynamic_img_size", "embed_dim", "embed_dims", "embed_layer", "final_norm", "fc_norm", "global_pool"),
    *("head_hidden_size", "img_size", "init_values", "kernel_sizes", "layers", "ls_init_value", "mlp_layer"),
    *("mlp_ratio", "mlp_ratios", "no_embed_class", "norm_layer", "num_heads", "output_stride", "patch_drop_rate"),
    *("patch_size", "pos_drop_rate", "pos_embed", "pre_norm", "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens"),
    *("replace_stem_pool", "scale_attn_norm", "scale_mlp_norm", "stem_type", "stem_width", "use_ols", "weight_init"),
    *("window_size", "zero_init_last"),
}
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_.-]+)?")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_]{0,64}")

_MAX_SIDE = 4096
_MAX_WIDTH = 16_384
_MAX_BLOCKS = 500
_MAX_SUB_CENTERS = 64
_MAX_PEOPLE = 100_000_000
MAX_NAMED_PEOPLE = 10_000
MAX_PARAMETERS = 4_000_000_000


def check_trunk_arguments(trunk: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments that the trunk does not take, that are no architecture, or that no machine can hold.

    Raises:
        ValueError: Names the argument.
    """
    if trunk.startswith("timm/"):
        if not _TIMM_NAME.fullmatch(trunk.removeprefix("timm/")):
            raise ValueError(f"trunk {trunk!r} is not timm/<architecture>, e.g. timm/resnet18")
        known = _TIMM_ARGUMENTS
    elif trunk in _TRUNKS:
        known = _TRUNKS[trunk][0]
    else:
        raise ValueError(f"unknown trunk {trunk!r}; known: {', '.join(_TRUNKS)}, timm/<architecture>")
    for name, value in arguments.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ValueError(f"trunk_arguments: '{name}' is not allowed for trunk '{trunk}'; allowed: {listed}")
        _check_trunk_argument(name, value)
    depths, widths = arguments.get("depths", []), arguments.get("widths", [])
    if trunk == "iresnet" and isinstance(depths, list | tuple) and isinstance(widths, list | tuple):
        weights = sum(18 * depth * width**2 for depth, width in zip(depths, widths, strict=False))
        if weights > MAX_PARAMETERS:
            raise ValueError(f"trunk_arguments: depths {depths} and widths {widths} make {weights:,} weights")


def _check_trunk_argument(name: str, value: Any) -> None:
    """Refuse a value that is not a size, a rate, a switch, a plain name, or a list of those."""
    values = value if isinstance(value, list | tuple) else [value]
    values = [inner for item in values for inner in (item if isinstance(item, list | tuple) else [item])]
    for item in values:
        is_number = isinstance(item, int | float) and 0 <= item <= _MAX_WIDTH
        is_text = isinstance(item, str) and _PLAIN_TEXT.fullmatch(item)
        if item is not None and not is_number and not is_text:
            raise ValueError(
                f"trunk_arguments: '{name}' must be a number from 0 to {_MAX_WIDTH:,}, a plain name, or a list of "
                f"these, got {value!r}"
            )
        if name.endswith("_rate") and isinstance(item, int | float) and not 0 <= item < 1:  # of what timm drops
            raise ValueError(f"trunk_arguments: '{name}' must lie in [0, 1), got {value!r}")
    if len(values) > _MAX_BLOCKS or (
        name in ("depth", "depths", "layers") and sum(item for item in values if isinstance(item, int)) > _MAX_BLOCKS
    ):
        raise ValueError(f"trunk_arguments: '{name}' exceeds {_MAX_BLOCKS} blocks")


@strict
class FaceEmbedderConfig(PreTrainedConfig):
    r"""Configuration of `FaceEmbedderModel` and of its classification and triplet-learning heads.

    Args:
        trunk (`str`, *optional*, defaults to `"iresnet50"`):
            The network: `"iresnet18"`, `"iresnet34"`, `"iresnet50"`, `"iresnet100"`, `"iresnet152"`, `"iresnet200"`,
            `"iresnet"` (free depths and widths), `"mobilefacenet"`, `"inception_resnet_v1"`, `"sface"`,
            `"dlib_resnet29"`, `"vit_t"`, `"vit_s"`, `"vit_b"`, `"vit_l"`, `"vit"` (free sizes), or
            `"timm/<architecture>"`.
        trunk_arguments (`dict`, *optional*, defaults to `{}`):
            More about the trunk. iresnet: `use_se`, `stochastic_depth` (rate at the last block); only `"iresnet"`:
            `depths` and `widths` (one entry per stage), `stem_width`, `stride_first`, `bottleneck`. vit: `mask_ratio`
            (tokens left out in training), `stochastic_depth`; only `"vit"`: `width`, `depth`, `num_heads`,
            `patch_size`. mobilefacenet: `activation`
            and `stem_activation` (`"prelu"`, `"relu"`, `"relu6"`), `stem` (`"depthwise"`, `"separable"`). timm: those
            arguments of `timm.create_model` that shape the network, such as `img_size` and `patch_size`; never
            weights, paths or URLs.
        image_size (`list[int]`, *optional*, defaults to `[112, 112]`):
            Height and width of the input in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels of the input: 3, or 1 for gray.
        embedding_size (`int`, *optional*, defaults to 512):
            Length D of an embedding.
        pooling (`str`, *optional*):
            How the last feature map becomes a vector: `"flatten"`, `"average"`, or `"depthwise"` (a learned weight for
            each position, channel). `None` stands for the trunk's default and is replaced by it; a timm network
            has its own pooling, which goes by `"average"`.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout before the last linear layer.
        bn_neck (`bool`, *optional*, defaults to `True`):
            BatchNorm after the last linear layer.
        mirror (`str`, *optional*, defaults to `"none"`):
            Use of the image's mirror by `embed`: `"none"`, `"sum"` (of the two embeddings), or `"concatenate"` (twice
            as long an embedding).
        head (`str`, *optional*, defaults to `"softmax"`):
            Classification head: `"softmax"`, `"cosface"`, `"arcface"`, `"subcenter_arcface"`, `"elasticface"`,
            `"combined"`, `"magface"`, `"adaface"` or `"curricularface"`.
        scale (`float`, *optional*, defaults to 64.0):
            Factor s on the cosine logits of a margin head; also the sharpness that `imprint` gives a softmax head.
        margin (`float`, *optional*):
            Margin m of a margin head (CosFace: a difference of cosines, 0.35; ArcFace with and without
            sub-centers, ElasticFace and CurricularFace: radians, 0.5; AdaFace: 0.4). `None` stands for these, the
            papers' own.
        margins (`list[float]`, *optional*, defaults to `[1.0, 0.3, 0.2]`):
            Margins m1, m2, m3 of the head `"combined"`, cos(m1 theta + m2) - m3.
        sub_centers (`int`, *optional*, defaults to 3):
            Centers per person of the head `"subcenter_arcface"`.
        margin_deviation (`float`, *optional*, defaults to 0.05):
            Standard deviation in radians of the margins that the head `"elasticface"` draws around `margin`.
        norm_range (`list[float]`, *optional*, defaults to `[10.0, 110.0]`):
            Embedding norms between which the margin of the head `"magface"` grows.
        margin_range (`list[float]`, *optional*, defaults to `[0.45, 0.8]`):
            Margins in radians of the head `"magface"` at both ends of `norm_range`.
        norm_penalty (`float`, *optional*, defaults to 35.0):
            Weight of the regularizer of the head `"magface"` that makes embeddings long.
        num_people (`int`, *optional*):
            Number of people, where they are more than 10,000: it then stands for `id2label`, and the names are in
            people.txt beside config.json (`Checkpoint.people`).
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Fraction of the target probability that is spread over all people.
        metric_loss (`str`, *optional*, defaults to `"triplet"`):
            Loss of `FaceEmbedderForTripletLearning`: `"triplet"` or `"contrastive"`.
        triplet_margin (`float`, *optional*, defaults to 0.2):
            Margin alpha between squared distances of unit vectors.
        triplet_mining (`str`, *optional*, defaults to `"semi-hard"`):
            `"semi-hard"`, `"hard"`, `"all"` or `"all-violating"`.
        contrastive_margin (`float`, *optional*, defaults to 1.0):
            Distance up to which the contrastive loss pushes different people apart.
        thresholds (`dict`, *optional*):
            Cosine similarities above which two embeddings are taken for one person, and where they come from:
            `{"data": "LFW View 2", "impostors": 3000, "genuine": 3000, "accuracy": 0.31, "eer": 0.29, "far": {"0.01":
            0.27}, "calibration": {"slope": 24.5, "intercept": -7.6}}`. The calibration turns a cosine into the
            probability that both faces are one person's, `sigmoid(slope * cosine + intercept)`, when that is as
            likely as not beforehand. `"norm": {"mean": 9.1, "std": 1.2}` is what norms are like on those photos: a
            face of a much lower norm is a poor one.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.

    Example:
        ```python
        config = FaceEmbedderConfig(trunk="mobilefacenet", image_size=[112, 96], embedding_size=128)
        ```
    """

    model_type: ClassVar[str] = "hfembed_face_embedder"

    trunk: str = "iresnet50"
    trunk_arguments: dict[str, Any] = field(default_factory=dict)
    image_size: list[int] | tuple[int, ...] = field(default_factory=lambda: [112, 112])
    num_channels: int = 3
    embedding_size: int = 512
    pooling: Literal["flatten", "average", "depthwise"] | None = None
    dropout: float | int = 0.0
    bn_neck: bool = True
    mirror: Literal["none", "sum", "concatenate"] = "none"
    head: str = "softmax"
    scale: float | int = 64.0
    margin: float | int | None = None
    margins: list[float | int] | tuple[float | int, ...] = field(default_factory=lambda: [1.0, 0.3, 0.2])
    sub_centers: int = 3
    margin_deviation: float | int = 0.05
    norm_range: list[float | int] | tuple[float | int, ...] = field(default_factory=lambda: [10.0, 110.0])
    margin_range: list[float | int] | tuple[float | int, ...] = field(default_factory=lambda: [0.45, 0.8])
    norm_penalty: float | int = 35.0
    num_people: int | None = None
    label_smoothing: float | int = 0.0
    metric_loss: str = "triplet"
    triplet_margin: float | int = 0.2
    triplet_mining: Literal["semi-hard", "hard", "all", "all-violating"] = "semi-hard"
    contrastive_margin: float | int = 1.0
    thresholds: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        self.image_size = list(self.image_size)
        self.margins = list(self.margins)
        self.norm_range, self.margin_range = list(self.norm_range), list(self.margin_range)
        if self.pooling is None and (self.trunk in _TRUNKS or self.trunk.startswith("timm/")):
            self.pooling = self._allowed_poolings()[0]  # type: ignore[assignment]
        super().__post_init__(**kwargs)

    @property
    def num_labels(self) -> int | None:
        """Number of people; setting another one forgets their names."""
        return self.num_people if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if number == self.num_labels:
            return
        many = number > MAX_NAMED_PEOPLE
        self.num_people = number if many else None
        self.id2label = None if many else {label: f"LABEL_{label}" for label in range(number)}
        self.label2id = None if many else {name: label for label, name in (self.id2label or {}).items()}

    def _allowed_poolings(self) -> tuple[str, ...]:
        return _TIMM_POOLINGS if self.trunk.startswith("timm/") else _TRUNKS[self.trunk][1]

    def validate_trunk(self) -> None:
        """Refuse an unknown trunk, arguments it does not take, and a pooling it does not allow."""
        check_trunk_arguments(self.trunk, self.trunk_arguments)
        if self.pooling not in self._allowed_poolings():
            allowed = ", ".join(self._allowed_poolings())
            raise ValueError(f"trunk '{self.trunk}' has no pooling '{self.pooling}'; possible: {allowed}")

    def validate_shapes(self) -> None:
        """Refuse sizes that no network can have."""
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be [height, width] in pixels, got {self.image_size}")
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 3 (color) or 1 (gray), got {self.num_channels}")
        check_sizes(self, {"image_size": _MAX_SIDE, "embedding_size": _MAX_WIDTH, "num_people": _MAX_PEOPLE})

    def validate_losses(self) -> None:
        """Refuse heads and losses that do not exist."""
        for name, known in (("head", ["softmax", *MARGIN_HEADS]), ("metric_loss", list(METRIC_LOSSES))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")

    def validate_ranges(self) -> None:
        """Refuse rates, scales and margins outside their range."""
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("scale", "triplet_margin", "contrastive_margin"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.margin is not None and not 0 <= self.margin < 1.5:
            raise ValueError(f"margin must lie in [0, 1.5) (ArcFace: radians), got {self.margin}")
        is_triple = len(self.margins) == 3
        if not is_triple or not (0.5 <= self.margins[0] <= 2 and all(0 <= m < 1.5 for m in self.margins[1:])):
            raise ValueError(
                "margins must be [m1, m2, m3] with m1 in [0.5, 2], m2 (radians) and m3 in [0, 1.5), got "
                f"{self.margins}"
            )
        if len(self.norm_range) != 2 or not 0 < self.norm_range[0] < self.norm_range[1]:
            raise ValueError(f"norm_range must be [low, high] with 0 < low < high, got {self.norm_range}")
        if len(self.margin_range) != 2 or not 0 <= self.margin_range[0] <= self.margin_range[1] < 1.5:
            raise ValueError(f"margin_range must be [low, high] in [0, 1.5), in radians, got {self.margin_range}")
        for name in ("norm_penalty", "margin_deviation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        instead = {"combined": "margins", "magface": "margin_range"}.get(self.head)
        if instead and self.margin is not None:
            raise ValueError(f"margin {self.margin} has no effect with head {self.head}; set {instead}")
        check_sizes(self, {"sub_centers": _MAX_SUB_CENTERS})

    def validate_thresholds(self) -> None:
        """Refuse thresholds without their source, outside [-1, 1], or finer than the impostors carry."""
        if self.thresholds is None:
            return
        known = ("data", "impostors", "genuine", "accuracy", "eer", "far", "calibration", "norm", "weights")
        unknown = sorted(set(self.thresholds) - set(known))
        if unknown:
            raise ValueError(f"thresholds has an unknown key '{unknown[0]}'; known: {', '.join(known)}")
        data = self.thresholds.get("data")
        if not isinstance(data, str) or not data.isprintable() or len(data) > 1000:
            raise ValueError("thresholds must name the data they were set on in a line: {'data': 'LFW View 2', ...}")
        impostors = self.thresholds.get("impostors")
        if not isinstance(impostors, int) or impostors < 1:
            raise ValueError("thresholds must give the number of impostor pairs they were set on: {'impostors': 3000}")
        by_far = self.thresholds.get("far", {})
        cosines: dict[str, Any] = {
            str(name): self.thresholds[name] for name in ("accuracy", "eer") if name in self.thresholds
        }
        cosines.update({f"far {far}": cosine for far, cosine in by_far.items()})
        for name, cosine in cosines.items():
            if isinstance(cosine, bool) or not isinstance(cosine, (int, float)) or not -1 <= cosine <= 1:
                raise ValueError(f"the threshold for {name} must be a cosine in [-1, 1], got {cosine!r}")
        for far in by_far:
            if not 1 / impostors <= float(far) <= 1:
                raise ValueError(f"a false accept rate of {far} cannot be estimated from {impostors} impostor pairs")
        in_order = [by_far[far] for far in sorted(by_far, key=float)]
        if in_order != sorted(in_order, reverse=True):
            raise ValueError("a lower false accept rate needs a higher threshold; thresholds['far'] is out of order")
        if "calibration" in self.thresholds:
            self._validate_calibration(self.thresholds["calibration"])
        norm = self.thresholds.get("norm", {"mean": 1.0, "std": 1.0})
        is_pair = isinstance(norm, dict) and set(norm) == {"mean", "std"}
        if not is_pair or not all(isinstance(value, int | float) and 0 < value < 1e9 for value in norm.values()):
            raise ValueError(f"thresholds['norm'] must have a positive mean and std, got {norm!r}")

    def _validate_calibration(self, calibration: Any) -> None:
        if not isinstance(calibration, dict) or set(calibration) != {"slope", "intercept"}:
            raise ValueError(f"thresholds['calibration'] must have a slope and an intercept, got {calibration!r}")
        for name, value in calibration.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"the {name} of thresholds['calibration'] must be a number, got {value!r}")
        if calibration["slope"] <= 0:
            raise ValueError(f"a higher cosine must mean a higher probability; slope is {calibration['slope']}")


__all__ = ["MAX_NAMED_PEOPLE", "MAX_PARAMETERS", "FaceEmbedderConfig", "check_trunk_arguments"]
