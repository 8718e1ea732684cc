"""What the converters of IResNets share: our configuration for given stages."""

from collections.abc import Sequence
from typing import Any

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.iresnet import IRESNET_WIDTHS, IRESNETS


def iresnet_config(
    depths: Sequence[int],
    widths: Sequence[int],
    places: int,
    embedding_size: int,
    use_se: bool = False,
    bottleneck_stem: int | None = None,
) -> FaceEmbedderConfig:
    """The configuration of an IResNet whose last map is flattened into a linear layer.

    Args:
        bottleneck_stem: Width of the stem of a network of bottleneck blocks; None: its blocks are plain.
    """
    side = round(places**0.5) * 2 ** len(depths)
    shape: dict[str, Any] = {"depths": tuple(depths), "widths": tuple(widths)}
    if bottleneck_stem is not None:
        shape |= {"stem_width": bottleneck_stem, "bottleneck": True}
    names = [name for name, known in IRESNETS.items() if {"widths": IRESNET_WIDTHS} | known == shape]
    arguments: dict[str, Any] = {"use_se": True} if use_se else {}
    if names:
        return FaceEmbedderConfig(
            trunk=names[0], trunk_arguments=arguments, image_size=[side, side], embedding_size=embedding_size
        )
    arguments |= shape | {"depths": list(depths), "widths": list(widths)}
    return FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments=arguments, image_size=[side, side], embedding_size=embedding_size
    )
