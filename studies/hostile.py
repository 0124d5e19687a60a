"""Checkpoints that somebody made to do harm, each written by a function of its own.

What they call would create a file named :data:`CANARY` in the working directory. The others ask for
memory that they do not fill, hide from the checks, or lead elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

CANARY = "canary"
TAIL = 65_600
"""Zeros behind the end record of a zip file, by which Python does not find it, but PyTorch does."""
_TOUCH = f"touch {CANARY}"
_CALLS: dict[str, tuple[Any, ...]] = {
    "os.system": ("os", "system", _TOUCH),
    "builtins.eval": ("builtins", "eval", f"open({CANARY!r}, 'w')"),
    "builtins.exec": ("builtins", "exec", f"open({CANARY!r}, 'w')"),
    "subprocess.Popen": ("subprocess", "Popen", ["touch", CANARY]),
    "torch.load": ("torch", "load", CANARY),
    "torch.hub.load": ("torch.hub", "load", ".", "model"),
    "a dotted name": ("torch", "os.system", _TOUCH),
    "fairseq's name": ("fairseq.tasks", "os.system", _TOUCH),
    "omegaconf's name": ("omegaconf.base", "os.system", _TOUCH),
    "numpy.core's name": ("numpy.core.multiarray", "os.system", _TOUCH),
}


class Bomb:
    """Unpickles into the result of a command that creates the canary."""

    def __reduce__(self) -> Any:
        """Say how to rebuild this object."""
        return os.system, (_TOUCH,)


def compress(path: Path, tail: int = 0) -> None:
    """Compress the members of a zip file, and put zeros behind it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    append(path, tail)


def append(path: Path, n_zeros: int) -> None:
    """Put zeros behind a file."""
    with path.open("ab") as stream:
        stream.write(bytes(n_zeros))


def payloads(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], config: dict[str, Any]
) -> dict[str, Callable[[Path], Any]]:
    """Return what writes each file, by what it is; the name ends as the file has to.

    Args:
        theirs: The tensors of a small sound detector by the authors' names.
        ours: The same by ours.
        config: Its dimensions, as in a file's description.
    """
    hostile = {**theirs, "x": Bomb()}
    objects = np.array([Bomb()], object)
    large = {**theirs, "large": torch.zeros(100_000_000)}
    backbone = config["backbone"]
    described = OrderedDict(theirs)
    described._metadata = {"": {"slslib": Bomb()}}  # type: ignore[attr-defined]
    shared: Any = {}
    for _ in range(60):
        shared = {0: shared, 1: shared}
    return {
        # Code
        **{f"pickle, protocol {p}.pth": _writer(pickle.dumps(Bomb(), p)) for p in range(6)},
        **{f"zip, calls {name}.pth": partial(_zip, calls=how) for name, how in _CALLS.items()},
        "torch.save with reduce.pth": partial(torch.save, hostile),
        "torch.save with reduce, old form.pth": partial(_save, hostile, old=True),
        "torch.save with reduce.bin": partial(torch.save, hostile),
        "torch.save with reduce.safetensors": partial(torch.save, hostile),
        "torch.save with reduce.json": partial(torch.save, hostile),
        "reduce below a state_dict.pth": partial(torch.save, {"state_dict": hostile}),
        "reduce in the state dict's metadata.pth": partial(torch.save, described),
        "tar of the first PyTorch.pth": _tar,
        "NumPy array of objects, npy.pth": partial(_save_array, np.save, objects),
        "NumPy array of objects, npz.pth": partial(_save_array, np.savez, objects),
        "NumPy array of objects in torch.save.pth": partial(torch.save, {**theirs, "x": objects}),
        "TorchScript.pth": _script,
        "storage of a called type.pth": partial(_zip, calls=("os", "system", _TOUCH), typed=True),
        "pickle before a zip.pth": partial(_zip, before=pickle.dumps(hostile, 2)),
        "two pickles of one name in a zip.pth": partial(_zip, also="archive/data.pkl"),
        "zeros behind the zip, with reduce.pth": partial(_save, hostile, tail=TAIL),
        # Paths
        "zip member that leads up.pth": partial(_zip, also="archive/../../x"),
        "zip member of an absolute name.pth": partial(_zip, also=f"/{CANARY}"),
        "tar that leads up.pth": partial(_tar, name=f"../{CANARY}"),
        "index that leads elsewhere.json": _writer(
            json.dumps({"weight_map": {"a": "../../etc/passwd", "b": "/etc/passwd"}}).encode()
        ),
        "FIFO.pth": os.mkfifo,
        "link to a device.pth": lambda path: path.symlink_to("/dev/zero"),
        "link to itself.pth": lambda path: path.symlink_to(path.name),
        # Memory
        "compressed zip.pth": partial(_save, dict(theirs), compressed=True),
        "compressed zip of 400 MB.pth": partial(_save, large, compressed=True),
        "zeros behind the zip.pth": partial(_save, dict(theirs), tail=TAIL),
        "zeros behind a compressed zip of 400 MB.pth": partial(
            _save, large, compressed=True, tail=TAIL
        ),
        "dictionaries of 2^60 leaves.pth": partial(torch.save, {"model": shared}),
        "pickle of a string of 2^60 bytes.pth": _writer(b"\x80\x04\x8d" + bytes(7) + b"\x10x."),
        "tensor of terabytes by strides.pth": partial(
            torch.save, {**theirs, "fc0.bias": torch.zeros(1).expand(1 << 44)}
        ),
        "sparse tensor.pth": partial(torch.save, {**theirs, "fc0.bias": torch.eye(3).to_sparse()}),
        "header of 2^60 bytes.safetensors": _safetensors(b"{}", length=1 << 60),
        "tensor of terabytes.safetensors": _safetensors(_entry([1 << 40], [0, 1 << 42])),
        "shape that overflows.safetensors": _safetensors(_entry([1 << 32, 1 << 32], [0, 64])),
        "offsets backwards.safetensors": _safetensors(_entry([16], [64, 0])),
        "header nested 100,000 times.safetensors": _safetensors(b'{"a":' + b"[" * 100_000),
        "description nested 100,000 times.safetensors": _writer(
            save(dict(ours), {"slslib": "[" * 100_000})
        ),
        "description of 10^9 layers.safetensors": _described(
            ours, config | {"backbone": backbone | {"n_layers": 10**9}}
        ),
        "description of width 10^7.safetensors": _described(
            ours, config | {"backbone": backbone | {"width": 10**7}}
        ),
        "description of 10^12 samples.safetensors": _described(
            ours, config | {"n_samples": 10**12}
        ),
    }


def _writer(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _save(
    content: Any, path: Path, old: bool = False, compressed: bool = False, tail: int = 0
) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    if compressed:
        compress(path)
    append(path, tail)


def _save_array(function: Any, content: Any, path: Path) -> None:
    with path.open("wb") as stream:
        function(stream, content)


def _zip(
    path: Path,
    calls: tuple[Any, ...] | None = None,
    typed: bool = False,
    also: str = "",
    before: bytes = b"",
) -> None:
    """Write what torch.save would, around a pickle made by hand."""
    content = pickle.dumps({"a": 1}, 2)
    if calls:
        module, name, *arguments = calls
        words = b"".join(pickle.dumps(one, 2)[2:-1] for one in arguments)
        called = f"c{module}\n{name}\n(".encode() + words + b"t"
        if typed:  # where torch.save names the type of a tensor's storage
            called = b"(X\x07\0\0\0storage" + called + b"RX\1\0\0\0" + b"0X\3\0\0\0cpuK\4tQ)"
            called = b"ctorch._utils\n_rebuild_tensor_v2\n" + called
        content = b"\x80\2" + called + b"R."
    members = {"data.pkl": content, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for member, part in members.items():
            archive.writestr(f"archive/{member}", part)
        if also:
            with warnings.catch_warnings(action="ignore"):  # of a second member of one name
                archive.writestr(also, pickle.dumps(Bomb(), 2))
    path.write_bytes(before + path.read_bytes())


def _tar(path: Path, name: str = "") -> None:
    names = [name] if name else ["sys_info", "pickle", "storages", "tensors"]
    with tarfile.open(path, "w") as archive:
        for member in names:
            content = pickle.dumps(Bomb(), 2)
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def _safetensors(header: bytes, length: int | None = None) -> Callable[[Path], Any]:
    n_bytes = len(header) if length is None else length
    return _writer(struct.pack("<Q", n_bytes) + header + bytes(64))


def _entry(shape: list[int], offsets: list[int]) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()


def _described(ours: Mapping[str, Tensor], config: Any) -> Callable[[Path], Any]:
    about = {"slslib": json.dumps({"format": "slslib-1", "config": config})}
    return _writer(save(dict(ours), about))
