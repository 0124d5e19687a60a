"""Linear layers that a CPU computes by oneDNN.

On a CPU, PyTorch leaves products of 32-bit matrices to MKL, which is slow on AMD's processors. Here
oneDNN computes them; PyTorch itself uses it for convolutions and for bfloat16. The two libraries
differ in the last bits. On a GPU nothing changes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_HAS_BF16: bool = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`; with weights in bfloat16, it rounds its input to bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias``."""
        kind, device = self.weight.dtype, input.device.type
        if kind == torch.bfloat16:
            input = input.bfloat16()
        if self.weight.is_mkldnn:
            return _product(input, self.weight, self.bias)
        by_onednn = _HAS_ONEDNN and device == "cpu" and kind == torch.float32
        # An exported graph must have no operations of PyTorch's own, and batches of any size.
        plain = torch.compiler.is_exporting() or torch.is_autocast_enabled(device)
        if by_onednn and not plain and input.ndim > 1 and len(input):
            return _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return F.linear(input, self.weight, self.bias)

    def to_bf16(self) -> None:
        """Round the weights for good, on a CPU into oneDNN's own layout; no training after that."""
        rounded = self.weight.detach().bfloat16()
        if _HAS_BF16 and rounded.device.type == "cpu":
            rounded = torch.ops.mkldnn._reorder_linear_weight(rounded)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias.data = self.bias.data.bfloat16()


class _Product(torch.autograd.Function):
    """The product and its derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (out,), wanted = ctx.saved_tensors, gradients, ctx.needs_input_grad
        rows = out.flatten(0, -2)
        return (
            _Product.apply(out, weight.t(), None) if wanted[0] else None,  # type: ignore[no-untyped-call]
            _Product.apply(rows.t(), x.flatten(0, -2).t(), None) if wanted[1] else None,  # type: ignore[no-untyped-call]
            rows.sum(0) if wanted[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
