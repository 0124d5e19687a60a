"""Linear layers are PyTorch's, whoever multiplies."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from slslib.model.products import Linear


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(48, 80)


def gradients(layer, x, product):
    leaf = x.clone().requires_grad_()
    out = product(leaf)
    wanted = (leaf, layer.weight, layer.bias)
    return out.detach(), *torch.autograd.grad(out.square().sum(), wanted)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (2, 5, 48), (0, 48)])
def test_values_and_gradients_are_those_of_pytorch(layer, shape):
    x = torch.randn(shape)
    ours = gradients(layer, x, layer)
    theirs = gradients(layer, x, lambda x: F.linear(x, layer.weight, layer.bias))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_not_contiguous(layer):
    x = torch.randn(48, 9, 4).transpose(0, 2)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
    ours = gradients(layer, x, layer)
    theirs = gradients(layer, x, lambda x: F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_frozen_weights_get_no_gradient(layer):
    layer.requires_grad_(False)
    x = torch.randn(3, 48, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.parametrize("stored", [False, True])
def test_bfloat16_is_that_of_pytorch(layer, stored):
    x = torch.randn(6, 48)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
        assert mixed.dtype == torch.bfloat16
        assert torch.equal(mixed, F.linear(x, layer.weight, layer.bias))
    if stored:
        assert torch.equal(layer.bfloat16()(x), mixed)


@pytest.mark.parametrize("has_units", [True, False])
def test_rounded_weights_give_the_product_of_rounded_numbers(layer, monkeypatch, has_units):
    if not has_units:  # oneDNN's own layout is refused by processors that lack them
        monkeypatch.setattr("slslib.model.products._HAS_BF16", False)
    x, weight, bias = torch.randn(2, 6, 48), layer.weight.bfloat16(), layer.bias.bfloat16()
    layer.to_bf16()
    assert not layer.weight.is_mkldnn or has_units
    expected = F.linear(x.bfloat16().double(), weight.double(), bias.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=0.01, atol=0.01)
