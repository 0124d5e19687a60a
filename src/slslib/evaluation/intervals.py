r"""Sensitivity intervals of the equal error rate by resampling.

How far would an EER move, had other trials of the same kind been drawn? A replicate draws as many
trials again, with replacement, and computes the official EER of :mod:`slslib.evaluation.metrics`; a
thousand replicates give an interval. It says nothing about other corpora, attacks or trainings.

* :func:`bootstrap_eer` draws trials, independently in each class (Efron 1979). Trials of one
  speaker or attack resemble each other, so this interval is too narrow for new speakers.
* :func:`cluster_bootstrap_eer` draws whole speakers and/or attacks; with two factors a trial's
  weight is the product of its clusters' weights (two-way or *pigeonhole* bootstrap, Owen 2007).
* :func:`paired_bootstrap` draws the same trials for two systems and looks at the difference.

:func:`eer_estimate` puts the EER and its interval together.

**Exact replicates without resampling.** A replicate repeats trial :math:`i` some :math:`m_i`
times and leaves the order of the scores alone, so it is known by how many of its bona fide and
spoofed trials lie below each place of the sorted original. :math:`FRR - FAR` grows with the
place, from -1 to 1, and the EER is decided where it changes sign. That place is found by
bisection, and only the counts at the places visited are drawn: given the counts at both ends of a
stretch, the count in a part of it is binomial, with the share of the original trials there as its
probability. These draws, 20 per class for 600,000 trials, have the same joint distribution as
the counts of a full resample, so the EERs have exactly the distribution of the naive loop's. All
counts are integers.

Clusters are drawn as a weight for each *cell* of trials that share class and clusters. The weights
of all replicates are summed at some edges of the sorted trials, by one matrix product, and then
trial by trial only in the stretch where :math:`FRR - FAR` changes sign. A pair of systems on single
trials is the same problem with every trial a cell of its own. Of the many trials that lie far below
or above both changes of sign it only matters how many are drawn; should a change of sign fall
among them after all, that replicate's trials are all drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.metrics import Floats, eer, split, validate

Ints = NDArray[np.int64]
Weights = NDArray[np.int32]  # cells x replicates; a stretch's sum stays far below 2^31

_NEAR = 6.0  # standard errors of FRR - FAR within which pairs are resampled trial by trial


def interval(replicates: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Cut equal tails off the replicates (percentile interval).

    >>> interval([0.1, 0.2, 0.3, 0.4, 0.5], 0.5)
    (0.2, 0.4)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level {level} must lie between 0 and 1.")
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(replicates, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def eer_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[ArrayLike] = (),
    n_replicates: int = 1000,
    *,
    seed: Any = 0,
) -> dict[str, float]:
    """Compute an EER with its 95 % interval, as a row of
    :func:`slslib.evaluation.plots.plot_estimates`.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: As for :func:`cluster_bootstrap_eer`.
        n_replicates: How many.
        seed: What :func:`numpy.random.default_rng` takes.

    Returns:
        ``value``, ``low`` and ``high`` in percent.

    Raises:
        ScoreError: Scores and labels do not fit, a class is empty, or a factor has fewer than two
            clusters.

    >>> eer_estimate([1.0, 2.0, 3.0, 0.5], [1, 1, 0, 0])["value"]
    50.0
    """
    drawn = cluster_bootstrap_eer(scores, labels, clusters, n_replicates, seed=seed)
    low, high = interval(drawn)
    value = eer(*split(scores, labels)).value
    return {"value": 100 * value, "low": 100 * low, "high": 100 * high}


def bootstrap_eer(
    bonafide_scores: ArrayLike, spoof_scores: ArrayLike, n_replicates: int = 1000, *, seed: Any
) -> Floats:
    """Draw the EERs of resampled trials, each class by itself.

    Args:
        bonafide_scores: Scores of bona fide trials.
        spoof_scores: Scores of spoofed trials.
        n_replicates: How many.
        seed: What :func:`numpy.random.default_rng` takes.

    Returns:
        The EERs (fractions) of the replicates under the official rule.
    """
    bonafide, spoof = validate(bonafide_scores, spoof_scores)
    rng = _generator(seed, n_replicates)
    order = np.argsort(np.concatenate([bonafide, spoof]), kind="stable")
    is_bonafide = order < bonafide.size
    # How many original trials of each class lie below each place, and how many the replicate has
    # below the two ends of the stretch [low, high] that holds the change of sign.
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
    return _eer_at(at_low, is_bonafide[low], totals)


def cluster_bootstrap_eer(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[ArrayLike],
    n_replicates: int = 1000,
    *,
    seed: Any,
) -> Floats:
    """Draw the EERs of resampled clusters.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: One or two names per trial, such as its speaker and its attack. ``"-"`` means
            that the factor does not apply: the attack of bona fide speech is not resampled.
            Without any, single trials are drawn as :func:`bootstrap_eer` does.
        n_replicates: How many.
        seed: What :func:`numpy.random.default_rng` takes.

    Returns:
        The EERs (fractions). A replicate without trials of one class is drawn again.

    Raises:
        ScoreError: A factor has fewer than two clusters.
    """
    classes = split(scores, labels)
    if not clusters:
        return bootstrap_eer(*classes, n_replicates, seed=seed)
    rng = _generator(seed, n_replicates)
    values, known = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    cells, blocks = _cluster_weights(known, clusters, n_replicates, rng)
    return np.concatenate([_weighted_eers(values, known, cells, w)[0] for w in blocks])


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    n_replicates: int = 1000,
    *,
    seed: Any,
    clusters: Sequence[ArrayLike] = (),
) -> Floats:
    """Draw differences of two systems' EERs on the same resampled trials.

    Args:
        scores_a: Scores of the first system, one per trial.
        scores_b: Scores of the second system, for the same trials in the same order.
        labels: 1 for bona fide, 0 for spoof.
        n_replicates: How many.
        seed: What :func:`numpy.random.default_rng` takes.
        clusters: As for :func:`cluster_bootstrap_eer`.

    Returns:
        EER of the first minus EER of the second (fractions).
    """
    for scores in (scores_a, scores_b):
        split(scores, labels)
    rng = _generator(seed, n_replicates)
    pair, known = np.array([scores_a, scores_b], dtype=np.float64), np.asarray(labels, np.int64)
    if not clusters:
        return _paired_trials(pair, known, n_replicates, rng)
    cells, blocks = _cluster_weights(known, clusters, n_replicates, rng)
    drawn = [[_weighted_eers(x, known, cells, w)[0] for x in pair] for w in blocks]
    return np.concatenate([a - b for a, b in drawn])


def _generator(seed: Any, n_replicates: int) -> np.random.Generator:
    if n_replicates < 1:
        raise ConfigError(f"{n_replicates} replicates: at least one is needed.")
    return np.random.default_rng(seed)


def _difference(rejected: Ints, totals: Ints) -> Ints:
    """Return FRR - FAR as an integer multiple of 1 / (all bona fide * all spoofed)."""
    return rejected[0] * totals[1] + rejected[1] * totals[0] - totals[0] * totals[1]


def _eer_at(rejected: Ints, is_bonafide: NDArray[np.bool_], totals: Ints) -> Floats:
    """Compute EERs from the counts below the trials at which FRR - FAR changes sign.

    Such a trial may be repeated; the official curve has a point after each repetition.

    Args:
        rejected: Bona fide and spoofed trials of each replicate below its deciding trial.
        is_bonafide: The class of that trial.
        totals: All bona fide and spoofed trials of each replicate.
    """
    difference = _difference(rejected, totals)
    step = np.where(is_bonafide, totals[1], totals[0])
    repeats = -(difference // step)  # to the first point at or beyond zero

    def rates(repeats: Ints) -> tuple[Floats, Floats]:
        frr = (rejected[0] + repeats * is_bonafide) / totals[0]
        far = (totals[1] - rejected[1] - repeats * ~is_bonafide) / totals[1]
        return frr, far

    (frr, far), (frr_before, far_before) = rates(repeats), rates(repeats - 1)
    # Parity: the nearer of the points around zero, in the official routine's own arithmetic.
    before = np.abs(frr_before - far_before) <= np.abs(frr - far)
    return np.where(before, frr_before + far_before, frr + far) / 2


def _weighted_eers(
    scores: Floats, labels: Ints, cells: Ints, weights: Weights
) -> tuple[Floats, Ints]:
    """Compute one EER for each column of weights.

    Args:
        scores: One per trial.
        labels: 1 for bona fide, 0 for spoof.
        cells: The cell of each trial; all trials of a cell have the same weight.
        weights: How often each cell (row) is repeated in each replicate (column).

    Returns:
        The EERs, and of each replicate the trial at which FRR - FAR changes sign.
    """
    order = np.lexsort((-labels, scores))  # bona fide first within ties
    cell, is_bonafide = cells[order], labels[order] == 1
    n_cells, n_replicates = weights.shape
    # Step 1: counts in each stretch between edges. float64 counts exactly, and its product is fast.
    n = max(1, min(math.isqrt(order.size), 2**24 // n_cells))
    edges = np.linspace(0, order.size, n + 1).astype(np.int64)
    entry = np.repeat(np.arange(n), np.diff(edges)) * n_cells + cell
    tables = [np.bincount(entry[own], minlength=n * n_cells) for own in (is_bonafide, ~is_bonafide)]
    real = weights.astype(np.float64)
    inside = np.stack([table.reshape(n, n_cells) @ real for table in tables]).astype(np.int64)
    through = inside.cumsum(axis=1)
    totals = through[:, -1]
    crossing = np.argmax(_difference(through, totals[:, None]) >= 0, axis=0)
    # Step 2: trial by trial in the stretch of the change of sign.
    rejected, deciding = np.empty_like(totals), np.empty(n_replicates, np.int64)
    for k in np.unique(crossing):
        own, trials = np.flatnonzero(crossing == k), slice(edges[k], edges[k + 1])
        weight = weights[cell[trials, None], own].astype(np.int64)
        is_first = is_bonafide[trials, None]
        each = np.stack([weight * is_first, weight * ~is_first])
        after = (through - inside)[:, k, own][:, None] + each.cumsum(axis=1)
        place = np.argmax(_difference(after, totals[:, None, own]) >= 0, axis=0)
        columns = np.arange(own.size)
        rejected[:, own] = (after - each)[:, place, columns]
        deciding[own] = edges[k] + place
    return _eer_at(rejected, is_bonafide[deciding], totals), order[deciding]


def _sides(scores: Floats, labels: Ints) -> Ints:
    """Tell for each trial if it lies below (-1), in (0) or above (1) the part of the sorted trials
    that nearly every resample changes sign in.
    """
    order = np.lexsort((-labels, scores))
    n_bonafide, n_spoof = labels.sum(), (1 - labels).sum()
    frr = np.cumsum(labels[order]) / n_bonafide
    far = 1 - np.cumsum(1 - labels[order]) / n_spoof
    error = np.sqrt(frr * (1 - frr) / n_bonafide + far * (1 - far) / n_spoof)
    near = np.flatnonzero(np.abs(frr - far) <= _NEAR * (error + 1 / n_bonafide + 1 / n_spoof))
    side = np.zeros(labels.size, np.int64)
    side[order[: near[0]]], side[order[near[-1] + 1 :]] = -1, 1
    return side


def _paired_trials(
    pair: Floats, labels: Ints, n_replicates: int, rng: np.random.Generator
) -> Floats:
    """Draw differences of EERs on single trials, each class by itself."""
    sides = np.stack([_sides(scores, labels) for scores in pair])
    # The trials of a class that lie far from both changes of sign, on the same sides, become one
    # that is drawn many times. In each class the near trials come first, then these four.
    signs = np.array([(u, v) for u in (-1, 1) for v in (-1, 1)]).T
    is_far = [(sides == sign[:, None]).all(axis=0) for sign in signs.T]
    members = [
        [np.flatnonzero(own & (labels == k)) for own in (~np.any(is_far, axis=0), *is_far)]
        for k in (1, 0)
    ]
    sizes = np.array([[trials.size for trials in groups] for groups in members])
    short_labels = np.repeat([1, 0], sizes[:, 0] + 4)
    short_pair = np.hstack([np.c_[pair[:, near], signs * np.inf] for near, *_ in members])
    short_sides = np.hstack([np.c_[sides[:, near], signs] for near, *_ in members])
    near_rows, far_rows = (np.flatnonzero((short_sides == 0).any(axis=0) == x) for x in (1, 0))

    def repeats(n_trials: int, n_drawn: int) -> Ints:
        return np.bincount(rng.integers(max(n_trials, 1), size=n_drawn), minlength=n_trials)

    def draw(n: int) -> Floats:
        drawn = np.stack([rng.multinomial(s.sum(), s / s.sum(), n).T for s in sizes])
        weights = np.empty((short_labels.size, n), np.int32)
        weights[far_rows] = drawn[:, 1:].reshape(-1, n)
        for rows, counts in zip(np.split(near_rows, sizes[:1, 0]), drawn[:, 0], strict=True):
            for column, count in enumerate(counts):
                weights[rows, column] = repeats(rows.size, count)
        eers, is_sound = np.empty((2, n)), np.ones(n, bool)
        for i in (0, 1):
            cells = np.arange(short_labels.size)
            eers[i], deciding = _weighted_eers(short_pair[i], short_labels, cells, weights)
            is_sound &= short_sides[i, deciding] == 0
        for column in np.flatnonzero(~is_sound).tolist():  # draw the trials of the groups too
            full = np.empty((labels.size, 1), np.int32)
            full[np.r_[members[0][0], members[1][0]], 0] = weights[near_rows, column]
            for groups, counts in zip(members, drawn[:, :, column], strict=True):
                for trials, count in zip(groups[1:], counts[1:], strict=True):
                    full[trials, 0] = repeats(trials.size, count)
            cells = np.arange(labels.size)
            eers[:, column] = [_weighted_eers(x, labels, cells, full)[0][0] for x in pair]
        return eers[0] - eers[1]

    return np.concatenate([draw(n) for n in _blocks(near_rows.size, n_replicates)])


def _cluster_weights(
    labels: Ints, clusters: Sequence[ArrayLike], n_replicates: int, rng: np.random.Generator
) -> tuple[Ints, Iterator[Weights]]:
    """Group trials into cells (class x clusters) and draw how often each cell is repeated."""
    if not 1 <= len(clusters) <= 2:
        raise ConfigError(f"{len(clusters)} cluster factors given; one or two are possible.")
    codes, sizes = [labels], [2]  # of labels and factors
    for factor in clusters:
        names = np.asarray(factor).tolist()
        known = sorted(set(names) - {"-"})
        if len(names) != labels.size or len(known) < 2:
            raise ScoreError(
                f"resampling clusters needs a name for each of {labels.size} trials and two or "
                f"more clusters: there are {len(names)} names of {len(known)} clusters "
                f"({', '.join(map(str, known[:3])) or 'the key does not tell them'}). Leave this "
                "factor out, or use a key that has it."
            )
        code = {name: k for k, name in enumerate(known, 1)}
        codes.append(np.array([code.get(name, 0) for name in names]))  # 0 for "-"
        sizes.append(len(known) + 1)
    kinds, cells = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
    is_bonafide, *codes_of_cells = np.unravel_index(kinds, sizes)

    def draw(n: int) -> Weights:
        weights = np.ones((kinds.size, n), np.int32)
        for code, size in zip(codes_of_cells, sizes[1:], strict=True):
            repeats = rng.multinomial(size - 1, np.full(size - 1, 1 / (size - 1)), n).T
            weights *= np.pad(repeats.astype(np.int32), ((1, 0), (0, 0)), constant_values=1)[code]
        return weights

    def lacks_class(weights: Weights) -> NDArray[np.bool_]:
        return ~np.all([weights[is_bonafide == k].any(axis=0) for k in (0, 1)], axis=0)

    def blocks() -> Iterator[Weights]:
        for n in _blocks(kinds.size, n_replicates):
            weights = draw(n)
            while (empty := lacks_class(weights)).any():
                weights[:, empty] = draw(int(empty.sum()))
            yield weights

    return cells, blocks()


def _blocks(n_rows: int, n_columns: int) -> Iterator[int]:
    """Cut columns so that a block of weights stays below 128 MiB."""
    width = max(1, 2**24 // n_rows)
    for start in range(0, n_columns, width):
        yield min(width, n_columns - start)
