"""The corpora, weights and device of the notebooks, chosen once by environment variables.

=====================  ==============================================================
``SLSLIB_DATA``        folder of your corpora; without it MiniSpoof, a simulation
``SLSLIB_CHECKPOINT``  a detector; without it ``mini``, which comes with slslib
``SLSLIB_BACKBONE``    a backbone; without it the one inside the checkpoint
``SLSLIB_CLIPS``       use about so many clips of each class of a corpus, or ``all``
``SLSLIB_RUNS``        folder of your training runs; without it ``../runs``
``SLSLIB_RECORDING``   a recording of your own; without it a clip of the corpus
``SLSLIB_LABEL``       what labels call your weights; without it what their file tells
=====================  ==============================================================

Weights have any name that :func:`slslib.model.checkpoints.locate` knows. The device is a GPU if
PyTorch finds one. What a notebook prints and draws follows from what :func:`scale` returns.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from slslib.data.corpora import LAYOUTS
from slslib.errors import ConfigError
from slslib.files import cache_root
from slslib.model.checkpoints import locate, read_checkpoint
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEPT, TASKS
from slslib.model.xlsr import XLSR


@dataclass(frozen=True)
class Scale:
    """Corpora, weights and device.

    Attributes:
        data: Folder of the corpora.
        simulated: Whether they are MiniSpoof, in which nobody speaks.
        checkpoint: Name of the detector.
        backbone: Name of the backbone.
        clips: About how many clips of each class of a corpus to use; 0 for all, None for as many as
            the page says.
        runs: Folder of the training runs.
        device: Device on which networks compute.
        recording: The reader's own recording, or None.
        name: The reader's name for the weights, or nothing.
    """

    data: Path
    simulated: bool
    checkpoint: str
    backbone: str
    clips: int | None
    runs: Path
    device: torch.device
    recording: Path | None = None
    name: str = ""

    def __str__(self) -> str:
        """Say in a few lines what is used."""
        corpora = "MiniSpoof, a simulation" if self.simulated else str(self.data)
        limit = f"clips     {self.limit}\n" if self.limit else ""
        text = f"corpora   {corpora}\n{limit}detector  {self.checkpoint}\n"
        text += f"backbone  {self.backbone}\n"
        if not self.simulated and "mini" in (self.checkpoint, self.backbone):
            text += "note      mini knows simulated speech only: name weights of your own\n"
        return f"{text}device    {self.device}"

    @cached_property
    def backbone_name(self) -> str:
        """The backbone in labels: the reader's name for it, or packaged, pre-trained or fine-tuned.

        The packaged backbone is that of ``mini``. A backbone is fine-tuned if it lies inside a
        detector, such as the checkpoint's if ``SLSLIB_BACKBONE`` is not set, or below a head for
        another task.
        """
        if self.name:
            return self.name
        if self.backbone == "mini":
            return "packaged"
        tensors, _ = read_checkpoint(locate(self.backbone, "backbone"))
        heads = ("head.", *(f"{KEPT}{task}." for task in TASKS))
        return "fine-tuned" if any(n.startswith(heads) for n in tensors) else "pre-trained"

    @staticmethod
    def weights(detector: Detector) -> str:
        """Say what a detector's file states about its weights; the authors' file states nothing."""
        told, file = detector.metadata, detector.path.name
        if detector.name == "mini":
            return "mini"
        if "recipe" not in told:
            return f"{file}, which names no recipe"
        epoch = f", epoch {told['epoch']}" if "epoch" in told else ""
        return f"{file}, recipe {told['recipe']}{epoch}"

    def label(self, text: str) -> str:
        """Return the text, marked by the reader's name for the weights and as simulated."""
        marks = (self.name, "simulated" if self.simulated else "")
        return ", ".join(filter(None, (text, *marks)))

    @property
    def limit(self) -> str:
        """What SLSLIB_CLIPS asks for, in words; empty if it is not set."""
        if self.clips is None:
            return ""
        if not self.clips:
            return "all clips; the page may keep fewer"
        return f"about {self.clips} clips of a class; the page may need more or keep fewer"

    def few(self, n_clips: int, *, least: int = 1, streamed: bool = False) -> int:
        """Return how many clips of a class to take if the page asks for ``n_clips``.

        Args:
            n_clips: Number of clips to take without ``SLSLIB_CLIPS``.
            least: Number that the page needs at least.
            streamed: The page reads one batch after the other, so ``SLSLIB_CLIPS`` may be larger
                than ``n_clips``, and the result may be larger than a corpus.
        """
        if self.clips is None:
            return n_clips
        most = max(least, self.clips or sys.maxsize)
        return most if streamed else min(n_clips, most)

    def trained(self) -> dict[str, Path]:
        """Return the folders of runs with a finished epoch, by name; none for the simulation."""
        best = [] if self.simulated else sorted(self.runs.glob("*/best.json"))
        return {file.parent.name: file.parent for file in best}

    def scored(self) -> dict[tuple[str, str], Path]:
        """Return the score files in the folders of runs, by folder and ``NAME:PARTITION``.

        Only files that ``slslib score`` wrote for named corpora are returned: a folder may be
        called by another path from elsewhere. If a folder such as ``v1`` holds several score files
        of a corpus, they are named after the files, as in ``v1/df``.
        """
        found: dict[tuple[Path, str], list[Path]] = {}
        for file in [] if self.simulated else sorted(self.runs.glob("*/*.txt.json")):
            scores = file.with_suffix("")
            if (corpus := _corpus_of(file)) and scores.is_file():
                found.setdefault((file.parent, corpus), []).append(scores)
        return {
            (run.name if len(files) == 1 else f"{run.name}/{scores.stem}", corpus): scores
            for (run, corpus), files in found.items()
            for scores in files
        }

    def environment(self) -> dict[str, str]:
        """Return the variables that are set, with values that mean the same in every folder."""
        named = {
            "SLSLIB_DATA": self.data,
            "SLSLIB_CHECKPOINT": self.checkpoint,
            "SLSLIB_BACKBONE": self.backbone,
            "SLSLIB_RUNS": self.runs,
            "SLSLIB_RECORDING": self.recording,
            "SLSLIB_CACHE": cache_root().absolute(),
        }
        return {name: str(value) for name, value in named.items() if os.environ.get(name)}

    def load_detector(self) -> Detector:
        """Load the detector in evaluation mode."""
        return Detector.load(self.checkpoint).to(self.device)

    def load_backbone(self) -> XLSR:
        """Load the backbone in evaluation mode."""
        return load_backbone(self.backbone).to(self.device)


def scale() -> Scale:
    """Read the environment; if MiniSpoof is needed and not there yet, write it.

    An empty variable counts as unset. Paths are relative to the working directory.

    Raises:
        ConfigError: ``SLSLIB_CLIPS`` is neither a number above 0 nor ``all``, or another variable
            names a file or folder that is not there, or the one in place of the other.
    """
    clips = os.environ.get("SLSLIB_CLIPS", "")
    if clips not in ("", "all") and not (clips.isdecimal() and int(clips)):
        told = "set it to a number above 0 or to all, or unset it"
        raise ConfigError(f"SLSLIB_CLIPS is {clips!r}; {told}.")
    data = _existing("SLSLIB_DATA", "folder")
    if data is None:
        from minispoof.corpus import simulation

        data = simulation()
    checkpoint = _weights("SLSLIB_CHECKPOINT", "mini")
    return Scale(
        data=data,
        simulated=(data / "minispoof.json").is_file(),
        checkpoint=checkpoint,
        backbone=_weights("SLSLIB_BACKBONE", checkpoint),
        clips=int(clips.replace("all", "0")) if clips else None,
        runs=_existing("SLSLIB_RUNS", "folder") or Path("../runs").resolve(),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        recording=_existing("SLSLIB_RECORDING", "file"),
        name=os.environ.get("SLSLIB_LABEL", ""),
    )


def _existing(variable: str, kind: str = "") -> Path | None:
    """Return the absolute path of the file or folder that a variable names; None if it is empty."""
    if not (name := os.environ.get(variable)):
        return None
    path = Path(name).expanduser().absolute()
    if not path.exists():
        where = f"from {Path.cwd()}, there is no such file or folder"
        raise ConfigError(f"{variable} is {name!r}; {where}. Give its whole path, or unset it.")
    found = "folder" if path.is_dir() else "file"
    if found != (kind or found):
        raise ConfigError(f"{variable} is the {found} {path}; name a {kind}, or unset it.")
    # The name of a link to a file tells what the file holds; its target's name may not.
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _weights(variable: str, instead: str) -> str:
    """Return the name of weights, valid in every working directory."""
    name = os.environ.get(variable) or instead
    return name if name == "mini" or name.startswith("hub:") else str(_existing(variable) or name)


def _corpus_of(file: Path) -> str | None:
    """Return the corpus of a score file by the facts beside it; None if they name none."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # not written by slslib score
        made = json.loads(file.read_text(encoding="utf-8"))
        corpus = f"{made['corpus']}:{made['partition']}".removesuffix(":-")
        return corpus if made["corpus"] in LAYOUTS and "decoders" in made else None
    return None
