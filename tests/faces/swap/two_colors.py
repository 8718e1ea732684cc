"""A face swap model whose people are colors: what it paints is known."""

import torch

from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel

SIZE = 32


def two_color_model() -> FaceSwapModel:
    """The people "red" and "blue", with a decoder of one color each."""
    torch.manual_seed(0)
    settings = {"image_size": SIZE, "encoder_widths": [6, 8], "decoder_widths": [8, 6], "latent_size": 10}
    model = FaceSwapModel(FaceSwapConfig(people=["red", "blue"], **settings)).eval()
    with torch.no_grad():
        for decoder, color in zip(model.decoders, ([9.0, -9.0, -9.0], [-9.0, -9.0, 9.0]), strict=True):
            decoder.output.weight.zero_()
            decoder.output.bias.copy_(torch.tensor(color))
    return model
