"""Who is it? Protocols of identification, in a gallery of known people.

Embeddings are (N, D) float; a row of NaN is a photo without an embedding: unreadable, or no face was found. Such a
photo is never skipped: as a probe it is never recognized, as the only photo of somebody in the gallery it makes them
unrecognizable, and a pair with it is never accepted. All rates are fractions in [0, 1].
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from hfembed.errors import InputError
from hfembed.faces.evaluation.score_histogram import ScoreHistogram
from hfembed.faces.evaluation.verification import far_is_carried, tar_at_far
from hfembed.training.distributed import gather_rows, own_rows

NEVER = np.iinfo(np.int64).max  # the rank of somebody who cannot be found

People = Sequence[str] | np.ndarray

_AT_A_TIME = 1024  # probes compared with the whole gallery at once


class Identification(NamedTuple):
    """The result of the search for each of P probes.

    Attributes:
        rank: (P,) int64, position of the probe's own person, from 1; another person's equal score counts as better.
            `NEVER` where probe or mate failed, or the person is not in the gallery.
        best_score: (P,) float32, cosine of the best match, whoever it is; -inf for a failed probe.
        mated: (P,) bool, whether the person is in the gallery.
    """

    rank: np.ndarray
    best_score: np.ndarray
    mated: np.ndarray


class OpenSet(NamedTuple):
    """Detection and identification rate at a false alarm rate.

    Attributes:
        rate: DIR: mated probes whose own person is first and scores at least the threshold.
        far: Fraction of strangers' probes with a match at least as good as the threshold; at most the target.
        threshold: The cosine.
        hits: (mated probes,) bool.
    """

    rate: float
    far: float
    threshold: float
    hits: np.ndarray


class AllPairs(NamedTuple):
    """Every photo compared with every other.

    Attributes:
        histogram: All pairs, failed ones included.
        genuine_scores: Cosines of the scored genuine pairs.
        genuine_person: The person of each, as a number.
        genuine_trials: (people,) genuine pairs of each person, failed ones included.
    """

    histogram: ScoreHistogram
    genuine_scores: np.ndarray
    genuine_person: np.ndarray
    genuine_trials: np.ndarray


def identify(gallery: np.ndarray, gallery_people: People, probes: np.ndarray, probe_people: People) -> Identification:
    """Search every probe in a gallery; a person's score is that of the nearest of their photos.

    Args:
        gallery: (G, D) float.
        gallery_people: The person in each of them.
        probes: (P, D) float.
        probe_people: The person in each of them.

    Raises:
        InputError: The gallery or the probes are empty, or not one of their photos has an embedding.
    """
    if not len(gallery) or not len(probes) or np.isnan(gallery[:, 0]).all() or np.isnan(probes[:, 0]).all():
        raise InputError(f"{len(gallery)} gallery photos and {len(probes)} probes: both need some with an embedding")
    names, person = np.unique(np.asarray(gallery_people), return_inverse=True)
    usable = np.flatnonzero(~np.isnan(gallery[:, 0]))
    usable = usable[np.argsort(person[usable], kind="stable")]
    present, first = np.unique(person[usable], return_index=True)  # people with an embedding, their first row
    rows = _unit(gallery[usable])

    probe_people = np.asarray(probe_people)
    place = np.minimum(np.searchsorted(names, probe_people), len(names) - 1)
    mated = names[place] == probe_people
    column = np.minimum(np.searchsorted(present, place), len(present) - 1)
    findable = mated & (present[column] == place) & ~np.isnan(probes[:, 0])

    rank = np.full(len(probes), NEVER)
    best_score = np.full(len(probes), -np.inf, dtype=np.float32)
    for scored in _blocks(np.flatnonzero(~np.isnan(probes[:, 0]))):
        scores = np.maximum.reduceat(_unit(probes[scored]) @ rows.T, first, axis=1)
        best_score[scored] = scores.max(1)
        own = np.take_along_axis(scores, column[scored, None], 1)
        # the own score is one of those that are at least as good
        rank[scored] = np.where(findable[scored], (scores >= own).sum(1), NEVER)
    return Identification(rank, best_score, mated)


def cumulative_match(found: Identification, max_rank: int) -> np.ndarray:
    """The CMC: fraction of the mated probes whose own person is among the first k, for k = 1 ... `max_rank`.

    Raises:
        InputError: No probe's person is in the gallery.
    """
    if not found.mated.any():
        raise InputError("no probe's person is in the gallery: closed-set identification needs some")
    ranks = found.rank[found.mated]
    counts = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return np.cumsum(counts) / len(ranks)


def detection_and_identification(found: Identification, far: float) -> OpenSet:
    """Open-set identification at rank 1 (Phillips, Grother, Micheals 2011, "Evaluation methods in face recognition").

    The threshold is the lowest at which no more than the target fraction of the strangers' probes finds anybody.

    Args:
        found: From `identify`, with mated probes and those of strangers.
        far: The target false alarm rate.

    Raises:
        InputError: There are no mated probes, or too few strangers' probes for this rate.
    """
    strangers = np.sort(found.best_score[~found.mated])[::-1]
    if not far_is_carried(far, len(strangers)):
        raise InputError(f"FAR {far:g} cannot be measured with {len(strangers)} probes of strangers")
    if not found.mated.any():
        raise InputError("no probe's person is in the gallery")
    allowed = int(np.floor(far * len(strangers) * (1 + 1e-12)))
    # above the first stranger too many; where that one failed (-inf), nobody else is accepted either
    highest_rejected = strangers[allowed] if allowed < len(strangers) else np.float32(-np.inf)
    threshold = np.nextafter(highest_rejected, np.float32(np.inf)) if np.isfinite(highest_rejected) else np.float32(-1)
    hits = (found.rank[found.mated] == 1) & (found.best_score[found.mated] >= threshold)
    return OpenSet(float(hits.mean()), float((strangers >= threshold).mean()), float(threshold), hits)


def compare_all(embeddings: np.ndarray, people: People) -> AllPairs:
    """Score every pair of photos once.

    Args:
        embeddings: (N, D) float.
        people: The person in each photo.

    Raises:
        InputError: There is no genuine or no impostor pair with a score.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    usable = np.flatnonzero(~np.isnan(embeddings[:, 0]))
    usable = usable[np.argsort(person[usable], kind="stable")]
    rows, owner = _unit(embeddings[usable]), person[usable]
    histogram = ScoreHistogram()
    genuine_scores, genuine_person = [], []
    for block in _blocks(np.arange(len(rows))):
        scores = rows[block] @ rows[block[0] :].T  # people lie together: what is left of the block is done
        later = np.arange(block[0], len(rows)) > block[:, None]
        same = owner[block, None] == owner[block[0] :]
        genuine = later & same
        genuine_scores.append(scores[genuine])
        genuine_person.append(np.broadcast_to(owner[block, None], same.shape)[genuine])
        histogram.add(scores[later & ~same], same=False)
    scores = np.concatenate(genuine_scores) if genuine_scores else np.empty(0, dtype=np.float32)
    histogram.add(scores, same=True)
    photos = np.bincount(person)
    trials = photos * (photos - 1) // 2
    all_genuine = int(trials.sum())
    all_pairs = len(person) * (len(person) - 1) // 2
    scored_pairs = len(rows) * (len(rows) - 1) // 2
    if not len(scores) or scored_pairs == len(scores):
        raise InputError(f"{len(rows)} photos with an embedding: both genuine and impostor pairs are needed")
    failed_genuine = all_genuine - len(scores)
    histogram.add_failed(failed_genuine, all_pairs - scored_pairs - failed_genuine)
    return AllPairs(histogram, scores, np.concatenate(genuine_person), trials)


def people_interval(successes: np.ndarray, people: People, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a fraction, by bootstrap over people: photos of one person are not independent trials.

    Args:
        successes: (N,) bool or fraction, one per trial.
        people: (N,) the person of each trial.
        draws: Bootstrap samples.
        seed: Of the drawing.

    Returns:
        The 2.5 and 97.5 % quantiles of the fraction among people drawn with replacement.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    trials = np.bincount(person)
    return ratio_interval(np.bincount(person, weights=successes), trials, draws, seed)


def ratio_interval(successes: np.ndarray, trials: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """`people_interval` from the successes and trials of each person, (people,) each."""
    generator = np.random.default_rng(seed)
    number = len(trials)
    shares = []
    for _ in range(draws):
        times = np.bincount(generator.integers(number, size=number), minlength=number)
        asked = times @ trials
        shares.append(times @ successes / asked if asked else np.nan)
    low, high = np.nanquantile(shares, [0.025, 0.975])
    return float(low), float(high)


def first_photos(files: Sequence[str], people: People) -> np.ndarray:
    """(N,) bool: whether a photo is the first of its person by file name."""
    first: dict[str, int] = {}
    for number in sorted(range(len(files)), key=files.__getitem__):
        first.setdefault(people[number], number)
    chosen = np.zeros(len(files), dtype=bool)
    chosen[list(first.values())] = True
    return chosen


class BlufrTrial(NamedTuple):
    """The photos of one of BLUFR's trials, as row numbers.

    Attributes:
        test: Photos of all 4,249 test people.
        gallery: One photo of each of 1,000 of them.
        genuine: Their other photos.
        impostors: All photos of the other test people.
    """

    test: np.ndarray
    gallery: np.ndarray
    genuine: np.ndarray
    impostors: np.ndarray


def draw_blufr_trials(
    people: People, trials: int = 10, training_people: int = 1500, gallery_people: int = 1000, seed: int = 0
) -> list[BlufrTrial]:
    """Draw BLUFR's division of LFW again.

    Liao, Lei, Yi, Li 2014, "A benchmark study of large-scale unconstrained face recognition", section 3. The authors'
    own lists are not part of this package, so figures compare with published ones only up to the chance of the draw.

    Args:
        people: The person in each photo.
        trials: Number of trials; trial t is a function of (seed, t).
        training_people: People to leave out of each test.
        gallery_people: People with two or more photos to enroll.
        seed: Of the drawing.

    Raises:
        InputError: There are too few people.
    """
    names, person = np.unique(np.asarray(people), return_inverse=True)
    photos = np.bincount(person)
    drawn = []
    for trial in range(trials):
        generator = np.random.default_rng((seed, trial))
        tested = generator.permutation(len(names))[training_people:]
        several = tested[photos[tested] >= 2]
        if len(several) < gallery_people or len(several) == len(tested) == gallery_people:
            raise InputError(
                f"{len(names)} people leave {len(several)} with two photos after {training_people} for training: "
                f"{gallery_people} and some strangers are needed"
            )
        enrolled = several[:gallery_people]
        test = np.flatnonzero(np.isin(person, tested))
        of_enrolled = generator.permutation(np.flatnonzero(np.isin(person, enrolled)))
        _, first = np.unique(person[of_enrolled], return_index=True)
        gallery = of_enrolled[first]
        genuine = np.setdiff1d(of_enrolled, gallery)
        drawn.append(BlufrTrial(test, gallery, genuine, np.setdiff1d(test, of_enrolled)))
    return drawn


def blufr(
    embeddings: np.ndarray,
    people: People,
    trials: Sequence[BlufrTrial],
    verification_far: float = 1e-3,
    identification_far: float = 1e-2,
) -> tuple[np.ndarray, np.ndarray]:
    """BLUFR's two figures of each trial; the benchmark ranks by mean - standard deviation.

    Args:
        embeddings: (N, D) float.
        people: The person in each photo.
        trials: From `draw_blufr_trials`.
        verification_far: For the verification rate over all pairs of test photos.
        identification_far: For the detection and identification rate at rank 1.

    Returns:
        Verification rates (trials,) and DIRs (trials,).
    """
    people = np.asarray(people)
    verification_rates, identification_rates = [], []
    for test, gallery, genuine, impostors in trials:
        curve = compare_all(embeddings[test], people[test]).histogram.roc()
        verification_rates.append(tar_at_far(curve, verification_far).tar)
        probes = np.concatenate([genuine, impostors])
        found = identify(embeddings[gallery], people[gallery], embeddings[probes], people[probes])
        identification_rates.append(detection_and_identification(found, identification_far).rate)
    return np.array(verification_rates), np.array(identification_rates)


class Megaface(NamedTuple):
    """MegaFace challenge 1.

    Attributes:
        rank_1: Number of distractors -> fraction of (probe, mate) searches with the mate first.
        tar: True accept rate at the false accept rate, over all distractors; None where too few were seen.
        threshold: The cosine that goes with it.
        hits: Number of distractors -> (searches,) bool.
        person: (searches,) whose search it is.
        distractors: How many were seen; failed ones are left out, as they can distract nobody.
    """

    rank_1: dict[int, float]
    tar: float | None
    threshold: float | None
    hits: dict[int, np.ndarray]
    person: np.ndarray
    distractors: int


def megaface(
    probes: np.ndarray,
    people: People,
    distractors: Iterable[np.ndarray],
    sizes: Sequence[int] = (10, 100, 1000, 10_000, 100_000, 1_000_000),
    far: float = 1e-6,
) -> Megaface:
    """Search among growing numbers of distractors, in memory for one block of them.

    Kemelmacher-Shlizerman et al. 2016, "The MegaFace benchmark": each of a person's M photos in turn is the only mate
    among N distractors, and the other M - 1 look for it. The distractors may be any photos of other people.

    Args:
        probes: (P, D) float.
        people: Whose photos they are, two or more each.
        distractors: Blocks (n, D) float, in the order in which the gallery grows.
        sizes: The N to report; those above the number of distractors are left out.
        far: The target of the verification rate, over all probes times all distractors.

    Returns:
        Rank-1 rates and the verification rate.

    Raises:
        InputError: Nobody has two photos, or there are fewer distractors than the smallest size.
    """
    people = np.asarray(people)
    _, person = np.unique(people, return_inverse=True)
    searches = person[:, None] == person
    np.fill_diagonal(searches, False)
    probe, mate = np.nonzero(searches)
    if not len(probe):
        raise InputError("nobody among the probes has two photos: there is no mate to find")
    failed = np.isnan(probes[:, 0])
    rows = _unit(np.where(failed[:, None], 0, probes))
    own = np.where(failed[probe] | failed[mate], -np.inf, np.einsum("sd,sd->s", rows[probe], rows[mate]))

    nearest = np.full(len(rows), -np.inf, dtype=np.float32)  # the most similar distractor so far
    hits: dict[int, np.ndarray] = {}
    highest, seen = _HighestScores(), 0
    for block in distractors:
        block = _unit(block[~np.isnan(block[:, 0])])
        for start, stop in _cut(seen, seen + len(block), sizes):
            scores = rows @ block[start - seen : stop - seen].T
            np.maximum(nearest, scores.max(1), out=nearest)
            highest.add(scores[~failed], far * len(rows) * max(*sizes, stop))
            if stop in sizes:
                hits[stop] = own > nearest[probe]
        seen += len(block)
    if not hits:
        raise InputError(f"{seen} distractors are fewer than the smallest number to report, {min(sizes)}")
    comparisons = len(rows) * seen
    threshold = tar = None
    if far_is_carried(far, comparisons):
        threshold = highest.after(int(np.floor(far * comparisons * (1 + 1e-12))))
        tar = float((own > threshold).mean())
    return Megaface({n: float(hit.mean()) for n, hit in hits.items()}, tar, threshold, hits, people[probe], seen)


class _HighestScores:
    """The highest of a stream of scores, in little memory."""

    def __init__(self) -> None:
        self._kept = np.empty(0, dtype=np.float32)
        self._floor = np.float32(-np.inf)

    def add(self, scores: np.ndarray, wanted: float) -> None:
        """Add scores; `wanted` bounds the numbers that `after` will be called with."""
        count = int(wanted) + 1
        self._kept = np.concatenate([self._kept, scores[scores > self._floor]])
        if len(self._kept) > 4 * count + 100_000:
            self._kept = np.partition(self._kept, -count)[-count:]
            self._floor = self._kept[0]

    def after(self, number: int) -> float:
        """The score that `number` others exceed."""
        return float(np.sort(self._kept)[::-1][number])


def _cut(start: int, stop: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Parts of [start, stop) that end at every size within, and are small enough for the scores of all probes."""
    ends = sorted({*range(start + 4096, stop, 4096), *(size for size in sizes if start < size < stop), stop})
    for end in ends:
        if end > start:
            yield start, end
        start = end


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _AT_A_TIME):
        yield rows[start : start + _AT_A_TIME]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class HeldOutIdentification:
    """The percentage of held-out photos that a classifier assigns to the right person.

    Args:
        samples: The held-out photos, addressed by (epoch, index) keys.
        collate: Samples -> the arguments of the model's forward; None for torch's own.
        batch_size: Samples per forward pass.

    On several ranks (torch.distributed) each classifies a part of the photos; all of them call.
    """

    primary_metric = "identification_accuracy"
    greater_is_better = True

    def __init__(self, samples: Dataset, collate: Callable | None = None, batch_size: int = 64):
        self.samples = samples
        self.count = len(samples)  # type: ignore[arg-type]  # torch's Dataset declares no length
        self.collate = collate
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, processor: object = None) -> dict[str, float]:
        """Classify every held-out photo by a model in eval mode; the processor is not used."""
        keys = [(0, row) for row in own_rows(self.count)]
        batches = [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]
        right = []
        for batch in DataLoader(self.samples, batch_sampler=batches, collate_fn=self.collate):
            labels = batch.pop("labels").to(model.device)
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits
            right.append(logits.argmax(dim=1) == labels)
        total = int(gather_rows(torch.cat(right).to(torch.uint8), self.count).sum())
        return {"identification_accuracy": 100 * total / self.count, "identification_photos": self.count}
