"""The detector: an XLS-R backbone and an SLS head, and the file that holds both.

A checkpoint is one safetensors file: the tensors of the module's ``state_dict`` and, in the
file's metadata, a JSON object with the dimensions needed to build it and whatever the training
run wants to say about itself (recipe, epoch, development threshold).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import CheckpointError, ConfigError
from slslib.model.checkpoints import FORMAT, from_hub, read_checkpoint, resolve, save_safetensors
from slslib.model.geometry import Attention, DetectorConfig, XLSRConfig
from slslib.model.sls import BONAFIDE, SPOOF, SLSHead
from slslib.model.xlsr import XLSR

__all__ = [
    "Detector",
    "DetectorConfig",
    "load_backbone",
    "load_state",
    "save_backbone",
    "untrusted_dimensions",
]


class Detector(nn.Module):
    """Score waveforms: log-probabilities of [spoof, bona fide], and their difference.

    >>> config = DetectorConfig(XLSRConfig(width=16, n_layers=2, conv_width=8), 8, n_samples=4000)
    >>> detector = Detector(config, seed=0).eval()
    >>> with torch.inference_mode():
    ...     detector.llr(torch.zeros(3, 4000)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        config: DetectorConfig | None = None,
        *,
        seed: int | None = None,
        attention: Attention = "eager",
        checkpointing: bool = False,
    ) -> None:
        """Build a detector with random weights.

        Args:
            config: Dimensions.
            seed: Makes the random weights reproducible without touching the global generator.
            attention: See :class:`slslib.model.xlsr.XLSR`.
            checkpointing: See :class:`slslib.model.xlsr.XLSR`.
        """
        super().__init__()
        self.config = config or DetectorConfig()
        self.metadata: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            self.backbone = XLSR(
                self.config.backbone, attention=attention, checkpointing=checkpointing
            )
            self.head = SLSHead(
                self.config.backbone.width,
                self.config.backbone.n_frames(self.config.n_samples),
                hidden_width=self.config.hidden_width,
            )

    def logits(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2"]:
        """Return the two outputs before the softmax; layers are summed as they are computed."""
        return self.head(self.backbone.layers(waveform))

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2"]:
        """Return log-probabilities of [spoof, bona fide] for ``config.n_samples`` long audio."""
        return self.logits(waveform).log_softmax(dim=1)

    def llr(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, batch]:
        """Return ``log p(bona fide) - log p(spoof)`` in natural logarithms, the trial's score.

        It is the difference of the logits, taken in float64, so it does not saturate as
        ``log p(bona fide)`` does.
        """
        return self.llr_of(self.logits(waveform))

    @staticmethod
    def llr_of(logits: Float[Tensor, "batch 2"]) -> Float[Tensor, batch]:
        """Return the log-likelihood ratio of logits, as float64."""
        logits = logits.double()
        return logits[:, BONAFIDE] - logits[:, SPOOF]

    def gates(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch layers"]:
        """Return the weight in (0, 1) that SLS gives each layer."""
        return self.head.fuse(self.backbone.layers(waveform))[1]

    def save(
        self,
        path: str | Path,
        metadata: Mapping[str, Any] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write a safetensors checkpoint, atomically.

        Args:
            path: File to write, replaced if it exists.
            metadata: JSON-serialisable facts to keep beside the weights.
            dtype: How numbers are stored; they are computed with in float32.

        Raises:
            CheckpointError: If the file cannot be written; what was there before stays.
        """
        about = {
            "format": FORMAT,
            "config": asdict(self.config),
            "metadata": dict(self.metadata if metadata is None else metadata),
        }
        save_safetensors(path, _stored(self.state_dict(), dtype), about)

    @classmethod
    def load(
        cls, path: str | Path, *, attention: Attention = "eager", n_heads: int | None = None
    ) -> Self:
        """Read a checkpoint: our safetensors, or an authors' or reproduction's ``.pth``.

        No code in the file is ever run (see :mod:`slslib.model.checkpoints`).

        Args:
            path: The file, ``"mini"``, or whatever else :func:`slslib.model.checkpoints.resolve`
                knows.
            attention: See :class:`slslib.model.xlsr.XLSR`.
            n_heads: Attention heads, which foreign weights do not tell; by default width / 64.

        Returns:
            A detector in evaluation mode on the CPU.

        Raises:
            CheckpointError: If the file is missing, damaged, unsafe or not a detector.
        """
        path = resolve(path)
        tensors, about = read_checkpoint(path, n_heads=n_heads)
        if not any(name.startswith("head.") for name in tensors):
            raise CheckpointError(
                f"{path} holds a backbone without an SLS head: it cannot score; train from it "
                "with `slslib train RECIPE --backbone FILE`"
            )
        detector = cls.from_config(about["config"], attention=attention, where=path)
        load_state(detector, tensors, path)
        detector.metadata = _facts(about, "metadata", path)
        return detector.eval()

    @classmethod
    def from_pretrained(
        cls,
        repository: str,
        filename: str = "model.safetensors",
        *,
        revision: str | None = None,
        sha256: str | None = None,
        attention: Attention = "eager",
        n_heads: int | None = None,
    ) -> Self:
        """Load a detector from the Hugging Face hub; the first time it is downloaded.

        What is downloaded is checked, converted to safetensors once, and read from there
        afterwards (:func:`slslib.model.checkpoints.from_hub`).

        Args:
            repository: ``owner/name``.
            filename: Path of the file in the repository, in any format that :meth:`load` reads.
            revision: Branch, tag or commit; a commit pins the file.
            sha256: What the file's SHA-256 must be.
            attention: See :class:`slslib.model.xlsr.XLSR`.
            n_heads: See :meth:`load`.

        Raises:
            CheckpointError: With the cause (network, name, permission, wrong bytes, not a
                detector) and the remedy.
        """
        path = from_hub(repository, filename, revision=revision, sha256=sha256)
        return cls.load(path, attention=attention, n_heads=n_heads)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        attention: Attention = "eager",
        where: str | Path = "the checkpoint",
    ) -> Self:
        """Build a detector on the ``meta`` device from a checkpoint's ``config`` object.

        Args:
            config: The object.
            attention: See :class:`slslib.model.xlsr.XLSR`.
            where: What an error names, as a rule the file.

        Raises:
            CheckpointError: If no detector can have this configuration.
        """
        with untrusted_dimensions(where):
            lacking = [f.name for f in fields(DetectorConfig) if f.name not in config]
            if lacking:
                raise ConfigError(f"it lacks {lacking[0]!r}")
            backbone = XLSRConfig(**config["backbone"])
            return cls(DetectorConfig(**{**config, "backbone": backbone}), attention=attention)


@contextmanager
def untrusted_dimensions(where: str | Path) -> Iterator[None]:
    """Build on the ``meta`` device, where size costs nothing; numbers of a file can break it."""
    try:
        with torch.device("meta"):
            yield
    except Exception as error:  # of Python, PyTorch or transformers' own validation
        raise CheckpointError(
            f"{where}: its config is not usable; write or download it again ({error})"
        ) from error


def _facts(about: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    facts = about.get(name, {})
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its {name!r} is not a JSON object; write the file again")
    return facts


def _stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Assign tensors to a module, refusing any name or shape that does not fit.

    16-bit floats become 32-bit ones, in which everything is computed.

    Raises:
        CheckpointError: Naming the first missing, unexpected or misshapen tensor.
    """
    wanted = module.state_dict()
    half = (torch.float16, torch.bfloat16)
    tensors = {k: t.float() if t.dtype in half else t for k, t in tensors.items()}
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has the unexpected tensor {extra[0]!r}"
        raise CheckpointError(
            f"{path} does not fit the model: it {what} "
            f"({len(missing)} missing, {len(extra)} unexpected)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path} does not fit the model: {name!r} has shape {tuple(tensor.shape)}, "
                f"not {tuple(wanted[name].shape)}"
            )
        if tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{path}: {name!r} is {tensor.dtype}, not {wanted[name].dtype}; convert weights "
                "to 32-bit floats"
            )
    module.load_state_dict(tensors, assign=True)
    module.requires_grad_(True)


def load_backbone(path: str | Path, *, n_heads: int | None = None) -> XLSR:
    """Read the backbone of any checkpoint that holds one.

    Args:
        path: fairseq's ``xlsr2_300m.pt``, a transformers folder or safetensors file, an SLS
            checkpoint, a file of ours, ``"mini"``, or whatever else
            :func:`slslib.model.checkpoints.resolve` knows.
        n_heads: Attention heads, which the weights do not tell; by default what the file says,
            else width / 64.

    Returns:
        A backbone in evaluation mode on the CPU; its ``card`` says where the weights come from,
        in a file that :func:`save_backbone` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, unsafe or holds no backbone.
    """
    path = resolve(path, "backbone")
    tensors, about = read_checkpoint(path, n_heads=n_heads)
    with untrusted_dimensions(path):
        backbone = XLSR(XLSRConfig(**about["config"]["backbone"]))
    prefix = "backbone."
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    load_state(backbone, inside, path)
    backbone.card = _facts(about, "card", path)
    return backbone.eval()


def save_backbone(
    path: str | Path,
    backbone: XLSR,
    card: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a backbone without a head to a safetensors file, atomically.

    Args:
        path: File to write, replaced if it exists.
        backbone: The backbone.
        card: JSON-serialisable facts: data, objective, steps, licence and the like.
        dtype: How numbers are stored; they are computed with in float32.

    Raises:
        CheckpointError: If the file cannot be written; what was there before stays.
    """
    config = replace(backbone.config, n_heads=backbone.config.heads)
    about = {"format": FORMAT, "config": {"backbone": asdict(config)}, "card": dict(card)}
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    save_safetensors(path, _stored(tensors, dtype), about)
