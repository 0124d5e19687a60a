"""Layers, gates, losses and Adam steps equal those of fairseq and the paper's classifier.

The numbers in data/parity.npz were computed by real fairseq (data/make_parity.py). The weights
have no default values, so that exchanged or dropped ones show; the controls prove it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import our_name

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "parity.npz")
TOLERANCE = 1e-5


def golden_state() -> dict[str, torch.Tensor]:
    """Return the weights under the authors' names."""
    shapes = json.loads(str(GOLDEN["shapes"]))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    flat = np.split(GOLDEN["weights"].astype(np.float32), ends[:-1])
    state = {
        str(name): torch.from_numpy(part.reshape(shape).copy())
        for name, part, shape in zip(GOLDEN["names"], flat, shapes, strict=True)
    }
    state["first_bn.num_batches_tracked"] = state["first_bn.num_batches_tracked"].long()
    return state


def files(folder: Path, state: dict[str, torch.Tensor], heads: int = 2) -> tuple[Path, Path]:
    """Write fairseq's and the authors' file."""
    start = "ssl_model.model."
    model = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
    cfg = {"model": {"encoder_attention_heads": heads, "layer_norm_first": True}}
    torch.save({"args": None, "cfg": cfg, "model": model}, folder / "xlsr.pt")
    torch.save({f"module.{n}": t for n, t in state.items()}, folder / "epoch_2.pth")
    return folder / "xlsr.pt", folder / "epoch_2.pth"


@pytest.fixture
def waveform():
    return torch.from_numpy(GOLDEN["pcm"].astype(np.float32) / 32768)


def layer_difference(path: Path, waveform: torch.Tensor, attention: str = "eager") -> float:
    backbone = load_backbone(path)
    backbone.model.set_attn_implementation(attention)
    with torch.no_grad():
        return float((backbone(waveform) - torch.from_numpy(GOLDEN["layers"])).abs().max())


def score_difference(path: Path, waveform: torch.Tensor) -> float:
    with torch.no_grad():
        got = Detector.load(path, n_heads=2)(waveform)
    return float((got - torch.from_numpy(GOLDEN["log_probs"])).abs().max())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_layers_at_all_lengths(tmp_path, waveform, attention):
    path, _ = files(tmp_path, golden_state())
    assert GOLDEN["layers"].shape == (2, 24, 12, 16)
    assert layer_difference(path, waveform, attention) <= TOLERANCE
    backbone = load_backbone(path)
    backbone.model.set_attn_implementation(attention)
    for n_samples in (400, 719, 720):
        with torch.no_grad():
            got = backbone(waveform[:1, :n_samples]).numpy()
        np.testing.assert_allclose(got, GOLDEN[f"layers_{n_samples}"], rtol=0, atol=TOLERANCE)


def test_gates_and_scores(tmp_path, waveform):
    _, path = files(tmp_path, golden_state())
    detector = Detector.load(path, n_heads=2)
    assert detector.config.n_samples == waveform.shape[1]
    assert score_difference(path, waveform) <= TOLERANCE
    with torch.no_grad():
        gates = detector.gates(waveform).numpy()
    np.testing.assert_allclose(gates, GOLDEN["gates"], rtol=0, atol=TOLERANCE)


def test_gradients_and_adam_steps(tmp_path, waveform):
    _, path = files(tmp_path, golden_state())
    detector = Detector.load(path, n_heads=2).train()
    loss_of = torch.nn.CrossEntropyLoss(weight=torch.tensor((0.1, 0.9)))
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-4, weight_decay=1e-4)
    losses = []
    for step in range(8):
        optimizer.zero_grad()
        log_probs = detector(waveform)
        loss = loss_of(log_probs, torch.tensor((1, 0)))
        loss.backward()
        if not step:
            np.testing.assert_allclose(
                log_probs.detach().numpy(), GOLDEN["log_probs_train"], rtol=0, atol=TOLERANCE
            )
            parameters = dict(detector.named_parameters())
            for name, want in zip(GOLDEN["gradient_names"], GOLDEN["gradient_norms"], strict=True):
                if not name.endswith("k_proj.bias"):  # its true gradient is 0
                    got = parameters.pop(our_name(str(name))).grad.double().norm().item()
                    assert got == pytest.approx(want, rel=2e-4, abs=1e-7), name
            left = {n for n, p in parameters.items() if p.grad is not None and p.grad.norm() > 1e-6}
            assert left == set()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=0, atol=TOLERANCE)


_L, _M = "ssl_model.model.encoder.layers.3.", "ssl_model.model.encoder.layers.4."


def swap(one: str, other: str):
    def change(state):
        state[one], state[other] = state[other], state[one]

    return change


def edit(name: str, how):
    def change(state):
        state[name] = how(state[name])

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap(_L + "self_attn_layer_norm.weight", _L + "final_layer_norm.weight"),
        swap(_L + "self_attn.q_proj.weight", _L + "self_attn.k_proj.weight"),
        swap(_L + "self_attn.v_proj.weight", _L + "self_attn.out_proj.weight"),
        swap(_L + "fc1.weight", _M + "fc1.weight"),
        edit(_L + "self_attn.q_proj.bias", torch.zeros_like),
        edit("ssl_model.model.encoder.pos_conv.0.weight_g", torch.ones_like),
        edit("ssl_model.model.encoder.pos_conv.0.bias", torch.zeros_like),
        edit("ssl_model.model.feature_extractor.conv_layers.4.2.1.weight", torch.ones_like),
        edit("ssl_model.model.feature_extractor.conv_layers.2.0.bias", torch.zeros_like),
        edit("ssl_model.model.layer_norm.bias", torch.zeros_like),
    ],
)
def test_a_wrong_backbone_is_seen(tmp_path, waveform, change):
    state = golden_state()
    change(state)
    assert layer_difference(files(tmp_path, state)[0], waveform) > 10 * TOLERANCE


def test_wrong_heads_and_a_normalised_waveform_are_seen(tmp_path, waveform):
    assert layer_difference(files(tmp_path, golden_state(), 4)[0], waveform) > 10 * TOLERANCE
    normalised = (waveform - waveform.mean()) / waveform.std()
    assert layer_difference(files(tmp_path, golden_state())[0], normalised) > 10 * TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        edit("first_bn.running_mean", torch.zeros_like),
        edit("first_bn.weight", torch.ones_like),
        edit("fc0.bias", lambda t: t + 0.05),
        edit("fc1.weight", lambda t: t.view(8, 4, 5).transpose(1, 2).reshape(8, 20)),
        edit("fc3.weight", lambda t: t.flip(0)),
    ],
)
def test_a_wrong_head_is_seen(tmp_path, waveform, change):
    state = golden_state()
    change(state)
    assert score_difference(files(tmp_path, state)[1], waveform) > 10 * TOLERANCE
