"""Rewrite checkpoints between the formats of slslib, the SLS authors and transformers.

Numbers are copied, never computed: what goes out and comes in again is the same bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slslib.errors import CheckpointError, ConfigError
from slslib.files import writing
from slslib.model.checkpoints import locate, read_checkpoint, save_safetensors, usable_config
from slslib.model.detector import Detector, load_state
from slslib.model.foreign import BACKBONE, KEPT, PRETRAINING, authors_name
from slslib.model.geometry import XLSRConfig
from slslib.model.xlsr import XLSR

# Of XLS-R 300M: the quantizer's entries, in two groups, and the width that it predicts in.
_N_CODES, _N_GROUPS, _FINAL_WIDTH = 320, 2, 768


def convert(
    source: str | Path,
    out: str | Path,
    *,
    n_heads: int | None = None,
    data_parallel: bool = False,
) -> list[str]:
    """Rewrite a checkpoint in the format that the output's name asks for.

    ===================  ======================================================================
    ``*.safetensors``    ours: a detector, or a backbone where the source has no head
    ``*.pth``            the SLS authors': a state dict that their model's strict load accepts
    no suffix            a transformers folder of the backbone (``Wav2Vec2Model``)
    ===================  ======================================================================

    Args:
        source: Any checkpoint that :func:`slslib.model.checkpoints.locate` finds.
        out: File or folder to write; a folder must be new.
        n_heads: Attention heads where the source does not tell; by default width / 64.
        data_parallel: Put ``module.`` before each name of a ``.pth``, for code that wraps the
            model in ``nn.DataParallel`` before it loads.

    Returns:
        Sentences on what was left out or made anew.

    Raises:
        CheckpointError: If the source cannot be read, has no head where one is needed, or the
            output cannot be written; nothing half-written is left.
        ConfigError: If the output's name asks for no known format.
    """
    out, path = Path(out), locate(source)
    if out.suffix not in (".safetensors", ".pth", ""):
        raise ConfigError(f"{out}: write *.safetensors, *.pth or a folder without a suffix")
    tensors, about = read_checkpoint(path, n_heads=n_heads, keep_pretraining=True)
    config, has_head = about["config"], any(name.startswith("head.") for name in tensors)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(KEPT)}
    own = {name: tensor for name, tensor in tensors.items() if name not in kept}
    if has_head:
        model: nn.Module = Detector.from_config(config, where=path)
    else:
        with usable_config(path):
            model = _Backbone(config)
    load_state(model, own, path)
    own = model.state_dict()
    if out.suffix == ".safetensors":
        save_safetensors(out, own | kept, about)
        return []
    if out.suffix == ".pth":
        if not has_head:
            raise CheckpointError(f"{path} holds a backbone without an SLS head, a .pth needs one")
        made = pretraining_parts(own, kept)
        prefix = "module." if data_parallel else ""
        state = {prefix + authors_name(k): t.contiguous() for k, t in (own | kept | made).items()}
        with writing(out) as temporary:
            torch.save(state, temporary)
        names = ", ".join(name.removeprefix(KEPT) for name in made)
        return (
            [f"made anew as fairseq initialises them, {path} lacks them: {names}"] if made else []
        )
    _write_folder(model.backbone, out)
    left = ["the SLS head"] * has_head + ["what only pre-training uses"] * bool(kept)
    return [f"left out of the transformers folder: {' and '.join(left)}"] if left else []


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


class _Backbone(nn.Module):
    """A backbone under the names that it has in a detector."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = XLSR(XLSRConfig(**config["backbone"]))


def _write_folder(backbone: Any, out: Path) -> None:
    """Write a transformers folder under a temporary name, then rename it."""
    if out.exists():
        raise CheckpointError(f"{out} exists already; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            backbone.model.save_pretrained(Path(temporary) / out.name)
            (Path(temporary) / out.name).rename(out)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error}; free some space") from error
