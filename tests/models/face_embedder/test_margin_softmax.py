"""Margins against their formulas in plain numbers, and the gradients where formulas have none."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hfembed.models.face_embedder.margin_softmax import (
    MarginSoftmax,
    adaface_logits,
    adaface_norm_scores,
    arcface_logits,
    combined_margin_logits,
    cosface_logits,
    cosine_similarities,
    curricularface_logits,
    elasticface_margins,
    magface_logits,
    magface_margins,
    magface_penalty,
    sub_center_cosines,
)

COSINES = torch.linspace(-1, 1, 401, dtype=torch.float64)


def own_class(function, cosines, *arguments):
    """The own class's logit as a function of its cosine, one row a cosine."""
    rows = torch.stack([cosines, torch.full_like(cosines, 0.3)], 1)
    logits = function(rows, torch.zeros(len(rows), dtype=torch.long), *arguments)
    assert torch.allclose(logits[:, 1], logits.new_tensor(0.3) * arguments[-2]), "other classes have no margin"
    return logits[:, 0]


def test_cosface_formula():
    torch.testing.assert_close(own_class(cosface_logits, COSINES, 10.0, 0.35), 10 * (COSINES - 0.35))


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0])
def test_arcface_formula(margin):
    expected = []
    for cosine in COSINES.tolist():
        theta = math.acos(cosine)
        beyond = theta + margin > math.pi
        expected.append(10 * (cosine - margin * math.sin(margin) if beyond else math.cos(theta + margin)))
    actual = own_class(arcface_logits, COSINES, 10.0, margin)
    # at cos = +-1 the sine is bounded from below, and 1.0 - 1e-16 decides on which side of pi - m an angle lies
    torch.testing.assert_close(actual[1:-1], torch.tensor(expected, dtype=torch.float64)[1:-1])
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=10 * 3.2e-4)


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_arcface_rises_with_the_cosine_everywhere(margin):
    assert own_class(arcface_logits, COSINES, 10.0, margin).diff().min() > 0


def test_arcface_gradient_is_the_true_one():
    cosines = torch.linspace(-0.99, 0.99, 50, dtype=torch.float64, requires_grad=True)
    own_class(arcface_logits, cosines, 1.0, 0.5).sum().backward()
    theta = cosines.detach().acos()
    expected = torch.where(theta + 0.5 > math.pi, 1.0, (theta + 0.5).sin() / theta.sin())
    torch.testing.assert_close(cosines.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, math.pi])
@pytest.mark.parametrize("head", ["cosface", "arcface", "combined", "magface", "adaface", "curricularface"])
def test_gradients_are_finite_where_embedding_and_weight_agree_or_oppose(head, angle, dtype):
    weights = F.normalize(torch.randn(4, 8, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    embeddings = (math.cos(angle) * weights[:2]).clone().requires_grad_()
    labels = torch.arange(2)
    cosines = cosine_similarities(embeddings, weights)
    assert cosines.abs().max() <= 1
    if head == "adaface":
        logits = adaface_logits(cosines, labels, torch.tensor([-1.0, 1.0]), 64.0, 0.4)
    elif head == "magface":
        logits = magface_logits(cosines, labels, torch.tensor([0.45, 0.8]), 64.0)
    elif head == "combined":
        logits = combined_margin_logits(cosines, labels, 64.0, (1.2, 0.3, 0.2))
    elif head == "curricularface":
        logits = curricularface_logits(cosines, labels, torch.tensor(0.3), 64.0, 0.4)
    else:
        logits = {"cosface": cosface_logits, "arcface": arcface_logits}[head](cosines, labels, 64.0, 0.4)
    F.cross_entropy(logits, labels).backward()
    assert embeddings.grad.isfinite().all()
    # a point on the sphere moves along the sphere, by no more than the scale
    assert embeddings.grad.norm(dim=1).max() < 64


def test_adaface_formula():
    margin, scale = 0.4, 10.0
    for score in (-1.0, -0.4, 0.0, 0.7, 1.0):
        scores = torch.full_like(COSINES, score)
        rows = torch.stack([COSINES, torch.zeros_like(COSINES)], 1)
        actual = adaface_logits(rows, torch.zeros(len(rows), dtype=torch.long), scores, scale, margin)[:, 0]
        g_angle, g_add = -margin * score, margin * score + margin
        theta = COSINES.acos() + g_angle
        expected = scale * (theta.clamp(min=0).cos() - g_add)
        inside = theta <= math.pi
        torch.testing.assert_close(actual[inside], expected[inside], rtol=0, atol=scale * 3.2e-4)
        assert actual.diff().min() > -1e-9, "the logit never falls as the cosine rises"


def test_adaface_scores():
    norms = torch.tensor([1e-9, 5.0, 20.0, 500.0], requires_grad=True)
    scores = adaface_norm_scores(norms, torch.tensor(10.0), torch.tensor(5.0))
    expected = [(norm - 10) / 5.001 * 0.333 for norm in (0.001, 5, 20, 100)]
    torch.testing.assert_close(scores, torch.tensor(expected).clamp(-1, 1))
    assert not scores.requires_grad


def test_cosines_are_float32_under_autocast_and_keep_their_gradient():
    embeddings = torch.randn(6, 8, dtype=torch.bfloat16).requires_grad_()
    weights = torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosines = cosine_similarities(embeddings, weights)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, F.normalize(embeddings.float()) @ F.normalize(weights).T)
    double = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cosine_similarities, (double, fixed))


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_curricularface_formula(progress):
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(40, 6, dtype=torch.float64, generator=generator) * 1.6 - 0.8
    labels = torch.randint(6, (40,), generator=generator)
    expected = torch.empty_like(cosines)
    for row, label in enumerate(labels.tolist()):
        own = math.cos(math.acos(cosines[row, label]) + 0.5)
        for other in range(6):
            cosine = float(cosines[row, other])
            hard = cosine * (progress + cosine) if cosine > own else cosine
            expected[row, other] = 10 * (own if other == label else hard)
    actual = curricularface_logits(cosines, labels, torch.tensor(progress), 10.0, 0.5)
    inside = cosines.gather(1, labels[:, None]).squeeze(1).acos() + 0.5 < math.pi
    torch.testing.assert_close(actual[inside], expected[inside])


def test_curricularface_progress_is_a_running_mean_that_is_saved_and_stands_still_in_evaluation():
    head = MarginSoftmax(4, 3, "curricularface", 10.0, None)
    torch.nn.init.zeros_(head.progress)
    cosines, labels = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.9, 0.3]]), torch.tensor([0, 1])
    for _ in range(2):
        head.margin_logits(cosines, torch.ones(2), labels)
    assert head.progress.item() == pytest.approx(0.01 * 0.7 + 0.99 * 0.01 * 0.7)
    before = head.eval().progress.clone()
    head.margin_logits(cosines, torch.ones(2), labels)
    assert head.progress == before and "progress" in head.state_dict()


@pytest.mark.parametrize("margins", [(1.0, 0.3, 0.2), (0.9, 0.4, 0.15), (1.35, 0.0, 0.0), (2.0, 1.4, 0.1)])
def test_combined_margin_formula(margins):
    factor, angle, difference = margins
    expected = []
    for cosine in COSINES.tolist():
        theta = math.acos(cosine)
        added = math.pi - (math.pi - angle) / factor
        beyond = factor * theta + angle > math.pi
        own = cosine - added * math.sin(added) if beyond else math.cos(factor * theta + angle)
        expected.append(10 * (own - difference))
    rows = torch.stack([COSINES, torch.full_like(COSINES, 0.3)], 1)
    actual = combined_margin_logits(rows, torch.zeros(len(rows), dtype=torch.long), 10.0, margins)
    torch.testing.assert_close(actual[1:-1, 0], torch.tensor(expected, dtype=torch.float64)[1:-1])
    torch.testing.assert_close(actual[:, 1], 10 * rows[:, 1])
    assert actual[:, 0].diff().min() > 0, "the logit rises with the cosine everywhere"


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.0])
def test_combined_margin_contains_the_margins_it_combines(margin):
    rows = torch.stack([COSINES, torch.full_like(COSINES, 0.3)], 1)
    labels = torch.zeros(len(rows), dtype=torch.long)
    arcface = combined_margin_logits(rows, labels, 10.0, (1.0, margin, 0.0))
    cosface = combined_margin_logits(rows, labels, 10.0, (1.0, 0.0, margin))
    # at cos = +-1 each bounds the sine from below in its own way
    torch.testing.assert_close(arcface, arcface_logits(rows, labels, 10.0, margin), rtol=0, atol=1e-6)
    torch.testing.assert_close(cosface, cosface_logits(rows, labels, 10.0, margin), rtol=0, atol=1e-6)
    plain = combined_margin_logits(rows, labels, 10.0, (1.0, 0.0, 0.0))
    torch.testing.assert_close(plain, 10 * rows, rtol=0, atol=1e-6)


def test_combined_margin_gradient():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(8, 5, dtype=torch.float64, generator=generator) * 1.6 - 0.8
    labels = torch.randint(5, (8,), generator=generator)
    for margins in [(0.9, 0.4, 0.15), (1.8, 0.9, 0.1)]:
        assert torch.autograd.gradcheck(
            lambda values, margins=margins: combined_margin_logits(values, labels, 10.0, margins),
            cosines.requires_grad_(),
        )


def test_sub_center_cosines_are_those_of_the_nearest_center():
    rng = np.random.default_rng(0)
    embeddings, centers = rng.normal(size=(7, 6)), rng.normal(size=(4 * 3, 6))
    expected = np.empty((7, 4))
    for row, embedding in enumerate(embeddings):
        for person in range(4):
            own = centers[3 * person : 3 * person + 3]
            cosines = [embedding @ center / np.linalg.norm(embedding) / np.linalg.norm(center) for center in own]
            expected[row, person] = max(cosines)
    embeddings, centers = (torch.from_numpy(array).requires_grad_() for array in (embeddings, centers))
    actual = sub_center_cosines(embeddings, centers, 3)
    torch.testing.assert_close(actual.detach(), torch.from_numpy(expected))
    assert torch.autograd.gradcheck(lambda *tensors: sub_center_cosines(*tensors, 3), (embeddings, centers))


def test_only_the_nearest_sub_center_learns():
    embeddings = torch.tensor([[1.0, 0.2, 0.0]])
    centers = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 1.0]], requires_grad=True)
    F.cross_entropy(sub_center_cosines(embeddings, centers, 2), torch.tensor([0])).backward()
    assert centers.grad.abs().sum(1).gt(0).tolist() == [True, False, False, True]


def test_one_sub_center_is_arcface():
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(5, 8, generator=generator), torch.tensor([0, 1, 2, 2, 0])
    heads = [MarginSoftmax(8, 3, kind, 10.0, None, sub_centers=1) for kind in ("arcface", "subcenter_arcface")]
    torch.nn.init.normal_(heads[0].weight, generator=generator)
    heads[1].load_state_dict(heads[0].state_dict())
    logits = [head.margin_logits(head(embeddings), torch.ones(5), labels) for head in heads]
    assert torch.equal(*logits)


def magface_loss(embeddings, weights, labels):
    """Logits and regularizer as functions of embeddings that are not normalized yet."""
    norms = embeddings.norm(dim=1)
    margins = magface_margins(norms, (2.0, 6.0), (0.3, 0.7))
    logits = magface_logits(cosine_similarities(embeddings, weights), labels, margins, 10.0)
    return F.cross_entropy(logits, labels) + 5 * magface_penalty(norms, (2.0, 6.0))


def test_magface_loss_by_its_formulas():
    rng = np.random.default_rng(0)
    weights, labels = rng.normal(size=(4, 6)), np.array([0, 1, 2, 3, 1, 0])
    # below, inside and above the range of norms; near the own class, so that theta + m stays below pi
    lengths = np.array([1.0, 2.5, 3.5, 4.5, 5.5, 9.0])
    directions = weights[labels] / np.linalg.norm(weights[labels], axis=1, keepdims=True) + rng.normal(size=(6, 6)) / 4
    embeddings = lengths[:, None] * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    losses = []
    for embedding, label in zip(embeddings, labels, strict=True):
        length = min(max(np.linalg.norm(embedding), 2.0), 6.0)
        margin = (0.7 - 0.3) / (6.0 - 2.0) * (length - 2.0) + 0.3
        logits = [10 * embedding @ w / np.linalg.norm(embedding) / np.linalg.norm(w) for w in weights]
        logits[label] = 10 * math.cos(math.acos(logits[label] / 10) + margin)
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[label])
        losses[-1] += 5 * (1 / length + length / 36)
    embeddings, weights = (torch.from_numpy(array).requires_grad_() for array in (embeddings, weights))
    labels = torch.from_numpy(labels)
    actual = magface_loss(embeddings, weights, labels)
    assert actual.item() == pytest.approx(np.mean(losses), rel=1e-9)
    assert torch.autograd.gradcheck(lambda *tensors: magface_loss(*tensors, labels), (embeddings, weights))


def test_magface_with_one_margin_is_arcface_and_its_penalty_is_smallest_at_the_upper_norm():
    rows = torch.stack([COSINES, torch.full_like(COSINES, 0.3)], 1)
    labels = torch.zeros(len(rows), dtype=torch.long)
    norms = torch.linspace(1, 200, len(rows), dtype=torch.float64)
    for margin in (0.0, 0.5):
        margins = magface_margins(norms, (10, 110), (margin, margin))
        assert torch.equal(magface_logits(rows, labels, margins, 10.0), arcface_logits(rows, labels, 10.0, margin))
    penalties = torch.stack([magface_penalty(norm[None], (10, 110)) for norm in norms])
    assert penalties.argmin() == (norms >= 110).nonzero()[0] and penalties[0] == 1 / 10 + 10 / 110**2


def test_elasticface_draws_a_margin_per_sample_around_the_config_s():
    noise = torch.tensor([-20.0, -1.0, 0.0, 2.0, 40.0], dtype=torch.float64)
    margins = elasticface_margins(noise, 0.5, 0.05)
    torch.testing.assert_close(margins, torch.tensor([0.0, 0.45, 0.5, 0.6, 1.5], dtype=torch.float64))
    rows = torch.tensor([[0.6, 0.3]] * 5, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(5, dtype=torch.long)
    expected = [10 * math.cos(math.acos(0.6) + margin) for margin in margins.tolist()]
    logits = arcface_logits(rows, labels, 10.0, margins)
    torch.testing.assert_close(logits[:, 0].detach(), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda values: arcface_logits(values, labels, 10.0, margins), rows)
    assert torch.equal(
        arcface_logits(rows, labels, 10.0, elasticface_margins(noise, 0.5, 0.0)),
        arcface_logits(rows, labels, 10.0, 0.5),
    )


def test_elasticface_takes_the_noise_it_is_given_and_none_in_evaluation():
    head = MarginSoftmax(4, 3, "elasticface", 10.0, None, margin_deviation=0.1)
    cosines, norms, labels = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.6, 0.3]]), torch.ones(2), torch.tensor([0, 1])
    noise = torch.tensor([1.0, -2.0])
    expected = arcface_logits(cosines, labels, 10.0, torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(head.margin_logits(cosines, norms, labels, noise), expected)
    torch.manual_seed(0)
    drawn = [head.margin_logits(cosines, norms, labels) for _ in range(2)]
    assert not torch.equal(*drawn)
    still = head.eval().margin_logits(cosines, norms, labels, noise)
    assert torch.equal(still, arcface_logits(cosines, labels, 10.0, 0.5))
