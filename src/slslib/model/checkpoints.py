"""Files of weights: where they lie, our own format, and every other format that can be read.

Our format is safetensors, with one JSON object in its metadata: the format, the dimensions and what
the training run recorded about itself. :mod:`slslib.model.pickles` opens foreign files without
running their code. Their tensors get our names (:mod:`slslib.model.foreign`), and they get the same
kind of description, with dimensions derived from the shapes.
"""

import json
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slslib import files
from slslib.errors import CheckpointError, ConfigError, usable
from slslib.model.foreign import BACKBONE, KEY, dimensions, our_name
from slslib.model.pickles import read_pickle

_WEIGHTS = Path(__file__).parent / "weights"  # the small weights that the package carries
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_WHOLE = re.compile(r".*num_batches_tracked$|head\.(?!gate\.|norm\.|hidden\.|output\.)")
_OF_TRANSFORMERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def locate(name: str | Path, part: Literal["detector", "backbone"] = "detector") -> Path:
    """Return the local file that a checkpoint's name means, downloading it if it is on the hub.

    Args:
        name: A file; a run folder, which means its best epoch; a transformers folder; ``mini``
            for the small model that comes with slslib (a file or folder of that name is
            ``./mini``); or ``hub:owner/name[/file][@revision]``, whose file defaults to
            ``model.safetensors`` and whose revision to ``main``.
        part: Which of its two files ``mini`` means.

    Raises:
        CheckpointError: If there is no such file, it is empty, it may not be read, or it cannot be
            downloaded.
    """
    path = Path(name)
    with usable(name):  # a folder or file on the way may be closed to the user
        if name == "mini":
            path = _WEIGHTS / f"mini_{part}.safetensors"
        elif hub := re.fullmatch(r"hub:([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?", str(name)):
            path = download(hub[1], hub[2] or "model.safetensors", revision=hub[3])
        elif (path / "best.json").is_file():
            with usable(path / "best.json"):
                path /= Path(json.loads((path / "best.json").read_text())["file"]).name
        elif path.is_dir():
            path = next((path / n for n in _OF_TRANSFORMERS if (path / n).is_file()), path)
        if (path / "config.json").is_file() and (path / "state.pt").is_file():
            what = "no epoch is finished yet; go on with slslib train --resume"
            raise CheckpointError(f"{path}: {what}")
        if not path.is_file() or path.stat().st_size == 0:
            forms = "a file, a run or transformers folder, hub:owner/name[/file][@revision] or mini"
            raise CheckpointError(f"{path}: no such checkpoint file, or it is empty; give {forms}")
        path.open("rb").close()
    return path


def download(
    repository: str, filename: str, *, revision: str | None = None, sha256: str | None = None
) -> Path:
    """Return a file on the Hugging Face hub from the local cache, downloading it if it is new.

    ``huggingface_hub`` does the download. It continues after a broken connection, keeps files below
    ``HF_HOME``, makes no connection with ``HF_HUB_OFFLINE=1``, and gives a file its name only when
    it is complete. It does not compare the bytes with the hash that the hub states: SHA-256 for
    large files, git's SHA-1 for small ones. In its cache, that hash is the name of the file. This
    function makes the comparison at each call.

    Args:
        repository: ``owner/name``.
        filename: Path of the file in the repository.
        revision: Branch, tag or commit; a full commit hash that is cached needs no connection.
        sha256: The SHA-256 that the file must have, in place of what the hub states.

    Raises:
        CheckpointError: If the file cannot be obtained, or its bytes are not the stated ones
            (it is then removed from the cache). No partial file is left.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.sha import git_hash

    only = not _has_network()
    try:
        if not re.fullmatch(r"(?!.*\.\.)[^-/\s][^\s\\]*", revision or "main"):
            raise ValueError("that is no branch, tag or commit")
        path = Path(hf_hub_download(repository, filename, revision=revision, local_files_only=only))
        stated = sha256 or (path.readlink().name if path.is_symlink() else "")
        if not stated:  # without symbolic links on its disk, a cache has no hashes for names
            url = hf_hub_url(repository, filename, revision=revision)
            stated = get_hf_file_metadata(url).etag or ""
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if only and isinstance(error, LocalEntryNotFoundError):
            cause = "no network, and it is not in the cache"
        raise CheckpointError(
            f"cannot get {filename} of {repository} at {revision or 'main'} from the hub: "
            f"{cause} (check the name, the network and HF_HUB_OFFLINE, or `hf auth login`; "
            "offline, name a file or mini)"
        ) from error
    blob = path.resolve()
    digest = git_hash(blob.read_bytes()) if len(stated) == 40 else files.sha256(blob)
    if stated.lower() != digest:
        path.unlink()
        store = path.parents[len(Path(filename).parts) + 1]
        if blob.parent == store.resolve() / "blobs":  # a hostile server may name another place
            blob.unlink(missing_ok=True)
        wrong = f"{filename} of {repository} has the hash {digest}, not {stated} as it should: it"
        raise CheckpointError(f"{wrong} was removed; try again, or correct the pinned sha256")
    if path.name in _OF_TRANSFORMERS:
        with suppress(CheckpointError):  # ours needs none; others that lack it are refused later
            download(repository, str(Path(filename).with_name("config.json")), revision=revision)
    return path


def _has_network() -> bool:
    """Tell whether the hub's address can be found; huggingface_hub would try for a minute."""
    from huggingface_hub.constants import ENDPOINT

    with suppress(OSError):
        return bool(getproxies() or socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None))
    return False


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON object to one file, all or nothing.

    Args:
        path: File to write, replaced if it exists.
        tensors: Any tensors.
        about: Facts to keep in the file's metadata, beside the format.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    own |= {name: t.clone() for name, t in own.items() if name.startswith("head.")}  # may be tied
    metadata = {KEY: json.dumps({"format": "slslib-1"} | dict(about))}
    with files.writing(path) as temporary:
        try:
            save_file(own, temporary, metadata)  # writes tensor by tensor: no second copy in memory
        except SafetensorError as error:  # which safetensors raises for a full disk
            raise OSError(str(error)) from error


def read_checkpoint(
    path: str | Path, *, n_heads: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read any supported checkpoint without running code from it.

    Args:
        path: ``*.safetensors`` of ours or of transformers, or the index of one in parts. Any other
            file is a pickle: fairseq's ``.pt``, an SLS ``.pth`` (with or without ``module.`` before
            each name) or transformers' ``.bin``.
        n_heads: Number of attention heads, in place of what the file states.

    Returns:
        The tensors under our names (memory-mapped if the format allows), and a description with at
        least ``config``. Nothing has checked the description.

    Raises:
        CheckpointError: Naming the file, the cause and the remedy.
    """
    path, told, tensors = Path(path), dict[str, Any](), dict[str, Tensor]()
    config = path.with_name("config.json")
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path} is an ONNX file, for detect only; use what it was made of")
    with usable(path):
        parts = {path.name}
        if path.suffix == ".json":  # the index of a model in parts
            parts = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        for part in parts:
            if path.suffix in (".safetensors", ".json"):
                (member := path.with_name(Path(part).name)).open("rb").close()
                with safe_open(member, framework="pt") as file:  # would call a closed one missing
                    about = json.loads((file.metadata() or {}).get(KEY, "{}"))
                    tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            else:
                tensors, told, about = read_pickle(path)
        if f"{BACKBONE}encoder.layer_norm.weight" not in tensors:
            foreign, tensors = tensors, {our_name(name): t for name, t in tensors.items()}
            if len(tensors) < len(foreign):  # nobody can know which of two tensors counts
                raise ConfigError("several tensors have one name, as x and module.x; save one")
        if not about:
            if path.name in _OF_TRANSFORMERS and config.is_file():
                told = json.loads(config.read_text(encoding="utf-8"))
            about = {"config": dimensions(tensors, told, n_heads)}
        about["config"]["backbone"] |= {} if n_heads is None else {"n_heads": n_heads}
        for name, tensor in tensors.items():
            _check_plain_and_finite(name, tensor, path)
    return tensors, about


def _check_plain_and_finite(name: str, tensor: Tensor, path: Path) -> None:
    dtypes = (torch.int64, torch.bool, *_FLOATS) if _WHOLE.match(name) else _FLOATS
    # Checked before anything reads the elements: by strides, a small file can claim terabytes.
    if (
        tensor.layout is not torch.strided
        or tensor.dtype not in dtypes
        or tensor.device.type != "cpu"
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        kind = f"{tensor.dtype}, {tensor.layout}"
        raise CheckpointError(f"{path}: {name!r} is not a plain dense tensor: {kind}; refused")
    # If there is a NaN, it is both the least and the greatest. This is one pass, without a copy.
    numbers = tensor.is_floating_point() and tensor.numel()
    if numbers and not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError(f"{path}: {name!r} holds NaN or infinity; use an earlier checkpoint")
