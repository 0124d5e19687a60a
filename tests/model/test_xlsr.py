"""The backbone gives every layer, as transformers computes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import DIMENSIONS

from slslib.errors import ConfigError
from slslib.model.xlsr import XLSR, XLSRConfig


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return XLSR(DIMENSIONS).eval()


@pytest.fixture
def waveform():
    return 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))


def test_dimensions_of_xlsr_300m():
    config = XLSRConfig()
    assert (config.heads, config.receptive_field) == (16, 400)
    assert [config.n_frames(n) for n in (64_600, 400, 399, 719, 720)] == [201, 1, 0, 1, 2]


def test_layers_are_the_residual_stream_before_the_final_norm(backbone, waveform):
    with torch.no_grad():
        layers = list(backbone.layers(waveform))
        # Oracle: hooks on the transformers model's own forward pass.
        seen = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out: seen.append(out))
            for layer in backbone.model.encoder.layers
        ]
        final = backbone.model(waveform).last_hidden_state
        for hook in hooks:
            hook.remove()
    assert len(layers) == DIMENSIONS.n_layers
    assert layers[0].shape == (2, DIMENSIONS.n_frames(4000), DIMENSIONS.width)
    for ours, theirs in zip(layers, seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.model.encoder.layer_norm(layers[-1]), final)
    assert (layers[-1] - final).abs().max() > 0.1


def test_eager_attention_equals_the_fused_kernel(backbone, waveform):
    with torch.no_grad():
        fused = backbone(waveform)
        backbone.model.set_attn_implementation("eager")
        torch.testing.assert_close(backbone(waveform), fused, rtol=0, atol=1e-5)


def test_scoring_clip_by_clip_equals_the_batch(backbone, waveform):
    with torch.no_grad():
        batch = backbone(waveform)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(waveform), batch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wavlm", [False, True])
def test_bf16_rounds_products_and_keeps_the_residual_stream(waveform, wavlm):
    torch.manual_seed(0)
    backbone = XLSR(replace(DIMENSIONS, wavlm=wavlm)).eval()
    with torch.no_grad():
        exact = backbone(waveform)
        backbone.to_bf16()
        rounded = backbone(waveform)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded.bfloat16().float(), rounded)
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.03
    halves = {n for n, p in backbone.named_parameters() if p.dtype == torch.bfloat16}
    assert any("feature_extractor" in name for name in halves)
    assert any("feed_forward" in name for name in halves)
    assert any(".attention." in name for name in halves) != wavlm
    assert not any(".layers." in name and "norm" in name for name in halves)


def test_training_mode_is_deterministic(backbone, waveform):
    backbone.train()
    with torch.no_grad():
        torch.testing.assert_close(backbone(waveform), backbone(waveform), rtol=0, atol=0)
        trained = backbone(waveform)
        torch.testing.assert_close(trained, backbone.eval()(waveform), rtol=0, atol=0)


def test_checkpointing_gives_the_same_gradients(backbone, waveform):
    def gradients(checkpointing):
        backbone.checkpointing = checkpointing
        backbone.zero_grad()
        backbone.train()(waveform).square().mean().backward()
        return {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], recomputed[name])


def test_the_waveform_is_not_normalised(backbone, waveform):
    with torch.no_grad():
        louder = backbone(10 * waveform)
        assert (louder - backbone(waveform)).abs().max() > 1e-3


def test_a_row_does_not_depend_on_its_batch(backbone, waveform):
    with torch.no_grad():
        torch.testing.assert_close(backbone(waveform)[:1], backbone(waveform[:1]))


@pytest.mark.parametrize(
    ("what", "frozen", "trained"),
    [
        ("none", [], ["feature_extractor", "encoder"]),
        ("conv", ["feature_extractor"], ["encoder", "feature_projection"]),
        ("backbone", ["feature_extractor", "encoder"], []),
    ],
)
def test_freeze(backbone, what, frozen, trained):
    backbone.freeze(what)
    for name, parameter in backbone.named_parameters():
        if name.startswith("model.encoder.layer_norm."):  # takes no part in the layers
            assert not parameter.requires_grad
            continue
        part = name.split(".")[1]
        if part in frozen:
            assert not parameter.requires_grad
        if part in trained:
            assert parameter.requires_grad


def test_too_short_audio_is_refused(backbone):
    with pytest.raises(ValueError, match="399 samples are less than one frame"):
        next(backbone.layers(torch.zeros(1, 399)))


def test_a_single_waveform_is_told_from_a_batch(backbone):
    with pytest.raises(ValueError, match=r"shape \(batch, samples\), not \(1000,\)"):
        backbone(torch.zeros(1000))
    with pytest.raises(ValueError, match=r"not \(1, 1, 1000\)"):
        next(backbone.layers(torch.zeros(1, 1, 1000)))


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ({"kernels": (3, 3), "strides": (2,)}, "2 kernels but 1 strides"),
        ({"kernels": (), "strides": ()}, r"kernels is \(\)"),
        ({"width": 64.0}, r"width is 64\.0"),
        ({"n_layers": 1001}, "n_layers is 1001"),
    ],
)
def test_dimensions_that_cannot_be_are_refused(dimensions, says):
    with pytest.raises(ConfigError, match=says):
        XLSRConfig(**dimensions)


@pytest.mark.parametrize(
    ("dimensions", "says"),
    [
        ({"width": 30, "n_heads": 4, "pos_groups": 1}, "divisible by num_heads"),
        ({"width": 32, "pos_groups": 5}, "divisible by groups"),
    ],
)
def test_a_width_that_is_not_divisible_is_refused(dimensions, says):
    with pytest.raises(ValueError, match=says):
        XLSR(XLSRConfig(n_layers=1, **dimensions))
