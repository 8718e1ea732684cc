"""Settings of a run that may have a discriminator."""

from dataclasses import dataclass

from huggingface_hub.dataclasses import strict

from hfembed.training.config import TrainingConfig, setting


@strict
@dataclass(kw_only=True)
class AdversarialTrainingConfig(TrainingConfig):
    """A recipe whose generated images a discriminator may judge."""

    discriminator_weight: float = setting(
        0.0, "of a discriminator, times the weight that balances its gradient with the others'; 0 = none"
    )
    discriminator_start: int = setting(0, "steps before the discriminator is trained and listened to")
    discriminator_learning_rate: float = setting(2e-4, "at its peak; 0 = that of the model")
    discriminator_width: int = setting(64, "channels of its first layer, or of each head; a multiple of 8")
    discriminator_network: str = setting(
        "", "timm architecture or face embedder by whose features it judges; empty = by pixels, patch by patch"
    )
    discriminator_layers: list[int] = setting([0, 1, 2, 3], "which of its feature maps, from 0, finest first")

    def validate_discriminator(self) -> None:
        """Refuse a discriminator that cannot be made or trained."""
        for name in ("discriminator_weight", "discriminator_learning_rate", "discriminator_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not self.discriminator_layers or min(self.discriminator_layers) < 0:
            raise ValueError(f"discriminator_layers must name feature maps, from 0, not {self.discriminator_layers}")
        if self.discriminator_width < 8 or self.discriminator_width % 8:
            raise ValueError(f"discriminator_width must be a multiple of 8, not {self.discriminator_width}")
        if self.discriminator_weight and self.mixed_precision == "fp16":
            raise ValueError("a discriminator's gradients leave fp16's range: take mixed_precision bf16 or no")
