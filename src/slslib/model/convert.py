"""Rewrite checkpoints between the formats of slslib and of the SLS authors.

Numbers are copied, never computed: what goes out and comes in again is the same bit for bit.
"""

from pathlib import Path
from typing import Any

from slslib.errors import CheckpointError, ConfigError
from slslib.files import writing


def convert(
    checkpoint: str | Path, out: Path, *, n_heads: int | None = None, data_parallel: bool = False
) -> dict[str, Any]:
    """Rewrite a checkpoint as safetensors or as the authors' .pth.

    safetensors is a format that cannot hold code: keep that.

    Example: slslib convert epoch_2.pth epoch_2.safetensors

    Args:
        checkpoint: safetensors, .pth, fairseq .pt, transformers or run folder, mini, or
            hub:owner/name[/file][@revision].
        out: OUT.safetensors (ours: a detector, or a backbone where the source has no head), or
            OUT.pth (what the authors' strict load takes, if the backbone is XLS-R).
        n_heads: Attention heads, needed where a .pth does not tell and is not of XLS-R 300M's size.
        data_parallel: Put module. before each name of a .pth, as nn.DataParallel needs.

    Returns:
        ``out``, and ``warnings``: sentences on what was added.

    Raises:
        CheckpointError: If the source cannot be read, or has no head where one is needed.
        ConfigError: If the output's name asks for no known format.
        FileError: If the output cannot be written; nothing half-written is left.
    """
    from collections import OrderedDict

    import torch

    from slslib.model.checkpoints import locate, save_safetensors
    from slslib.model.detector import Detector, assemble
    from slslib.model.foreign import KEY, authors_state

    out, path = Path(out), locate(checkpoint)
    if out.suffix not in (".safetensors", ".pth"):
        raise ConfigError(f"{out}: write *.safetensors or *.pth")
    model, kept, about = assemble(path, n_heads=n_heads)
    tensors = model.state_dict() | kept
    if out.suffix == ".safetensors":
        save_safetensors(out, tensors, about)
        return {"out": str(out), "warnings": []}
    if not isinstance(model, Detector):
        raise CheckpointError(f"{path} holds a backbone without an SLS head, a .pth needs one")
    prefix = "module." if data_parallel else ""
    state = OrderedDict((prefix + n, t.contiguous()) for n, t in authors_state(tensors).items())
    # What tensors do not tell goes where PyTorch keeps facts on modules: strict loading allows it.
    state._metadata = {at: {KEY: about} for at in ("", prefix[:-1])}  # type: ignore[attr-defined]
    with writing(out) as temporary:
        torch.save(state, temporary)
    n_made = len(state) - len(tensors)
    added = [f"{n_made} tensors that only pre-training uses, which {path} lacks, are zeros"]
    return {"out": str(out), "warnings": added if n_made else []}
