"""Adapter between slslib's public API and the parity kit's ``verify.py``.

python ../shared/parity/verify.py tests/parity_adapter.py --controls
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slslib.model import detector
from slslib.model.detector import Detector
from slslib.model.foreign import our_name
from slslib.model.xlsr import XLSR


def load_backbone(path: str, num_heads: int) -> XLSR:
    """Load a fairseq ``.pt``."""
    return detector.load_backbone(path, n_heads=num_heads)


def layer_outputs(backbone: XLSR, x: Tensor) -> Sequence[Tensor]:
    """Return every layer's output before the final LayerNorm."""
    return list(backbone.layers(x))


def load_sls(path: str, num_heads: int) -> Detector:
    """Load an authors' ``.pth`` as a trainable module that returns log-probabilities."""
    return Detector.load(path, n_heads=num_heads)


def gates(module: Detector, x: Tensor) -> Tensor:
    """Return the SLS gates, (batch, layers)."""
    with torch.no_grad():
        return module.gates(x)


def grad_of(module: nn.Module, authors_name: str) -> Tensor | None:
    """Return the gradient of the parameter that the authors call ``authors_name``."""
    parameter = dict(module.named_parameters()).get(our_name(authors_name) or "")
    return None if parameter is None else parameter.grad
