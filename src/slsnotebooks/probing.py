"""What the layers of a backbone hold, in one vector for each layer of each trial.

Notebook 02 compares such vectors by centered kernel alignment, notebook 03 reads them by linear
probes.
"""

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from slslib.data.audio import N_SAMPLES
from slslib.data.corpora import Corpus
from slslib.errors import ConfigError, FileError
from slslib.files import cache_root, writing
from slslib.model import products, xlsr
from slslib.model.xlsr import XLSR
from slslib.runs.clips import TrialDataset, read_clips


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output.

    The means are kept in the cache folder (:func:`slslib.files.cache_root`), under a hash of the
    weights, the waveforms and the settings. A trial of XLS-R 300M takes 98 kB there.
    """
    path = cache_root() / "layer_means" / f"{_key(backbone, waveforms, batch_size)}.safetensors"
    with suppress(OSError, SafetensorError, KeyError, TypeError):  # there is none, or it is damaged
        return load_file(path)["means"]
    with torch.inference_mode():
        batches = torch.split(waveforms, batch_size)
        means = torch.cat([backbone(batch).mean(dim=2).cpu() for batch in batches]).numpy()
    with suppress(FileError), writing(path) as temporary:  # it would only have saved time
        save_file({"means": means}, temporary)
    return means


def _key(backbone: XLSR, waveforms: Tensor, batch_size: int) -> str:
    """Return a hash of everything that the means depend on."""
    about = [backbone.config, waveforms.shape, waveforms.device.type, batch_size]
    about += [torch.__version__, transformers.__version__]
    digest = hashlib.sha256(repr(about).encode())
    for code in (xlsr, products):
        digest.update(Path(code.__file__ or "").read_bytes())
    for tensor in (*backbone.state_dict().values(), waveforms):
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
