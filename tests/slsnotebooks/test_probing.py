"""Layer features."""

from __future__ import annotations

import numpy as np
import torch

from slslib.model.xlsr import XLSR, XLSRConfig
from slsnotebooks.probing import layer_means


def test_layer_means_are_those_of_the_layers_whatever_the_batches():
    torch.manual_seed(0)
    backbone = XLSR(XLSRConfig(width=16, n_layers=3, conv_width=8)).eval()
    waveforms = torch.randn(5, 2000)
    means = layer_means(backbone, waveforms, batch_size=2)
    assert means.shape == (5, 3, 16)
    with torch.no_grad():
        whole = backbone(waveforms).mean(dim=2)
    np.testing.assert_allclose(means, whole.numpy(), rtol=1e-4, atol=1e-5)
