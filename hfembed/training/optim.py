"""Optimizers and learning rate schedules, in optimizer steps."""

import torch
from torch import nn
from transformers import get_scheduler

from hfembed.training.config import TrainingConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters: matrices and kernels decay; biases, norms and PReLU slopes do not.

    He et al., Bag of Tricks for Image Classification (2019), section 3.1 ("no bias decay").
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module, config: TrainingConfig, learning_rate: float = 0.0, adam_beta1: float = 0.9
) -> torch.optim.Optimizer:
    """The optimizer that `config` names, over the parameters of `model` that require a gradient.

    `learning_rate` is the config's unless given.
    """
    learning_rate = learning_rate or config.learning_rate
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(adam_beta1, config.adam_beta2))


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule that `config` names, to be stepped once per optimizer step, on however many ranks."""
    return get_scheduler(
        config.schedule, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=total_steps
    )
