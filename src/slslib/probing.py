"""What the layers of a backbone hold: how alike they are, and what a linear map reads from them.

*Similarity* is linear centered kernel alignment (CKA; Kornblith et al., ICML 2019, equation 5):
with the features of the same trials in the rows of X and Y, each column centred,

    CKA(X, Y) = ||Y'X||² / (||X'X|| ||Y'Y||)        (Frobenius norms)

is 1 where one is the other rotated, scaled or shifted. Of unrelated features it is *not* 0: it
grows with the number of dimensions and falls with the number of trials, so a shuffled pairing
belongs beside it.

A *probe* (Alain and Bengio, ICLR 2017 workshop, arXiv:1610.01644) is a logistic regression on the
features of one layer, cross-validated. It shows what can be read from a layer by a linear map, not
what a network that uses the layer makes of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
from torch import Tensor

from slslib.audio import N_SAMPLES
from slslib.data import TrialDataset, stack
from slslib.errors import ConfigError
from slslib.lfcc import classifier
from slslib.protocols import Corpus
from slslib.xlsr import XLSR


def balanced_sample(
    corpus: Corpus, per_class: int, *, n_samples: int = N_SAMPLES, seed: int = 0
) -> tuple[pd.DataFrame, Float[Tensor, "trials samples"]]:
    """Draw as many trials of each class and read them.

    Args:
        corpus: Labelled trials.
        per_class: Trials of each class.
        n_samples: Length of a clip at 16 kHz.
        seed: Of the draw.

    Returns:
        The trials and, in their order, their waveforms.

    Raises:
        ConfigError: If a class has fewer trials.
        AudioError: If a recording cannot be read.
    """
    classes = corpus.trials.groupby("label")
    if (fewest := int(classes.size().min())) < per_class:
        raise ConfigError(f"{corpus.name} has {fewest} trials of a class, fewer than {per_class}")
    trials = classes.sample(per_class, random_state=seed).reset_index(drop=True)
    dataset = TrialDataset(replace(corpus, trials=trials), n_samples=n_samples)
    return trials, stack([dataset[i] for i in range(len(dataset))])[0]


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output.

    Args:
        backbone: On the CPU or elsewhere; no gradients are kept.
        waveforms: As :meth:`slslib.xlsr.XLSR.layers` takes them.
        batch_size: Trials in one pass.
    """
    with torch.inference_mode():
        batches = [
            torch.stack([layer.mean(dim=1) for layer in backbone.layers(batch)], dim=1).cpu()
            for batch in torch.split(waveforms, batch_size)
        ]
    return torch.cat(batches).numpy()


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear CKA of two sets of features of the same trials, 0 to 1.

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0

    Args:
        x: Features ``[trials, dimensions]``.
        y: Features of the same trials in the same order; the width may differ.

    Raises:
        ConfigError: If the numbers of trials differ, or one side is the same for all trials.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ConfigError(f"CKA needs two features of the same trials, not {a.shape} and {b.shape}")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    if not scale > 0:
        raise ConfigError("CKA is undefined: one side has the same features for all trials")
    return float(np.linalg.norm(b.T @ a) ** 2 / scale)


def probe(
    features: Float[np.ndarray, "trials layers width"],
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Cross-validate a linear classifier on each layer: balanced accuracy, ``[layers, folds]``.

    Balanced accuracy is the mean over the classes of the share that is recognised; guessing gives
    one part in the number of classes, however unequal these are.

    Args:
        features: Of each trial and layer.
        targets: The class of each trial.
        groups: Trials of one group, a speaker for example, are never on both sides of a split.
        folds: Parts that the trials are split into; each is tested once, on the others' classifier.
        seed: Of the split, which is the same for all layers.

    Raises:
        ConfigError: If the trials cannot be split so: a class has too few of them, or too few
            groups.
    """
    features, targets = np.asarray(features), np.asarray(targets)
    classes, counts = np.unique(targets, return_counts=True)
    if len(classes) < 2 or counts.min() < folds:
        raise ConfigError(
            f"no {folds} folds of classes of {counts.tolist()} trials: a probe needs two classes "
            f"or more, each of {folds} trials"
        )
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    try:
        splits = list(kind(folds, shuffle=True, random_state=seed).split(targets, targets, groups))
    except ValueError as error:
        raise ConfigError(f"no {folds} folds of these groups: {error}") from error
    for train, test in splits:
        if missing := set(targets[test]) - set(targets[train]):
            raise ConfigError(
                f"a class is in one fold only, so nobody can learn it: {sorted(missing)[:3]}; "
                "use fewer folds, or more groups of each class"
            )
    layers = np.moveaxis(features, 1, 0)
    scoring = make_scorer(_balanced_accuracy)
    return np.stack(
        [cross_val_score(classifier(), x, targets, scoring=scoring, cv=splits) for x in layers]
    )


def _balanced_accuracy(truth: NDArray[Any], said: NDArray[Any]) -> float:
    """Average the recall over the classes that the fold holds."""
    return float(recall_score(truth, said, labels=np.unique(truth), average="macro"))
