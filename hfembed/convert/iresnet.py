"""What the converters of IResNets share: our configuration for given stages."""

from collections.abc import Sequence
from typing import Any

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.iresnet import IRESNET_DEPTHS, IRESNET_WIDTHS


def iresnet_config(
    depths: Sequence[int], widths: Sequence[int], places: int, embedding_size: int, use_se: bool = False
) -> FaceEmbedderConfig:
    """The configuration of an IResNet whose last map is flattened into a linear layer."""
    side = round(places**0.5) * 2 ** len(depths)
    names = [name for name, known in IRESNET_DEPTHS.items() if known == tuple(depths)]
    arguments: dict[str, Any] = {"use_se": True} if use_se else {}
    if names and tuple(widths) == IRESNET_WIDTHS:
        return FaceEmbedderConfig(
            trunk=names[0], trunk_arguments=arguments, image_size=[side, side], embedding_size=embedding_size
        )
    arguments |= {"depths": list(depths), "widths": list(widths)}
    return FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments=arguments, image_size=[side, side], embedding_size=embedding_size
    )
