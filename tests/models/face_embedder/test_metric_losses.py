"""Triplet and contrastive losses, and mining, against loops over all triplets; their cost at FaceNet's batch."""

import itertools
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from hfembed.models.face_embedder.metric_losses import contrastive_loss
from hfembed.models.face_embedder.triplet_loss import triplet_loss
from hfembed.models.face_embedder.triplet_mining import hard_triplets, semi_hard_triplets, squared_distances
from tests.fork_server import fork_server

MARGIN = 0.2


def batch(labels, spread, seed=0):
    """Embeddings (B, D) around their person's point; float64, so that ties and gradients are exact."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.as_tensor(labels)
    points = torch.randn(int(labels.max()) + 1, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), 6, generator=generator, dtype=torch.float64)
    return F.normalize(points[labels] + spread * noise).requires_grad_(), labels


def person_by_person(labels):
    positives = [(a, p) for a, p in itertools.permutations(range(len(labels)), 2) if labels[a] == labels[p]]
    negatives = {a: [n for n in range(len(labels)) if labels[n] != labels[a]] for a in range(len(labels))}
    return positives, negatives


def mine_by_brute_force(distances, labels, mining):
    """The triplets of the documented rules, and how many candidates there were."""
    positives, negatives = person_by_person(labels)
    d = distances.tolist()
    if mining in ("all", "all-violating"):
        triplets = [(a, p, n) for a, p in positives for n in negatives[a]]
        if mining == "all":
            return triplets, len(triplets)
        return [(a, p, n) for a, p, n in triplets if d[a][p] - d[a][n] + MARGIN > 0], len(triplets)
    if mining == "hard":
        triplets = []
        for a in range(len(labels)):
            mates = [p for other, p in positives if other == a]
            if mates and negatives[a]:
                triplets.append((a, max(mates, key=lambda p: d[a][p]), min(negatives[a], key=lambda n: d[a][n])))
        return triplets, len(triplets)
    triplets, candidates = [], 0
    for a, p in positives:
        candidates += bool(negatives[a])
        farther = [n for n in negatives[a] if d[a][n] > d[a][p]]
        semi_hard = [n for n in farther if d[a][n] < d[a][p] + MARGIN]
        if semi_hard:
            triplets.append((a, p, min(semi_hard, key=lambda n: d[a][n])))
        elif negatives[a] and not farther:
            triplets.append((a, p, max(negatives[a], key=lambda n: d[a][n])))
    return triplets, candidates


def loss_by_brute_force(embeddings, triplets):
    violations = [
        (embeddings[a] - embeddings[p]).square().sum() - (embeddings[a] - embeddings[n]).square().sum() + MARGIN
        for a, p, n in triplets
    ]
    return torch.stack(violations).relu().mean() if triplets else embeddings.sum() * 0


BATCHES = {
    "mixed": ([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3], 0.6),
    "far apart": ([0, 0, 0, 1, 1, 1, 2, 2], 0.05),
    "confused": ([0, 0, 0, 1, 1, 1, 2, 2, 2], 5.0),
    "people with one photo": ([0, 1, 1, 2, 3, 3], 1.0),
    "shuffled": ([2, 0, 1, 2, 0, 1, 0, 2, 2], 1.0),
    "no two of one person": ([0, 1, 2, 3], 1.0),
    "one person alone": ([0, 0, 0], 1.0),
    "one photo": ([0], 1.0),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all", "all-violating"])
def test_triplet_loss_and_gradient_are_exact(mining, name):
    for seed in range(3):
        embeddings, labels = batch(*BATCHES[name], seed=seed)
        triplets, candidates = mine_by_brute_force(squared_distances(embeddings.detach()), labels, mining)
        expected = loss_by_brute_force(embeddings, triplets)
        (expected_gradient,) = torch.autograd.grad(expected, embeddings)
        loss, active_share = triplet_loss(embeddings, labels, MARGIN, mining)
        loss.backward()
        torch.testing.assert_close(loss, expected)
        # brute force differentiates |a - b|^2, ours 2 - 2 ab: on the unit sphere they agree along the sphere
        assert_same_on_sphere(embeddings, embeddings.grad, expected_gradient)
        active = sum(bool(loss_by_brute_force(embeddings, [triplet]) > 0) for triplet in triplets)
        assert active_share.item() == pytest.approx(active / max(candidates, 1))


def assert_same_on_sphere(embeddings, gradient, expected):
    embeddings = embeddings.detach()
    along = [tangent - (tangent * embeddings).sum(1, keepdim=True) * embeddings for tangent in (gradient, expected)]
    torch.testing.assert_close(*along)


def test_miners_return_the_triplets():
    embeddings, labels = batch(*BATCHES["mixed"])
    distances = squared_distances(embeddings.detach())
    for mined, mining in [
        (semi_hard_triplets(distances, labels, MARGIN), "semi-hard"),
        (hard_triplets(distances, labels), "hard"),
    ]:
        expected, _ = mine_by_brute_force(distances, labels, mining)
        assert list(zip(*(indices.tolist() for indices in mined), strict=True)) == expected
        assert all(indices.dtype == torch.int64 for indices in mined)


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all", "all-violating"])
def test_collapse_shows_as_a_loss_at_the_margin(mining):
    embeddings = F.normalize(torch.ones(9, 4)).requires_grad_()
    loss, active_share = triplet_loss(embeddings, torch.arange(3).repeat(3), MARGIN, mining)
    loss.backward()
    assert loss.item() == pytest.approx(MARGIN, abs=1e-6) and active_share == 1
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all", "all-violating"])
def test_broken_embeddings_are_not_hidden(mining):
    embeddings, labels = batch(*BATCHES["mixed"])
    broken = embeddings.detach().clone()
    broken[4] = torch.nan
    assert triplet_loss(broken, labels, MARGIN, mining)[0].isnan()
    assert contrastive_loss(broken, labels)[0].isnan()


def test_unknown_mining_is_refused():
    with pytest.raises(ValueError, match="'semihard'; known: semi-hard, hard"):
        triplet_loss(*batch([0, 0, 1], 1.0), MARGIN, "semihard")


def test_float32_under_autocast():
    embeddings, labels = batch(*BATCHES["mixed"])
    embeddings = embeddings.detach().float()
    expected, _ = triplet_loss(embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = triplet_loss(embeddings, labels)
    assert loss.dtype == torch.float32 and loss == expected


@pytest.mark.parametrize("name", BATCHES)
def test_contrastive_loss_is_exact(name):
    embeddings, labels = batch(*BATCHES[name])
    pairs = list(itertools.combinations(range(len(labels)), 2))
    terms, inside, different = [], 0, 0
    for i, j in pairs:
        distance = (embeddings[i] - embeddings[j]).norm()
        if labels[i] == labels[j]:
            terms.append(distance.square() / 2)
        else:
            terms.append((1.0 - distance).relu().square() / 2)
            different += 1
            inside += bool(distance < 1.0)
    expected = torch.stack(terms).mean() if terms else embeddings.sum() * 0
    (expected_gradient,) = torch.autograd.grad(expected, embeddings)
    loss, active_share = contrastive_loss(embeddings, labels, margin=1.0)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert_same_on_sphere(embeddings, embeddings.grad, expected_gradient)
    assert active_share.item() == pytest.approx(inside / max(different, 1))


def test_contrastive_gradient_is_finite_where_two_people_coincide():
    embeddings = F.normalize(torch.ones(4, 3)).requires_grad_()
    loss, _ = contrastive_loss(embeddings, torch.arange(4))
    loss.backward()
    assert loss.item() == pytest.approx(0.5, abs=1e-3) and embeddings.grad.isfinite().all()


def cost_at_facenets_batch():
    """Seconds, megabytes at the peak, and the share of active triplets; in a process of its own."""
    torch.set_num_threads(1)
    labels = torch.arange(45).repeat_interleave(40)
    points = F.normalize(torch.randn(45, 128, generator=torch.Generator().manual_seed(0)))
    noise = torch.randn(1800, 128, generator=torch.Generator().manual_seed(1))
    embeddings = F.normalize(points[labels] + 0.1 * noise).requires_grad_()
    triplet_loss(embeddings[::30], labels[::30])[0].backward()  # torch's own start
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    loss, share = triplet_loss(embeddings, labels)
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return time.process_time() - start, (peak - before) / 1024, share.item()


def test_semi_hard_mining_at_facenets_batch():
    """1,800 embeddings, 70,200 anchor-positive pairs: mined, and the gradient, in under 1 s of one core and 200 MB."""
    with ProcessPoolExecutor(1, mp_context=fork_server()) as pool:
        seconds, megabytes, active_share = pool.submit(cost_at_facenets_batch).result()
    print(f"semi-hard at B = 1,800: {seconds:.2f} s, {megabytes:.0f} MB, {active_share:.1%} active")
    assert seconds < 1 and megabytes < 200 and 0 < active_share < 1
