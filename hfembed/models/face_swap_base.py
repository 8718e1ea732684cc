"""What all face swap models share: people by name, and the way from faces to the same faces as another person."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hfembed.models.device_loading import DeviceLoading
from hfembed.models.face_swap_config import SwapConfig


class FaceSwapBase(DeviceLoading, PreTrainedModel):
    """Base of the face swap models; a family implements `draw`.

    Attributes:
        corrects_photos: Whether a drawn face is the photo's plus a correction, so that the correction alone can be
            added to a larger photo, whose detail then stays.
    """

    config: SwapConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["hfembed", "face-swap"]
    accepts_loss_kwargs = False
    _no_split_modules = []

    corrects_photos = False

    def draw(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw each face as the person of its label.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1].
            labels: (batch_size,) integer, positions in `config.people`.

        Returns:
            Faces (batch_size, num_channels, height, width) in [0, 1], and masks (batch_size, 1, height, width) in
            [0, 1] or None.
        """
        raise NotImplementedError

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """Reject images of another size.

        Raises:
            ValueError: The images do not have the config's size.
        """
        size = self.config.image_size
        expected = (self.config.num_channels, size, size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}) for this model, got "
                f"{tuple(pixel_values.shape)}; use the model's image processor"
            )

    def label_of(self, person: str) -> int:
        """The number of a person.

        Raises:
            ValueError: The model knows nobody of this name; names those it knows.
        """
        if person not in self.config.people:
            known = ", ".join(self.config.people) or "nobody yet; add people with `hfembed add-person`"
            raise ValueError(f"unknown person '{person}'; this model has {known}")
        return self.config.people.index(person)

    @torch.no_grad()
    def swap(
        self, pixel_values: torch.Tensor, person: str | Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Swap faces to another person: eval mode, no gradient.

        Args:
            pixel_values: (batch_size, num_channels, height, width) in [0, 1], from the image processor.
            person: Whose face all of them get, or a name for each.

        Returns:
            (batch_size, num_channels, height, width) in [0, 1], and the masks (batch_size, 1, height, width) in [0, 1]
            or None.

        Raises:
            ValueError: The model knows nobody of this name, the images do not have the config's size, or the names
                are not one per image.
        """
        people = [person] * len(pixel_values) if isinstance(person, str) else list(person)
        if len(people) != len(pixel_values):
            raise ValueError(f"got {len(people)} people for {len(pixel_values)} images")
        labels = torch.tensor([self.label_of(name) for name in people], device=pixel_values.device)
        training = self.training
        self.eval()
        try:
            return self.draw(pixel_values, labels)
        finally:
            self.train(training)


__all__ = ["FaceSwapBase"]
