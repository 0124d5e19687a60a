r"""Sensitivity intervals of the equal error rate by resampling.

How far would an EER move, had other trials of the same kind been drawn? A replicate draws as many
trials again, with replacement, and computes the official EER of :mod:`slslib.metrics`; a thousand
replicates give an interval. It says nothing about other corpora, attacks or trainings.

* :func:`bootstrap_eer` draws trials, independently in each class (Efron 1979). Trials of one
  speaker or attack resemble each other, so this interval is too narrow for new speakers.
* :func:`cluster_bootstrap_eer` draws whole speakers and/or attacks; with two factors a trial's
  weight is the product of its clusters' weights (two-way or *pigeonhole* bootstrap, Owen 2007).
* :func:`paired_bootstrap` draws the same trials for two systems and looks at the difference.

**Exact replicates without resampling.** A replicate repeats trial :math:`i` some :math:`m_i`
times and leaves the order of the scores alone, so it is known by how many of its bona fide and
spoofed trials lie below each place of the sorted original. :math:`FRR - FAR` grows with the
place, from -1 to 1, and the EER is decided where it changes sign. That place is found by
bisection, and only the counts at the places visited are drawn: given the counts at both ends of a
stretch, the count in a part of it is binomial, with the share of the original trials there as its
probability. These draws, 20 per class for 600,000 trials, have the same joint distribution as
the counts of a full resample, so the EERs have exactly the distribution of the naive loop's. All
counts are integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from slslib.errors import ConfigError, ScoreError
from slslib.metrics import Floats, validate

Ints = NDArray[np.int64]
Weights = NDArray[np.int32]  # cells x replicates; a stretch's sum stays far below 2^31

_STRETCHES = 512


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
    below = np.zeros((2, order.size + 1), np.int64)
    np.cumsum(is_bonafide, out=below[0, 1:])
    np.cumsum(~is_bonafide, out=below[1, 1:])
    totals = below[:, -1:]
    low = np.zeros(n_replicates, np.int64)
    high = np.full(n_replicates, order.size)
    at_low = np.zeros((2, n_replicates), np.int64)
    at_high = np.repeat(totals, n_replicates, axis=1)
    while np.any(open_ := high - low > 1):
        middle = (low + high) // 2
        inside = below[:, high] - below[:, low]
        share = (below[:, middle] - below[:, low]) / np.maximum(inside, 1)
        at_middle = at_low + rng.binomial(at_high - at_low, share)
        crossed = _difference(at_middle, totals) >= 0
        left, right = open_ & crossed, open_ & ~crossed
        high[left], at_high[:, left] = middle[left], at_middle[:, left]
        low[right], at_low[:, right] = middle[right], at_middle[:, right]
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
    if clusters:
        cells, blocks = _cluster_weights(a.labels, clusters, n_replicates, rng)
    else:
        cells, blocks = np.arange(a.labels.size), _trial_weights(a.labels, n_replicates, rng)
    return np.concatenate([a.eers(cells, w) - b.eers(cells, w) for w in blocks])


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
        values, known = np.asarray(scores, dtype=np.float64), np.asarray(labels)
        if values.shape != known.shape or not np.isin(known, (0, 1)).all():
            raise ScoreError(
                f"{values.size} scores and {known.size} labels: every score needs a label 1 (bona "
                "fide) or 0 (spoof), and paired systems the same trials."
            )
        self.labels = known.astype(np.int64)
        validate(values[self.labels == 1], values[self.labels == 0])
        self.order = np.lexsort((-self.labels, values))  # bona fide first within ties
        self.is_bonafide = self.labels[self.order] == 1

    def eers(self, cells: Ints, weights: Weights) -> Floats:
        """Compute one EER for each column of weights.

        Args:
            cells: The cell of each trial; all trials of a cell have the same weight.
            weights: How often each cell (row) is repeated in each replicate (column).
        """
        from scipy.sparse import csr_array

        n, n_cells = self.order.size, weights.shape[0]
        cell = cells[self.order]
        edges = np.linspace(0, n, min(n, _STRETCHES) + 1).astype(np.int64)
        n_stretches = edges.size - 1
        # First all weights below each edge of some hundred stretches, by one sparse product ...
        row = np.repeat(np.arange(n_stretches), np.diff(edges)) + n_stretches * ~self.is_bonafide
        counts = csr_array(
            (np.ones(n, np.int32), (row, cell)), shape=(2 * n_stretches, n_cells), dtype=np.int32
        )
        below = np.cumsum((counts @ weights).reshape(2, n_stretches, -1), axis=1, dtype=np.int64)
        totals = below[:, -1]
        stretch = np.argmax(_difference(below, totals[:, None]) >= 0, axis=0)
        # ... then trial by trial in the stretch where FRR - FAR changes sign.
        rejected, deciding = np.zeros_like(totals), np.zeros(totals.shape[1], np.int64)
        for s in np.unique(stretch):
            which = np.flatnonzero(stretch == s)
            trials = slice(edges[s], edges[s + 1])
            weight = weights[cell[trials][:, None], which]
            classes = np.stack([self.is_bonafide[trials], ~self.is_bonafide[trials]])
            inside = np.cumsum(weight * classes[:, :, None], axis=1, dtype=np.int64)
            if s:
                inside += below[:, s - 1, which][:, None]
            at = np.argmax(_difference(inside, totals[:, None, which]) >= 0, axis=0)
            columns = np.arange(which.size)
            rejected[:, which] = inside[:, at, columns] - weight[at, columns] * classes[:, at]
            deciding[which] = edges[s] + at
        return _eer_at(rejected, self.is_bonafide[deciding], totals)


def _trial_weights(labels: Ints, n_replicates: int, rng: np.random.Generator) -> Iterator[Weights]:
    """Draw how often each trial is repeated, each class by itself, some replicates at a time."""
    members = [np.flatnonzero(labels == label) for label in (1, 0)]
    for n in _blocks(labels.size, n_replicates):
        weights = np.empty((labels.size, n), np.int32)
        for trials in members:
            for k in range(n):
                drawn = rng.integers(trials.size, size=trials.size)
                weights[trials, k] = np.bincount(drawn, minlength=trials.size)
        yield weights


def _cluster_weights(
    labels: Ints, clusters: Sequence[ArrayLike], n_replicates: int, rng: np.random.Generator
) -> tuple[Ints, Iterator[Weights]]:
    """Group trials into cells (class x clusters) and draw how often each cell is repeated."""
    if not 1 <= len(clusters) <= 2:
        raise ConfigError(f"{len(clusters)} cluster factors given; one or two are possible.")
    sizes, joint = [], labels.astype(np.int64)
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
        sizes.append(known.size)
        joint = joint * (known.size + 1) + np.where(code < 0, known.size, code)
    cells, joint = pd.factorize(joint, sort=True)
    n_cells, codes = joint.size, []
    for size in reversed(sizes):
        joint, code = np.divmod(joint, size + 1)
        codes.append(code)
    codes.reverse()
    is_class = (joint == 1, joint == 0)

    def draw(n: int) -> Weights:
        weights = np.ones((n_cells, n), np.int32)
        for code, size in zip(codes, sizes, strict=True):
            repeats = rng.multinomial(size, np.full(size, 1 / size), n)
            weights *= np.pad(repeats, ((0, 0), (0, 1)), constant_values=1).T.astype(np.int32)[code]
        return weights

    def blocks() -> Iterator[Weights]:
        for n in _blocks(n_cells, n_replicates):
            weights = draw(n)
            while True:
                empty = ~np.all([weights[rows].any(axis=0) for rows in is_class], axis=0)
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
