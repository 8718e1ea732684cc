"""Faces in a few dozen bytes: quantised latents, entropy-coded under the Gaussians that the latents follow.

A general compressor (zstd, LZMA) has to learn the symbols' frequencies from the file itself, which is smaller than
what that costs. Here they are known beforehand from the training images, and a range coder (`constriction`) comes
within a byte or two of their entropy.

A file is a header, then the coder's words, little-endian:

    4 bytes  "HFAE"
    1        version of the format
    8        the model: first bytes of the SHA-256 of its weights and latent statistics
    1        quality
    2 + 2    height and width of the image
    4        CRC-32 of all of the above and of what follows
"""

import hashlib
import struct
import zlib
from dataclasses import fields

import numpy as np
import torch
from transformers import PreTrainedModel

from hfembed.errors import InputError
from hfembed.images.latent_statistics import LatentStatistics, decode_latents, encode_images

_MAGIC = b"HFAE"
_VERSION = 1
_HEADER = struct.Struct("<4sB8sBHH")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_WIDEST = 8  # standard deviations that can be coded; what lies beyond is clipped


class LatentCodec:
    """Images to bytes and back with one autoencoder.

    Every latent number is rounded to a step of its own, chosen so that each changes the picture equally: the step is
    2 ** (-quality / 2) / sensitivity, in units of a pixel's range. Rounding then costs about the same error in each
    pixel, and numbers that the decoder hardly listens to cost few bits.

    Args:
        model: The autoencoder, in eval mode.
        statistics: Of its latents.

    Raises:
        InputError: `constriction` is not installed.
    """

    def __init__(self, model: PreTrainedModel, statistics: LatentStatistics):
        try:
            import constriction
        except ImportError:
            raise InputError('compression needs a range coder: pip install "hfembed[images]"') from None
        self.coder = constriction.stream.queue
        self.quantized_gaussian = constriction.stream.model.QuantizedGaussian
        self.model = model
        self.statistics = statistics
        self.model_id = _fingerprint(model, statistics)

    def compress(self, image: torch.Tensor, quality: int = 10) -> bytes:
        """Code one image.

        Args:
            image: (C, H, W) float in [0, 1], of the size the statistics were measured at.
            quality: From 0; every 2 halve the steps. From about 12 on rounding is no longer visible.

        Returns:
            The file's content.

        Raises:
            InputError: The model takes images of another size, or the quality is impossible.
        """
        latents = encode_images(self.model, image[None])
        if tuple(latents.shape[1:]) != tuple(self.statistics.shape.tolist()):
            raise InputError(
                f"an image of {image.shape[1]} x {image.shape[2]} has latents of {tuple(latents.shape[1:])}, the "
                f"statistics are of {tuple(self.statistics.shape.tolist())}: resize it as the processor does"
            )
        return self.compress_latent(latents[0], image.shape[1], image.shape[2], quality)

    def compress_latent(self, latent: torch.Tensor, height: int, width: int, quality: int) -> bytes:
        """Code one latent (C, h, w) of an image of the given size; see `compress`."""
        steps, means, deviations, bound = self._model_of_symbols(quality)
        centred = (latent.flatten().double().numpy() - self.statistics.mean)[steps > 0] / steps[steps > 0]
        symbols = np.clip(np.rint(centred), -bound, bound).astype(np.int32)
        encoder = self.coder.RangeEncoder()
        encoder.encode(symbols, self.quantized_gaussian(-bound, bound), means, deviations)
        payload = encoder.get_compressed().astype("<u4").tobytes()
        header = _HEADER.pack(_MAGIC, _VERSION, self.model_id, quality, height, width)
        return header + _CHECKSUM.pack(zlib.crc32(header + payload)) + payload

    def decompress(self, content: bytes) -> torch.Tensor:
        """Decode one image.

        Args:
            content: From `compress`.

        Returns:
            (C, H, W) float32 in [0, 1].

        Raises:
            InputError: The content is of another format or version, of another model, or damaged.
        """
        return decode_latents(self.model, self.decompress_latent(content)[None])[0]

    def decompress_latent(self, content: bytes) -> torch.Tensor:
        """The latent (C, h, w) in a file; see `decompress`."""
        if len(content) < HEADER_BYTES or content[:4] != _MAGIC:
            raise InputError("this is no file that hfembed compress wrote, or only the beginning of one")
        header, payload = content[: _HEADER.size], content[HEADER_BYTES:]
        _, version, model_id, quality, _, _ = _HEADER.unpack(header)
        if version != _VERSION:
            raise InputError(f"the file has version {version} of the format, this hfembed reads {_VERSION}")
        if model_id != self.model_id:
            raise InputError(
                f"the file was written with another model (or other latent statistics): {model_id.hex()}, this one is "
                f"{self.model_id.hex()}"
            )
        if _CHECKSUM.unpack(content[_HEADER.size : HEADER_BYTES])[0] != zlib.crc32(header + payload):
            raise InputError("the file is damaged or cut short: its checksum does not fit")
        steps, means, deviations, bound = self._model_of_symbols(quality)
        decoder = self.coder.RangeDecoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
        symbols = decoder.decode(self.quantized_gaussian(-bound, bound), means, deviations)
        flat = self.statistics.mean.copy()
        flat[steps > 0] += symbols * steps[steps > 0]
        return torch.from_numpy(flat.astype(np.float32)).view(*self.statistics.shape.tolist())

    def _model_of_symbols(self, quality: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Steps (D,), zero for numbers that say nothing; means and deviations of the symbols of the others; bound."""
        if not 0 <= quality <= 40:
            raise InputError(f"quality lies between 0 and 40, not {quality}")
        sensitivity = self.statistics.sensitivity
        heard = (sensitivity > 0) & (self.statistics.std > 0)
        steps = np.where(heard, 2.0 ** (-quality / 2) / np.where(heard, sensitivity, 1), 0)
        deviations = self.statistics.std[heard] / steps[heard]
        bound = max(1, int(np.ceil(_WIDEST * deviations.max())))
        return steps, np.zeros(int(heard.sum())), deviations, bound


def _fingerprint(model: PreTrainedModel, statistics: LatentStatistics) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    for item in fields(statistics):
        digest.update(np.ascontiguousarray(getattr(statistics, item.name)).tobytes())
    return digest.digest()[:8]
