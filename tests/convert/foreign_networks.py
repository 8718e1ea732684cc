"""Foreign networks for the tests: random parameters under their names, and their layers as plain functions.

Where the real files are not at hand, generated ones with exactly their keys and shapes stand for them.
"""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.faces.data.synthetic_faces import make_synthetic_faces


class StateDict(OrderedDict):
    """Random parameters under the names of a trainer."""

    def conv(self, key, out_channels, in_channels, *kernel):
        fan_in = in_channels * kernel[0] * kernel[1]
        self[f"{key}.weight"] = torch.randn(out_channels, in_channels, *kernel) * (2 / fan_in) ** 0.5

    def norm(self, key, channels):
        self[f"{key}.weight"] = 1 + 0.1 * torch.randn(channels)
        self[f"{key}.bias"] = 0.1 * torch.randn(channels)
        self.statistics(key, channels)

    def statistics(self, key, channels):
        self[f"{key}.running_mean"] = 0.1 * torch.randn(channels)
        self[f"{key}.running_var"] = 0.5 + torch.rand(channels)
        self[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def prelu(self, key, channels):
        self[f"{key}.weight"] = 0.5 * torch.rand(channels)

    def linear(self, key, out_features, in_features, bias=True):
        self[f"{key}.weight"] = torch.randn(out_features, in_features) / in_features**0.5
        if bias:
            self[f"{key}.bias"] = 0.1 * torch.randn(out_features)


class Reference:
    """The network as a function of a state dict, written down without its code."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, key, stride=1, padding=None):
        weight = self.state[f"{key}.weight"]
        padding = [side // 2 for side in weight.shape[2:]] if padding is None else padding
        groups = 1 if weight.shape[1] == x.shape[1] else x.shape[1]
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride, padding, groups=groups)

    def norm(self, x, key, eps=1e-5):
        # a vector has no places
        shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
        mean, var = (self.state[f"{key}.{name}"].view(shape) for name in ("running_mean", "running_var"))
        if f"{key}.weight" not in self.state:  # affine=False
            return (x - mean) / torch.sqrt(var + eps)
        weight, bias = (self.state[f"{key}.{name}"].view(shape) for name in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + eps) * weight + bias

    def prelu(self, x, key):
        return torch.where(x > 0, x, x * self.state[f"{key}.weight"].view(-1, 1, 1))

    def linear(self, x, key):
        y = x @ self.state[f"{key}.weight"].T
        return y + self.state[f"{key}.bias"] if f"{key}.bias" in self.state else y


def convert(source, *arguments):
    """Run `hfembed convert SOURCE ...`; what it printed."""
    result = CliRunner().invoke(app, ["convert", source, *map(str, arguments)])
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def synthetic_crops(processor, count=4):
    """Aligned crops (count, H, W, C), uint8, of synthetic faces as the checkpoint's processor makes them."""
    faces = make_synthetic_faces(num_identities=count // 2, photos_per_identity=2, seed=3)
    return np.stack([processor.align(face["image"], face["landmarks"]) for face in faces])


@torch.no_grad()
def check_equal(folder, forward, size, std, bgr=False, photos=None):
    """The folder gives the embeddings of `forward` (normalized pixels -> before unit length).

    Compared on noise and on synthetic faces. The pixels are normalized here without the processor: (x - 127.5) / std,
    channels reversed for BGR.
    """
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    crops = synthetic_crops(processor) if photos is None else photos
    # `align` gives the network's order of colors; a crop handed to the processor is in RGB
    crops = crops[..., ::-1] if bgr and photos is None else crops
    images = np.concatenate([noise, crops])
    assert images.shape[1:] == (*size, 3)
    inputs = processor(list(images)).pixel_values
    seen = images[..., ::-1] if bgr else images
    expected = (torch.from_numpy(seen.astype(np.float32)) - 127.5).permute(0, 3, 1, 2) / std
    torch.testing.assert_close(inputs, expected, atol=2e-6, rtol=0)
    features = forward(expected)
    embeddings = model(inputs).embeddings
    assert F.cosine_similarity(features, embeddings).min() > 0.99999
    torch.testing.assert_close(embeddings, F.normalize(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(model(inputs).norms, features.norm(dim=1), rtol=1e-4, atol=0)
    # different faces, different embeddings: the comparison sees more than a constant
    assert torch.pdist(F.normalize(features)).min() > 1e-3
