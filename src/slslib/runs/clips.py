"""Trials as tensors: decode, augment, crop, batch.

Random numbers never come from a shared stream. The order of an epoch is keyed by (seed, epoch), and
the augmentation of a clip by (seed, epoch, utterance). So neither the number of workers nor a
resume in the middle of an epoch can change a result.
"""

import atexit
import ctypes
import hashlib
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from multiprocessing import active_children, current_process
from multiprocessing.process import BaseProcess
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slslib.data.audio import N_SAMPLES, SAMPLE_RATE, fix_length, load
from slslib.data.corpora import Corpus
from slslib.data.isolate import blocks_isolated
from slslib.data.rawboost import algorithm_name, rawboost
from slslib.errors import AudioError
from slslib.runs.processes import signals
from slslib.runs.recipes import Crop

_PATIENCE_SECONDS = 60  # a worker without a batch for so long may read a file that never ends


@dataclass(frozen=True)
class Clip:
    """One decoded trial, or the error that stands in its place.

    Attributes:
        utterance: Its name.
        label: 1 bona fide, 0 spoof, -1 unknown.
        waveform: Audio of the fixed length; None if it could not be read.
        error: Why there is no waveform.
        decoder: Decoder and version that read the file.
        over_range: Whether the file holds samples beyond its integer range.
        converted: Whether the file was resampled or down-mixed.
    """

    utterance: str
    label: int
    waveform: Any = None
    error: str = ""
    decoder: str = ""
    over_range: bool = False
    converted: bool = False


@dataclass(eq=False)
class TrialDataset(Dataset[Clip]):
    """The trials of a corpus as clips of one length.

    Audio that cannot be decoded becomes a :class:`Clip` with an error. The caller raises or records
    the error; the audio is never replaced.

    Attributes:
        corpus: The corpus, whose trials keep their order.
        n_samples: Length of a clip at 16 kHz: longer audio is cut, shorter audio is tiled.
        algo: RawBoost algorithm, by number or name, applied to the whole recording before it is
            cut; 0 for none.
        crop: Keep the ``"first"`` samples, as the original does, or a ``"random"`` stretch.
        seed: Seed of augmentation and crop.
        epoch: Epoch that keys augmentation and crop.
        allow_silence: Accept silent and very short audio.
        guarded: First decode each recording in another process, which may crash or never end.
    """

    corpus: Corpus
    _: KW_ONLY
    n_samples: int = N_SAMPLES
    algo: int | str = 0
    crop: Crop = "first"
    seed: int = 0
    epoch: int = 0
    allow_silence: bool = False
    guarded: bool = False

    def __post_init__(self) -> None:
        """Replace the algorithm by its name."""
        self.algo = algorithm_name(self.algo)

    def __len__(self) -> int:
        """Count the trials."""
        return len(self.corpus)

    def __getitem__(self, index: int) -> Clip:
        """Decode, augment and crop one trial."""
        trial = self.corpus.trials.iloc[index]
        utterance, label = str(trial["utterance"]), int(trial["label"])
        # Augmentation and random crops need the whole recording; scoring needs only its beginning.
        limit = None if self.algo != "none" or self.crop == "random" else self.n_samples
        try:
            path = self.corpus.audio_path(utterance)
            if self.guarded:
                list(blocks_isolated(path, max_samples=limit, allow_silence=True))
            recording = load(path, max_samples=limit, allow_silence=self.allow_silence)
        except AudioError as error:
            return Clip(utterance, label, error=str(error))
        samples, rng = recording.samples, keyed_rng(self.seed, self.epoch, utterance)
        if self.algo != "none":
            samples = rawboost(samples, self.algo, seed=rng)
        if self.crop == "random" and len(samples) > self.n_samples:
            start = int(rng.integers(len(samples) - self.n_samples + 1))
            samples = samples[start : start + self.n_samples]
        waveform, over_range = fix_length(samples, self.n_samples), recording.over_range != 0
        converted = recording.source_rate != SAMPLE_RATE or recording.channels != 1
        return Clip(utterance, label, waveform, "", recording.decoder, over_range, converted)


def describe(corpus: Corpus) -> dict[str, Any]:
    """Return what a run records about its trials."""
    about = {"corpus": corpus.name, "partition": corpus.partition}
    return about | {"protocol_sha256": corpus.protocol_sha256, "n_trials": len(corpus)}


def sizes(corpus: Corpus, indices: list[int] | None = None) -> list[int]:
    """Return the sizes of recordings in bytes, by default of all recordings; -1 for a missing file.

    A size stands for the content, because hashing every recording would take as long as a run.
    """
    found, utterances = [], corpus.trials["utterance"]
    for utterance in utterances if indices is None else utterances.iloc[indices]:
        found.append(-1)
        with suppress(AudioError, OSError):
            found[-1] = corpus.audio_path(utterance).stat().st_size
    return found


def keyed_rng(seed: int, epoch: int, utterance: str) -> np.random.Generator:
    """Return the generator that belongs to one utterance in one epoch."""
    digest = hashlib.blake2b(utterance.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])


def epoch_batches(n_trials: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Shuffle trials into whole batches for one epoch; an incomplete last batch is dropped.

    >>> epoch_batches(5, 2, seed=0, epoch=0)
    [[2, 4], [3, 0]]
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_trials)
    return batched(order.tolist(), batch_size)[: n_trials // batch_size]


def batched(indices: Sequence[int], size: int) -> list[list[int]]:
    """Divide indices into batches of one size; the last batch may be smaller.

    >>> batched(range(5), 2)
    [[0, 1], [2, 3], [4]]
    """
    return [list(indices[i : i + size]) for i in range(0, len(indices), size)]


def load_batches(
    dataset: TrialDataset, batches: Sequence[list[int]], *, workers: int = 0
) -> Iterator[list[Clip]]:
    """Yield the clips for lists of indices, decoded by ``workers`` processes (0: by this process).

    A file may crash its decoder or never end. If a worker dies or is silent for a minute, its batch
    is read again, each recording first by another process. A recording that fails there is a
    :class:`Clip` with an error. Without workers, such a file ends the run.
    """
    if not workers or current_process().daemon:  # a pool's processes may have none of their own
        yield from ([dataset[index] for index in batch] for batch in batches)
        return
    done, guarded = 0, replace(dataset, guarded=True)
    while done < len(batches):
        loader = DataLoader(
            dataset,
            batch_sampler=batches[done:],
            num_workers=workers,
            collate_fn=_pack,
            timeout=_PATIENCE_SECONDS,
            # The loader draws a base seed. Without its own generator it would move the global
            # stream, and results would depend on how often a loader was started.
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=_end_with_parent,
        )
        # Python loses what a handler raises inside a fork. And for a dead worker, PyTorch's own
        # handler of SIGCHLD would raise an error wherever this process is at that time.
        with signals(signal.SIGCHLD) as received:
            # Workers inherit this mask: a scheduler sends these signals to the whole group, and
            # this process needs its workers to end well.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
            try:
                iterator = cast(Any, iter(loader))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            for number in received:
                signal.raise_signal(number)
            for clips, waveforms in iterator:
                sound = iter(waveforms)
                yield [one if one.error else replace(one, waveform=next(sound)) for one in clips]
                done += 1
        except RuntimeError as error:  # a worker died, is silent, or found no shared memory
            text = f"{str(error).splitlines()[-1]}; its batch is read again, file by file"
            warnings.warn(f"{text} (where /dev/shm is full, try --workers 0)", stacklevel=2)
        finally:
            _kill(iterator._workers)
        if done < len(batches):
            yield [guarded[index] for index in batches[done]]
            done += 1


def _pack(clips: list[Clip]) -> tuple[list[Clip], Tensor]:
    """Put the waveforms of a batch into one tensor, which a worker hands over in shared memory.

    If they were sent through the pipe, a worker that died could leave half a batch there, and its
    reader would wait for ever. If the shared memory is full, this raises an error; if PyTorch were
    left to do it, the batch would be lost.
    """
    waveforms = [torch.from_numpy(clip.waveform) for clip in clips if not clip.error]
    bare = [replace(clip, waveform=None) for clip in clips]
    return bare, torch.stack(waveforms).share_memory_() if waveforms else torch.empty(0)  # type: ignore[no-untyped-call]


def _end_with_parent(_worker: int) -> None:
    """End the worker when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@atexit.register
def _kill(workers: Iterable[BaseProcess] | None = None) -> None:
    """Kill workers, by default all that an error left: multiprocessing would wait for them."""
    for worker in active_children() if workers is None else workers:
        if worker.daemon:
            worker.kill()


def stack(
    clips: Sequence[Clip], device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "batch samples"], Tensor]:
    """Stack waveforms and labels of a batch on a device; a GPU fetches them in the background.

    Raises:
        AudioError: The first clip's error, if any clip has one.
    """
    for clip in clips:
        if clip.error:
            raise AudioError(clip.error)
    # Torch's own memory is aligned, and the last bit of a convolution depends on the alignment.
    waveforms = torch.stack([torch.as_tensor(clip.waveform) for clip in clips])
    labels = torch.tensor([clip.label for clip in clips])
    if torch.device(device).type == "cuda":
        waveforms, labels = waveforms.pin_memory(), labels.pin_memory()
    return waveforms.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def read_clips(
    dataset: TrialDataset, indices: Sequence[int] | None = None
) -> tuple[Float[Tensor, "trials samples"], Tensor]:
    """Return waveforms and labels of some trials, by default of all.

    Raises:
        AudioError: If a recording cannot be read.
    """
    return stack([dataset[i] for i in (range(len(dataset)) if indices is None else indices)])
