"""Rewrite checkpoints between the formats of slslib, the SLS authors and transformers.

Numbers are copied, never computed: what goes out and comes in again is the same bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slslib.errors import CheckpointError, ConfigError
from slslib.files import writing


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    n_heads: int | None = None,
    data_parallel: bool = False,
) -> dict[str, Any]:
    """Rewrite a checkpoint: safetensors, the authors' .pth, or a transformers folder.

    safetensors is a format that cannot hold code: keep that.

    Example: slslib convert epoch_2.pth epoch_2.safetensors

    Args:
        checkpoint: safetensors, .pth, fairseq .pt, transformers or run folder, mini, or
            hub:owner/name[/file][@revision].
        out: OUT.safetensors (ours: a detector, or a backbone where the source has no head),
            OUT.pth (what the authors' strict load takes), or a new folder for transformers'
            Wav2Vec2Model.
        n_heads: Attention heads, which a .pth does not tell; default width / 64.
        data_parallel: Put module. before each name of a .pth, as nn.DataParallel needs.

    Returns:
        ``out``, and ``warnings``: sentences on what was left out or made anew.

    Raises:
        CheckpointError: If the source cannot be read, or has no head where one is needed.
        ConfigError: If the output's name asks for no known format.
        FileError: If the output cannot be written; nothing half-written is left.
    """
    import torch

    from slslib.model import checkpoints, foreign
    from slslib.model.detector import Detector, load_state
    from slslib.model.geometry import XLSRConfig
    from slslib.model.xlsr import XLSR

    out, path = Path(out), checkpoints.locate(checkpoint)
    if out.suffix not in (".safetensors", ".pth", ""):
        raise ConfigError(f"{out}: write *.safetensors, *.pth or a folder without a suffix")
    if not out.suffix and out.exists():
        raise ConfigError(f"{out} exists already; choose a new folder")
    tensors, about = checkpoints.read_checkpoint(path, n_heads=n_heads, keep_pretraining=True)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(foreign.KEPT)}
    own = {name: tensor for name, tensor in tensors.items() if name not in kept}
    has_head = any(name.startswith("head.") for name in own)
    if has_head:
        model: torch.nn.Module = Detector.from_config(about["config"], where=path)
    else:
        with checkpoints.usable_config(path):
            backbone = XLSR(XLSRConfig(**about["config"]["backbone"]))
        model = torch.nn.ModuleDict({"backbone": backbone})
    load_state(model, own, path)
    own, warnings = model.state_dict(), []
    if out.suffix == ".safetensors":
        checkpoints.save_safetensors(out, own | kept, about)
    elif out.suffix == ".pth":
        if not has_head:
            raise CheckpointError(f"{path} holds a backbone without an SLS head, a .pth needs one")
        made = foreign.pretraining_parts(own, kept)
        if made:
            names = ", ".join(name.removeprefix(foreign.KEPT) for name in made)
            warnings = [f"made anew as fairseq initialises them, {path} lacks them: {names}"]
        prefix = "module." if data_parallel else ""
        renamed = {prefix + foreign.authors_name(k): t for k, t in (own | kept | made).items()}
        with writing(out) as temporary:
            torch.save({name: t.contiguous() for name, t in renamed.items()}, temporary)
    else:
        with writing(out) as temporary:
            model.get_submodule("backbone.model").save_pretrained(temporary)  # type: ignore[operator]
        left = ["the SLS head"] * has_head + ["what only pre-training uses"] * bool(kept)
        if left:
            warnings = [f"left out of the transformers folder: {' and '.join(left)}"]
    return {"out": str(out), "warnings": warnings}
