import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.errors import InputError
from hfembed.images.entropy_model import EntropyModel
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from hfembed.models.conv_autoencoder.entropy_network import EntropyNetwork, quality_input, step_deviation
from tests.images.tiny_autoencoder import save_tiny_autoencoder, smooth_images
from tests.models.conv_autoencoder.test_entropy_network import varied_network

SHAPE = (5, 6, 6)


@pytest.fixture(scope="module")
def correlated():
    """Latents whose neighbors and channels are alike, scaled by what the first channel shows: (N, 5, 6, 6)."""
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(400, 1, 3, 3), size=(6, 6), mode="bilinear")
    return torch.cat([3 * coarse, coarse.abs() * torch.randn(400, 4, 6, 6)], 1) + 0.1 * torch.randn(400, *SHAPE)


def predictions(model, values, steps, quality):
    return [np.stack(model.predict(values, stage, steps, quality)) for stage in model.network.stages()]


def test_predictions_are_those_of_the_network():
    network = varied_network(SHAPE)
    model = EntropyModel(network)
    values, steps = torch.randn(SHAPE, dtype=torch.float64), torch.full((5, 1, 1), 0.25, dtype=torch.float64)
    for stage in network.stages():
        means, deviations = model.predict(values, stage, steps, 12)
        known = values[: stage.last].float()[None].clone()
        known[:, stage.first :] *= network.colors[0] if stage.color else 0
        mean, log_deviation = network.groups[stage.group](known, stage.color, quality_input(torch.tensor([12.0])))
        where = network.colors[stage.color]
        assert means == pytest.approx(4 * mean[0][:, where].flatten().detach().numpy(), abs=0.02)
        expected = step_deviation(log_deviation + 2)[0][:, where].flatten().detach().numpy()
        assert deviations == pytest.approx(expected, rel=0.03)  # a sixteenth of an octave


def test_predictions_are_the_same_to_the_bit_whatever_computes_them():
    model = EntropyModel(varied_network(SHAPE))
    values, steps = 5 * torch.randn(SHAPE, dtype=torch.float64), torch.full((5, 1, 1), 0.3, dtype=torch.float64)
    expected = predictions(model, values, steps, 15)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.backends.mkldnn.flags(enabled=count != 2):
                again = predictions(model, values, steps, 15)
            assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
    finally:
        torch.set_num_threads(threads)
    # another order of the sums: a batch, and plain Python integers
    group = model._groups[-1]
    hidden = torch.randint(-(2**16), 2**16, (5, 6, 6)).double()
    together = torch.nn.functional.conv2d(hidden.expand(7, -1, -1, -1), group.weights[0], padding=2)
    padded = torch.nn.functional.pad(hidden, (2, 2, 2, 2)).long()
    by_hand = sum(
        int(a) * int(b) for a, b in zip(padded[:, 1:6, 2:7].flatten(), group.weights[0][3].flatten(), strict=True)
    )
    assert all(int(row[3, 1, 2]) == by_hand for row in together)


def test_extreme_weights_and_values_stay_exact_and_finite():
    network = varied_network(SHAPE)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=1e4)
    model = EntropyModel(network)
    for values in (torch.full(SHAPE, 1e30, dtype=torch.float64), torch.full(SHAPE, -1e9, dtype=torch.float64)):
        for part in predictions(model, values, torch.full((5, 1, 1), 0.3, dtype=torch.float64), 40):
            assert np.isfinite(part).all() and (part[1] >= 0.1).all()


def test_it_learns_what_numbers_know_of_each_other(correlated):
    steps = {quality: torch.full((5, 1, 1), 2 ** (-quality / 2) * 64) for quality in (12, 14)}

    def bits(model):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return float(model.network(correlated[300:], steps[14][None], torch.full((100,), 14.0))[1].mean())

    independent = EntropyModel.fit(correlated[:300], steps, num_steps=0)
    learned = EntropyModel.fit(correlated[:300], steps, num_steps=100)
    assert bits(learned) < 0.9 * bits(independent)
    again, once_more = (EntropyModel.fit(correlated[:300], steps, num_steps=5) for _ in range(2))
    assert again.fingerprint == once_more.fingerprint != independent.fingerprint
    with pytest.raises(InputError, match="a vector"):
        EntropyModel.fit(torch.randn(50, 8, 1, 1), {14: torch.ones(8, 1, 1)})


def test_it_is_stored_beside_the_statistics_and_checked(tmp_path):
    model = save_tiny_autoencoder(tmp_path)
    statistics = LatentStatistics.fit(model, encode_images(model, smooth_images(50)), 1)
    entropy_model = EntropyModel(varied_network((2, 4, 4)))
    path = statistics.save(tmp_path)
    assert EntropyModel.load(tmp_path, (2, 4, 4)) is None
    statistics.save(tmp_path, entropy_model.tensors())
    assert EntropyModel.load(tmp_path, (2, 4, 4)).fingerprint == entropy_model.fingerprint
    assert LatentStatistics.load(tmp_path).mean.tolist() == statistics.mean.tolist()
    tensors = load_file(path)
    for name, wrong, words in (
        ("entropy.groups.0.quality", torch.zeros(10_000), "a network of"),
        ("entropy.groups.0.quality", torch.zeros(9), "not of latents"),
        ("entropy.groups.1.mix.weight", torch.zeros(8, 8, 3, 3), "not of latents"),
        ("entropy.scale", torch.zeros(2, 1, 1), "damaged"),
        ("entropy.groups.0.hidden_at", torch.full_like(tensors["entropy.groups.0.hidden_at"], torch.nan), "damaged"),
        ("entropy.more", torch.zeros(3), "not of latents"),
        ("entropy.center", torch.full((2, 1, 1), 1e300, dtype=torch.float64), "of type F64"),  # infinite in float32
        ("entropy.scale", torch.ones(2, 1, 1, dtype=torch.complex64), "of type C64"),
    ):
        save_file(tensors | {name: wrong}, path, {"weights": Checkpoint.resolve(tmp_path).fingerprint})
        with pytest.raises(InputError, match=words) as error:
            EntropyModel.load(tmp_path, (2, 4, 4))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="not of latents"):
        EntropyModel.load(tmp_path, (3, 4, 4))


def test_a_network_of_any_channels_can_be_built():
    for channels in (1, 2, 3, 7, 24):
        EntropyModel(EntropyNetwork((channels, 2, 3)))
