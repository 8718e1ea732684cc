"""Faces in a few dozen bytes: quantized latents, entropy-coded under the Gaussians that the latents follow.

A general compressor (zstd, LZMA) has to learn the symbols' frequencies from the file itself, which is smaller than
what that costs. Here they are known beforehand from the training images, and a range coder (`constriction`) comes
within a byte or two of their entropy.

A file of version 2 is a header, then the coder's words, big-endian, without the bytes at their end that a decoder
can do without:

    4 bytes  "HFAE"
    1        version of the format
    1        quality
    2        the model: first bytes of the SHA-256 of its weights, latent statistics and entropy model
    4        CRC-32 of all of the above, of the whole SHA-256 and of what follows

Its numbers are coded in stages, each under the Gaussians that an entropy model predicts from the stages before it. A
file of version 1, of a model without an entropy model, has one Gaussian for each number, the same for all images, or
of a model with a codebook one index for each position, all equally probable, and little-endian words:

    4 bytes  "HFAE"
    1        version of the format
    8        the model: first bytes of the SHA-256 of its weights and latent statistics
    1        quality
    2 + 2    height and width of the image
    4        CRC-32 of all of the above and of what follows
"""

import copy
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.errors import InputError
from hfembed.images.entropy_model import EntropyModel
from hfembed.images.latent_statistics import LatentStatistics, check_has_latents, decode_latents, encode_images
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.entropy_network import likelihood
from hfembed.models.conv_autoencoder.finite_scalar_quantization import level_steps
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.conv_autoencoder.vector_quantization import VectorQuantizer

_MAGIC = b"HFAE"
_VERSION = 1
_HEADER = struct.Struct("<4sB8sBHH")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_VERSION_WITH_ENTROPY_MODEL = 2
_SHORT_HEADER = struct.Struct("<4sBB2s")
_MOST_QUALITY = 40  # that a file may have
_QUALITIES = (2, 24)  # from nearly the mean image to steps far below what eight bits show
_CODER_ERRORS = (AssertionError, ValueError, RuntimeError)  # what constriction raises for impossible data
_QUALITY = 10  # where none is asked for
_LEARNED_QUALITIES = range(8, 21)  # by an entropy model, where the training has none
_LEVELS_QUALITY = 16  # that the entropy model of levels is told: its middle
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
    pixel, and numbers that the decoder hardly depends on cost few bits. A model that rounded in its training has the
    same step for all numbers, that of its training's qualities. A quantized model's numbers are levels or
    vectors of a codebook already: they are coded as they are, and have no quality.

    With an entropy model, of latents that are a grid, files are of version 2: what is rounded is the difference to
    the mean that the model predicts. Files of version 1 are decoded with it and without.

    Raises:
        InputError: `constriction` is not installed.
    """

    def __init__(
        self, model: AutoencoderModelBase, statistics: LatentStatistics, entropy_model: EntropyModel | None = None
    ):
        try:
            import constriction
        except ImportError:
            raise InputError('compression needs a range coder: pip install "hfembed[images]"') from None
        self.coder = constriction.stream.queue
        self.quantized_gaussian = constriction.stream.model.QuantizedGaussian
        self.uniform = constriction.stream.model.Uniform
        self.model = model
        self.statistics = statistics
        self.entropy_model = entropy_model
        self.levels: list[int] = getattr(model.config, "levels", [])
        self.vector_quantizer = _vector_quantizer(model)
        digest = _fingerprint(model, statistics)
        self.model_id = digest[:8]
        self.full_model_id = (
            b"" if entropy_model is None else hashlib.sha256(digest + entropy_model.fingerprint).digest()
        )

    @classmethod
    def load(cls, model: AutoencoderModelBase, checkpoint: Checkpoint) -> "LatentCodec":
        """The codec of a model with the statistics, and the entropy model if there is one, beside its checkpoint.

        Raises:
            InputError: The model has no latents; there are no statistics, they are damaged, or `constriction` is not
                installed.
        """
        check_has_latents(model)
        statistics = LatentStatistics.load(checkpoint)
        channels, height, width = statistics.shape.tolist()
        return cls(model, statistics, EntropyModel.load(checkpoint, (channels, height, width)))

    @property
    def header_bytes(self) -> int:
        """What the files that `compress` writes have in common."""
        return HEADER_BYTES if self.entropy_model is None else _SHORT_HEADER.size + _CHECKSUM.size

    @property
    def max_bytes(self) -> int:
        """The largest file that `compress` writes: a word per symbol, and the coder's state."""
        return HEADER_BYTES + 4 * (self.statistics.mean.size + 4)

    def compress(self, image: torch.Tensor, quality: int | None = None) -> bytes:
        """Code one image (C, H, W) in [0, 1], of the size the statistics were measured at.

        Every 2 of quality halve the steps; from about 12 on (18 with 3,920 numbers) rounding is no longer visible.
        The default is 10, from 2 to 24; of a model that rounds, the middle of its training's qualities, from 2 below
        them to 2 above.

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
        self.check_quality(quality)
        if quality is None:
            quality = self.default_quality
        if self.entropy_model is not None:
            payload = self._encode_stages(latent.double(), quality)
            header = _SHORT_HEADER.pack(_MAGIC, _VERSION_WITH_ENTROPY_MODEL, quality, self.full_model_id[:2])
            return header + self._checksum(header, payload) + payload
        if self.vector_quantizer is not None:
            indices = self.vector_quantizer.indices(latent[None].to(self.model.device))
            payload = self._encode_indices(indices.flatten().cpu().numpy())
        else:
            model = self._model_of_symbols(quality)
            coded = model.steps > 0
            symbols = (latent.flatten().double().numpy() - model.origin)[coded] / model.steps[coded]
            payload = self._encode(np.clip(np.rint(symbols), -model.bound, model.bound), model)
        header = _HEADER.pack(_MAGIC, _VERSION, self.model_id, quality, height, width)
        return header + _CHECKSUM.pack(zlib.crc32(header + payload)) + payload

    def check_quality(self, quality: int | None) -> None:
        """Refuse a quality that `compress` does not take.

        Raises:
            InputError: It lies outside of `quality_range`, or the model's codes are quantized and have none.
        """
        if quality is None:
            return
        if not self.has_quality:
            own = "levels" if self.levels else "a codebook"
            raise InputError(f"this model's codes have {own} of their own: leave the quality out")
        lowest, highest = self.quality_range
        if not lowest <= quality <= highest:
            raise InputError(f"quality must lie between {lowest} and {highest} for this model, not {quality}")

    @property
    def has_quality(self) -> bool:
        """Whether `compress` rounds: the codes are not quantized already."""
        return not self.levels and self.vector_quantizer is None

    @property
    def quality_range(self) -> tuple[int, int]:
        """The lowest and the highest quality that `compress` takes."""
        if not _rounds(self.model):
            return _QUALITIES
        lowest, highest = self.model.config.qualities
        return max(0, lowest - 2), min(_MOST_QUALITY, highest + 2)

    @property
    def default_quality(self) -> int:
        """Of `compress`; 0 where there is none to choose."""
        if not self.has_quality:
            return 0
        return sum(self.model.config.qualities) // 2 if _rounds(self.model) else _QUALITY

    @property
    def qualities(self) -> Sequence[int]:
        """Those that are worth measuring: from a few bytes to little loss."""
        if _rounds(self.model):
            lowest, highest = self.quality_range
            return range(lowest, highest + 1)
        return range(8, 21, 2) if self.statistics.shape[1:].prod() > 1 else range(2, 15, 2)

    def decompress(self, content: bytes) -> torch.Tensor:
        """Decode one image: (C, H, W) float32 in [0, 1].

        Raises:
            InputError: The content is of another format or version, of another model, or damaged.
        """
        return decode_latents(self.model, self.decompress_latent(content)[None])[0]

    def decompress_latent(self, content: bytes) -> torch.Tensor:
        """The latent (C, h, w) in a file; see `decompress`."""
        if len(content) < _SHORT_HEADER.size + _CHECKSUM.size or content[:4] != _MAGIC:
            raise InputError("not a file of hfembed compress, or only its beginning")
        if content[4] == _VERSION:
            return self._decompress_one_gaussian_each(content)
        if content[4] == _VERSION_WITH_ENTROPY_MODEL:
            return self._decompress_stages(content)
        raise InputError(
            f"unsupported version {content[4]} of the format; expected {_VERSION} or {_VERSION_WITH_ENTROPY_MODEL}"
        )

    def read_file(self, path: str | Path) -> torch.Tensor:
        """Decode a file; those larger than this model writes are not read. An error names the file."""
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder; expected a file that hfembed compress wrote")
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

    def steps(self, quality: int) -> np.ndarray:
        """What the latents (D,) are rounded to; zero for those that are not coded.

        Raises:
            InputError: There is no such quality.
        """
        size = self.statistics.mean.size
        if self.levels:
            if quality:
                raise InputError("the file is damaged: it has a quality, and this model's codes have none")
            return np.repeat(level_steps(self.levels), size // len(self.levels))
        if not 0 <= quality <= _MOST_QUALITY:
            raise InputError(f"quality must lie between 0 and {_MOST_QUALITY}, not {quality}")
        # a power of two, and at odd qualities a square root: the same on every machine
        step = math.ldexp(math.sqrt(0.5) if quality % 2 else 1.0, -(quality // 2))
        if _rounds(self.model):
            return np.full(
                size, step * math.sqrt(self.model.config.num_channels * math.prod(self.model.config.image_size))
            )
        sensitivity = self.statistics.sensitivity
        is_heard = (sensitivity > 0) & (self.statistics.std > 0)
        return np.where(is_heard, step / np.where(is_heard, sensitivity, 1), 0)

    def ideal_bytes(self, latent: torch.Tensor, quality: int | None = None) -> float:
        """What the entropy model says that the symbols of a latent (C, h, w) cost."""
        quality = self.default_quality if quality is None else quality
        bits = 0.0
        for symbols, means, deviations, _ in self._stages(latent.double(), quality):
            mass = likelihood(torch.from_numpy(symbols - means), torch.from_numpy(deviations))
            bits -= float(torch.log2(mass.clamp(min=2.0**-24)).sum())
        return bits / 8

    def _checksum(self, header: bytes, payload: bytes) -> bytes:
        return _CHECKSUM.pack(zlib.crc32(header + self.full_model_id + payload))

    def _decompress_stages(self, content: bytes) -> torch.Tensor:
        if self.entropy_model is None:
            raise InputError("the file needs the model's entropy model: run hfembed fit-latents, or get it again")
        start = _SHORT_HEADER.size + _CHECKSUM.size
        header, payload = content[: _SHORT_HEADER.size], content[start:]
        _, _, quality, model_id = _SHORT_HEADER.unpack(header)
        if model_id != self.full_model_id[:2]:
            raise InputError(
                f"written with another model (or other latent statistics), {model_id.hex()}; this one is "
                f"{self.full_model_id[:2].hex()}"
            )
        if content[_SHORT_HEADER.size : start] != self._checksum(header, payload):
            raise InputError("the file is damaged or cut short: its checksum does not fit")
        # a checksum can be forged: what follows is decoded with bounds, and must be what `compress` would write
        if len(payload) > self.max_bytes - HEADER_BYTES:
            raise InputError(f"the file is damaged: {len(payload)} bytes of symbols")
        latent = self._decode_stages(payload, quality)
        if latent is None or self._encode_stages(latent, quality) != payload:
            raise InputError("the file is damaged: its symbols are not those of hfembed compress")
        return latent.float()

    def _stages(
        self, latent: torch.Tensor | None, quality: int, decoder: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]]:
        """Go through the stages of an image, to encode it or to decode it.

        Args:
            latent: (C, h, w), what is encoded; None to decode.
            quality: Of the steps.
            decoder: Where the symbols are read from if there is no latent.

        Yields:
            Symbols, means and standard deviations (in steps) of a stage, and the rounded latent (C, h, w) so far: one
            tensor, which later stages fill.
        """
        assert self.entropy_model is not None
        shape = self.statistics.shape.tolist()
        steps = torch.from_numpy(self.steps(quality)).view(shape).amax((1, 2), keepdim=True)
        is_coded = steps > 0
        steps = torch.where(is_coded, steps, 1)
        bound = self._bound(quality)
        values = self.entropy_model.center.expand(shape).clone()
        for stage in self.entropy_model.network.stages():
            own = slice(stage.first, stage.last)
            now = (self.entropy_model.colors[stage.color] & is_coded[own]).expand(-1, *shape[1:])
            is_now = now[:, self.entropy_model.colors[stage.color]].flatten().numpy()
            means, deviations = (
                figure[is_now]
                for figure in self.entropy_model.predict(
                    values, stage, steps, _LEVELS_QUALITY if self.levels else quality
                )
            )
            if not len(means):
                continue
            step = steps[own].expand(-1, *shape[1:])[now].numpy()
            # a level is coded as it is, under the predicted mean; of other numbers the difference to it is rounded
            offset = np.zeros_like(means) if self.levels else means
            if latent is not None:
                symbols = np.rint(latent[own][now].numpy() / step - offset)
                symbols = np.clip(symbols, -bound, bound).astype(np.int32)
            else:
                symbols = decoder.decode(self.quantized_gaussian(-bound, bound), means - offset, deviations)
            values[own][now] = torch.from_numpy((symbols + offset) * step)
            yield symbols, means - offset, deviations, values

    def _bound(self, quality: int) -> int:
        """Of the symbols' size; the coder's probabilities have 24 bits."""
        if self.levels:
            return max(self.levels) // 2
        steps = self.steps(quality)
        heard = steps > 0
        if not heard.any():
            raise InputError("no latent number changes the image: the model or its latent statistics are unusable")
        deviations = self.statistics.std[heard] / steps[heard]
        return min(max(1, int(np.ceil(_WIDEST * deviations.max()))), 2**22)

    def _encode_stages(self, latent: torch.Tensor, quality: int) -> bytes:
        """The shortest bytes whose decoding is a latent, rounded: a decoder takes missing ones for zeros."""
        stages = [stage[:3] for stage in self._stages(latent, quality)]
        symbols, means, deviations = (np.concatenate(parts) for parts in zip(*stages, strict=True))
        encoder, bound = self.coder.RangeEncoder(), self._bound(quality)
        spread = self.quantized_gaussian(-bound, bound)
        encoder.encode(symbols, spread, means, deviations)
        payload = encoder.get_compressed().astype(">u4").tobytes()

        def is_enough(shorter: bytes) -> bool:
            try:
                decoded = _decoder(self.coder, shorter).decode(spread, means, deviations)
            except _CODER_ERRORS:
                return False
            return np.array_equal(decoded, symbols)

        for length in range(max(0, len(payload) - 8), len(payload)):
            start = payload[:length]
            # the first number from that of the payload on that has so few bytes
            above = (int.from_bytes(start, "big") + 1).to_bytes(length + 1, "big")[1:]
            for shorter in (start, above):
                if is_enough(shorter):
                    return shorter
        return payload

    def _decode_stages(self, payload: bytes, quality: int) -> torch.Tensor | None:
        """The latent (C, h, w), float64; None where the payload cannot be decoded."""
        self.steps(quality)  # an InputError is a ValueError too
        try:
            *_, (*_, values) = self._stages(None, quality, _decoder(self.coder, payload))
        except _CODER_ERRORS:
            return None
        return values

    def _decompress_one_gaussian_each(self, content: bytes) -> torch.Tensor:
        if len(content) < HEADER_BYTES:
            raise InputError("not a file of hfembed compress, or only its beginning")
        header, payload = content[: _HEADER.size], content[HEADER_BYTES:]
        _, _, model_id, quality, height, width = _HEADER.unpack(header)
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
        if len(payload) % 4 or len(payload) > self.max_bytes - HEADER_BYTES:
            raise InputError(f"the file is damaged: {len(payload)} bytes of symbols")
        if self.vector_quantizer is not None:
            return self._decode_indices(payload, quality)
        model = self._model_of_symbols(quality)
        try:
            decoder = self._decoder_of_version_1(payload)
            spread = self.quantized_gaussian(-model.bound, model.bound)
            symbols = decoder.decode(spread, model.means, model.deviations)
        except _CODER_ERRORS as error:
            raise InputError(f"the file is damaged: {error}") from error
        if self._encode(symbols, model) != payload:
            raise InputError("the file is damaged: its symbols are not those of hfembed compress")
        flat, coded = model.origin.copy(), model.steps > 0
        flat[coded] += symbols * model.steps[coded]
        return torch.from_numpy(flat.astype(np.float32)).view(*self.statistics.shape.tolist())

    def _decode_indices(self, payload: bytes, quality: int) -> torch.Tensor:
        assert self.vector_quantizer is not None
        if quality:
            raise InputError("the file is damaged: it has a quality, and this model's codes have none")
        spread, shape = self._spread_of_indices(), self.statistics.shape[1:].tolist()
        try:
            indices = self._decoder_of_version_1(payload).decode(spread, math.prod(shape))
        except _CODER_ERRORS as error:
            raise InputError(f"the file is damaged: {error}") from error
        if self._encode_indices(indices) != payload:
            raise InputError("the file is damaged: its symbols are not those of hfembed compress")
        places = torch.from_numpy(indices.astype(np.int64)).view(1, *shape).to(self.model.device)
        return self.vector_quantizer.vectors(places)[0].detach().float().cpu()

    def _encode_indices(self, indices: np.ndarray) -> bytes:
        encoder = self.coder.RangeEncoder()
        encoder.encode(indices.astype(np.int32), self._spread_of_indices())
        return encoder.get_compressed().astype("<u4").tobytes()

    def _spread_of_indices(self) -> Any:
        assert self.vector_quantizer is not None
        return self.uniform(len(self.vector_quantizer.codebook))

    def _decoder_of_version_1(self, payload: bytes) -> Any:
        return self.coder.RangeDecoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))

    def _encode(self, symbols: np.ndarray, model: _Symbols) -> bytes:
        encoder = self.coder.RangeEncoder()
        spread = self.quantized_gaussian(-model.bound, model.bound)
        encoder.encode(symbols.astype(np.int32), spread, model.means, model.deviations)
        return encoder.get_compressed().astype("<u4").tobytes()

    def _model_of_symbols(self, quality: int) -> _Symbols:
        """Of a file of version 1."""
        statistics, steps = self.statistics, self.steps(quality)
        if self.levels:
            deviations = np.maximum(statistics.std / steps, _LEAST_DEVIATION)
            return _Symbols(np.zeros_like(steps), steps, statistics.mean / steps, deviations, self._bound(quality))
        bound, coded = self._bound(quality), (steps > 0) & (statistics.std > 0)
        deviations = statistics.std[coded] / steps[coded]
        return _Symbols(statistics.mean, np.where(coded, steps, 0), np.zeros(int(coded.sum())), deviations, bound)


def fit_entropy_model(
    model: AutoencoderModelBase, statistics: LatentStatistics, latents: torch.Tensor, num_steps: int, seed: int = 0
) -> EntropyModel | None:
    """Learn to predict a model's rounded latents, those (N, C, h, w) of the images that it was trained on.

    A model that rounds brings a network with it, from which this continues; with 0 steps it is taken as it is.

    Returns:
        None for 0 steps and a model that brings none.

    Raises:
        InputError: The latents are not a grid, or vectors of a codebook.
    """
    if num_steps and _vector_quantizer(model) is not None:
        raise InputError("an entropy model is of numbers, this model's latents are of a codebook: leave its steps out")
    own = model.entropy if isinstance(model, ConvAutoencoderModel) else None
    if not num_steps:
        return None if own is None else EntropyModel(copy.deepcopy(own))
    codec = LatentCodec(model, statistics)
    qualities: Sequence[int] = _LEARNED_QUALITIES
    if own is not None:
        qualities = codec.qualities
    shape = statistics.shape.tolist()
    steps = {}
    for quality in (_LEVELS_QUALITY,) if codec.levels else qualities:
        step = codec.steps(0 if codec.levels else quality)
        # a step that is far too large for a number that is not coded: it costs nothing
        steps[quality] = torch.from_numpy(np.where(step > 0, step, 1e6)).view(shape).amin((1, 2), keepdim=True)
    return EntropyModel.fit(latents, steps, bool(codec.levels), own, num_steps, seed)


def _decoder(coder: Any, payload: bytes) -> Any:
    """A decoder of big-endian words, of which the last may lack bytes."""
    return coder.RangeDecoder(np.frombuffer(payload + bytes(-len(payload) % 4), dtype=">u4").astype(np.uint32))


def _vector_quantizer(model: AutoencoderModelBase) -> VectorQuantizer | None:
    return model.vector_quantizer if isinstance(model, ConvAutoencoderModel) else None


def _rounds(model: AutoencoderModelBase) -> bool:
    return getattr(model.config, "quantizer", "none") == "rounding"


def _fingerprint(model: AutoencoderModelBase, statistics: LatentStatistics) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    for item in fields(statistics):
        digest.update(np.ascontiguousarray(getattr(statistics, item.name)).tobytes())
    return digest.digest()
