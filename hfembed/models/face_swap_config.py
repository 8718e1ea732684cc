"""What the configs of all face swap models have in common."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hfembed.models.config_fields import check_fields

_MAX_PEOPLE = 10_000


@strict
class SwapConfig(PreTrainedConfig):
    """Base of the face swap models' configs.

    Args:
        people (`list[str]`, *optional*, defaults to no one):
            Names of the people whose faces the model draws; what is theirs has the same order.
        image_size (`int`, *optional*, defaults to 64):
            Side of the square input and output in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels: 3, or 1 for gray.

    Raises:
        ValueError: A field that does not exist, named together with the nearest one that does. Fields of a
            config.json written by another version of transformers are let through, unless they look like a typo.
        StrictDataclassError: A value of the wrong type, or an impossible one.
    """

    people: list[str] | tuple[str, ...] = field(default_factory=list)
    image_size: int = 64
    num_channels: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        self.people = list(self.people)
        super().__post_init__(**kwargs)

    def validate_people(self) -> None:
        """Reject empty names, and two people of one name."""
        if not all(self.people) or len(self.people) > _MAX_PEOPLE:
            raise ValueError(f"people must be at most {_MAX_PEOPLE:,} names, got {self.people[:10]}")
        if len(set(self.people)) < len(self.people):
            duplicate = next(name for name in self.people if self.people.count(name) > 1)
            raise ValueError(f"people must have different names; duplicate name '{duplicate}'")

    def validate_channels(self) -> None:
        """Refuse images that are neither color nor gray."""
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 3 (color) or 1 (gray), got {self.num_channels}")


__all__ = ["SwapConfig"]
