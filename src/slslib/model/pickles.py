"""Open a PyTorch file from elsewhere without running anything in it.

A ``.pt`` or ``.pth`` file is a pickle: a program that builds objects. Only
``torch.load(weights_only=True)`` opens it, whatever the environment says. fairseq's containers name
a few globals outside PyTorch's list; inert stand-ins replace these, and everything else is refused.
This is defence in depth, not a proof: bypasses of ``weights_only`` have been found before. Convert
a file from elsewhere once, with ``slslib convert``, and keep the safetensors.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slslib.errors import ConfigError
from slslib.model.foreign import KEY

# Globals named by fairseq's containers and by NumPy 1, to be replaced by something inert.
_INERT = re.compile(r"^(typing\.Any|collections\.defaultdict|(omegaconf|fairseq|numpy\.core)\..+)$")
_ALLOWED: list[Any] = [
    *(dict, list, int, argparse.Namespace, np.dtype, np.ndarray),
    *(value.__reduce__()[0] for value in (np.float64(), np.zeros(0))),
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")},
]


class _Inert:
    """A stand-in for a class of fairseq or omegaconf: it holds attributes and does nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Return the state dict in a PyTorch file, memory-mapped if the file is a zip.

    Args:
        path: fairseq's ``.pt``, an SLS ``.pth``, a transformers ``.bin``, or a training state that
            holds one of these under any name, such as ``model``, ``state_dict`` or ``model_ema``.

    Returns:
        The tensors; fairseq's settings of the model; and the description that a ``.pth`` or a
        training state of ours carries. The settings or the description are empty if the file has
        none.

    Raises:
        Exception: PyTorch's or Python's, if the file is damaged, asks for code, or holds no state
            dict; :func:`slslib.errors.usable` words it.
        ConfigError: If it holds several models.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"  # PyTorch's test; zipfile may not find the same end
    if zipped:
        _check_zip(path)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    # Each name gets a class of its own, because torch tells classes apart by identity.
    inert: Any = [(type("Inert", (_Inert,), {}), n) for n in unsafe if _INERT.match(n)]
    allowed = torch.serialization.safe_globals(_ALLOWED + inert)
    with allowed, warnings.catch_warnings(action="ignore"):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    inner = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
    models = {name: one for name, one in inner.items() if "layer_norm." in " ".join(map(str, one))}
    if len(models) > 1:
        raise ConfigError(f"it holds {' and '.join(models)}; save one in a file of its own")
    state = next(iter(models.values()), content)
    # PyTorch's averages of weights come with the number of weights averaged.
    tensors = {str(n): t for n, t in state.items() if isinstance(t, Tensor) and n != "n_averaged"}
    facts = (own[KEY] for own in getattr(state, "_metadata", {}).values() if KEY in own)
    return tensors, _settings(content), content.get(KEY) or next(facts, {})


def _settings(content: Any, depth: int = 8) -> dict[str, Any]:
    """Look for fairseq's settings of the model, in whatever form they were saved."""
    if isinstance(content, _Inert | argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or not depth:
        return {}
    if "encoder_attention_heads" in content:
        return {str(n): getattr(v, "_val", v) for n, v in content.items()}  # omegaconf wraps values
    # Look only at the model's settings: other parts of fairseq's have attention heads too.
    inner = (content.get(key) for key in ("cfg", "args", "model", "_content"))
    return next((found for value in inner if (found := _settings(value, depth - 1))), {})


def _check_zip(path: Path) -> None:
    """Refuse what torch.save never writes: compressed members, and names that lead elsewhere."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            outside = ".." in Path(member.filename).parts or member.filename.startswith("/")
            if outside or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {member.filename!r} is compressed or leads elsewhere")
