"""Safe files of weights: ours, and readers for those of fairseq, transformers and the SLS authors.

Ours is safetensors with one JSON object in its metadata. The foreign ones are pickles. Loading
them never runs code: ``torch.load(weights_only=True)`` alone opens them, whatever the environment
says, and the few globals outside its allow-list that fairseq's containers name are replaced by
inert stand-ins; everything else is refused. This is defence in depth, not a proof (bypasses of
``weights_only`` have been found before): convert a file from elsewhere once with
``slslib convert`` and keep the safetensors.

All readers return tensors under our names, ``backbone.model.*`` as in transformers and
``head.*``, and a description with the dimensions, derived from the shapes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slslib.errors import CheckpointError
from slslib.xlsr import XLSRConfig

FORMAT = "slslib-1"
_KEY = "slslib"
_WEIGHTS = Path(str(files("slslib"))) / "weights"  # the small weights that the package carries

_CONVOLUTION, _LAYER = r"feature_extractor\.conv_layers\.(\d+)", r"encoder\.layers\.(\d+)"
_POSITION = "encoder.pos_conv_embed.conv"
# A fairseq (or old transformers) name and ours; the first match wins, other names stay.
_RENAMED = [
    (rf"{_CONVOLUTION}\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (rf"{_CONVOLUTION}\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"encoder\.pos_conv\.0\.bias", f"{_POSITION}.bias"),
    (
        r"encoder\.pos_conv(\.0|_embed\.conv)\.weight_g",
        f"{_POSITION}.parametrizations.weight.original0",
    ),
    (
        r"encoder\.pos_conv(\.0|_embed\.conv)\.weight_v",
        f"{_POSITION}.parametrizations.weight.original1",
    ),
    (rf"{_LAYER}\.self_attn\.", r"encoder.layers.\1.attention."),
    (rf"{_LAYER}\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (rf"{_LAYER}\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (rf"{_LAYER}\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
]
_FROM_AUTHORS = {"fc0": "gate", "first_bn": "norm", "fc1": "hidden", "fc3": "output"}
# Parts of pre-training that neither fine-tuning nor scoring uses.
_UNUSED = re.compile(
    r"(mask_emb$|masked_spec_embed$|quantizer\.|project_q\.|project_hid\.|final_proj\.|lm_head\.)"
)
# Globals that fairseq's containers name and that may be replaced by something inert.
_STAND_INS = re.compile(
    r"^(argparse\.Namespace|typing\.Any|collections\.defaultdict|omegaconf\..+|fairseq\..+)$"
)
_multiarray = importlib.import_module("numpy._core.multiarray")
_ALLOWED: list[Any] = [
    *(dict, list, int, np.dtype, np.ndarray, _multiarray.scalar, _multiarray._reconstruct),
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")},
]


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON object to one file, all or nothing.

    The bytes go to a temporary file beside the target, are flushed to the disk, and take the
    final name in one rename; a crash leaves the previous file as it was.

    Raises:
        CheckpointError: If the disk is full, read-only or over quota.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(own, temporary, metadata={_KEY: json.dumps(about)})
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file, all or nothing.

    Raises:
        CheckpointError: If the disk is full, read-only or over quota.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; free some space") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


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
    from huggingface_hub import hf_hub_download

    try:
        file = parts[2] if len(parts) == 3 else "model.safetensors"
        return Path(hf_hub_download("/".join(parts[:2]), file, revision=revision or None))
    except Exception as error:
        raise CheckpointError(
            f"cannot get {name} from the hub: {_first_line(error)}; check the name and the "
            "network, or download the file yourself and give its path"
        ) from error


def checkpoint_file(path: str | Path) -> Path:
    """Return the checkpoint file that a path means: itself, or the best one of a folder.

    Raises:
        CheckpointError: If there is none or it is empty.
    """
    path = Path(path)
    if path.is_dir():
        best = path / "best.json"
        candidates = [path / "model.safetensors", path / "pytorch_model.bin"]
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
        raise CheckpointError(f"{path}: no such checkpoint file; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    return path


def read_checkpoint(
    path: str | Path, *, n_heads: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read any supported checkpoint without running code from it.

    Args:
        path: A safetensors file of ours or of transformers, a transformers folder, fairseq's
            ``.pt``, or an SLS ``.pth`` (with or without ``module.`` before each name).
        n_heads: Attention heads where the file does not tell; by default width / 64.

    Returns:
        Tensors under our names (memory-mapped where the format allows) and a description with at
        least ``config``.

    Raises:
        CheckpointError: Naming the file, the cause and the remedy.
    """
    path = checkpoint_file(path)
    with path.open("rb") as stream:
        head = stream.read(16)
    # A safetensors file opens with a length and then the JSON header's brace.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        tensors, about = read_safetensors(path)
    else:
        tensors, about = _read_pickle(path)
    if about.get("format") != FORMAT:
        tensors = _our_names(tensors, path)
        heads = n_heads or about.get("n_heads")
        about = {"format": FORMAT, "config": _dimensions(tensors, heads, path), "metadata": {}}
    elif n_heads:
        about["config"]["backbone"]["n_heads"] = n_heads
    _check_finite(tensors, path)
    return tensors, about


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


def _stand_in(name: str) -> tuple[type, str]:
    """Make an inert class that swallows whatever a pickle does to it."""
    members = {
        "__init__": lambda self, *args, **kwargs: None,
        "__setstate__": lambda self, state: self.__dict__.update(state=state),
    }
    return type("Inert", (), members), name


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_zip(path)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {error}; download or copy it again") from error
    allowed: list[Any] = [*_ALLOWED]
    known = {f"{g.__module__}.{g.__qualname__}" for g in allowed}
    for name in unsafe:
        if _STAND_INS.match(name):
            allowed.append(_stand_in(name))
        elif name not in known and not name.startswith("numpy"):
            raise CheckpointError(
                f"{path} asks for {name!r}, which weights never need: refused, nothing was run; "
                "get the file from its official home"
            )
    if not zipped:
        allowed.append((argparse.Namespace, "argparse.Namespace"))
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be opened as weights only: {_first_line(error)}; nothing in it was run"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    about: dict[str, Any] = {}
    model = content.get("model", content)
    cfg = content.get("cfg")
    if isinstance(cfg, Mapping) and isinstance(cfg.get("model"), Mapping):
        about["n_heads"] = cfg["model"].get("encoder_attention_heads")
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in (model.items() if isinstance(model, Mapping) else ())
        if isinstance(value, Tensor)
    }
    return tensors, about


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(
                        f"{path}: {member.filename!r} is compressed, which torch.save never does; "
                        "refused"
                    )
                if ".." in Path(member.filename).parts or member.filename.startswith("/"):
                    raise CheckpointError(f"{path}: unsafe member name {member.filename!r}")
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged: {error}; download or copy it again") from error


def our_name(name: str) -> str | None:
    """Translate a tensor's name in a foreign checkpoint into ours.

    Args:
        name: As fairseq, transformers or the SLS authors call it, without ``module.``.

    Returns:
        Our name, or None for the parts that only pre-training uses.

    >>> our_name("ssl_model.model.encoder.layers.3.fc1.bias")
    'backbone.model.encoder.layers.3.feed_forward.intermediate_dense.bias'
    >>> our_name("fc0.weight")
    'head.gate.weight'
    """
    part, _, rest = name.partition(".")
    if part in _FROM_AUTHORS:
        return f"head.{_FROM_AUTHORS[part]}.{rest}"
    name = re.sub(r"^(ssl_model\.model\.|wav2vec2\.|wav2vec\.)", "", name)
    if _UNUSED.match(name):
        return None
    for pattern, replacement in _RENAMED:
        name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            break
    return f"backbone.model.{name}"


def _our_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename a foreign state dict, leaving out what only pre-training uses."""
    ours = {our_name(name): tensor for name, tensor in tensors.items()}
    ours.pop(None, None)
    if "backbone.model.encoder.layer_norm.weight" not in ours:
        raise CheckpointError(
            f"{path} holds no wav2vec 2.0 backbone that slslib knows "
            f"({len(tensors)} tensors, the first is {next(iter(tensors), 'none')!r})"
        )
    return {name: tensor for name, tensor in ours.items() if name is not None}


def _dimensions(tensors: Mapping[str, Tensor], n_heads: int | None, path: Path) -> dict[str, Any]:
    """Derive a detector's or backbone's config from the shapes of its tensors."""
    model = "backbone.model."
    try:
        count = 1 + max(
            int(m[1]) for k in tensors if (m := re.match(rf"{model}encoder\.layers\.(\d+)\.", k))
        )
        convolutions = [
            tensors[f"{model}feature_extractor.conv_layers.{i}.conv.weight"] for i in range(7)
        ]
        position = tensors[f"{model}encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
        ffn = tensors[f"{model}encoder.layers.0.feed_forward.intermediate_dense.weight"]
        backbone = XLSRConfig(
            width=ffn.shape[1],
            n_layers=count,
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
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its tensors are not an XLS-R model's: {error}") from error
    return config


def _samples_for(backbone: XLSRConfig, frames: int) -> int:
    """Guess the audio length of a head that pools ``frames`` (rounded down to threes)."""
    from slslib.audio import N_SAMPLES

    if backbone.n_frames(N_SAMPLES) // 3 == frames // 3:
        return N_SAMPLES
    return backbone.receptive_field + (frames - 1) * int(np.prod(backbone.strides))


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        # Before anything reads its elements: a file of a few bytes can claim terabytes by strides.
        if (
            tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.device.type != "cpu"
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise CheckpointError(f"{path}: {name!r} is not a plain dense tensor; refused")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: {name!r} holds NaN or infinite values; the training run that wrote it "
                "diverged, use an earlier checkpoint"
            )
