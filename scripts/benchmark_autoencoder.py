"""Speed of the convolutional autoencoder on one CPU thread, beside networks of other libraries of the same size.

python scripts/benchmark_autoencoder.py --output benchmark_autoencoder.json

Against each of diffusers' AutoencoderKL and AutoencoderTiny and pythae's convolutional autoencoder stands one of ours
with as many parameters, as many latent numbers and the same stride. Each runs in the faster of the two memory formats.
A round trains, encodes and decodes one batch with every network; they take turns, and the figures are medians of CPU
time: other load on the machine then disturbs all of them alike. Absolute figures are this machine's; the ratios are
what carries over. `pip install diffusers pythae` first; what is not installed is left out, and named.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss

from hfembed.atomic import atomic_write
from hfembed.errors import exit_on_input_error
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel


class Subject(NamedTuple):
    """A network in one memory format, and what is done with it."""

    network: nn.Module
    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    loss: Callable[[torch.Tensor], torch.Tensor]


def ours(size: int, parameters: int, shape: tuple[int, ...], latent_channels: int, **options: object) -> Subject:
    """Ours, its widths scaled until it has the number of parameters.

    Args:
        size: Side of the images in pixels.
        parameters: To come as near to as whole widths allow.
        shape: The widths' proportions.
        latent_channels: Of its latents.
        **options: Further fields of its config.
    """

    def build(width: int) -> ConvAutoencoderModel:
        config = ConvAutoencoderConfig(
            image_size=[size, size],
            widths=[width * share for share in shape],
            latent_channels=latent_channels,
            **options,
        )
        return ConvAutoencoderModel(config)

    def difference(width: int) -> int:
        with torch.device("meta"):
            return abs(build(width).num_parameters() - parameters)

    model = build(min(range(4, 200, 2), key=difference))
    return Subject(model, model.encode, model.decode, lambda images: model(images, targets=images).loss)


def autoencoder_kl(size: int) -> Subject:
    """Diffusers' AutoencoderKL, stride 8, 4 latent channels, plain (its mean is decoded)."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=4,
        sample_size=size,
    )

    def encode(images: torch.Tensor) -> torch.Tensor:
        return model.encode(images).latent_dist.mean

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return model.decode(latents).sample

    return Subject(model, encode, decode, lambda images: mse_loss(decode(encode(images)), images))


def autoencoder_tiny(_: int) -> Subject:
    """Diffusers' AutoencoderTiny as published: stride 8, 4 latent channels, 64 wide; takes images of any size."""
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny()

    def encode(images: torch.Tensor) -> torch.Tensor:
        return model.encode(images).latents

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return model.decode(latents).sample

    return Subject(model, encode, decode, lambda images: mse_loss(decode(encode(images)), images))


def pythae_conv(size: int) -> Subject:
    """Pythae's convolutional autoencoder for CelebA, 64 latent numbers."""
    from pythae.models import AE, AEConfig
    from pythae.models.nn.benchmarks.celeba import Decoder_Conv_AE_CELEBA, Encoder_Conv_AE_CELEBA

    config = AEConfig(input_dim=(3, size, size), latent_dim=64)
    model = AE(config, Encoder_Conv_AE_CELEBA(config), Decoder_Conv_AE_CELEBA(config))

    def encode(images: torch.Tensor) -> torch.Tensor:
        return model.encoder(images).embedding

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return model.decoder(latents).reconstruction

    return Subject(model, encode, decode, lambda images: mse_loss(decode(encode(images)), images))


def measure(subjects: dict[str, Subject], size: int, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of each, for training, encoding and decoding."""
    images = torch.rand(batch_size, 3, size, size)
    optimizers = {name: torch.optim.AdamW(subject.network.parameters(), 1e-4) for name, subject in subjects.items()}
    seconds: dict[tuple[str, str], dict[torch.memory_format, list[float]]] = defaultdict(lambda: defaultdict(list))

    def timed(name: str, task: str, layout: torch.memory_format, run: Callable[[], object]) -> object:
        start = time.process_time()
        result = run()
        seconds[name, task][layout].append(time.process_time() - start)
        return result

    for _ in range(rounds + 1):
        for layout in (torch.contiguous_format, torch.channels_last):
            batch = images.contiguous(memory_format=layout)
            for name, subject in subjects.items():
                subject.network.to(memory_format=layout).train()
                timed(name, "train", layout, partial(train_step, subject, optimizers[name], batch))
                subject.network.eval()
                with torch.inference_mode():
                    latents = timed(name, "encode", layout, partial(subject.encode, batch))
                    timed(name, "decode", layout, partial(subject.decode, latents))
    return {
        name: {
            # the first round warms up
            task: batch_size / min(statistics.median(times[1:]) for times in seconds[name, task].values())
            for task in ("train", "encode", "decode")
        }
        for name in subjects
    }


def train_step(subject: Subject, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    """Loss, gradients and an update."""
    subject.loss(images).backward()
    optimizer.step()
    optimizer.zero_grad()


@exit_on_input_error
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images; pythae's network takes 64 only")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="compare with those whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    # (theirs, the proportions of our widths, our latents)
    pairs = {
        "diffusers AutoencoderKL": (autoencoder_kl, (1, 2, 4), {"latent_channels": 4}),
        "diffusers AutoencoderTiny": (autoencoder_tiny, (1, 2, 4), {"latent_channels": 4}),
        "pythae Conv AE (CelebA)": (
            pythae_conv,
            (1, 4, 16),
            {"latent_channels": 64, "bottleneck": "dense", "patch_size": 4},
        ),
    }
    results: dict[str, dict[str, float]] = {}
    print(f"{'images per second, one thread':44}{'parameters':>12}{'train':>9}{'encode':>9}{'decode':>9}")
    for name, (build, shape, options) in pairs.items():
        if arguments.only and arguments.only not in name:
            continue
        try:
            theirs = build(arguments.size)
        except ImportError as error:
            print(f"{name}: left out, {error}")
            continue
        parameters = sum(weight.numel() for weight in theirs.network.parameters())
        subjects = {name: theirs, f"ours beside {name}": ours(arguments.size, parameters, shape, **options)}
        for subject, row in measure(subjects, arguments.size, arguments.batch_size, arguments.rounds).items():
            count = sum(weight.numel() for weight in subjects[subject].network.parameters())
            results[subject] = {"parameters": count, **row}
            print(f"{subject:44}{count:12,}" + "".join(f"{row[task]:9.1f}" for task in row))
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
