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

For a pair of systems the same idea saves most of the work: only the trials near one of the two
changes of sign are resampled one by one; of the others, only how many are drawn below or above
both. Where a replicate's change of sign lies further off, its other trials are drawn as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.metrics import Floats, eer, validate

Ints = NDArray[np.int64]
Weights = NDArray[np.int32]  # cells x replicates; a stretch's sum stays far below 2^31

_STRETCHES = 32
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
    seed: int = 0,
) -> dict[str, float]:
    """Compute an EER with its 95 % interval, as a row of
    :func:`slslib.evaluation.plots.plot_estimates`.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: As for :func:`cluster_bootstrap_eer`; by default single trials are drawn.
        n_replicates: How many.
        seed: Seed of the replicates; the same scores give the same interval.

    Returns:
        ``value``, ``low`` and ``high`` in percent.

    Raises:
        ScoreError: Scores and labels do not fit, a class is empty, or a factor has fewer than two
            clusters.

    >>> eer_estimate([1.0, 2.0, 3.0, 0.5], [1, 1, 0, 0])["value"]
    50.0
    """
    low, high = eer_interval(scores, labels, clusters, n_replicates, seed=seed)
    value = 100 * eer(*_classes(scores, labels)).value
    return {"value": value, "low": low, "high": high}


def eer_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[ArrayLike] = (),
    n_replicates: int = 1000,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the interval of :func:`eer_estimate` alone, in percent; its arguments and errors."""
    rng = np.random.default_rng(seed)
    if clusters:
        drawn = cluster_bootstrap_eer(scores, labels, clusters, n_replicates, rng=rng)
    else:
        drawn = bootstrap_eer(*_classes(scores, labels), n_replicates, rng=rng)
    low, high = interval(drawn)
    return 100 * low, 100 * high


def bootstrap_eer(
    bonafide_scores: ArrayLike,
    spoof_scores: ArrayLike,
    n_replicates: int = 1000,
    *,
    rng: np.random.Generator,
) -> Floats:
    """Draw the EERs of resampled trials, each class by itself.

    Args:
        bonafide_scores: Scores of bona fide trials.
        spoof_scores: Scores of spoofed trials.
        n_replicates: How many.
        rng: The source of randomness.

    Returns:
        The EERs (fractions) of the replicates under the official rule.
    """
    bonafide, spoof = validate(bonafide_scores, spoof_scores)
    _check_count(n_replicates)
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
    rng: np.random.Generator,
) -> Floats:
    """Draw the EERs of resampled clusters.

    Args:
        scores: One score per trial.
        labels: 1 for bona fide, 0 for spoof.
        clusters: One or two names per trial, such as its speaker and its attack. ``"-"`` means
            that the factor does not apply: the attack of bona fide speech is not resampled.
        n_replicates: How many.
        rng: The source of randomness.

    Returns:
        The EERs (fractions). A replicate without trials of one class is drawn again.

    Raises:
        ScoreError: A factor has fewer than two clusters.
    """
    _check_count(n_replicates)
    curve = _Curve(scores, labels)
    cells, blocks = _cluster_weights(curve.labels, clusters, n_replicates, rng)
    return np.concatenate([curve.eers(cells, weights) for weights in blocks])


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    n_replicates: int = 1000,
    *,
    rng: np.random.Generator,
    clusters: Sequence[ArrayLike] = (),
) -> Floats:
    """Draw differences of two systems' EERs on the same resampled trials.

    Args:
        scores_a: Scores of the first system, one per trial.
        scores_b: Scores of the second system, for the same trials in the same order.
        labels: 1 for bona fide, 0 for spoof.
        n_replicates: How many.
        rng: The source of randomness.
        clusters: As for :func:`cluster_bootstrap_eer`; by default single trials are drawn.

    Returns:
        EER of the first minus EER of the second (fractions).
    """
    _check_count(n_replicates)
    a, b = _Curve(scores_a, labels), _Curve(scores_b, labels)
    if not clusters:
        draw = _PairedTrials(a, b, rng)
        return np.concatenate([draw(n) for n in _blocks(draw.near.size, n_replicates)])
    cells, blocks = _cluster_weights(a.labels, clusters, n_replicates, rng)
    return np.concatenate([a.eers(cells, w) - b.eers(cells, w) for w in blocks])


def _with_labels(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    values, known = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.shape != known.shape or not np.isin(known, (0, 1)).all():
        raise ScoreError(
            f"{values.size} scores and {known.size} labels: every score needs a label 1 (bona "
            "fide) or 0 (spoof), and paired systems the same trials."
        )
    return values, known.astype(np.int64)


def _classes(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    values, known = _with_labels(scores, labels)
    return values[known == 1], values[known == 0]


def _check_count(n_replicates: int) -> None:
    if n_replicates < 1:
        raise ConfigError(f"{n_replicates} replicates: at least one is needed.")


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


class _Curve:
    """The sorted trials of one system, to be weighted many times."""

    def __init__(self, scores: ArrayLike, labels: ArrayLike) -> None:
        values, self.labels = _with_labels(scores, labels)
        validate(values[self.labels == 1], values[self.labels == 0])
        self.order = np.lexsort((-self.labels, values))  # bona fide first within ties
        self.is_bonafide = self.labels[self.order] == 1

    def sides(self) -> tuple[tuple[int, int], Ints]:
        """Find the part of the sorted trials that nearly every resample changes sign in.

        Returns:
            Its ends, and for each trial -1, 0 or 1: below, in or above it.
        """
        n_bonafide = int(self.labels.sum())
        n_spoof = self.labels.size - n_bonafide
        frr = np.cumsum(self.is_bonafide) / n_bonafide
        far = 1 - np.cumsum(~self.is_bonafide) / n_spoof
        error = np.sqrt(frr * (1 - frr) / n_bonafide + far * (1 - far) / n_spoof)
        near = np.flatnonzero(np.abs(frr - far) <= _NEAR * (error + 1 / n_bonafide + 1 / n_spoof))
        low, high = int(near[0]), int(near[-1]) + 1
        side = np.zeros(self.labels.size, np.int64)
        side[self.order[:low]], side[self.order[high:]] = -1, 1
        return (low, high), side

    def eers(
        self,
        cells: Ints,
        weights: Weights,
        part: tuple[int, int] | None = None,
        below: Ints | None = None,
        totals: Ints | None = None,
    ) -> Floats:
        """Compute one EER for each column of weights.

        Args:
            cells: The cell of each trial; all trials of a cell have the same weight.
            weights: How often each cell (row) is repeated in each replicate (column).
            part: Places of the sorted trials between which FRR - FAR changes sign in every
                replicate; by default all. Only the cells of trials there are looked up.
            below: Bona fide and spoofed trials of each replicate below that part.
            totals: All bona fide and spoofed trials of each replicate.
        """
        n_replicates = weights.shape[1]
        everything = np.arange(n_replicates)
        low, high = part or (0, self.order.size)
        if below is None:
            below = np.zeros((2, n_replicates), np.int64)
        if totals is None:
            totals = self._count(cells, weights, everything, np.array([low, high]))[:, 0]
        rejected, deciding = np.zeros_like(below), np.zeros(n_replicates, np.int64)
        # Stretches of the sorted trials, with the replicates whose change of sign they hold.
        todo = [(low, high, everything, below)]
        while todo:
            low, high, which, start = todo.pop()
            n = high - low
            if n * which.size > 2**20:
                n = min(n, _STRETCHES)
            edges = np.linspace(low, high, n + 1).astype(np.int64)
            inside = self._count(cells, weights, which, edges)
            counts = np.cumsum(inside, axis=1) + start[:, None]
            at = np.argmax(_difference(counts, totals[:, None, which]) >= 0, axis=0)
            columns = np.arange(which.size)
            before = counts[:, at, columns] - inside[:, at, columns]
            if n == high - low:  # trial by trial
                rejected[:, which], deciding[which] = before, low + at
                continue
            for k in np.unique(at):
                own = at == k
                todo.append((int(edges[k]), int(edges[k + 1]), which[own], before[:, own]))
        return _eer_at(rejected, self.is_bonafide[deciding], totals)

    def _count(self, cells: Ints, weights: Weights, which: Ints, edges: Ints) -> Ints:
        """Count the repeated trials of each class between edges, in some of the replicates."""
        trials = slice(edges[0], edges[-1])
        cell, is_bonafide = cells[self.order[trials]], self.is_bonafide[trials]
        n, n_cells = edges.size - 1, weights.shape[0]
        if n == cell.size:  # trial by trial
            weight = weights[cell[:, None], which].astype(np.int64)
            return np.stack([weight * is_bonafide[:, None], weight * ~is_bonafide[:, None]])
        row = np.repeat(np.arange(n), np.diff(edges)) + n * ~is_bonafide
        table = np.bincount(row * n_cells + cell, minlength=2 * n * n_cells)
        # float64 counts exactly far beyond any number of trials, and its product is the fast one.
        product = table.reshape(2 * n, n_cells).astype(np.float64) @ weights[:, which]
        return product.reshape(2, n, -1).astype(np.int64)


class _PairedTrials:
    """Resamples of single trials, each class by itself, as two systems rank them.

    Attributes:
        near: The trials within reach of either system's change of sign, drawn one by one.
    """

    def __init__(self, a: _Curve, b: _Curve, rng: np.random.Generator) -> None:
        self.curves, self.rng = (a, b), rng
        (part_a, side_a), (part_b, side_b) = a.sides(), b.sides()
        is_near = (side_a == 0) | (side_b == 0)
        self.parts, self.near = (part_a, part_b), np.flatnonzero(is_near)
        self.cell = np.cumsum(is_near) - 1  # meaningful for near trials only
        self.sides = side_a[is_near], side_b[is_near]
        # The trials of each class: the near ones, then the others by their sides in a and b.
        self.signs = [(u, v) for u in (-1, 1) for v in (-1, 1)]
        groups = [is_near, *(~is_near & (side_a == u) & (side_b == v) for u, v in self.signs)]
        self.members = [[np.flatnonzero((a.labels == k) & own) for own in groups] for k in (1, 0)]

    def __call__(self, n: int) -> Floats:
        """Draw ``n`` differences of the EERs."""
        sizes = np.array([[trials.size for trials in groups] for groups in self.members])
        totals = np.repeat(sizes.sum(axis=1)[:, None], n, axis=1)
        # Class x group x replicate: how many of each group are drawn.
        drawn = np.stack([self.rng.multinomial(s.sum(), s / s.sum(), n).T for s in sizes])
        weights = np.empty((self.near.size, n), np.int32)
        for (near, *_), counts in zip(self.members, drawn, strict=True):
            for k in range(n):
                weights[self.cell[near], k] = self._repeats(near.size, counts[0, k])
        eers, is_sound = np.empty((2, n)), np.ones(n, bool)
        for i, curve in enumerate(self.curves):
            far = drawn[:, 1:][:, [sign[i] < 0 for sign in self.signs]].sum(axis=1)
            below = far + self._by_class(weights, self.sides[i] < 0)
            through = below + self._by_class(weights, self.sides[i] == 0)
            sound = (_difference(below, totals) < 0) & (_difference(through, totals) >= 0)
            eers[i, sound] = curve.eers(
                self.cell, weights[:, sound], self.parts[i], below[:, sound], totals[:, sound]
            )
            is_sound &= sound
        for k in np.flatnonzero(~is_sound).tolist():  # the others are drawn trial by trial too
            everything = np.zeros((self.cell.size, 1), np.int32)
            everything[self.near, 0] = weights[:, k]
            for groups, counts in zip(self.members, drawn[:, :, k], strict=True):
                for trials, count in zip(groups[1:], counts[1:], strict=True):
                    everything[trials, 0] = self._repeats(trials.size, count)
            eers[:, k] = [c.eers(np.arange(self.cell.size), everything)[0] for c in self.curves]
        return eers[0] - eers[1]

    def _repeats(self, n_trials: int, n_drawn: int) -> Ints:
        """Draw trials with replacement: how often each is drawn."""
        picks = self.rng.integers(max(n_trials, 1), size=n_drawn)
        return np.bincount(picks, minlength=n_trials)

    def _by_class(self, weights: Weights, chosen: NDArray[np.bool_]) -> Ints:
        """Count the repetitions of some of the near trials by class."""
        is_bonafide = self.curves[0].labels[self.near] == 1
        own = (is_bonafide & chosen, ~is_bonafide & chosen)
        return np.stack([weights[trials].sum(axis=0) for trials in own])


def _cluster_weights(
    labels: Ints, clusters: Sequence[ArrayLike], n_replicates: int, rng: np.random.Generator
) -> tuple[Ints, Iterator[Weights]]:
    """Group trials into cells (class x clusters) and draw how often each cell is repeated."""
    if not 1 <= len(clusters) <= 2:
        raise ConfigError(f"{len(clusters)} cluster factors given; one or two are possible.")
    codes, sizes = [labels], [2]  # of labels and factors
    for factor in clusters:
        names = pd.Series(factor)
        if names.shape != labels.shape:
            raise ScoreError(f"{names.size} cluster names for {labels.size} trials.")
        code, known = pd.factorize(names.where(names != "-"), sort=True)
        if known.size < 2:
            raise ScoreError(
                f"resampling clusters needs two or more, and there are {known.size} "
                f"({', '.join(map(str, known)) or 'the key does not tell them'}). Leave this "
                "factor out, or use a key that has it."
            )
        codes.append(code.astype(np.int64) + 1)  # 0 for "-"
        sizes.append(known.size + 1)
    cells, found = pd.factorize(np.ravel_multi_index(codes, sizes), sort=True)
    kinds, *codes_of_cells = np.unravel_index(found, sizes)

    def draw(n: int) -> Weights:
        weights = np.ones((kinds.size, n), np.int32)
        for code, size in zip(codes_of_cells, sizes[1:], strict=True):
            n_clusters = size - 1
            repeats = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), n).T
            weights *= np.pad(repeats.astype(np.int32), ((1, 0), (0, 0)), constant_values=1)[code]
        return weights

    def blocks() -> Iterator[Weights]:
        for n in _blocks(kinds.size, n_replicates):
            weights = draw(n)
            while True:
                empty = ~np.all([weights[kinds == k].any(axis=0) for k in (0, 1)], axis=0)
                if not empty.any():
                    break
                weights[:, empty] = draw(int(empty.sum()))
            yield weights

    return cells, blocks()


def _blocks(n_rows: int, n_columns: int) -> Iterator[int]:
    """Cut columns so that a block of weights stays below 128 MiB."""
    width = max(1, 2**24 // n_rows)
    for start in range(0, n_columns, width):
        yield min(width, n_columns - start)
