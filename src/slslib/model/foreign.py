"""The names of the same weights in fairseq, in transformers, in the SLS authors' code, and here.

Here the backbone's tensors are ``backbone.model.*`` with transformers' names, and the head's are
``head.*``. The authors' file has fairseq's names below ``ssl_model.model.``, and four modules of
their own. Some parts of a wav2vec 2.0 model are used only by its pre-training, or by other
fine-tuning (``lm_head``). They take no part in scoring. A converted file keeps them as
``pretraining.*``, because the original's strict loading needs them.

Only our checkpoints state everything about their model. For others, :func:`dimensions` derives the
sizes from the shapes, and takes the rest from transformers' ``config.json`` or fairseq's settings.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from slslib.errors import ConfigError
from slslib.model.geometry import DetectorConfig, XLSRConfig

BACKBONE, KEPT = "backbone.model.", "pretraining."
KEY = "slslib"  # the key of the description, in the metadata of our files
_CONVOLUTION, _LAYER = "feature_extractor.conv_layers.{}.", "encoder.layers.{}."
_PROJECTION, _POSITION = f"{BACKBONE}feature_projection.", f"{BACKBONE}encoder.pos_conv_embed.conv."
_DIRECTION, _MAGNITUDE = (f"{_POSITION}parametrizations.weight.original{i}" for i in (1, 0))
TASKS = ("lm_head", "projector", "classifier", "layer_weights")  # of transformers, not used here
_PRETRAINING = ("mask_emb", "quantizer.vars", "quantizer.weight_proj.", "project_q.", "final_proj.")
# How a name begins elsewhere, and here; the first pair that fits counts, in both directions.
_NAMES = [
    # The authors' head.
    ("fc0.", "head.gate."),
    ("first_bn.", "head.norm."),
    ("fc1.", "head.hidden."),
    ("fc3.", "head.output."),
    # fairseq.
    *((part, KEPT + part) for part in _PRETRAINING),
    (f"{_CONVOLUTION}0.", f"{BACKBONE}{_CONVOLUTION}conv."),
    (f"{_CONVOLUTION}2.1.", f"{BACKBONE}{_CONVOLUTION}layer_norm."),
    (f"{_CONVOLUTION}2.", f"{BACKBONE}{_CONVOLUTION}layer_norm."),
    ("layer_norm.", f"{_PROJECTION}layer_norm."),
    ("post_extract_proj.", f"{_PROJECTION}projection."),
    ("encoder.pos_conv.0.bias", f"{_POSITION}bias"),
    ("encoder.pos_conv.0.weight_g", _MAGNITUDE),
    ("encoder.pos_conv.0.weight_v", _DIRECTION),
    (f"{_LAYER}self_attn.", f"{BACKBONE}{_LAYER}attention."),
    (f"{_LAYER}self_attn_layer_norm.", f"{BACKBONE}{_LAYER}layer_norm."),
    (f"{_LAYER}fc1.", f"{BACKBONE}{_LAYER}feed_forward.intermediate_dense."),
    (f"{_LAYER}fc2.", f"{BACKBONE}{_LAYER}feed_forward.output_dense."),
    # transformers, if its name is neither fairseq's nor ours.
    ("masked_spec_embed", f"{KEPT}mask_emb"),
    ("quantizer.codevectors", f"{KEPT}quantizer.vars"),
    ("project_hid.", f"{KEPT}final_proj."),
    *((part, KEPT + part) for part in TASKS),
    # Before PyTorch's parametrizations; its hub files still have these.
    ("encoder.pos_conv_embed.conv.weight_g", _MAGNITUDE),
    ("encoder.pos_conv_embed.conv.weight_v", _DIRECTION),
    ("", BACKBONE),
]
_OTHERS = {"GAT_layer_S": "AASIST", "Nested_Res2Net_TDNN": "Nes2Net"}
_PARTS = re.compile(r"encoder\.|feature_(extractor|projection)\.|head\.|" + re.escape(KEPT))
# What transformers' configuration or fairseq's settings must say, because no shape shows it.
_GELU = ("hidden_act", "feat_extract_activation", "activation_fn")
_ALIKE = dict.fromkeys(_GELU, "gelu") | {"layer_norm_eps": 1e-5, "max_bucket_distance": 800}


def our_name(name: str) -> str:
    """Translate a tensor's name in a foreign checkpoint into ours.

    Args:
        name: The name in fairseq, transformers or the SLS authors' code.

    Returns:
        Our name. It begins with ``pretraining.`` for parts that neither layers nor head use.

    >>> our_name("ssl_model.model.encoder.layers.3.fc1.bias")
    'backbone.model.encoder.layers.3.feed_forward.intermediate_dense.bias'
    >>> our_name("fc0.weight")
    'head.gate.weight'
    >>> our_name("project_hid.bias")
    'pretraining.final_proj.bias'
    """
    part = r"^((module|_orig_mod|model)\.)*((ssl_model\.model|wav2vec2?|hubert|wavlm)\.)?"
    return _translate(re.sub(part, "", name), _NAMES)


def authors_name(name: str) -> str:
    """Translate one of our names into the SLS authors', the inverse of :func:`our_name`.

    >>> authors_name("backbone.model.encoder.layers.3.layer_norm.bias")
    'ssl_model.model.encoder.layers.3.self_attn_layer_norm.bias'
    >>> authors_name("pretraining.mask_emb")
    'ssl_model.model.mask_emb'
    """
    prefix = "" if name.startswith("head.") else "ssl_model.model."
    return prefix + _translate(name, [(ours, theirs) for theirs, ours in _NAMES])


def _translate(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for old, new in beginnings:
        if found := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name):
            return new.format(*found.groups()) + name[found.end() :]
    return name


def authors_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a detector's tensors as the original's strict loading wants them, all 440.

    Args:
        tensors: The tensors under our names. If the parts that only pre-training uses are missing,
            they become zeros of the sizes of XLS-R 300M: no result depends on them.
    """
    width = len(tensors[f"{BACKBONE}encoder.layer_norm.weight"])
    conv_width = len(tensors[f"{_PROJECTION}layer_norm.weight"])
    shapes = {
        "mask_emb": (width,),
        "quantizer.vars": (1, 640, 384),
        "quantizer.weight_proj.weight": (640, conv_width),
        "quantizer.weight_proj.bias": (640,),
        "project_q.weight": (768, 768),
        "project_q.bias": (768,),
        "final_proj.weight": (768, width),
        "final_proj.bias": (768,),
    }
    made = {KEPT + name: torch.zeros(shape) for name, shape in shapes.items()}
    return {authors_name(name): tensor for name, tensor in (made | dict(tensors)).items()}


def dimensions(tensors: Mapping[str, Tensor], told: Any, n_heads: int | None) -> dict[str, Any]:
    """Derive a detector's or backbone's config from the contents of a foreign file.

    Args:
        tensors: Tensors under our names; their shapes give the sizes.
        told: transformers' configuration or fairseq's settings. If there are none, ``{}``: the
            model is then an XLS-R.
        n_heads: Number of attention heads, in place of what the file states.

    Raises:
        KeyError, ValueError, ArithmeticError, ConfigError: If the model is not one that is computed
            here, or the file does not state enough.
    """
    shapes = {name.removeprefix(BACKBONE): tensor.shape for name, tensor in tensors.items()}
    kind = told.get("model_type")
    odd = (f"{n!r}, of another model" for n in shapes if not _PARTS.match(n))
    unknown = next(odd, None) if kind in (None, "wav2vec2", "hubert", "wavlm") else kind
    other = next((name for part, name in _OTHERS.items() if part in " ".join(shapes)), unknown)
    if other or "encoder.layer_norm.weight" not in shapes:
        raise ConfigError(f"it holds {other or 'no wav2vec 2.0 backbone'}; give another checkpoint")
    ffn_width, width = shapes["encoder.layers.0.feed_forward.intermediate_dense.weight"]
    n_layers = sum(name.endswith(".final_layer_norm.weight") for name in shapes)
    for name, value in (_ALIKE | {"num_hidden_layers": n_layers}).items():
        if told.get(name, value) != value:
            raise ConfigError(f"its {name} is {told[name]}, not {value}; give another model")
    layers = told.get("conv_feature_layers", "(512, 10, 5), (512, 3, 2)")
    first, *others = told.get("conv_stride", re.findall(r"(\d+)\s*\)", layers))
    if int(first) != 5 or {int(stride) for stride in others} != {2}:
        raise ConfigError(f"its convolutions have the strides {first}, {others}, not 5 and 2")
    authors = "head.gate.weight" in shapes and (width, n_layers) == (1024, 24)  # all have 16 heads
    heads = told.get("num_attention_heads", told.get("encoder_attention_heads", authors and 16))
    if not heads and n_heads is None:
        raise ConfigError("unknown number of heads: slslib convert --n-heads N, or its config.json")
    pos_width, group_width, pos_kernel = shapes[_DIRECTION.removeprefix(BACKBONE)]
    backbone = XLSRConfig(
        width=width,
        n_layers=n_layers,
        n_heads=heads if n_heads is None else n_heads,
        ffn_width=ffn_width,
        conv_width=shapes["feature_projection.layer_norm.weight"][0],
        pos_kernel=pos_kernel,
        pos_groups=pos_width // group_width,
        # None, which is refused, if a file states something but not this.
        pre_norm=told.get("do_stable_layer_norm", told.get("layer_norm_first", not told or None)),
        group_norm=bool(told) and "feature_extractor.conv_layers.1.layer_norm.bias" not in shapes,
        conv_bias=told.get("conv_bias", True),
        wavlm=kind == "wavlm",
    )
    if "head.hidden.weight" not in shapes:
        return {"backbone": asdict(backbone)}
    hidden_width, pooled = shapes["head.hidden.weight"]
    thirds, n_samples = pooled // (width // 3), DetectorConfig.n_samples
    if backbone.n_frames(n_samples) // 3 != thirds:  # not the authors' length: take the least
        n_samples = backbone.receptive_field + (3 * thirds - 1) * math.prod(backbone.strides)
    return asdict(DetectorConfig(backbone, hidden_width, n_samples))
