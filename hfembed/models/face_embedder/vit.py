"""The vision transformer of insightface's arcface_torch: all tokens go into the embedding, there is no class token."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_face_embedder import MAX_PARAMETERS
from .iresnet import StochasticDepth

VITS = {
    "vit_t": {"width": 256, "depth": 12},
    "vit_s": {"width": 512, "depth": 12},
    "vit_b": {"width": 512, "depth": 24},
    "vit_l": {"width": 768, "depth": 24},
}


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), without bias in queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        batch, count, width = tokens.shape
        heads = self.queries_keys_values(tokens).view(batch, count, 3, self.num_heads, width // self.num_heads)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.output(attended.transpose(1, 2).reshape(batch, count, width))


class VitBlock(nn.Module):
    """Attention and a perceptron with ReLU6, each behind its LayerNorm and beside a shortcut."""

    def __init__(self, width: int, num_heads: int, stochastic_depth: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.activation = nn.ReLU6()
        self.contract = nn.Linear(4 * width, width)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        tokens = tokens + self.stochastic_depth(self.attention(self.norm1(tokens)))
        hidden = self.activation(self.expand(self.norm2(tokens)))
        return tokens + self.stochastic_depth(self.contract(hidden))


class Vit(nn.Module):
    """Patches, blocks, and one linear layer with BatchNorm over all tokens.

    Same function as arcface_torch's `VisionTransformer` up to its last linear layer. Pixels at the right and lower
    edge that do not fill a patch are left out: of 112 x 112, patches of 9 see 108 x 108.

    Args:
        image_size: (height, width).
        width: Of a token, D.
        mask_ratio: In training the blocks see all tokens but this fraction of them, drawn anew for each image; a
            learned token stands for the others behind the blocks. arcface_torch: 0.05 or 0.1.
        stochastic_depth: Rate at the last block. arcface_torch: 0.05 or 0.1.
    """

    def __init__(
        self,
        num_channels: int,
        image_size: Sequence[int],
        width: int = 256,
        depth: int = 12,
        num_heads: int = 8,
        patch_size: int = 9,
        mask_ratio: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
        for name, value in sizes.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"vit: {name} must be a whole number of at least 1, got {value!r}")
        if width % num_heads or patch_size > min(image_size):
            raise ValueError(
                f"vit: width {width} must be a multiple of num_heads {num_heads}, and patch_size {patch_size} at most "
                f"the side of {list(image_size)}"
            )
        if not (0 <= mask_ratio < 1 and 0 <= stochastic_depth < 1):
            raise ValueError(
                f"vit: mask_ratio {mask_ratio} and stochastic_depth {stochastic_depth} must lie in [0, 1)"
            )
        self.num_tokens = (image_size[0] // patch_size) * (image_size[1] // patch_size)
        weights = self.num_tokens * (width + 1) * width + 12 * depth * width**2
        if weights > MAX_PARAMETERS:
            raise ValueError(f"vit: {sizes} at {list(image_size)} pixels make a network of {weights:,} weights")
        self.out_channels = width
        self.mask_ratio = mask_ratio
        self.patches = nn.Conv2d(num_channels, width, patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.zeros(1, self.num_tokens, width))
        # where nothing is masked it would have no gradient, which DistributedDataParallel refuses
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if mask_ratio else None
        rates = torch.linspace(0, stochastic_depth, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(VitBlock(width, num_heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.merge = nn.Linear(self.num_tokens * width, width, bias=False)
        self.merge_norm = nn.BatchNorm1d(width)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last map: one position, whatever the image."""
        return 1, 1

    def parameter_stages(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: patches and positions, then each block, the last with what follows it."""
        first = [*self.patches.parameters(), self.positions]
        stages = [first, *(list(block.parameters()) for block in self.blocks)]
        stages[-1] += [*self.norm.parameters(), *self.merge.parameters(), *self.merge_norm.parameters()]
        if self.mask_token is not None:
            stages[-1].append(self.mask_token)
        return stages

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, num_channels, H, W) -> map (B, D, 1, 1)."""
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2) + self.positions
        mask_token = self.mask_token if self.training else None
        if mask_token is not None:
            # a random order, of which the first tokens are kept
            order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)
            kept = order[:, : max(1, int(self.num_tokens * (1 - self.mask_ratio)))]
            tokens = tokens.gather(1, kept.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        if mask_token is not None:
            all_masked = mask_token.to(tokens.dtype).expand(len(tokens), self.num_tokens, -1)
            tokens = all_masked.scatter(1, kept.unsqueeze(2).expand_as(tokens), tokens)
        merged = self.merge(tokens.flatten(1))
        return self.merge_norm(merged)[:, :, None, None]
