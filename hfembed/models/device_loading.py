"""`from_pretrained(..., device=)`, and files that others may read, the same for every model family."""

from pathlib import Path
from typing import Any

import torch

from hfembed.models.folder_replacing import share_files


class DeviceLoading:
    """Put before `PreTrainedModel` among the bases, `from_pretrained` has a `device`, and saved files are readable."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As `transformers.PreTrainedModel.save_pretrained`; whoever may read the config may read the weights."""
        base: Any = super()
        base.save_pretrained(save_directory, *args, **kwargs)
        share_files(Path(save_directory))

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
