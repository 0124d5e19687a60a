"""The detector: an XLS-R backbone and an SLS head, and the file that holds both.

A checkpoint is one safetensors file. It holds the tensors of the module's ``state_dict``. A JSON
object in its metadata has the dimensions needed to build the module, and whatever the training run
recorded about itself (recipe, epoch, development threshold).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import CheckpointError, ConfigError, FileError, usable
from slslib.files import sha256, write_json, write_text
from slslib.model.checkpoints import download, locate, read_checkpoint, save_safetensors
from slslib.model.foreign import KEPT, TASKS
from slslib.model.geometry import DetectorConfig, XLSRConfig, from_json
from slslib.model.sls import BONAFIDE, SPOOF, SLSHead
from slslib.model.xlsr import XLSR

__all__ = ["Detector", "DetectorConfig", "assemble", "load_backbone"]


class Detector(nn.Module):
    """Score waveforms: log-probabilities of [spoof, bona fide], and their difference.

    >>> config = DetectorConfig(XLSRConfig(width=16, n_layers=2, conv_width=8), 8, n_samples=4000)
    >>> detector = Detector(config, seed=0).eval()
    >>> with torch.inference_mode():
    ...     detector.llr(torch.zeros(3, 4000)).shape
    torch.Size([3])

    A subclass that overrides :meth:`build_head` is a detector with another head.
    :func:`slslib.runs.train.train` and :func:`slslib.runs.score.score` take it as
    ``detector_class``.

    Attributes:
        config: Dimensions.
        metadata: What the training run recorded about itself.
        name: The name that :meth:`load` was given; empty if the detector was not loaded.
        path: The file that :meth:`load` read.
    """

    def __init__(
        self, config: DetectorConfig | None = None, *, seed: int = 0, checkpointing: bool = False
    ) -> None:
        """Build a detector with random weights.

        Args:
            config: Dimensions; by default the paper's.
            seed: Seed of the random weights; the global generator is left as it was.
            checkpointing: See :class:`slslib.model.xlsr.XLSR`.
        """
        super().__init__()
        self.config = config or DetectorConfig()
        self.metadata: dict[str, Any] = {}
        self.name, self.path = "", Path()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.backbone = XLSR(self.config.backbone)
            self.head: Any = self.build_head(self.config)
        self.backbone.checkpointing = checkpointing

    def build_head(self, config: DetectorConfig) -> nn.Module:
        """Return a new head; a subclass overrides this method to have another one.

        A head takes the layers one at a time, each ``[batch, frames, width]``, and returns two
        logits, ``[batch, 2]``, in the order spoof, bona fide.

        Args:
            config: Dimensions of the detector; ``config.backbone`` has those of the layers.
        """
        shape = config.backbone
        n_frames = shape.n_frames(config.n_samples)
        return SLSHead(shape.width, n_frames, hidden_width=config.hidden_width)

    @cached_property
    def source(self) -> tuple[str, Path, str]:
        """Name, file and SHA-256 of what was loaded; the hash is computed at first use."""
        return self.name, self.path, sha256(self.path)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.head.parameters()).device

    def logits(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2"]:
        """Return the two outputs before the softmax; layers are summed as they are computed."""
        return self.head(self.backbone.layers(waveform))

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2"]:
        """Return log-probabilities of [spoof, bona fide] for ``config.n_samples`` samples."""
        return self.logits(waveform).log_softmax(dim=1)

    def llr(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, batch]:
        """Return ``log p(bona fide) - log p(spoof)`` in natural logarithms, the trial's score.

        It is the difference of the logits, computed in float64, so it does not saturate as
        ``log p(bona fide)`` does.
        """
        return self.llr_of(self.logits(waveform))

    @staticmethod
    def llr_of(logits: Float[Tensor, "batch 2"]) -> Float[Tensor, batch]:
        """Return the log-likelihood ratio of logits, as float64."""
        return logits[:, BONAFIDE].double() - logits[:, SPOOF].double()

    def gates(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch layers"]:
        """Return the weight in (0, 1) that SLS gives each layer; other heads may have none."""
        return self.head.fuse(self.backbone.layers(waveform))[1]

    def save(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write a safetensors checkpoint, atomically.

        Args:
            path: File to write, replaced if it exists.
            metadata: JSON-serialisable facts to keep beside the weights, in place of the detector's
                own.

        Raises:
            FileError: If the file cannot be written; a file that was there before stays.
        """
        save_safetensors(path, self.state_dict(), self.describe(metadata))

    def describe(self, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what a file of the detector tells beside its tensors; see :meth:`save`."""
        told = dict(self.metadata if metadata is None else metadata)
        return {"config": asdict(self.config), "class": type(self).__name__, "metadata": told}

    def save_pretrained(
        self, folder: str | Path, *, name: str = "", license: str = "", about: Any = None
    ) -> None:
        """Write the folder that :meth:`from_pretrained` loads, with a model card.

        If something is not given, the card says so. ``slslib publish`` finds ``about`` by itself.
        See :mod:`slsapp.publish`.

        Args:
            folder: Folder to write; files of the same names are replaced.
            name: ``owner/name`` on the hub, which the examples of the card use.
            license: The hub's word for the licence of the weights, such as ``"mit"``.
            about: ``training``, the ``config.json`` of the run, and ``results``. For each score
                file, ``results`` joins in one dictionary what :func:`slslib.runs.score.score` and
                :func:`slslib.evaluation.evaluate.evaluate` returned.

        Raises:
            ConfigError: If the folder is that of a run.
            FileError: If a file cannot be written.
        """
        from huggingface_hub import ModelCard, ModelCardData

        if any(Path(folder, file).exists() for file in ("best.json", "state.pt")):
            raise ConfigError(f"{folder} holds a run, whose config.json stays: use another folder")
        template = str(Path(__file__).with_name("card.md"))
        facts: Any = {"class": type(self).__name__, "detector": asdict(self.config)}
        facts |= {"metadata": self.metadata, **(about or {})}
        told = ModelCardData(license=license or None, library_name="slslib")
        card = ModelCard.from_template(told, template, name=name, **facts)
        self.save(Path(folder, "model.safetensors"))
        write_json(Path(folder, "config.json"), facts)
        write_text(Path(folder, "README.md"), str(card))

    def push_to_hub(self, name: str, **told: Any) -> str:
        """Publish the detector on the Hugging Face hub, where :meth:`from_pretrained` finds it.

        The hub asks for a token (``hf auth login``, or ``HF_TOKEN``). A new repository is public.
        In an existing repository, files of the same names get a new version.

        Args:
            name: ``owner/name``.
            told: ``license`` and ``about`` of :meth:`save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            FileError: If the hub refuses the card's metadata or the upload.
        """
        from huggingface_hub import ModelCard, create_repo, upload_folder

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=name, **told)
            try:
                ModelCard.load(Path(folder, "README.md")).validate()
                create_repo(name, exist_ok=True)
                return str(upload_folder(repo_id=name, folder_path=folder))
            except Exception as error:
                raise FileError(f"cannot publish {name}: {error} (or `hf auth login`)") from error

    @classmethod
    def load(cls, path: str | Path, *, n_heads: int | None = None) -> Self:
        """Read a checkpoint: our safetensors, or an authors' or reproduction's ``.pth``.

        No code in the file is ever run (see :mod:`slslib.model.checkpoints`). So a file cannot
        choose the class of its head: load a detector that has another head by its own class.

        Args:
            path: The file, or any name that :func:`slslib.model.checkpoints.locate` knows.
            n_heads: Number of attention heads, needed if a foreign file does not state it and does
                not have the size of XLS-R 300M.

        Returns:
            A detector in evaluation mode on the CPU.

        Raises:
            CheckpointError: If the file is missing, damaged, unsafe or not a detector.
        """
        name, path = str(path), locate(path)
        detector = assemble(path, n_heads=n_heads, detector_class=cls)[0]
        if not isinstance(detector, cls):
            what = "holds a backbone without an SLS head; train one: `slslib train --backbone`"
            raise CheckpointError(f"{path} {what}")
        detector.name, detector.path = name, path.absolute()
        return detector

    @classmethod
    def from_pretrained(
        cls, repository: str | Path, filename: str = "model.safetensors", **pins: str | None
    ) -> Self:
        """Load a detector from a folder, or from the Hugging Face hub, which downloads it once.

        ``Detector.load("hub:owner/name/file@revision")`` is the same, and has further options.

        Args:
            repository: ``owner/name``, or (without pins) a folder of :meth:`save_pretrained`.
            filename: Path of the file in the repository, in any format that :meth:`load` reads.
            pins: ``revision``, a branch, tag or commit; ``sha256``, the SHA-256 that the file must
                have.

        Raises:
            CheckpointError: If it cannot be downloaded, has other bytes than stated, or is not a
                detector.
        """
        if not pins and Path(repository).is_dir():
            return cls.load(Path(repository, filename))
        return cls.load(download(str(repository), filename, **pins))


def load_backbone(path: str | Path, *, n_heads: int | None = None) -> XLSR:
    """Read the backbone of any checkpoint that holds one.

    Args:
        path: A transformers folder of wav2vec 2.0, HuBERT or WavLM, fairseq's ``xlsr2_300m.pt``,
            an SLS checkpoint, a file of ours, or any name that
            :func:`slslib.model.checkpoints.locate` knows.
        n_heads: See :meth:`Detector.load`.

    Returns:
        A backbone in evaluation mode on the CPU. Its ``card`` says where the weights come from,
        if the file does. A head is left out; a warning names one that is not :class:`Detector`'s.

    Raises:
        CheckpointError: If the file is missing, damaged, unsafe or holds no backbone.
    """
    return assemble(locate(path, "backbone"), n_heads=n_heads, detector_class=None)[0].backbone


def assemble(
    path: Path, *, n_heads: int | None = None, detector_class: type[Detector] | None = Detector
) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Build what a file holds, and refuse any tensor whose name, shape or type does not fit.

    16-bit floats become 32-bit floats, in which everything is computed. The counter of batches,
    which no result depends on, becomes a whole number if averaging made it a float.

    Args:
        path: The file.
        n_heads: See :meth:`Detector.load`.
        detector_class: The class to build if the file holds a head; None to leave any head out.

    Returns:
        A ``detector_class``, or, if there is no head, a module whose one child is ``backbone``; the
        tensors that were left out; and the file's description.

    Raises:
        CheckpointError: As for :meth:`Detector.load`, naming the first tensor that does not fit.
    """
    tensors, about = read_checkpoint(path, n_heads=n_heads)
    aside = KEPT if detector_class else (KEPT, "head.")
    kept = {name: tensors.pop(name) for name in [*tensors] if name.startswith(aside)}
    heads = sorted({name.split(".")[1] for name in kept} & {*TASKS})
    if not detector_class and about.get("class", "Detector") != "Detector":
        heads.append(f"the head of {about['class']}")
    if heads:
        warnings.warn(f"{path}: {', '.join(heads)} is not used", stacklevel=2)
    tensors |= {n: t.long() for n, t in tensors.items() if n.endswith("num_batches_tracked")}
    # A file stays in memory as long as one of its tensors does. `to_bf16` replaces the large ones.
    # The rest is copied here, and so is PyTorch's weight norm, which is a reference cycle.
    lasting = [n for n, t in tensors.items() if t.ndim < 2 or re.search(r"^head|pos_conv_embed", n)]
    tensors |= {name: tensors[name].clone() for name in lasting}
    # On meta, size costs nothing, but what other heads hold beside their tensors would be lost.
    with usable(path), torch.device("meta" if detector_class in (Detector, None) else "cpu"):
        if detector_class and (stored := {n for n in tensors if n.startswith("head.")}):
            model: Any = detector_class(from_json(DetectorConfig, about["config"]))
            model.metadata = dict(about.get("metadata", {}))
            kind, names = detector_class.__name__, {f"head.{n}" for n in model.head.state_dict()}
            if odd := stored ^ names or {about.get("class", kind)} - {kind}:
                what = f"{kind} builds another head (see {min(odd)})"
                raise CheckpointError(f"{path}: {what}; load it by its own class, or get it again")
        else:
            config = from_json(XLSRConfig, about["config"]["backbone"])
            model = nn.ModuleDict({"backbone": XLSR(config)})
        model.backbone.card = dict(about.get("card", {}))
        model.load_state_dict(tensors, assign=True)
    return model.float().eval(), kept, about
