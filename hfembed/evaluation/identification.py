"""Who is it? Closed-set identification by a classifier, on photos it was not trained on."""

from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from hfembed.data.samplers import KeyedBatchSampler


class HeldOutIdentification:
    """The share of held-out photos that a classifier gives to the right person.

    Args:
        samples: The held-out photos, addressed by (epoch, index) keys.
        collate: Samples -> what the model's forward takes; None for torch's own.
        batch_size: Samples a forward pass.
    """

    primary_metric = "identification_accuracy"
    greater_is_better = True

    def __init__(self, samples: Dataset, collate: Callable | None = None, batch_size: int = 64):
        self.samples = samples
        self.collate = collate
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, processor: object = None) -> dict[str, float]:
        """Classify every held-out photo.

        Args:
            model: A `FaceEmbedderForClassification` in eval mode.
            processor: Not needed: the samples are processed already.

        Returns:
            `identification_accuracy` in percent, and the number of photos.
        """
        in_order = KeyedBatchSampler(len(self.samples), self.batch_size, shuffle=False, drop_last=False)
        right = 0
        for batch in DataLoader(self.samples, batch_sampler=in_order, collate_fn=self.collate):
            labels = batch.pop("labels").to(model.device)
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits
            right += (logits.argmax(dim=1) == labels).sum().item()
        return {"identification_accuracy": 100 * right / len(self.samples), "identification_photos": len(self.samples)}
