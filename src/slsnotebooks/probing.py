"""What the layers of a backbone hold, in one vector for each layer of each trial.

Notebook 02 compares such vectors by centered kernel alignment, notebook 03 reads them by linear
probes.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from slslib.data.audio import N_SAMPLES
from slslib.data.corpora import Corpus
from slslib.errors import ConfigError
from slslib.model.xlsr import XLSR
from slslib.runs.clips import TrialDataset, read_clips


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output."""
    with torch.inference_mode():
        means = [backbone(batch).mean(dim=2).cpu() for batch in torch.split(waveforms, batch_size)]
    return torch.cat(means).numpy()


def sample(
    corpus: Corpus, per_class: int, *, n_samples: int = N_SAMPLES, seed: int = 0
) -> tuple[pd.DataFrame, Float[Tensor, "trials samples"]]:
    """Draw the same number of trials of each class, as clips of ``n_samples`` at 16 kHz.

    Raises:
        ConfigError: If a class has fewer trials, or none are asked for.
        AudioError: If a recording cannot be read.
    """
    classes = corpus.trials.groupby("label")
    fewest = int(classes.size().min())
    if not 1 <= per_class <= fewest:
        raise ConfigError(f"per_class is {per_class}; {corpus.name} has trials for 1 to {fewest}")
    trials = classes.sample(per_class, random_state=seed).reset_index(drop=True)
    dataset = TrialDataset(replace(corpus, trials=trials), n_samples=n_samples)
    return trials, read_clips(dataset)[0]
