"""Files of weights: ours, and everything else that can be read as if it were.

Ours is safetensors with one JSON object in its metadata: the format, the dimensions and what the
training run says about itself. Foreign files (:mod:`slslib.model.pickles` opens them without
running their code) come out with our names (:mod:`slslib.model.foreign`) and the same description,
its dimensions derived from the shapes. A file on the hub is converted once and read from our cache
afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slslib.errors import CheckpointError, ConfigError
from slslib.files import cache_root, writing
from slslib.model import hub
from slslib.model.foreign import BACKBONE, KEPT, dimensions, our_name
from slslib.model.geometry import XLSRConfig
from slslib.model.pickles import read_pickle

__all__ = [
    "FORMAT",
    "checkpoint_file",
    "from_hub",
    "read_checkpoint",
    "read_safetensors",
    "resolve",
    "save_safetensors",
]

FORMAT = "slslib-1"
_KEY = "slslib"
_WEIGHTS = (
    Path(str(files("slslib.model"))) / "weights"
)  # the small weights that the package carries
_OF_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON object to one file, all or nothing.

    Raises:
        FileError: If the disk is full, read-only or over quota.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path) as temporary:
        try:
            save_file(own, temporary, metadata={_KEY: json.dumps(about)})
        except SafetensorError as error:  # its own words for a full disk
            raise OSError(str(error)) from error


def resolve(name: str | Path, part: Literal["detector", "backbone"] = "detector") -> Path:
    """Turn a checkpoint's name into a local path, downloading it where it is on the hub.

    Args:
        name: A path, ``mini`` for the small model that comes with slslib (a file or folder of
            that name is ``./mini``), or ``hub:owner/name[/file][@revision]``. The file defaults
            to ``model.safetensors``, the revision to ``main``.
        part: Which of the two files ``mini`` means.

    Raises:
        CheckpointError: If the file cannot be had; offline (``HF_HUB_OFFLINE=1``) no connection
            is made.
    """
    if str(name) == "mini" and not isinstance(name, Path):
        path = _WEIGHTS / f"mini_{part}.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"'mini': this copy of slslib lacks {path}; install it again, or name a checkpoint"
            )
        return path
    if not str(name).startswith("hub:"):
        return Path(name)
    spec, _, revision = str(name).removeprefix("hub:").partition("@")
    parts = spec.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise CheckpointError(f"{name!r} is not hub:owner/name[/file][@revision]")
    return from_hub("/".join(parts[:2]), *parts[2:], revision=revision or None)


def from_hub(
    repository: str,
    file: str = "model.safetensors",
    *,
    revision: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Return a file on the hub as a local safetensors file of ours.

    The first call downloads, checks the bytes and converts; later ones read what was converted,
    which is kept below :func:`slslib.files.cache_root` under the SHA-256 of the original.

    Args:
        repository: ``owner/name``.
        file: Path of the file in the repository.
        revision: Branch, tag or commit.
        sha256: What the original's SHA-256 must be; what is converted already then needs no
            connection.

    Raises:
        CheckpointError: If it cannot be had, its bytes are not the stated ones, or it cannot be
            read as a checkpoint; nothing half-written is left.
    """
    folder = cache_root() / "checkpoints"
    if sha256 and (converted := folder / f"{sha256.lower()}.safetensors").is_file():
        return converted
    path = hub.fetch(repository, file, revision)
    claimed = hub.claimed_sha256(path)
    if claimed and not sha256 and (converted := folder / f"{claimed}.safetensors").is_file():
        return converted
    converted = folder / f"{hub.check(path, sha256 and sha256.lower())}.safetensors"
    if not converted.is_file():
        if path.name in _OF_TRANSFORMERS:
            with suppress(CheckpointError):  # tells the number of heads, where there is one
                hub.fetch(repository, str(Path(file).with_name("config.json")), revision)
        tensors, about = read_checkpoint(path, keep_pretraining=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot create {folder}: {error}; set SLSLIB_CACHE") from error
        save_safetensors(converted, tensors, about)
    return converted


def checkpoint_file(path: str | Path) -> Path:
    """Return the checkpoint file that a path means: itself, or the best one of a folder.

    Raises:
        CheckpointError: If there is none or it is empty.
    """
    path = Path(path)
    if path.is_dir():
        best = path / "best.json"
        candidates = [path / name for name in _OF_TRANSFORMERS]
        if best.is_file():
            try:
                candidates = [path / Path(json.loads(best.read_text())["file"]).name]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{best} is damaged: {error}; name the checkpoint") from error
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise CheckpointError(
                f"{path} holds no checkpoint: neither best.json of a training run with its file "
                "nor model.safetensors or pytorch_model.bin"
            )
        path = found[0]
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint file; check the path, or name one as "
            "hub:owner/name[/file][@revision] or mini"
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    return path


def read_checkpoint(
    path: str | Path, *, n_heads: int | None = None, keep_pretraining: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read any supported checkpoint without running code from it.

    Args:
        path: A safetensors file of ours or of transformers, a transformers folder, fairseq's
            ``.pt``, or an SLS ``.pth`` (with or without ``module.`` before each name).
        n_heads: Attention heads where the file does not tell; by default width / 64.
        keep_pretraining: Return the parts that only pre-training uses too.

    Returns:
        Tensors under our names (memory-mapped where the format allows) and a description with at
        least ``config``.

    Raises:
        CheckpointError: Naming the file, the cause and the remedy.
    """
    path = checkpoint_file(path)
    with path.open("rb") as stream:
        head = stream.read(16)
    about: dict[str, Any] = {}
    heads: int | None = None
    # A safetensors file opens with a length and then the JSON header's brace.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        tensors, about = read_safetensors(path)
    else:
        tensors, heads = read_pickle(path)
    if about.get("format") != FORMAT:
        first, count = next(iter(tensors), "none"), len(tensors)
        named = {our_name(name): tensor for name, tensor in tensors.items()}
        tensors = {name: tensor for name, tensor in named.items() if name is not None}
        if f"{BACKBONE}encoder.layer_norm.weight" not in tensors:
            raise CheckpointError(
                f"{path} holds no wav2vec 2.0 backbone that slslib knows "
                f"({count} tensors, the first is {first!r})"
            )
        try:
            told = n_heads if n_heads is not None else heads or _heads_beside(path)
            config = dimensions(tensors, told)
        except (LookupError, TypeError, ValueError, ArithmeticError, ConfigError) as error:
            raise CheckpointError(
                f"{path}: its tensors are not an XLS-R model's: {error}"
            ) from error
        about = {"format": FORMAT, "config": config, "metadata": {}}
    else:
        _check_config(about.get("config"), n_heads, path)
    if not keep_pretraining:
        tensors = {name: t for name, t in tensors.items() if not name.startswith(KEPT)}
    _check_plain_and_finite(tensors, path)
    return tensors, about


def _check_config(config: Any, n_heads: int | None, path: Path) -> None:
    """Check the dimensions that a file of ours states; a number of heads replaces the file's."""
    backbone = config.get("backbone") if isinstance(config, dict) else None
    try:
        if not isinstance(backbone, dict):
            raise ConfigError(f"its backbone is {backbone!r}, not a JSON object")
        if n_heads is not None:
            backbone["n_heads"] = n_heads
        # A default in place of what is lost might fit the weights and be wrong.
        lacking = [field.name for field in fields(XLSRConfig) if field.name not in backbone]
        if lacking:
            raise ConfigError(f"its backbone lacks {lacking[0]!r}")
        XLSRConfig(**backbone)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its config is not usable; write or download it again ({error})"
        ) from error


def _heads_beside(path: Path) -> int | None:
    """Read the number of heads from a transformers folder's ``config.json``."""
    config = path.with_name("config.json")
    if path.name not in _OF_TRANSFORMERS or not config.is_file():
        return None
    try:
        return int(json.loads(config.read_text(encoding="utf-8"))["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{config} tells no num_attention_heads: {error}") from error


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file and the JSON object in its metadata.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a sound safetensors file: {error}; download or copy it again"
        ) from error
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: its {_KEY!r} metadata is not a JSON object")
    return tensors, about


def _check_plain_and_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        # Before anything reads its elements: a file of a few bytes can claim terabytes by strides.
        if (
            tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.device.type != "cpu"
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise CheckpointError(f"{path}: {name!r} is not a plain dense tensor; refused")
        # NaN is both the least and the greatest; one pass, without a copy.
        if tensor.is_floating_point() and not all(
            bool(extreme.isfinite()) for extreme in (tensor.aminmax() if tensor.numel() else ())
        ):
            raise CheckpointError(
                f"{path}: {name!r} holds NaN or infinite values; the training run that wrote it "
                "diverged, use an earlier checkpoint"
            )
