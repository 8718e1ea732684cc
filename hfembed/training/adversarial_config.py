"""Settings of a run that may have a patch discriminator."""

from dataclasses import dataclass

from huggingface_hub.dataclasses import strict

from hfembed.training.config import TrainingConfig, setting
from hfembed.training.patch_discriminator import PatchDiscriminator


@strict
@dataclass(kw_only=True)
class AdversarialTrainingConfig(TrainingConfig):
    """A recipe whose generated images a discriminator may judge."""

    discriminator_weight: float = setting(
        0.0, "of a patch discriminator, times the weight that balances its gradient with the others'; 0 = none"
    )
    discriminator_start: int = setting(0, "steps before the discriminator is trained and listened to")
    discriminator_learning_rate: float = setting(2e-4, "at its peak; 0 = that of the model")
    discriminator_width: int = setting(64, "channels of its first layer, a multiple of 8")

    def validate_discriminator(self) -> None:
        """Refuse a discriminator that cannot be made or trained."""
        for name in ("discriminator_weight", "discriminator_learning_rate", "discriminator_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.discriminator_width < 8 or self.discriminator_width % 8:
            raise ValueError(f"discriminator_width must be a multiple of 8, not {self.discriminator_width}")
        if self.discriminator_weight and self.mixed_precision == "fp16":
            raise ValueError("a discriminator's gradients leave fp16's range: take mixed_precision bf16 or no")

    def make_discriminator(self, num_channels: int) -> PatchDiscriminator | None:
        """The discriminator of this recipe, None where it has none."""
        return PatchDiscriminator(num_channels, self.discriminator_width) if self.discriminator_weight else None
