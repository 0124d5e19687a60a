"""MiniSpoof: a small simulated corpus, for running everything anywhere.

It says nothing about benchmarks: no person and no text-to-speech system was recorded. *Bona fide*
is a synthetic voice (:mod:`minispoof.voices`) in a room, through a microphone. *Spoof* is another
such recording after :mod:`minispoof.attacks`. Both classes then pass through the same channel: a
random all-pass filter and polarity, so that the waveform's asymmetry tells nothing, a band limit,
noise, a level and a codec. Voices, words, durations and silences have one distribution.

All corpora are written below one root. Each has the layout in which the real corpus is distributed,
so code that reads the real corpora reads these too:

================== ======== ============================= ==================================
corpus             clips    attacks                       channel
================== ======== ============================= ==================================
2019 LA train, dev 480, 160 M01-M04                       no codec
2019 LA eval       160      M01, M02, M05-M09             no codec
2021 LA            480      M01-M09                       none, A-law, mu-law, GSM 6.10, Opus
2021 DF            480      M01-M09                       none, MP3, Vorbis
In-the-Wild        240      M05-M10                       noise, rooms; none, MP3, Vorbis
================== ======== ============================= ==================================

Train, dev and the evaluation sets share no voice. 2021 LA has the voices of 2019 LA eval; 2021 DF
has these and others; In-the-Wild has others, in other languages. A few recordings of the 2021 sets
are over-range FLAC, as a third of the real ones are (:mod:`slslib.data.audio`). The scores of a
speaker verification system, for the t-DCF, are random numbers.

Writing needs ``praat-parselmouth`` (GPL; used for nothing else): ``pip install
"slslib[minispoof]"``. Reading the corpora does not. The same seed gives the same bytes on one type
of machine and set of versions, whatever the number of processes.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from filelock import FileLock
from tqdm import tqdm

from minispoof import channel
from minispoof.attacks import KNOWN, UNKNOWN, Rng, Samples, resynthesize
from minispoof.voices import LANGUAGES, Voice, speak
from slslib.data.audio import SAMPLE_RATE as FS
from slslib.errors import ConfigError
from slslib.files import cache_root, sha256, writing

VERSION = 5  # raised whenever the same seed would give other recordings or lists of them
SECONDS = (1.4, 3.0)  # length of speech asked for; some voices take longer
_MARKER = "minispoof.json"

_README = """\
MiniSpoof, a SIMULATION. Nobody was recorded: both classes were computed by minispoof
(version {version}, seed {seed}). "bonafide" is a synthetic voice, "spoof" is such a voice
resynthesised. The layouts are those of ASVspoof 2019 and 2021 and of In-the-Wild so that the same
code reads it. Numbers obtained on it say nothing about any benchmark.
"""


def simulation() -> Path:
    """Return the folder of MiniSpoof, which is written at first use, in about a minute.

    The folder is in ``$SLSLIB_CACHE``, or else in ``~/.cache/slslib``.
    """
    return write(cache_root() / f"minispoof-{VERSION}")


def write(
    directory: str | Path,
    *,
    seed: int = 1234,
    scale: float = 1.0,
    jobs: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the embedded simulated corpora, in the official layouts.

    They exist to run everything anywhere; their numbers say nothing about real deepfakes.

    Example: slslib minispoof data/minispoof

    The folder gets its name when it is complete; a lock file lies beside it. What a killed run left
    there is removed. A folder that holds the corpora of the same arguments is used again, even on a
    disk that cannot be written. Missing or damaged files in it are made again.

    Args:
        directory: Folder to create, which can then be given as ``--data``.
        seed: Seed of everything random.
        scale: Factor on the number of clips.
        jobs: Processes, by default as many as there are cores.
        progress: Show a progress bar, if standard error is a terminal; --no-progress shows none.

    Returns:
        The directory, as an absolute path.

    Raises:
        ConfigError: An argument makes no sense, the folder holds something else, or
            praat-parselmouth is not installed.
        FileError: The folder cannot be written.
    """
    root = Path(directory).resolve()  # "." has no name to put the lock under
    jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    if not 0 < scale <= 1000 or jobs < 1 or seed < 0:
        raise ConfigError(f"scale {scale} or jobs {jobs} is not above 0, or seed {seed} is below")
    settings = {"corpus": "minispoof", "version": VERSION, "seed": seed, "scale": scale}
    content = plan(seed, scale)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Others who want the same corpus wait, and find it written.
    lock = FileLock(root.with_name(f".{root.name}.lock"))
    if _is_free(root):
        with lock:
            if _is_free(root):
                _create(root, settings, content, jobs, progress)
    try:
        found = json.loads((root / _MARKER).read_text())
        digests = found.pop("sha256")
        is_this = found == settings and digests.keys() == content.keys()
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        is_this = False
    if not is_this:
        raise ConfigError(
            f"{root} is not the corpus {settings}; remove it or choose another folder."
        )
    if damaged := [path for path in content if not _is_sound(root / path, digests[path])]:
        with lock:
            again = _make_all(root, {path: content[path] for path in damaged}, jobs, progress)
        if other := [path for path in damaged if again[path] != digests[path]]:
            raise ConfigError(
                f"{root}: {len(other)} damaged files ({other[0]}, ...) came out different when "
                f"made again, so other versions of Praat, NumPy or the codecs wrote this corpus. "
                f"Remove the folder; it will be written again."
            )
    return root


def _is_free(root: Path) -> bool:
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def _is_sound(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _create(
    root: Path, settings: dict[str, Any], content: dict[str, Trial | str], jobs: int, progress: bool
) -> None:
    """Write everything into a temporary folder, which then gets the name."""
    with writing(root) as temporary:
        temporary.mkdir()
        digests = _make_all(temporary, content, jobs, progress)
        (temporary / _MARKER).write_text(json.dumps({**settings, "sha256": digests}))


def _make_all(
    root: Path, content: dict[str, Trial | str], jobs: int, progress: bool
) -> dict[str, str]:
    """Write files; return the SHA-256 of each."""
    from joblib import Parallel, delayed, parallel_config
    from threadpoolctl import threadpool_limits

    # Processes, because Praat holds the interpreter's lock; one thread each, or sums may differ.
    with threadpool_limits(1), parallel_config("loky", inner_max_num_threads=1):
        made = Parallel(min(jobs, len(content)), return_as="generator")(
            delayed(_make)(root / path, part) for path, part in content.items()
        )
        bar = tqdm(made, "MiniSpoof", len(content), unit="file", disable=None if progress else True)
        return dict(zip(content, bar, strict=True))


def _make(path: Path, content: Trial | str) -> str:
    """Write a file, whole or not at all; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8", newline="")
        else:
            temporary.write_bytes(content.encode(path.suffix))
    return sha256(path)


# ------------------------------------------------------------------------------------------ plan


@dataclass(frozen=True)
class Trial:
    """One recording; everything about it follows from these values.

    Attributes:
        utterance: Its name.
        speaker: Name of the voice.
        voice: The voice that speaks.
        attack: An attack of :mod:`minispoof.attacks`; ``"-"`` for bona fide.
        codec: A codec of :mod:`minispoof.channel`.
        phase: Phase of the 2021 sets; clips of ``hidden`` have no silence before and after.
        seed: Seed of what is said, of the room and of the channel.
        wild: Whether there is more noise, and rooms are larger.
        over_range: Whether samples exceed 16 bits.
    """

    utterance: str
    speaker: str
    voice: Voice
    attack: str
    codec: str
    phase: str
    seed: tuple[int, ...]
    wild: bool
    over_range: bool

    def samples(self) -> Samples:
        """Make the clip: speech, room, attack, channel.

        Clips that differ only in their attack say the same words in the same room through the same
        channel.
        """
        speech, room, attack, way = np.random.default_rng(self.seed).spawn(4)
        said = channel.trim(speak(self.voice, speech.uniform(*SECONDS), speech))
        ends = speech.uniform(0.05, 0.5, 2) * (self.phase != "hidden")  # s
        samples = channel.record(np.pad(said, (ends * FS).astype(int)), room, self.wild)
        if self.attack != "-":
            samples = resynthesize(samples, self.attack, attack)
        samples = channel.transmit(samples, way, self.codec, self.wild)
        if self.over_range:
            return samples * way.uniform(1.05, 1.3) / np.abs(samples).max()
        return samples / max(1, np.abs(samples).max() / 0.98)

    def encode(self, suffix: str) -> bytes:
        """Return the bytes of the file, ``.flac`` or ``.wav``."""
        pcm = np.round(self.samples() * 32768).astype(np.int64)
        if self.over_range:
            return channel.over_range_flac(pcm)
        buffer = io.BytesIO()
        sf.write(buffer, pcm.astype(np.int16), FS, "PCM_16", format=suffix[1:])
        return buffer.getvalue()

    def text(self, form: str) -> str:
        """Return a line of a protocol or key: ``form`` with its fields filled in."""
        real = self.attack == "-"
        return form.format(
            **vars(self),
            key="bonafide" if real else "spoof",
            attack_or_key="bonafide" if real else self.attack,
            line="-" if self.codec == "none" else "sim_tx",  # there is one simulated line
            source="shared" if self.speaker[0] == "E" else "own",  # shared with LA
            trim="trim" if self.phase == "hidden" else "notrim",
            vocoder="bonafide" if real else "traditional_vocoder",
            wild_key="bona-fide" if real else "spoof",
        )


_2019 = "{speaker} {utterance} - {attack} {key}\n"
_2021 = {
    "LA": "{speaker} {utterance} {codec} {line} {attack_or_key} {key} {trim} {phase}\n",
    "DF": "{speaker} {utterance} {codec} {source} {attack} {key} {trim} {phase} {vocoder}"
    " - - - -\n",
}
_WILD = "{utterance}.wav,Voice {speaker},{wild_key}\n"
_ASV = "{utterance} {codec} {line} {attack_or_key} KIND {trim} {phase}\n"


def plan(seed: int = 1234, scale: float = 1.0) -> dict[str, Trial | str]:
    """Return the content of each file of the corpus, by its path: a clip, or text."""
    voices = _voices(seed)
    count = itertools.count()

    def draw(
        size: int,
        name: str,
        groups: str,
        attacks: Sequence[str],
        codecs: Sequence[str],
        phases: bool = False,
    ) -> list[Trial]:
        number = next(count)
        rng = np.random.default_rng([seed, 1, number])
        pool = [voice for group in groups for voice in voices[group]]
        half = max(4, round(size * scale / 2))
        clips = []
        for spoofed, order in zip(
            (False, True), np.split(rng.permutation(2 * half), 2), strict=True
        ):
            sent = [codecs[i % len(codecs)] for i in range(half)]
            rng.shuffle(sent)
            for i, (place, codec) in enumerate(zip(order.tolist(), sent, strict=True)):
                speaker, voice = pool[int(rng.integers(len(pool)))]
                attack = attacks[i % len(attacks)] if spoofed else "-"
                phase = {1: "progress", 3: "hidden"}.get(i % 10, "eval") if phases else "eval"
                way = (codec, phase, (seed, 2, number, place), groups == "W")
                over_range = phases and i % 80 == 0
                clips.append(Trial(name.format(place), speaker, voice, attack, *way, over_range))
        return sorted(clips, key=lambda clip: clip.seed)

    def text(form: str, clips: Sequence[Trial]) -> str:
        return "".join(clip.text(form) for clip in clips)

    content: dict[str, Trial | str] = {"README.txt": _README.format(version=VERSION, seed=seed)}
    media, phone, unknown = tuple(channel.MEDIA), tuple(channel.PHONE), UNKNOWN[:-1]
    top = "LA/ASVspoof2019_LA_"
    for part, clips in {
        "train.trn": draw(480, "LA_T_1{:06d}", "T", KNOWN, ["none"]),
        "dev.trl": draw(160, "LA_D_2{:06d}", "D", KNOWN, ["none"]),
        "eval.trl": draw(160, "LA_E_3{:06d}", "E", (*KNOWN[:2], *unknown), ["none"]),
    }.items():
        name = part.partition(".")[0]
        content |= {f"{top}{name}/flac/{clip.utterance}.flac": clip for clip in clips}
        content[f"{top}cm_protocols/ASVspoof2019.LA.cm.{part}.txt"] = text(_2019, clips)
        if name != "train":
            content[f"{top}asv_scores/ASVspoof2019.LA.asv.{name}.gi.trl.scores.txt"] = "".join(
                clip.text(f"{{attack_or_key}} {kind} {score:.6f}\n")
                for clip, kind, _, score in _verification(clips, np.random.default_rng([seed, 3]))
            )
    for track, clips in {
        "LA": draw(480, "LA_E_4{:06d}", "E", (*KNOWN, *unknown), phone, True),
        "DF": draw(480, "DF_E_5{:06d}", "EF", (*KNOWN, *unknown), media, True),
    }.items():
        top = f"ASVspoof2021_{track}_eval/flac/"
        content |= {f"{top}{clip.utterance}.flac": clip for clip in clips}
        content[f"ASVspoof2021.{track}.cm.eval.trl.txt"] = text("{utterance}\n", clips)
        content[f"keys/{track}/CM/trial_metadata.txt"] = text(_2021[track], clips)
        if track == "LA":
            rows = _verification(clips, np.random.default_rng([seed, 4]))
            content["keys/LA/ASV/trial_metadata.txt"] = "".join(
                f"{claimed} " + clip.text(_ASV.replace("KIND", kind))
                for clip, kind, claimed, _ in rows
            )
            content["keys/LA/ASV/ASVTorch_Kaldi/score.txt"] = "".join(
                f"{claimed} {clip.utterance} {score:.6f}\n" for clip, _, claimed, score in rows
            )
    clips = draw(240, "{}", "W", UNKNOWN, media)
    content |= {f"release_in_the_wild/{clip.utterance}.wav": clip for clip in clips}
    content["release_in_the_wild/meta.csv"] = "file,speaker,label\n" + text(_WILD, clips)
    return content


def _voices(seed: int) -> dict[str, list[tuple[str, Voice]]]:
    """Draw the speakers of train, dev, 2019 eval with 2021 LA, the rest of DF, and In-the-Wild."""
    most, more, wild = LANGUAGES[:10], LANGUAGES[:13], LANGUAGES[13:]
    groups = {"T": (20, most), "D": (10, most), "E": (16, most), "F": (10, more), "W": (14, wild)}
    voices = {}
    for number, (group, (count, languages)) in enumerate(groups.items()):
        rng = np.random.default_rng([seed, 0, number])
        spoken = [languages[i % len(languages)] for i in range(count)]
        voices[group] = [
            (f"{group}{i:03d}", Voice.draw(rng, language)) for i, language in enumerate(spoken)
        ]
    return voices


def _verification(clips: Sequence[Trial], rng: Rng) -> list[tuple[Trial, str, str, float]]:
    """Simulate speaker verification: clip, its kind, the claimed speaker and a score.

    Target scores are normal around 4, non-target scores around -4, with a standard deviation of 2.
    Each attack fools the system to its own degree.
    """
    speakers = sorted({clip.speaker for clip in clips})
    success = {attack: rng.uniform(-4, 4) for attack in sorted({clip.attack for clip in clips})}
    rows = []
    for clip in clips:
        if clip.attack != "-":
            score = success[clip.attack] + 2 * rng.normal()
            rows.append((clip, "spoof", clip.speaker, score))
            continue
        rows.append((clip, "target", clip.speaker, 4 + 2 * rng.normal()))
        others = [name for name in speakers if name != clip.speaker]
        for claimed in rng.choice(others, min(2, len(others)), replace=False):
            rows.append((clip, "nontarget", str(claimed), -4 + 2 * rng.normal()))
    return rows
