"""Write parity.npz: what real fairseq and the paper's classifier compute with given weights.

    python tests/golden/make_parity.py     (in the environment of `make test-fairseq`)

A tiny model, 24 layers of width 16, built by fairseq, with random weights that float16 holds
exactly; the classifier is written from the paper in tests/test_fairseq.py. Its inputs are noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "model"))

from test_fairseq import AuthorsModel, build, layers_of  # noqa: E402

WIDTH, HEADS, HIDDEN, SAMPLES, FRAMES = 16, 2, 8, 3920, 12
CLASS_WEIGHTS, LABELS, LR, STEPS = (0.1, 0.9), (1, 0), 1e-4, 8


def make() -> dict[str, np.ndarray]:
    """Return weights, inputs and outputs."""
    torch.set_num_threads(1)
    backbone, _ = build(
        encoder_embed_dim=WIDTH, encoder_ffn_embed_dim=24, encoder_attention_heads=HEADS,
        conv_feature_layers="[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
        conv_pos=32, conv_pos_groups=4, final_dim=8,
    )  # fmt: skip
    model = AuthorsModel(backbone, WIDTH, FRAMES, HIDDEN)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.first_bn.running_mean += 0.1
        model.first_bn.running_var *= 1.5
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    state = model.state_dict()
    out: dict[str, np.ndarray] = {
        "names": np.array(list(state)),
        "shapes": np.array(json.dumps([list(t.shape) for t in state.values()])),
        "weights": np.concatenate([t.numpy().ravel().astype(np.float16) for t in state.values()]),
    }
    pcm = torch.randint(-8000, 8000, (2, SAMPLES), generator=generator)
    x = pcm.float() / 32768
    out["pcm"] = pcm.numpy().astype(np.int16)
    model.eval()
    with torch.no_grad():
        layers = torch.stack(layers_of(backbone, x), dim=1)
        out["layers"] = layers.numpy()
        for n in (400, 719, 720):
            out[f"layers_{n}"] = torch.stack(layers_of(backbone, x[:1, :n]), dim=1).numpy()
        out["gates"] = model.gates(layers)[..., 0].numpy()
        out["log_probs"] = model(x).numpy()
    model.train()
    loss_of = torch.nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS))
    y = torch.tensor(LABELS)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, weight_decay=1e-4)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        log_probs = model(x)
        loss = loss_of(log_probs, y)
        loss.backward()
        if not step:
            out["log_probs_train"] = log_probs.detach().numpy()
            trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            out["gradient_names"] = np.array(list(trained))
            out["gradient_norms"] = np.array([g.double().norm().item() for g in trained.values()])
        optimizer.step()
        losses.append(loss.item())
    out["losses"] = np.array(losses)
    return out


if __name__ == "__main__":
    np.savez_compressed(HERE / "parity.npz", **make())
