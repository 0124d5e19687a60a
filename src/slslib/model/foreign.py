"""What the same weights are called: by fairseq, by transformers, by the SLS authors, and here.

Here the backbone's tensors are ``backbone.model.*`` with transformers' names, and the head's are
``head.*``. The authors' file is fairseq's names below ``ssl_model.model.`` and four modules of
their own. The parts of a wav2vec 2.0 model that only pre-training uses (:data:`PRETRAINING`) take
no part in fine-tuning or scoring; a converted file keeps them as ``pretraining.*``, because the
original's strict loading wants them back.

No checkpoint but ours says how large its model is: :func:`dimensions` derives it from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slslib.model.geometry import DetectorConfig, XLSRConfig

BACKBONE, KEPT = "backbone.model.", "pretraining."
_AUTHORS_BACKBONE = "ssl_model.model."
_CONVOLUTION, _LAYER = "feature_extractor.conv_layers.{}.", "encoder.layers.{}."
_POSITION = "encoder.pos_conv_embed.conv."
_DIRECTION, _MAGNITUDE = (f"{_POSITION}parametrizations.weight.original{i}" for i in (1, 0))
# The beginning of a name in fairseq and here; names with another beginning are the same.
_FAIRSEQ = [
    (f"{_CONVOLUTION}0.", f"{_CONVOLUTION}conv."),
    (f"{_CONVOLUTION}2.1.", f"{_CONVOLUTION}layer_norm."),
    ("layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("encoder.pos_conv.0.bias", f"{_POSITION}bias"),
    ("encoder.pos_conv.0.weight_g", _MAGNITUDE),
    ("encoder.pos_conv.0.weight_v", _DIRECTION),
    (f"{_LAYER}self_attn.", f"{_LAYER}attention."),
    (f"{_LAYER}self_attn_layer_norm.", f"{_LAYER}layer_norm."),
    (f"{_LAYER}fc1.", f"{_LAYER}feed_forward.intermediate_dense."),
    (f"{_LAYER}fc2.", f"{_LAYER}feed_forward.output_dense."),
]
# As transformers called them before PyTorch's parametrizations; its hub files still do.
_OLD_TRANSFORMERS = [
    (f"{_POSITION}weight_g", _MAGNITUDE),
    (f"{_POSITION}weight_v", _DIRECTION),
]
_HEAD = {"fc0": "gate", "first_bn": "norm", "fc1": "hidden", "fc3": "output"}

PRETRAINING = (
    "mask_emb",
    "quantizer.vars",
    "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias",
    "project_q.weight",
    "project_q.bias",
    "final_proj.weight",
    "final_proj.bias",
)
"""Fairseq's names of what only pre-training uses."""
# Of XLS-R 300M: the quantizer's entries, in two groups, and the width that it predicts in.
_N_CODES, _N_GROUPS, _FINAL_WIDTH = 320, 2, 768
_PRETRAINING_HERE = [
    ("masked_spec_embed", "mask_emb"),
    ("quantizer.codevectors", "quantizer.vars"),
    ("project_hid.", "final_proj."),
]


def our_name(name: str) -> str | None:
    """Translate a tensor's name in a foreign checkpoint into ours.

    Args:
        name: As fairseq, transformers or the SLS authors call it, without ``module.``.

    Returns:
        Our name; for the parts that only pre-training uses one that begins with
        ``pretraining.``; None for heads that other fine-tuning has added.

    >>> our_name("ssl_model.model.encoder.layers.3.fc1.bias")
    'backbone.model.encoder.layers.3.feed_forward.intermediate_dense.bias'
    >>> our_name("fc0.weight")
    'head.gate.weight'
    >>> our_name("project_hid.bias")
    'pretraining.final_proj.bias'
    """
    part, _, rest = name.partition(".")
    if part in _HEAD:
        return f"head.{_HEAD[part]}.{rest}"
    name = re.sub(r"^(ssl_model\.model\.|wav2vec2\.|wav2vec\.)", "", name)
    if (kept := _translate(name, _PRETRAINING_HERE)) in PRETRAINING:
        return KEPT + kept
    if name.startswith("lm_head."):
        return None
    return BACKBONE + _translate(name, _FAIRSEQ + _OLD_TRANSFORMERS)


def authors_name(name: str) -> str:
    """Translate one of our names into the SLS authors', the inverse of :func:`our_name`.

    >>> authors_name("backbone.model.encoder.layers.3.layer_norm.bias")
    'ssl_model.model.encoder.layers.3.self_attn_layer_norm.bias'
    >>> authors_name("pretraining.mask_emb")
    'ssl_model.model.mask_emb'
    """
    part, _, rest = name.partition(".")
    if part == "head":
        module, _, leaf = rest.partition(".")
        return f"{next(k for k, v in _HEAD.items() if v == module)}.{leaf}"
    if name.startswith(KEPT):
        return _AUTHORS_BACKBONE + name.removeprefix(KEPT)
    return fairseq_name(name.removeprefix(BACKBONE), _AUTHORS_BACKBONE)


def fairseq_name(name: str, prefix: str = "") -> str:
    """Translate a name of transformers' ``Wav2Vec2Model`` into fairseq's."""
    return prefix + _translate(name, [(ours, theirs) for theirs, ours in _FAIRSEQ])


def _translate(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for old, new in beginnings:
        found = re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if found:
            return new.format(*found.groups()) + name[found.end() :]
    return name


def dimensions(tensors: Mapping[str, Tensor], n_heads: int | None) -> dict[str, Any]:
    """Derive a detector's or backbone's config from the shapes of its tensors, under our names.

    Raises:
        KeyError, IndexError, TypeError, ValueError, ArithmeticError, ConfigError: If they are not
            an XLS-R model's.
    """
    layers = (re.match(rf"{BACKBONE}encoder\.layers\.(\d+)\.", name) for name in tensors)
    convolutions = [
        tensors[f"{BACKBONE}feature_extractor.conv_layers.{i}.conv.weight"] for i in range(7)
    ]
    position = tensors[BACKBONE + _DIRECTION]
    ffn = tensors[f"{BACKBONE}encoder.layers.0.feed_forward.intermediate_dense.weight"]
    backbone = XLSRConfig(
        width=ffn.shape[1],
        n_layers=1 + max(int(layer[1]) for layer in layers if layer),
        n_heads=n_heads,
        ffn_width=ffn.shape[0],
        conv_width=convolutions[0].shape[0],
        kernels=tuple(c.shape[2] for c in convolutions),
        pos_kernel=position.shape[2],
        pos_groups=position.shape[0] // position.shape[1],
    )
    config: dict[str, Any] = {"backbone": asdict(backbone)}
    if "head.hidden.weight" in tensors:
        hidden, pooled = tensors["head.hidden.weight"].shape
        frames = 3 * (pooled // (backbone.width // 3))
        config["hidden_width"] = hidden
        config["n_samples"] = _samples_for(backbone, frames)
    return config


def _samples_for(backbone: XLSRConfig, frames: int) -> int:
    """Guess the audio length of a head that pools ``frames`` (rounded down to threes)."""
    if backbone.n_frames(DetectorConfig.n_samples) // 3 == frames // 3:
        return DetectorConfig.n_samples
    return backbone.receptive_field + (frames - 1) * int(np.prod(backbone.strides))


def pretraining_parts(
    tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Make the missing parts that only pre-training uses, as fairseq initialises them.

    No result depends on them. Their sizes are those of XLS-R 300M, their numbers always the same.

    Args:
        tensors: The backbone, for its widths, under our names.
        kept: The parts that there are.
    """
    width = tensors[f"{BACKBONE}encoder.layer_norm.weight"].shape[0]
    conv_width = tensors[f"{BACKBONE}feature_projection.layer_norm.weight"].shape[0]
    code_width = _FINAL_WIDTH // _N_GROUPS
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        weight_proj = nn.Linear(conv_width, _N_GROUPS * _N_CODES)
        nn.init.normal_(weight_proj.weight)
        nn.init.zeros_(weight_proj.bias)
        project_q = nn.Linear(_FINAL_WIDTH, _FINAL_WIDTH)
        final_proj = nn.Linear(width, _FINAL_WIDTH)
        made = [
            torch.rand(width),
            torch.rand(1, _N_GROUPS * _N_CODES, code_width),
            *(t.detach() for m in (weight_proj, project_q, final_proj) for t in m.parameters()),
        ]
    parts = {KEPT + name: tensor for name, tensor in zip(PRETRAINING, made, strict=True)}
    return {name: tensor for name, tensor in parts.items() if name not in kept}
