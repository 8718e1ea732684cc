"""Faces in a few dozen bytes: quantized latents, entropy-coded under the Gaussians that the latents follow.

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
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hfembed.errors import InputError
from hfembed.images.latent_statistics import LatentStatistics, decode_latents, encode_images
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.finite_scalar_quantization import level_steps

_MAGIC = b"HFAE"
_VERSION = 1
_HEADER = struct.Struct("<4sB8sBHH")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_QUALITY = 10  # where none is asked for
_LEAST_DEVIATION = 0.2  # of levels, in steps: one that was never seen to change may change
_WIDEST = 8  # standard deviations that can be coded; what lies beyond is clipped


class _Symbols(NamedTuple):
    """Latent numbers as whole numbers, and how these are spread.

    Attributes:
        origin: (D,), what 0 stands for.
        steps: (D,), what 1 adds; zero for numbers without effect, which are not coded.
        means: Of the numbers that are coded, in steps.
        deviations: The same.
        bound: Of their size.
    """

    origin: np.ndarray
    steps: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    bound: int


class LatentCodec:
    """Images to bytes and back with one autoencoder.

    Every latent number is rounded to a step of its own, chosen so that each changes the image equally: the step is
    2 ** (-quality / 2) / sensitivity, in units of a pixel's range. Rounding then costs about the same error in each
    pixel, and numbers that the decoder hardly depends on cost few bits. A quantized model's numbers are levels
    already: they are coded as they are, under Gaussians of their means and deviations, and have no quality.

    Raises:
        InputError: `constriction` is not installed.
    """

    def __init__(self, model: AutoencoderModelBase, statistics: LatentStatistics):
        try:
            import constriction
        except ImportError:
            raise InputError('compression needs a range coder: pip install "hfembed[images]"') from None
        self.coder = constriction.stream.queue
        self.quantized_gaussian = constriction.stream.model.QuantizedGaussian
        self.model = model
        self.statistics = statistics
        self.levels: list[int] = getattr(model.config, "levels", [])
        self.model_id = _fingerprint(model, statistics)

    def compress(self, image: torch.Tensor, quality: int | None = None) -> bytes:
        """Code one image (C, H, W) in [0, 1], of the size the statistics were measured at.

        Every 2 of quality halve the steps; from about 12 on rounding is no longer visible. The default is 10.

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

    def compress_latent(self, latent: torch.Tensor, height: int, width: int, quality: int | None = None) -> bytes:
        """Code one latent (C, h, w) of an image of the given size; see `compress`."""
        if self.levels and quality is not None:
            raise InputError("this model's codes have levels of their own: leave the quality out")
        quality = 0 if self.levels else _QUALITY if quality is None else quality
        model = self._model_of_symbols(quality)
        coded = model.steps > 0
        symbols = (latent.flatten().double().numpy() - model.origin)[coded] / model.steps[coded]
        payload = self._encode(np.clip(np.rint(symbols), -model.bound, model.bound), model)
        header = _HEADER.pack(_MAGIC, _VERSION, self.model_id, quality, height, width)
        return header + _CHECKSUM.pack(zlib.crc32(header + payload)) + payload

    def decompress(self, content: bytes) -> torch.Tensor:
        """Decode one image: (C, H, W) float32 in [0, 1].

        Raises:
            InputError: The content is of another format or version, of another model, or damaged.
        """
        return decode_latents(self.model, self.decompress_latent(content)[None])[0]

    def decompress_latent(self, content: bytes) -> torch.Tensor:
        """The latent (C, h, w) in a file; see `decompress`."""
        if len(content) < HEADER_BYTES or content[:4] != _MAGIC:
            raise InputError("not a file of hfembed compress, or only its beginning")
        header, payload = content[: _HEADER.size], content[HEADER_BYTES:]
        _, version, model_id, quality, height, width = _HEADER.unpack(header)
        if version != _VERSION:
            raise InputError(f"unsupported version {version} of the format; expected {_VERSION}")
        if model_id != self.model_id:
            raise InputError(
                f"written with another model (or other latent statistics), {model_id.hex()}; this one is "
                f"{self.model_id.hex()}"
            )
        if _CHECKSUM.unpack(content[_HEADER.size : HEADER_BYTES])[0] != zlib.crc32(header + payload):
            raise InputError("the file is damaged or cut short: its checksum does not fit")
        # a checksum can be forged: what follows is decoded with bounds, and must be what `compress` would write
        if [height, width] != self.model.config.image_size:
            raise InputError(f"the file is of {height} x {width} pixels, the model of {self.model.config.image_size}")
        model = self._model_of_symbols(quality)
        if len(payload) % 4 or len(payload) > self.max_bytes - HEADER_BYTES:
            raise InputError(f"the file is damaged: {len(payload)} bytes of symbols")
        try:
            decoder = self.coder.RangeDecoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
            spread = self.quantized_gaussian(-model.bound, model.bound)
            symbols = decoder.decode(spread, model.means, model.deviations)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(f"the file is damaged: {error}") from error
        if self._encode(symbols, model) != payload:
            raise InputError("the file is damaged: its symbols are not those of hfembed compress")
        flat, coded = model.origin.copy(), model.steps > 0
        flat[coded] += symbols * model.steps[coded]
        return torch.from_numpy(flat.astype(np.float32)).view(*self.statistics.shape.tolist())

    def read_file(self, path: str | Path) -> torch.Tensor:
        """Decode a file; those larger than this model writes are not read. An error names the file."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(self.max_bytes + 1)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        if len(content) > self.max_bytes and content.startswith(_MAGIC):
            raise InputError(f"{path}: larger than {self.max_bytes} bytes, not a compressed face of this model")
        try:
            return self.decompress(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @property
    def max_bytes(self) -> int:
        """The largest file that `compress` writes: a word per symbol, and the coder's state."""
        return HEADER_BYTES + 4 * (self.statistics.mean.size + 4)

    def _encode(self, symbols: np.ndarray, model: _Symbols) -> bytes:
        encoder = self.coder.RangeEncoder()
        spread = self.quantized_gaussian(-model.bound, model.bound)
        encoder.encode(symbols.astype(np.int32), spread, model.means, model.deviations)
        return encoder.get_compressed().astype("<u4").tobytes()

    def _model_of_symbols(self, quality: int) -> _Symbols:
        statistics = self.statistics
        if self.levels:
            if quality:
                raise InputError("the file is damaged: it has a quality, and this model's codes have none")
            steps = np.repeat(level_steps(self.levels), statistics.mean.size // len(self.levels))
            deviations = np.maximum(statistics.std / steps, _LEAST_DEVIATION)
            return _Symbols(np.zeros_like(steps), steps, statistics.mean / steps, deviations, max(self.levels) // 2)
        if not 0 <= quality <= 40:
            raise InputError(f"quality must lie between 0 and 40, not {quality}")
        heard = (statistics.sensitivity > 0) & (statistics.std > 0)
        steps = np.where(heard, 2.0 ** (-quality / 2) / np.where(heard, statistics.sensitivity, 1), 0)
        deviations = statistics.std[heard] / steps[heard]
        if not len(deviations):
            raise InputError("no latent number changes the image: the model or its latent statistics are unusable")
        # the coder's probabilities have 24 bits
        bound = min(max(1, int(np.ceil(_WIDEST * deviations.max()))), 2**22)
        return _Symbols(statistics.mean, steps, np.zeros(int(heard.sum())), deviations, bound)


def _fingerprint(model: AutoencoderModelBase, statistics: LatentStatistics) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    for item in fields(statistics):
        digest.update(np.ascontiguousarray(getattr(statistics, item.name)).tobytes())
    return digest.digest()[:8]
