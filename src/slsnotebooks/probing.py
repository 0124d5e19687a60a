"""The layers of a backbone, trial by trial: a mean vector for each layer, or the whole layers.

Notebook 02 compares such vectors by centered kernel alignment, and notebook 03 reads them by linear
probes. Heads are trained on the layers themselves, while the backbone stays as it is.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import ConcatDataset, TensorDataset

from slslib.data.audio import N_SAMPLES
from slslib.data.corpora import Corpus
from slslib.errors import ConfigError, FileError
from slslib.files import cache_root
from slslib.model import products, xlsr
from slslib.model.checkpoints import save_safetensors
from slslib.model.xlsr import XLSR
from slslib.runs.clips import TrialDataset, batched, read_clips


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output.

    The means are kept in the cache folder (:func:`slslib.files.cache_root`), under a hash of the
    weights, the waveforms and the settings. A trial of XLS-R 300M takes 98 kB there.
    """

    def means(batch: Tensor) -> Tensor:
        return backbone(batch).mean(dim=2)

    return _cached("layer_means", means, _digest(backbone), waveforms, batch_size).numpy()


def frozen_layers(
    backbone: XLSR, clips: TrialDataset, *, batch_size: int = 8, shard: int = 32
) -> ConcatDataset[tuple[Tensor, ...]]:
    """Compute all layers of each clip once, to train heads while the backbone is not trained.

    The layers are kept in bfloat16, in files of ``shard`` clips in the cache folder, under a hash
    of the weights, the waveforms and the settings. A clip of 4 s takes 9.9 MB with XLS-R 300M. A
    file is read when one of its clips is needed, and takes no memory of its own.

    Returns:
        A dataset of pairs. A pair is the layers of a clip, ``[layers, frames, width]``, and its
        label.

    Raises:
        AudioError: If a recording cannot be read.
    """
    device = next(backbone.parameters()).device

    def layers(batch: Tensor) -> Tensor:
        outputs = [layer.bfloat16() for layer in backbone.layers(batch.to(device))]
        return torch.stack(outputs, dim=1)

    digest, shards = _digest(backbone), []
    for indices in batched(range(len(clips)), shard):
        waveforms, labels = read_clips(clips, indices)
        kept = _cached("frozen_layers", layers, digest, waveforms, batch_size)
        shards.append(TensorDataset(kept, labels))
    return ConcatDataset(shards)


def _digest(backbone: XLSR) -> Any:
    """Return a hash of everything on which the outputs depend, except the waveforms."""
    device = next(backbone.parameters()).device.type
    about = [backbone.config, device, torch.__version__, transformers.__version__]
    digest = hashlib.sha256(repr(about).encode())
    for code in (xlsr, products):
        digest.update(Path(code.__file__ or "").read_bytes())
    for tensor in backbone.state_dict().values():
        digest.update(_bytes(tensor))
    return digest


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()


def _cached(
    folder: str,
    compute: Callable[[Tensor], Tensor],
    digest: Any,
    waveforms: Tensor,
    batch_size: int,
) -> Tensor:
    """Return what ``compute`` makes of the waveforms, from the cache if it is there."""
    digest = digest.copy()
    digest.update(repr([waveforms.shape, batch_size]).encode())
    digest.update(_bytes(waveforms))
    key = digest.hexdigest()  # names the file, and the tensor in it
    path = cache_root() / folder / f"{key}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):  # there is no file, or it is damaged
        return load_file(path)[key]
    with torch.no_grad():
        found = torch.cat([compute(batch).cpu() for batch in torch.split(waveforms, batch_size)])
    with suppress(FileError):  # the cache would only have saved time
        save_safetensors(path, {key: found}, {})
        return load_file(path)[key]
    return found


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
