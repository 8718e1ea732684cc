"""BatchNorm in eval mode is a scale and a shift: folded into the layer before, it costs nothing."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each BatchNorm into the convolution or linear layer registered just before it, throughout `module`.

    Registered before is not always applied before: compare outputs afterwards. `module` must be in eval mode.
    """
    children = list(module.named_children())
    for (name, layer), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(layer, norm))
            setattr(module, norm_name, nn.Identity())
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            setattr(module, name, fuse_linear_bn_eval(layer, norm))
            setattr(module, norm_name, nn.Identity())
    for _, child in children:
        fold_batch_norm(child)
