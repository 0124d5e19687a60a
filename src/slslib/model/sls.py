r"""The SLS classifier: weigh the layers of a backbone, sum them, classify the sum.

Zhang, Wen and Hu, *Audio Deepfake Detection with XLS-R and SLS Classifier*, ACM Multimedia 2024
(doi:10.1145/3664647.3681345), section 3. With :math:`h_l \in R^{T \times D}` the output of layer
:math:`l`,

.. math::

   g_l = \sigma(w^\top \operatorname{mean}_t h_l + b), \qquad
   z = \sum_{l=1}^{24} g_l \, h_l ,

where one linear map :math:`(w, b)` serves all layers. The time-frequency plane :math:`z` passes
BatchNorm (one channel), SELU and 3 x 3 max pooling, and is flattened. Two linear layers with SELU
then give the two logits, in the order [spoof, bona fide].

Each gate depends only on its own layer, so :math:`z` can be accumulated while the layers are
computed: no stack of 24 x T x D is ever needed.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SPOOF, BONAFIDE = 0, 1  # order of the two outputs, and the labels


class SLSHead(nn.Module):
    """The SLS classifier for layers of one width and one number of frames.

    The authors call ``gate``, ``norm``, ``hidden`` and ``output``, in this order,
    ``fc0``, ``first_bn``, ``fc1`` and ``fc3``.
    """

    def __init__(self, width: int, n_frames: int, *, hidden_width: int = 1024) -> None:
        """Build a head with PyTorch's default random weights.

        Args:
            width: Width of the layers (1024 for XLS-R 300M).
            n_frames: Frames of each layer (201 for 64,600 samples).
            hidden_width: Width of the hidden linear layer.

        Raises:
            ValueError: If the layers are too small to pool.
        """
        super().__init__()
        self.width, self.n_frames = width, n_frames
        pooled = (n_frames // 3) * (width // 3)
        if pooled == 0:
            raise ValueError(f"cannot pool {n_frames} frames x {width} by 3 x 3")
        self.gate = nn.Linear(width, 1)
        self.norm = nn.BatchNorm2d(1)
        self.hidden = nn.Linear(pooled, hidden_width)
        self.output = nn.Linear(hidden_width, 2)

    def fuse(
        self, layers: Iterable[Float[Tensor, "batch frames width"]]
    ) -> tuple[Float[Tensor, "batch frames width"], Float[Tensor, "batch layers"]]:
        """Sum the layers, each scaled by its gate.

        Args:
            layers: Outputs of the layers, first to last; a generator is consumed as it yields.

        Returns:
            The fused features, and the gates in (0, 1).

        Raises:
            ValueError: If there is no layer, or its shape is not (batch, n_frames, width).
        """
        fused: Tensor | None = None
        gates = []
        for layer in layers:
            if layer.shape[1:] != (self.n_frames, self.width):
                made = f"a head made for {self.n_frames} frames x {self.width}"
                what = f"a layer of shape {tuple(layer.shape)} does not fit {made}"
                raise ValueError(f"{what}; cut or tile the audio to one length")
            gate = torch.sigmoid(self.gate(layer.mean(dim=1)))
            gates.append(gate)
            weighted = gate[:, :, None] * layer
            fused = weighted if fused is None else fused + weighted
        if fused is None:
            raise ValueError("no layers to fuse")
        return fused, torch.cat(gates, dim=1)

    def classify(self, fused: Float[Tensor, "batch frames width"]) -> Float[Tensor, "batch 2"]:
        """Turn fused features into the two logits [spoof, bona fide]."""
        # The score is a difference of the two outputs: no reduced precision from here on.
        with torch.autocast(fused.device.type, enabled=False):
            plane = F.selu(self.norm(fused.to(self.output.weight.dtype)[:, None]))
            pooled = F.max_pool2d(plane, 3).flatten(1)
            hidden = F.selu(self.hidden(pooled))
            # Parity: the authors apply SELU to the logits too, which clips them at -1.758.
            return F.selu(self.output(hidden))

    def forward(
        self, layers: Iterable[Float[Tensor, "batch frames width"]]
    ) -> Float[Tensor, "batch 2"]:
        """Return the two logits for the outputs of the layers."""
        return self.classify(self.fuse(layers)[0])
