"""Rewrite checkpoints between the formats of slslib and of the SLS authors.

Numbers are copied, never computed: a checkpoint that is converted there and back is the same bit
for bit.
"""

from pathlib import Path
from typing import Any

from slslib.errors import CheckpointError, ConfigError
from slslib.files import writing


def convert(
    checkpoint: str | Path, out: Path, *, n_heads: int | None = None, data_parallel: bool = False
) -> dict[str, Any]:
    """Rewrite a checkpoint as safetensors or as the authors' .pth.

    Keep the safetensors file: its format cannot hold code.

    Example: slslib convert epoch_2.pth epoch_2.safetensors

    Args:
        checkpoint: safetensors, .pth, fairseq .pt, transformers or run folder, mini, or
            hub:owner/name[/file][@revision].
        out: OUT.safetensors (our format: a detector, or a backbone if the source has no head), or
            OUT.pth (which the authors' strict load takes, if the backbone is XLS-R).
        n_heads: Number of attention heads, needed if a .pth does not state it and does not have the
            size of XLS-R 300M.
        data_parallel: Put module. before each name of a .pth, as nn.DataParallel needs.

    Returns:
        ``out``, and ``warnings`` (sentences on what was added).

    Raises:
        CheckpointError: If the source cannot be read, or lacks a head where one is needed.
        ConfigError: If the output's name has the ending of no known format.
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
    # Facts that no tensor holds go where PyTorch keeps those of modules; strict loading allows it.
    state._metadata = {at: {KEY: about} for at in ("", prefix[:-1])}  # type: ignore[attr-defined]
    with writing(out) as temporary:
        torch.save(state, temporary)
    n_made = len(state) - len(tensors)
    added = [f"{n_made} tensors that only pre-training uses, which {path} lacks, are zeros"]
    return {"out": str(out), "warnings": added if n_made else []}
