"""The SLS head against its equations, written out with plain tensor operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from slslib.model.sls import SLSHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = SLSHead(width=20, n_frames=13, hidden_width=7)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5)
        head.norm.running_mean.fill_(0.3)
        head.norm.running_var.fill_(2.0)
    return head


@pytest.fixture
def layers():
    return torch.randn(24, 3, 13, 20, generator=torch.Generator().manual_seed(1))


def stacked(head, layers):
    """Compute the logits from the stack (batch, layers, frames, width), as the paper writes it."""
    stack = layers.transpose(0, 1)
    gates = torch.sigmoid(stack.mean(dim=2) @ head.gate.weight[0] + head.gate.bias)
    fused = (gates[:, :, None, None] * stack).sum(dim=1)
    if head.training:
        mean, variance = fused.mean(), fused.var(unbiased=False)
    else:
        mean, variance = head.norm.running_mean, head.norm.running_var
    plane = (fused - mean) / torch.sqrt(variance + 1e-5) * head.norm.weight + head.norm.bias
    plane = F.selu(plane)
    pooled = plane[:, :12, :18].reshape(-1, 4, 3, 6, 3).amax(dim=(2, 4)).flatten(1)
    hidden = F.selu(pooled @ head.hidden.weight.T + head.hidden.bias)
    return F.selu(hidden @ head.output.weight.T + head.output.bias), gates


@pytest.mark.parametrize("training", [False, True])
def test_streamed_equals_stacked(head, layers, training):
    head.double().train(training)
    want, want_gates = stacked(head, layers.double())
    torch.testing.assert_close(head(iter(layers.double())), want, rtol=1e-10, atol=1e-10)
    gates = head.fuse(iter(layers.double()))[1]
    torch.testing.assert_close(gates, want_gates, rtol=1e-10, atol=1e-10)


def test_the_streamed_sum_is_the_stacked_sum_in_single_precision(head, layers):
    fused, gates = head.fuse(iter(layers))
    stack = (gates.T[:, :, None, None] * layers).sum(dim=0)
    torch.testing.assert_close(fused, stack, rtol=1e-6, atol=1e-6)


def test_gradients_equal_those_of_the_stack(head, layers):
    head, layers = head.double().eval(), layers.double().requires_grad_()
    (ours,) = torch.autograd.grad(head(iter(layers)).square().sum(), layers)
    (theirs,) = torch.autograd.grad(stacked(head, layers)[0].square().sum(), layers)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_logits_are_clipped_by_the_last_selu(head, layers):
    with torch.no_grad():
        head.output.bias.fill_(-1e3)
        logits = head.eval()(iter(layers))
    torch.testing.assert_close(logits, torch.full_like(logits, -1.7580993))


def test_a_gate_depends_on_its_own_layer_only(head, layers):
    changed = layers.clone()
    changed[5] += 1.0
    gates, after = head.fuse(iter(layers))[1], head.fuse(iter(changed))[1]
    different = (gates != after).any(dim=0)
    assert different.nonzero().flatten().tolist() == [5]


def test_size_of_the_papers_head():
    with torch.device("meta"):
        head = SLSHead(width=1024, n_frames=201)
    assert head.hidden.in_features == 22_847
    assert sum(p.numel() for p in head.parameters()) == 1024 * 22_847 + 1024 + 2050 + 1025 + 2


def test_layers_that_do_not_fit_are_refused(head):
    with pytest.raises(ValueError, match=r"\(1, 12, 20\) does not fit a head made for 13 frames"):
        head(iter([torch.zeros(1, 12, 20)]))
    with pytest.raises(ValueError, match="no layers"):
        head(iter([]))
    with pytest.raises(ValueError, match="cannot pool 2 frames"):
        SLSHead(width=20, n_frames=2)


def test_the_logits_keep_their_precision_under_autocast(head, layers):
    """The score is a difference of logits: rounded to bfloat16, thousands of trials would tie."""
    want = head.eval()(iter(layers))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(iter(layers))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, want, rtol=0.05, atol=0.05)
