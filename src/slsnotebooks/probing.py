"""What the layers of a backbone hold, in one vector for each layer of each trial.

Notebook 02 compares such vectors by centered kernel alignment, notebook 03 reads them by linear
probes.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slslib.model.xlsr import XLSR


def layer_means(
    backbone: XLSR, waveforms: Float[Tensor, "trials samples"], *, batch_size: int = 16
) -> Float[np.ndarray, "trials layers width"]:
    """Describe each trial by the mean over time of every layer's output."""
    with torch.inference_mode():
        means = [backbone(batch).mean(dim=2).cpu() for batch in torch.split(waveforms, batch_size)]
    return torch.cat(means).numpy()
