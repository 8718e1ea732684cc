"""Any network of timm as a trunk."""

import difflib
from typing import Any

import torch
from torch import nn

# where this file travels as remote code, what is imported in a `try` is asked for only when a timm trunk is built
try:
    import timm
    from timm.models import group_parameters
except ImportError as error:
    raise ImportError("a trunk 'timm/...' needs timm: pip install timm") from error


class TimmTrunk(nn.Module):
    """A timm network without its classifier.

    Args:
        architecture: Name in timm, without pretrained weights.
        num_channels: Colour channels of the input.
        image_size: Height and width; handed to the networks that are built for one size (transformers).
        arguments: More for `timm.create_model`.

    Raises:
        ValueError: timm has no such architecture.
    """

    def __init__(
        self, architecture: str, num_channels: int, image_size: list[int], arguments: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            architecture, **timm_arguments(architecture, num_channels, image_size, arguments)
        )
        self.feature_size = self.backbone.head_hidden_size
        # transformers initialises what lacks this mark: timm's own initialisation is to stay. On the meta device
        # (from_pretrained) there is nothing to keep, and weights missing from the checkpoint must get values
        for tensor in (*self.backbone.parameters(), *self.backbone.buffers()):
            if not tensor.is_meta:
                tensor._is_hf_initialized = True

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


def timm_arguments(
    architecture: str, num_channels: int, image_size: list[int], arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The arguments of `timm.create_model` for this trunk.

    Args:
        architecture: Name in timm.
        num_channels: Colour channels of the input.
        image_size: Height and width in pixels.
        arguments: More for `timm.create_model`; these win.

    Raises:
        ValueError: timm has no such architecture.
    """
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture.split(".")[0], timm.list_models(), n=1, cutoff=0.0)
        raise ValueError(f"timm has no architecture '{architecture}'; did you mean '{nearest[0]}'?")
    created: dict[str, Any] = {"num_classes": 0, "in_chans": num_channels}
    if timm.get_pretrained_cfg(architecture).fixed_input_size:
        created["img_size"] = tuple(image_size)
    return created | (arguments or {})


def pretrained_state_dict(
    architecture: str,
    num_channels: int,
    image_size: list[int],
    arguments: dict[str, Any] | None = None,
    weights: str | None = None,
) -> dict[str, torch.Tensor]:
    """Timm's pretrained weights for this trunk, for `TimmTrunk.backbone`.

    Args:
        architecture: Name in timm, with a tag where one of several weights is meant.
        num_channels: Colour channels of the input.
        image_size: Height and width in pixels.
        arguments: More for `timm.create_model`.
        weights: File to take the weights from instead of the Hub (safetensors, or a state dict of torch).

    Raises:
        ValueError: timm has no such architecture.
    """
    created = timm_arguments(architecture, num_channels, image_size, arguments)
    source = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    return timm.create_model(architecture, pretrained=True, **source, **created).state_dict()
