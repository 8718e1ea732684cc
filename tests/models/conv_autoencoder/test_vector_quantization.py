"""Vector quantization against loops over positions and vectors."""

import pytest
import torch

from hfembed.models.conv_autoencoder import vector_quantization
from hfembed.models.conv_autoencoder.vector_quantization import VectorQuantizer


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return VectorQuantizer(11, 3)


def nearest_by_loop(latents, codebook):
    """Index of the nearest vector of each position, and the sum of its squared distances."""
    indices, total = torch.zeros(len(latents), *latents.shape[2:], dtype=torch.int64), 0.0
    for image in range(len(latents)):
        for row in range(latents.shape[2]):
            for column in range(latents.shape[3]):
                distances = [
                    sum(
                        (float(a) - float(b)) ** 2 for a, b in zip(latents[image, :, row, column], vector, strict=True)
                    )
                    for vector in codebook
                ]
                indices[image, row, column] = distances.index(min(distances))
                total += min(distances)
    return indices, total


@pytest.mark.parametrize("most_distances", [2**24, 30])
def test_nearest_vectors_and_losses_are_those_of_a_loop(quantizer, most_distances, monkeypatch):
    monkeypatch.setattr(vector_quantization, "_MOST_DISTANCES", most_distances)
    latents = torch.randn(2, 3, 4, 5)
    indices, total = nearest_by_loop(latents, quantizer.codebook.detach())
    quantized, codebook_loss, commitment_loss = quantizer(latents)
    assert torch.equal(quantizer.indices(latents), indices)
    assert torch.equal(quantized, quantizer.codebook[indices].permute(0, 3, 1, 2)), "to the bit"
    for loss in (codebook_loss, commitment_loss):
        assert loss.item() == pytest.approx(total / latents.numel(), rel=1e-5)


def test_each_gradient_goes_where_eq_3_sends_it(quantizer):
    latents = torch.randn(2, 3, 4, 5, requires_grad=True)
    quantized, codebook_loss, commitment_loss = quantizer(latents)
    pull = torch.randn_like(quantized)
    of_latents, of_codebook = torch.autograd.grad(
        (quantized * pull).sum(), (latents, quantizer.codebook), retain_graph=True, allow_unused=True
    )
    assert torch.equal(of_latents, pull) and of_codebook is None, "straight through"
    of_latents, of_codebook = torch.autograd.grad(
        codebook_loss, (latents, quantizer.codebook), retain_graph=True, allow_unused=True
    )
    assert of_latents is None
    expected, indices = torch.zeros(11, 3), quantizer.indices(latents).flatten().tolist()
    for index, vector in zip(indices, latents.detach().permute(0, 2, 3, 1).reshape(-1, 3), strict=True):
        expected[index] += 2 * (quantizer.codebook[index].detach() - vector) / latents.numel()
    torch.testing.assert_close(of_codebook, expected)
    of_latents, of_codebook = torch.autograd.grad(commitment_loss, (latents, quantizer.codebook), allow_unused=True)
    assert of_codebook is None
    torch.testing.assert_close(of_latents, 2 * (latents - quantized).detach() / latents.numel())


def test_a_vector_of_the_codebook_is_its_own_nearest_however_close_others_are(quantizer):
    with torch.no_grad():
        quantizer.codebook.copy_(100 + 1e-5 * torch.arange(11.0)[:, None])
    distinct = quantizer.codebook.detach().unique(dim=0)
    latents = distinct.T[None, :, :, None]
    assert torch.equal(quantizer(latents)[0], latents)


def test_vectors_are_the_same_under_autocast(quantizer):
    latents = torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        quantized, codebook_loss, _ = quantizer(latents)
    assert torch.equal(quantized, quantizer(latents)[0]) and codebook_loss.dtype == torch.float32
