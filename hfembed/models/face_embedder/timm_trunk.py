"""Any network of timm as a trunk."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_face_embedder import MAX_PARAMETERS, check_trunk_arguments

# where this file travels as remote code, what is imported in a `try` is asked for only when a timm trunk is built
try:
    import timm
    from timm.models import group_parameters
except ImportError as error:
    raise ImportError("a trunk 'timm/...' needs timm: pip install timm") from error


class TimmTrunk(nn.Module):
    """A timm network without its classifier."""

    def __init__(
        self, architecture: str, num_channels: int, image_size: Sequence[int], arguments: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        arguments = arguments or {}
        created = _timm_arguments(architecture, num_channels, image_size, arguments)
        if arguments:
            # before anything is allocated
            with torch.device("meta"):
                weights = sum(weight.numel() for weight in timm.create_model(architecture, **created).parameters())
            if weights > MAX_PARAMETERS:
                raise ValueError(f"trunk_arguments {arguments} make '{architecture}' a network of {weights:,} weights")
        backbone: Any = timm.create_model(architecture, **created)
        self.backbone = backbone
        self.feature_size: int = backbone.head_hidden_size
        # transformers initializes what lacks this mark: timm's own initialization is to stay. On the meta device
        # (from_pretrained) there is nothing to keep, and weights missing from the checkpoint must get values
        for tensor in (*self.backbone.parameters(), *self.backbone.buffers()):
            if not tensor.is_meta:
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]

    def refill_buffers(self) -> None:
        """Compute the buffers that no checkpoint holds; from_pretrained leaves them without values."""
        for module in self.backbone.modules():
            # the hook that timm's modules with such buffers define, and only they
            refill = getattr(module, "init_non_persistent_buffers", None)
            if refill is not None:
                refill()

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output in timm's coarse groups: stem, stages (or blocks), head layers."""
        groups = group_parameters(self.backbone, self.backbone.group_matcher(coarse=True), return_values=True)
        return [groups[index] for index in sorted(groups)]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> timm's last feature map or tokens."""
        return self.backbone.forward_features(pixel_values)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """The network's own pooling and pre-classifier layers -> (B, feature_size)."""
        return self.backbone.forward_head(hidden, pre_logits=True)


def load_pretrained_trunk(model: PreTrainedModel, weights: str | None = None) -> None:
    """Give a face embedder's trunk timm's pretrained weights: for training, where a recipe or a person asks for it.

    Args:
        weights: File to take the weights from instead of the Hub (safetensors, or a state dict of torch).

    Raises:
        ValueError: The trunk is none of timm, or timm has no pretrained weights for it.
    """
    config = model.config
    if not config.trunk.startswith("timm/"):
        raise ValueError(f"trunk '{config.trunk}' has no pretrained weights; choose timm/<architecture>")
    architecture = config.trunk.removeprefix("timm/")
    created = _timm_arguments(architecture, config.num_channels, config.image_size, config.trunk_arguments or {})
    if weights is None and not timm.is_model_pretrained(architecture):
        raise ValueError(f"timm has no pretrained weights for '{architecture}'")
    source: dict[str, Any] = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    pretrained = timm.create_model(architecture, pretrained=True, **source, **created)
    embedder: Any = model.base_model
    embedder.trunk.backbone.load_state_dict(pretrained.state_dict())


def _timm_arguments(
    architecture: str, num_channels: int, image_size: Sequence[int], arguments: dict[str, Any]
) -> dict[str, Any]:
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture.split(".")[0], timm.list_models(), n=1, cutoff=0.0)
        raise ValueError(f"timm has no architecture '{architecture}'; did you mean '{nearest[0]}'?")
    # a config that was changed after it was made
    check_trunk_arguments(f"timm/{architecture}", arguments)
    created: dict[str, Any] = {"num_classes": 0, "in_chans": num_channels}
    pretrained_cfg = timm.get_pretrained_cfg(architecture)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        created["img_size"] = tuple(image_size)
    return created | arguments
