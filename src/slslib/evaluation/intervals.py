r"""Sensitivity intervals of the equal error rate by resampling.

How far would an EER move if other trials of the same kind had been drawn? A replicate draws the
same number of trials again, with replacement, and computes the official EER of
:mod:`slslib.evaluation.metrics`. A thousand replicates give an interval. The interval says nothing
about other corpora, attacks or trainings.

:func:`bootstrap_eer` draws

* single trials, independently in each class (Efron 1979). Trials of one speaker or attack resemble
  each other, so this interval is too narrow for new speakers;
* or whole speakers, whole attacks, or both. With two factors, a trial's weight is the product of
  its clusters' weights (two-way or *pigeonhole* bootstrap, Owen 2007);
* for one system, or for two systems on the same trials. The result for two is the difference of
  their EERs.

**Exact replicates without resampling.** A replicate repeats trial :math:`i` some :math:`m_i` times
and leaves the order of the scores alone. To know a replicate, it is enough to know how many of its
bona fide and spoofed trials lie below each place of the sorted original. :math:`FRR - FAR` grows
with the place, from -1 to 1, and the EER is decided where it changes sign. Bisection finds that
place, and counts are drawn only at the places that it visits. If the counts at both ends of a
stretch are given, the count in a part of it is binomial; its probability is the share of the
stretch's original trials that lie in that part. These draws, 20 per class for 600,000 trials, have
the same joint distribution as the counts of a full resample. So the EERs have exactly the
distribution of the naive loop's. All counts are integers.

Clusters are drawn as a weight for each *cell*: the trials that share class and clusters. One matrix
product sums the weights of all replicates at some edges of the sorted trials. Only the stretch
where :math:`FRR - FAR` changes sign is then summed trial by trial. A pair of systems on single
trials is the same problem, with every trial a cell of its own. Many trials lie far below or above
both changes of sign; for these it only matters how many are drawn. Far means six standard errors.
In fewer than one of a hundred million replicates, a change of sign falls among them and gives a
wrong EER.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.metrics import Floats, det_curve, split

Ints = NDArray[np.int64]
Draw = Callable[[int], Ints]  # takes a number of replicates, returns weights, cells x replicates

_NEAR = 6.0  # standard errors of FRR - FAR within which pairs are resampled trial by trial


def interval(replicates: ArrayLike) -> tuple[float, float]:
    """Return the percentile interval: 2.5 % of the replicates are cut off at each end.

    >>> [round(end) for end in interval(range(1001))]
    [25, 975]
    """
    tail = (1 - 0.95) / 2
    low, high = np.quantile(np.asarray(replicates), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_eer(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[ArrayLike] = (),
    n_replicates: int = 1000,
    *,
    seed: Any,
    other: ArrayLike | None = None,
) -> Floats:
    """Draw the EERs of resampled trials or clusters.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: For each factor, a name per trial, such as its speaker or its attack. ``"-"``
            means that the factor does not apply: the attack of bona fide speech is not resampled.
            Without factors, single trials are drawn, each class by itself.
        n_replicates: Number of replicates.
        seed: What :func:`numpy.random.default_rng` takes.
        other: Scores of a second system, for the same trials in the same order.

    Returns:
        The EERs (fractions) of the replicates under the official rule. With a second system, the
        EER of the first minus the EER of the second on the same resampled trials. If clusters are
        drawn, a replicate without trials of one class is drawn again.

    Raises:
        ScoreError: Scores and labels do not fit, a class is empty, or a factor has fewer than two
            clusters.
        ConfigError: ``n_replicates`` is below 1.
    """
    if n_replicates < 1:
        raise ConfigError(f"{n_replicates} replicates: at least one is needed.")
    systems = [scores] if other is None else [scores, other]
    (bonafide, spoof), *_ = [split(system, labels) for system in systems]
    rng = np.random.default_rng(seed)
    if other is None and not clusters:
        return _bisect(bonafide, spoof, n_replicates, rng)
    values, known = np.array(systems, np.float64), np.asarray(labels, np.int64)
    if clusters:
        cells, draw = _clusters(known, clusters, rng)
    else:
        values, known, draw = _single_trials(values, known, rng)
        cells = np.arange(known.size)
    eers, width = [], max(1, 2**24 // (1 + int(cells.max())))  # weights stay below 128 MiB
    for start in range(0, n_replicates, width):
        weights = draw(min(width, n_replicates - start))
        eers.append([_weighted_eers(system, known, cells, weights) for system in values])
    first, *second = np.concatenate(eers, axis=1)
    return first - second[0] if second else first


def _difference(rejected: Ints, totals: Ints) -> Ints:
    """Return FRR - FAR as an integer multiple of 1 / (all bona fide * all spoofed)."""
    return rejected[0] * totals[1] + rejected[1] * totals[0] - totals[0] * totals[1]


def _first_nearest(rejected: Ints, totals: Ints) -> Floats:
    """Return the EER at the first place (second axis) where FRR and FAR are nearest."""
    frr = rejected[0] / totals[0]
    far = (totals[1] - rejected[1]) / totals[1]
    place = np.argmin(np.abs(frr - far), axis=0)
    return np.take_along_axis((frr + far) / 2, place[None], axis=0)[0]


def _bisect(bonafide: Floats, spoof: Floats, n_replicates: int, rng: Generator) -> Floats:
    """Draw EERs of single trials by bisection."""
    order = np.argsort(np.concatenate([bonafide, spoof]), kind="stable")
    is_bonafide = order < bonafide.size
    # The number of original trials of each class below each place, and the number of the
    # replicate's trials below both ends of the stretch [low, high] with the change of sign.
    below = np.pad(np.cumsum([is_bonafide, ~is_bonafide], axis=1), ((0, 0), (1, 0)))
    totals = below[:, -1:]
    low = np.zeros(n_replicates, np.int64)
    high = np.full(n_replicates, order.size)
    at_low = np.zeros((2, n_replicates), np.int64)
    at_high = np.repeat(totals, n_replicates, axis=1)
    while np.any(high - low > 1):  # a stretch of one trial stays as it is
        middle = (low + high) // 2
        inside = below[:, high] - below[:, low]
        share = (below[:, middle] - below[:, low]) / np.maximum(inside, 1)
        at_middle = at_low + rng.binomial(at_high - at_low, share)
        crossed = _difference(at_middle, totals) >= 0
        high[crossed], at_high[:, crossed] = middle[crossed], at_middle[:, crossed]
        low[~crossed], at_low[:, ~crossed] = middle[~crossed], at_middle[:, ~crossed]
    # The trial may be repeated, and the official curve has a point after each repetition. Take the
    # nearer of the two points around zero, in the official routine's own arithmetic.
    is_repeated = np.stack([is_bonafide[low], ~is_bonafide[low]])
    step = np.where(is_repeated[0], totals[1], totals[0])
    repeats = -(_difference(at_low, totals) // step) - np.array([[1], [0]])
    return _first_nearest(at_low[:, None] + repeats * is_repeated[:, None], totals)


def _weighted_eers(scores: Floats, labels: Ints, cells: Ints, weights: Ints) -> Floats:
    """Compute one EER for each column of weights.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        cells: The cell of each trial; all trials of a cell have the same weight.
        weights: How often each cell (row) is repeated in each replicate (column).
    """
    order = np.lexsort((-labels, scores))  # bona fide first within ties
    cell, is_bonafide = cells[order], labels[order] == 1
    n_cells, n_replicates = weights.shape
    # Step 1: counts in each stretch between edges, few but long, which makes the product small.
    # float64 counts exactly.
    n = max(1, min(math.isqrt(order.size) // 4, 2**24 // n_cells))
    edges = np.linspace(0, order.size, n + 1).astype(np.int64)
    entry = np.repeat(np.arange(n), np.diff(edges)) * n_cells + cell
    tables = [np.bincount(entry[own], minlength=n * n_cells) for own in (is_bonafide, ~is_bonafide)]
    real = weights.astype(np.float64)
    inside = np.stack([table.reshape(n, n_cells) @ real for table in tables]).astype(np.int64)
    through = inside.cumsum(axis=1)
    before, totals = through - inside, through[:, -1]
    crossing = np.argmax(_difference(through, totals[:, None]) >= 0, axis=0)
    # Step 2: the official rule, trial by trial, in the stretch where the sign changes.
    eers = np.empty(n_replicates)
    for k, stretch in enumerate(crossing):
        trials = slice(edges[stretch], edges[stretch + 1])
        drawn = np.repeat(is_bonafide[trials], weights[cell[trials], k])
        rejected = np.cumsum(np.c_[before[:, stretch, k], [drawn, ~drawn]], axis=1)
        eers[k] = _first_nearest(rejected, totals[:, k])
    return eers


def _sides(scores: Floats, labels: Ints) -> Ints:
    """Tell if each trial lies below (-1), in (0) or above (1) the part where the sign may change.

    The part is that of the sorted trials in which nearly every resample has its change of sign.
    """
    bonafide, spoof = split(scores, labels)
    frr, far, thresholds = det_curve(bonafide, spoof)
    error = np.sqrt(frr * (1 - frr) / bonafide.size + far * (1 - far) / spoof.size)
    limit = _NEAR * (error + 1 / bonafide.size + 1 / spoof.size)
    near = thresholds[np.abs(frr - far) <= limit]
    return (scores > near.max()).astype(np.int64) - (scores < near.min())


def _single_trials(pair: Floats, labels: Ints, rng: Generator) -> tuple[Floats, Ints, Draw]:
    """Return the trials of two systems, with many far ones merged into one, and what draws them.

    Trials of a class that lie far from both changes of sign, on the same sides, become one trial
    that is drawn many times. In each class the near trials come first, then these four.
    """
    sides = np.stack([_sides(scores, labels) for scores in pair])
    is_near = (sides == 0).any(axis=0)
    kind = np.where(is_near, 0, 1 + 2 * (sides[0] > 0) + (sides[1] > 0))
    sizes = np.array([np.bincount(kind[labels == k], minlength=5) for k in (1, 0)])
    far = np.array([[-np.inf, -np.inf, np.inf, np.inf], [-np.inf, np.inf, -np.inf, np.inf]])
    parts = [pair[:, is_near & (labels == 1)], far, pair[:, is_near & (labels == 0)], far]

    def draw(n: int) -> Ints:
        drawn = [rng.multinomial(size.sum(), size / size.sum(), n).T for size in sizes]
        weights = []
        for (n_near, *_), (of_near, *of_far) in zip(sizes, drawn, strict=True):
            picks = [rng.integers(max(n_near, 1), size=count) for count in of_near]
            near = [np.bincount(pick, minlength=n_near) for pick in picks]
            weights += [np.stack(near, axis=1), np.stack(of_far)]
        return np.vstack(weights)

    return np.hstack(parts), np.repeat([1, 0], sizes[:, 0] + 4), draw


def _clusters(labels: Ints, clusters: Sequence[ArrayLike], rng: Generator) -> tuple[Ints, Draw]:
    """Group trials into cells (class x clusters); return each trial's cell, and what draws."""
    import pandas as pd

    mixed, codes = labels, []
    for factor in clusters:
        names = pd.Series(np.asarray(factor))
        code, known = pd.factorize(names.mask(names == "-"), sort=True)  # -1 for "-"
        if code.size != labels.size or len(known) < 2:
            what = f"{len(known)} clusters, {code.size} names for {labels.size} trials"
            needed = "resampling needs two or more clusters and a name for each trial"
            raise ScoreError(f"{what}: {needed}. Use a key that tells them.")
        codes.append(code)
        mixed = mixed * (len(known) + 1) + code
    _, first, cells = np.unique(mixed, return_index=True, return_inverse=True)
    is_bonafide = labels[first] == 1

    def draw(n: int) -> Ints:
        weights = np.ones((is_bonafide.size, n), np.int64)
        for code in codes:
            n_known = 1 + code.max()
            repeats = rng.multinomial(n_known, np.full(n_known, 1 / n_known), n).T
            weights *= np.vstack([repeats, np.ones((1, n), np.int64)])[code[first]]
        empty = ~(weights[is_bonafide].any(axis=0) & weights[~is_bonafide].any(axis=0))
        if empty.any():
            weights[:, empty] = draw(int(empty.sum()))
        return weights

    return cells, draw
