"""`from_pretrained(..., device=)`, the same for every model family."""

from typing import Any

import torch


class DeviceLoading:
    """Put before `PreTrainedModel` among the bases, it gives `from_pretrained` a `device`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, device: Any = None, **kwargs: Any):
        """Load a model.

        Args:
            pretrained_model_name_or_path: A folder or "owner/name".
            device: A torch device, or "auto" for the accelerator where there is one; None leaves it to transformers.
            **kwargs: Those of `transformers.PreTrainedModel.from_pretrained`.
        """
        base: Any = super()
        loaded = base.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if device is not None:
            if device == "auto":
                device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info
            model.to(device)
        return loaded
