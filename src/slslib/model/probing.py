"""What the layers of a backbone hold: how alike they are, and what a linear map reads from them.

*Similarity* is linear centered kernel alignment (CKA; Kornblith et al., ICML 2019). With the
features of the same trials in the rows of X and Y, and columns centred,

    CKA(X, Y) = ||Y'X||² / (||X'X|| ||Y'Y||)        (Frobenius norms).

It is 1 where one is the other rotated, scaled or shifted. Of unrelated features it is *not* 0, but
grows with the width and falls with the number of trials.

A *probe* (Alain and Bengio, arXiv:1610.01644) is a logistic regression on the features of one
layer. It shows what a linear map can read, not what a network that uses the layer makes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
from torch import Tensor

from slslib.errors import ConfigError
from slslib.model.baseline import classifier
from slslib.model.xlsr import XLSR


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output."""
    with torch.inference_mode():
        means = [backbone(batch).mean(dim=2).cpu() for batch in torch.split(waveforms, batch_size)]
    return torch.cat(means).numpy()


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear CKA of two features ``[trials, width]`` of the same trials, 0 to 1.

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0

    Raises:
        ConfigError: If one side is the same for all trials.
        ValueError: NumPy's, if the numbers of trials differ.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
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

    Balanced accuracy is the mean of the classes' recognition rates: guessing gets 1 / classes.

    Args:
        features: Of each trial and layer.
        targets: The class of each trial.
        groups: Trials of one group, a speaker for example, are never on both sides of a split.
        folds: Parts that are tested in turn by a classifier trained on the others.
        seed: Of the split, which is the same for all layers.

    Raises:
        ConfigError: If a class is in one fold only, so that no classifier can learn it.
        ValueError: scikit-learn's, if the features have another shape, or there are fewer than two
            classes, or fewer trials or groups than folds.
    """
    layers = np.moveaxis(np.asarray(features, float), 1, 0)
    # Numbers for names: scikit-learn's scorer takes two classes of strings for an error.
    truth = np.unique(targets, return_inverse=True)[1]
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = list(kind(folds, shuffle=True, random_state=seed).split(truth, truth, groups))
    if any(set(truth[test]) - set(truth[train]) for train, test in splits):
        raise ConfigError("a class is in one fold only: use fewer folds, or more groups of each")
    # Classes that a fold lacks are left out of its mean, without a warning.
    score = make_scorer(recall_score, average="macro", zero_division=np.nan)
    how: Any = {"scoring": score, "cv": splits, "error_score": "raise"}
    return np.stack([cross_val_score(classifier(), layer, truth, **how) for layer in layers])
