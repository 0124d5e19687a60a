r"""Make a file for each kind of input, give it to the commands, and write down what they say.

    python studies/inputs.py --out studies/results/inputs.json

The page *What is accepted* shows the result. Each input is made here. `verify` is the audit of a
corpus; `score` and `train` read a recording as their runs do, its beginning or all of it; `detect`
decodes in a process of its own; `evaluate` compares scores with a key. `tests/studies` compares the
committed result with what the library says today.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import provenance
import soundfile as sf
import torch
from provenance import ROOT
from safetensors.torch import save_file

from slslib.data.audio import Recording
from slslib.data.audit import verify
from slslib.data.corpora import open_corpus
from slslib.data.isolate import blocks_isolated
from slslib.errors import SlslibError
from slslib.evaluation.evaluate import evaluate
from slslib.files import write_json
from slslib.model.detector import Detector, load_backbone
from slslib.runs.clips import TrialDataset
from slslib.runs.train import train

sys.path.append(str(ROOT / "tests"))

from make_flac import write_bomb, write_flac
from make_mp4 import write_av
from tiny import DETECTOR, authors_file, recipe, told

WHAT = "what each command makes of each kind of input, and what it says"
OUT = ROOT / "studies" / "results" / "inputs.json"
FS = 16_000
DIFFERENCES = {
    "two minutes of FLAC, cut at the end": "score reads the beginning of a recording of more than "
    "a minute, and vouches for that part only",
    "two minutes of FLAC, damaged at the end": "score reads the beginning of a recording of more "
    "than a minute, and vouches for that part only",
    "zeros for 64,600 samples, then sound": "score and train hear the first 64,600 samples, detect "
    "the whole recording",
    **dict.fromkeys(
        (
            "MP4 in fragments",
            "WebM with Opus",
            "WebM from a browser, without a length",
            "WebM from a browser, without a length, cut",
        ),
        "detect reports what it cannot know of one recording; nobody would read such reports "
        "for each recording of a corpus",
    ),
    "longer than four hours": "train needs the whole recording in memory; the others read on",
    "ids only": "training and evaluation need labels",
    "no file": "without a protocol the recordings have no labels, which training and evaluation "
    "need",
    "one class only": "training and evaluation need both classes",
    "a transformers folder": "it holds a backbone without a head, which training adds",
    **dict.fromkeys(
        ("another shape", "head without its gate"), "train takes the backbone alone, not the head"
    ),
}
"""Why commands differ about an input. About every other input they agree."""


@dataclass
class Row:
    """What the commands make of an input.

    Attributes:
        group: Its kind.
        name: What it is.
        results: ``"accepted"``, ``"noted"`` (accepted, and told) or ``"refused"``, by command.
        says: What each command says, if it says anything.
    """

    group: str
    name: str
    results: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)

    def note(self, command: str, result: str, text: str = "", folder: Path | None = None) -> None:
        """Write down one command's answer, without the names of temporary folders."""
        self.results[command] = result
        if text:
            text = text.replace(f"{folder.resolve()}/", "").replace(f"{folder.resolve()}", "FOLDER")
            self.says[command] = " ".join(re.sub(r"0x[0-9a-f]{6,}", "0x...", text).split())

    def ask(self, command: str, function: Callable[[], Any], folder: Path) -> None:
        """Run a command; a list of texts that it returns is what it notes."""
        try:
            noted = function()
        except SlslibError as error:
            self.note(command, "refused", str(error), folder)
        else:
            self.note(command, "noted" if noted else "accepted", "; ".join(noted or ()), folder)

    def differs(self) -> bool:
        """Tell whether a command refuses what another accepts."""
        return len({result == "refused" for result in self.results.values()}) > 1


APEV2 = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 47, 1, 0xA0000000)
APEV2 += struct.pack("<II", 1, 0) + b"Title\0x"
APEV2 += struct.pack("<8sIIII8x", b"APETAGEX", 2000, 47, 1, 0x80000000)
LYRICS3 = b"LYRICSBEGIN[00:01]la la la\r\nLYRICSEND"


def sound(n: int = 20_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return 16-bit noise."""
    noise = np.random.default_rng(seed).normal(0, 2_000, (n, channels))
    return np.rint(noise).astype(np.int16)


def _audio(
    path: Path,
    samples: np.ndarray | None = None,
    rate: int = FS,
    edit: Callable[[bytes], bytes] = bytes,
    **options: Any,
) -> None:
    """Write a recording and change its bytes."""
    stream = io.BytesIO()
    options = {"format": path.suffix[1:].upper(), **options}
    sf.write(stream, sound() if samples is None else samples, rate, **options)
    path.write_bytes(edit(stream.getvalue()))


def _flipped(place: float) -> Callable[[bytes], bytes]:
    """Return what changes the byte at a place between 0 and 1."""

    def edit(data: bytes) -> bytes:
        k = int(place * len(data))
        return data[:k] + bytes([data[k] ^ 0x55]) + data[k + 1 :]

    return edit


def _put(place: int, content: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + content + data[place + len(content) :]


def _zeroed_end(data: bytes) -> bytes:
    """Zero the last tenth of the sound in an MP4 file."""
    at = data.index(b"mdat") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    n = (end - at) // 10
    return data[: end - n] + bytes(n) + data[end:]


def _cut(n: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-n]


def _append(content: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data + content


def _twice(data: bytes) -> bytes:
    return data + data


def _twice_untyped(data: bytes) -> bytes:
    return data + data[data.index(b"mdat") - 4 :]


def _played(data: bytes) -> bytes:
    return _put(data.index(b"elst") + 12, struct.pack(">I", 1_000))(data)


def _without_length(data: bytes) -> bytes:
    return data[data.find(data[:2], 4) :]  # the first frame of an MP3 file holds it


def _over_range(path: Path) -> None:
    samples = sound(seed=1)[:, 0].astype(np.int64)
    samples[9_000] = 40_000
    write_flac(path, samples)


def _endless(path: Path) -> None:
    write_flac(path, sound()[:, 0], with_md5=False, frames=0)


def _link(path: Path, there: bool = True) -> None:
    target = path.parent.parent / "elsewhere.wav"
    _audio(target)
    path.symlink_to(target if there else "nowhere.wav")


def _alias(path: Path) -> None:
    path.symlink_to(path.name)


_LIVE: Any = {"rate": 48_000, "codec": "libopus", "live": "1"}
_ZEROS = np.zeros(20_000, np.int16)
_FIRST_ZERO = np.concatenate([np.zeros(64_600, np.int16), sound()[:, 0]])
_CANCEL = np.concatenate([sound(), -sound()], axis=1)
_LOUD = np.array([[0.1, 1.5]] * 4_000).ravel()
_SPIKE = {what: np.where(np.arange(20_000) == 9, what, 0.1) for what in (np.nan, np.inf)}
_LONG = sound(120 * FS)
Maker = Callable[[Path], Any]


def recordings() -> dict[str, dict[str, tuple[str, Maker]]]:
    """Return, by group and name, the file's ending and what makes it."""

    def made(samples: np.ndarray | None = None, **options: Any) -> Maker:
        return lambda path: _audio(path, samples, **options)

    def phone(rate: int = FS, edit: Callable[[bytes], bytes] = bytes, **options: Any) -> Maker:
        def make(path: Path) -> None:
            path.write_bytes(edit(write_av(path, sound(2 * rate), rate, **options).read_bytes()))

        return make

    return {
        "Containers and codings": {
            "WAV, 16 bits": (".wav", made()),
            "WAV, 8 bits": (".wav", made(subtype="PCM_U8")),
            "WAV, 24 bits": (".wav", made(subtype="PCM_24")),
            "WAV, floats": (".wav", made(sound() / 32_768, subtype="FLOAT")),
            "WAV, A-law": (".wav", made(subtype="ALAW")),
            "WAV, GSM 6.10": (".wav", made(subtype="GSM610")),
            "WAV, extensible header": (".wav", made(format="WAVEX")),
            "WAV written to a pipe, without a length": (".wav", made(edit=_put(40, b"\xff" * 4))),
            "WAV, big-endian (RIFX)": (".wav", made(endian="BIG")),
            "WAV of 64 bits (RF64)": (".wav", made(format="RF64")),
            "FLAC, 16 bits": (".flac", made()),
            "FLAC, 24 bits": (".flac", made(subtype="PCM_24")),
            "FLAC without MD5": (
                ".flac",
                lambda path: write_flac(path, sound()[:, 0], with_md5=False),
            ),
            "FLAC without MD5 and length": (".flac", _endless),
            "FLAC after an ID3 tag": (
                ".flac",
                made(edit=lambda data: b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data),
            ),
            "FLAC named .wav": (".wav", made(format="FLAC")),
            "Ogg Vorbis": (".ogg", made()),
            "Ogg Opus": (".opus", made(format="OGG", subtype="OPUS")),
            "MP3": (".mp3", made()),
            "MP3 without a length": (".mp3", made(edit=_without_length)),
            "AIFF named .wav": (".wav", made(format="AIFF")),
            "a text named .wav": (".wav", lambda path: path.write_text("no recording\n" * 99)),
            "AIFF": (".aiff", made()),
            "AIFF, IMA ADPCM": (".aiff", made(subtype="IMA_ADPCM")),
            "MP4 with AAC (M4A)": (".m4a", phone()),
            "MP4 with Apple Lossless": (".m4a", phone(codec="alac")),
            "MP4 with Opus": (".mp4", phone(48_000, codec="libopus")),
            "MP4 with AAC and a film": (".mp4", phone(video=True)),
            "MP4 with two audio tracks": (".m4a", phone(n_audio=2)),
            "MP4 with AC-3": (".mp4", phone(48_000, codec="ac3")),
            "MP4 in fragments": (".mp4", phone(movflags="frag_keyframe+empty_moov")),
            "WebM with Opus": (".webm", phone(48_000, codec="libopus")),
            "WebM from a browser, without a length": (".webm", phone(**_LIVE)),
            "WebM whose sound begins after 2 s": (
                ".webm",
                phone(48_000, codec="libopus", start=2),
            ),
            "AAC without a container": (".aac", phone()),
        },
        "Rates and channels": {
            "4 kHz": (".wav", made(rate=4_000)),
            "8 kHz": (".wav", made(rate=8_000)),
            "44.1 kHz": (".flac", made(rate=44_100)),
            "192 kHz": (".wav", made(rate=192_000)),
            "3,999 Hz": (".wav", made(rate=3_999)),
            "200 kHz": (".wav", made(rate=200_000)),
            "two channels": (".flac", made(sound(channels=2))),
            "eight channels": (".wav", made(sound(channels=8))),
            "nine channels": (".wav", made(sound(channels=9))),
        },
        "Length": {
            "no samples": (".wav", made(sound(0))),
            "399 samples": (".wav", made(sound(399))),
            "399 samples, --allow-silence": (".wav", made(sound(399))),
            "400 samples": (".wav", made(sound(400))),
            "two minutes": (".wav", made(_LONG)),
            "longer than four hours": (".flac", lambda path: write_bomb(path, 3_600)),
        },
        "Level": {
            "zeros": (".wav", made(_ZEROS)),
            "zeros, --allow-silence": (".wav", made(_ZEROS)),
            "one value, not zero": (".wav", made(_ZEROS + 300)),
            "zeros for 64,600 samples, then sound": (".wav", made(_FIRST_ZERO)),
            "channels that cancel each other": (".wav", made(_CANCEL)),
            "channels that cancel each other, --allow-silence": (".wav", made(_CANCEL)),
            "floats beyond 1": (".wav", made(_LOUD, subtype="FLOAT")),
            "floats in units of 16-bit integers": (".wav", made(_LOUD * 32_768, subtype="FLOAT")),
            "NaN": (".wav", made(_SPIKE[np.nan], subtype="FLOAT")),
            "infinity": (".wav", made(_SPIKE[np.inf], subtype="FLOAT")),
            "FLAC beyond 16 bits (over-range)": (".flac", _over_range),
        },
        "Truncation and damage": {
            "WAV, cut": (".wav", made(edit=_cut(1_000))),
            "WAV, its header alone": (".wav", made(edit=lambda data: data[:44])),
            "WAV, another sample": (".wav", made(edit=_flipped(0.5))),
            "FLAC, cut": (".flac", made(edit=_cut(1_000))),
            "FLAC, another byte": (".flac", made(edit=_flipped(0.5))),
            "FLAC, another MD5": (".flac", made(edit=_put(30, b"\0\1\2\3"))),
            "Ogg, cut": (".ogg", made(edit=_cut(100))),
            "Ogg, another byte": (".ogg", made(edit=_flipped(0.5))),
            "WebM, cut": (".webm", phone(48_000, codec="libopus", edit=_cut(5_000))),
            "WebM from a browser, without a length, cut": (
                ".webm",
                phone(**_LIVE, edit=_cut(5_000)),
            ),
            "MP4, cut": (".m4a", phone(edit=_cut(500))),
            "MP4, another byte of its audio": (".m4a", phone(edit=_flipped(0.5))),
            "MP4, zeros in its audio": (".m4a", phone(edit=_put(3_000, bytes(3_000)))),
            "MP4 with Opus, zeros at the end of its audio": (
                ".mp4",
                phone(48_000, codec="libopus", edit=_zeroed_end),
            ),
            "AIFF, cut": (".aiff", made(edit=_cut(1_000))),
            "MP3, cut": (".mp3", made(edit=_cut(500))),
            "MP3 without a length, cut": (
                ".mp3",
                made(edit=lambda data: _without_length(data)[:-500]),
            ),
            "MP3, another byte": (".mp3", made(edit=_flipped(0.6))),
            "two minutes of FLAC, cut at the end": (".flac", made(_LONG, edit=_cut(1_000))),
            "two minutes of FLAC, damaged at the end": (".flac", made(_LONG, edit=_flipped(0.99))),
            "two minutes of WAV, cut at the end": (".wav", made(_LONG, edit=_cut(1_000))),
        },
        "Headers that contradict the file": {
            "WAV, another rate in its header": (".wav", made(edit=_put(24, b"\x40\x1f\0\0"))),
            "WAV, more audio announced than there is": (
                ".wav",
                made(edit=_put(40, b"\xff\xff\0\0")),
            ),
            "WAV, less audio announced than there is": (
                ".wav",
                made(edit=_put(40, b"\0\x10\0\0")),
            ),
            "WAV, another length of the whole file": (".wav", made(edit=_put(4, b"\0\x10\0\0"))),
            "AIFF, another length of the whole file": (".aiff", made(edit=_put(4, b"\0\0\x10\0"))),
            "AIFF, fewer samples announced than there are": (
                ".aiff",
                made(edit=_put(22, b"\0\0\x10\0")),
            ),
            "AIFF, an offset into its audio": (".aiff", made(edit=_put(46, b"\0\0\x10\0"))),
            "MP4, an edit list that plays its beginning": (".m4a", phone(edit=_played)),
            "FLAC, another rate in its header": (".flac", made(edit=_put(18, b"\x0a\xc4\x40"))),
            "FLAC, more samples announced than there are": (
                ".flac",
                lambda path: write_flac(path, sound()[:, 0], frames=30_000),
            ),
        },
        "Joined files and tails": {
            "two WAV files in one": (".wav", made(edit=_twice)),
            "two FLAC files in one": (".flac", made(edit=_twice)),
            "two Ogg files in one": (".ogg", made(edit=_twice)),
            "two MP3 files in one": (".mp3", made(edit=_twice)),
            "two MP4 files in one": (".m4a", phone(edit=_twice)),
            "two MP4 files in one, the second without its type": (
                ".m4a",
                phone(edit=_twice_untyped),
            ),
            "two AIFF files in one": (".aiff", made(edit=_twice)),
            "WAV with zeros after it": (".wav", made(edit=_append(bytes(4_000)))),
            "WAV with an ID3v1 tag after it": (".wav", made(edit=_append(b"TAG".ljust(128)))),
            "WAV with other bytes after it": (".wav", made(edit=_append(b"\x17\x99" * 50))),
            "FLAC with an ID3v1 tag after it": (".flac", made(edit=_append(b"TAG".ljust(128)))),
            "FLAC with other bytes after it": (".flac", made(edit=_append(b"\x17\x99" * 50))),
            "MP3 with an ID3v1 tag after it": (".mp3", made(edit=_append(b"TAG".ljust(128)))),
            "MP3 with an APEv2 tag after it": (".mp3", made(edit=_append(APEV2))),
            "MP3 with a Lyrics3 tag after it": (".mp3", made(edit=_append(LYRICS3))),
            "MP3 with a zero byte after it": (".mp3", made(edit=_append(b"\0"))),
            "MP3 with other bytes after it": (".mp3", made(edit=_append(b"\x17\x99" * 50))),
            "MP3 without a length, a zero byte after it": (
                ".mp3",
                made(edit=lambda data: _without_length(data) + b"\0"),
            ),
            "two MP3 files in one, an APEv2 tag between": (
                ".mp3",
                made(edit=lambda data: data + APEV2 + data),
            ),
        },
        "Files and links": {
            "nothing of this name": (".wav", lambda path: None),
            "an empty file": (".wav", lambda path: path.touch()),
            "a folder": (".wav", lambda path: path.mkdir()),
            "a FIFO": (".wav", os.mkfifo),
            "a symbolic link to a recording elsewhere": (".wav", _link),
            "a symbolic link to nothing": (".wav", partial(_link, there=False)),
            "a symbolic link to itself": (".wav", _alias),
            "an ending in capitals": (".WAV", made(format="WAV")),
            "a name with blanks": (" and blanks.wav", made()),
        },
    }


def audio_rows(folder: Path) -> Iterator[Row]:
    """Give each recording to verify, score, train and detect."""
    for group, files in recordings().items():
        for k, (name, (ending, make)) in enumerate(files.items()):
            corpus = folder / f"{group[:5]}{k}"
            (corpus / "wav").mkdir(parents=True)
            utterance = f"recording{ending.removesuffix('.wav')}" if " " in ending else "recording"
            make(corpus / "wav" / f"recording{ending}")
            (corpus / "own.csv").write_text(f"file,label\n{utterance},spoof\n")
            opened = open_corpus(str(corpus))
            row, silence = Row(group, name), "--allow-silence" in name
            row.ask("verify", partial(_verify, opened, silence), corpus / "wav")
            read = partial(_clip, opened, allow_silence=silence)
            row.ask("score", read, corpus / "wav")
            row.ask("train", partial(_silently, read, crop="random"), corpus / "wav")
            path = corpus / "wav" / f"recording{ending}"
            row.ask("detect", partial(_isolated, path, silence), corpus / "wav")
            yield row


def _verify(corpus: Any, allow_silence: bool) -> list[str]:
    """Audit one recording; return what the report notes about it."""
    spec = f"{corpus.name}:{corpus.partition}".removesuffix(":-")
    report = verify(spec, jobs=1, allow_silence=allow_silence)
    for text in report["unusable"].values():
        raise SlslibError(text)
    for utterance in report["missing"]:
        corpus.audio_path(utterance)  # raises what is reported
    usual = {"sample_rates": 16_000, "channels": 1}
    unusual = [name for name, value in usual.items() if set(map(int, report[name])) != {value}]
    unusual += ["over_range"] * bool(report["over_range"])
    return unusual + ["states_length"] * report["states_length"].get(False, 0)


def _clip(corpus: Any, **options: Any) -> list[str]:
    """Read one recording as a run does; return what the run counts."""
    clip = TrialDataset(corpus, **options)[0]
    if clip.error:
        raise SlslibError(clip.error)
    return [name for name in ("converted", "over_range") if getattr(clip, name)]


def _isolated(path: Path, allow_silence: bool) -> list[str]:
    """Decode a recording as detect does; return what it says besides."""
    found = Recording(str(path))
    for _ in blocks_isolated(path, found=found, allow_silence=allow_silence, any_length=True):
        pass
    return ["states_length"] * (not found.states_length)


_2019 = "s a - - bonafide\ns b - A07 spoof\n"
PROTOCOLS: dict[str, str | bytes | None] = {
    "ids only": "a\nb\n",
    "ASVspoof 2019": _2019,
    "In-the-Wild's key": "- a - - - bona-fide\n- b - - - spoof\n",
    "ASVspoof 2021 LA": "s a alaw ita_tx bonafide bonafide notrim eval\n"
    "s b alaw ita_tx A07 spoof notrim eval\n",
    "ASVspoof 2021 DF": "s a nocodec asvspoof bonafide bonafide notrim eval bonafide - - - -\n"
    "s b nocodec asvspoof A07 spoof notrim eval vocoder - - - -\n",
    "ASVspoof 5": "s a F - - - - - bonafide -\ns b F - - - AC1 A17 spoof -\n",
    "a table with a header": "file,label\na.wav,bonafide\nb.wav,spoof\n",
    "a header, separated by tabs": "path\tkey\na\tbonafide\nb\tspoof\n",
    "gzipped": gzip.compress(_2019.encode(), mtime=0),
    "lines that end in CR LF": _2019.replace("\n", "\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + _2019.encode(),
    "no newline at the end": _2019.rstrip("\n"),
    "no file": None,
    "an empty file": "",
    "a header alone": "file,label\n",
    "an unknown label": _2019.replace("spoof", "fake"),
    "a label in capitals": _2019.replace("spoof", "SPOOF"),
    "an unknown phase": "s a c t bonafide bonafide notrim eval\ns b c t A07 spoof notrim test\n",
    "an utterance twice": _2019 + "s a - - bonafide\n",
    "a bona fide trial with an attack": _2019.replace("- - bonafide", "- A01 bonafide"),
    "a name with ..": _2019.replace(" b ", " ../b "),
    "an absolute name": _2019.replace(" b ", " /b "),
    "a control character": _2019.replace(" b ", " b\x07 "),
    "not UTF-8": _2019.encode().replace(b" b ", b" \xe9 "),
    "a blank line": _2019.replace("\n", "\n\n", 1),
    "a line of fewer columns": _2019 + "s c -\n",
    "columns of no known form": "s a bonafide\ns b spoof\n",
    "one class only": "s a - - bonafide\ns b - - bonafide\n",
    "a recording that is not there": _2019.replace(" b ", " c "),
}
_KEY = "".join(f"s {n} - {'A07 spoof' if n in 'bd' else '- bonafide'}\n" for n in "abcd")
_SCORES = "a 2.5\nb -1.0\nc 0.5\nd -3.25\n"
SCORES: dict[str, tuple[str | bytes | None, dict[str, Any]]] = {
    "utterance and score": (_SCORES, {}),
    "four columns of ASVspoof 2019": (
        "a - bonafide 2\nb A07 spoof -1\nc - bonafide 1\nd A07 spoof -2\n",
        {},
    ),
    "a label after the score": ("a 2 bonafide\nb -1 spoof\nc 1 bonafide\nd -2 spoof\n", {}),
    "a table with a header": ("file,cm-score\na,2\nb,-1\nc,1\nd,-2\n", {}),
    "paths and endings": (_SCORES.replace("a ", "/x/a.flac "), {}),
    "gzipped": (gzip.compress(_SCORES.encode(), mtime=0), {}),
    "two logits": ("a 1 2\nb 2 1\nc 1 2\nd 2 1\n", {}),
    "two logits, --format utterance,spoof,bonafide": (
        "a 1 2\nb 2 1\nc 1 3\nd 3 1\n",
        {"format": "utterance,spoof,bonafide"},
    ),
    "no file": (None, {}),
    "an empty file": ("", {}),
    "no newline at the end": (_SCORES.rstrip("\n"), {}),
    "a score of nan": (_SCORES.replace("0.5", "nan"), {}),
    "a score of -inf": (_SCORES.replace("0.5", "-inf"), {}),
    "a score of 1e999": (_SCORES.replace("0.5", "1e999"), {}),
    "a decimal comma": (_SCORES.replace("0.5", "0,5"), {}),
    "an utterance twice": (_SCORES + "a 2.5\n", {}),
    "a trial without a score": (_SCORES.replace("c 0.5\n", ""), {}),
    "a trial without a score, --allow-missing": (
        _SCORES.replace("c 0.5\n", ""),
        {"allow_missing": True},
    ),
    "a score without a trial": (_SCORES + "e 1\n", {}),
    "a score without a trial, --allow-extra": (_SCORES + "e 1\n", {"allow_extra": True}),
    "two names of one stem": (_SCORES.replace("a 2.5", "x/a 2.5\ny/a 2"), {}),
    "a label that contradicts the key": (
        "a 2 spoof\nb -1 spoof\nc 1 bonafide\nd -2 spoof\n",
        {},
    ),
    "one score for all": ("a 1\nb 1\nc 1\nd 1\n", {}),
    "equal scores": ("a 1\nb 1\nc 2\nd 0\n", {}),
    "the sign swapped": ("a -2\nb 1\nc -1\nd 2\n", {}),
}


def _write(path: Path, content: str | bytes | None) -> None:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def protocol_rows(folder: Path) -> Iterator[Row]:
    """Give each protocol to the commands that read a corpus, and as a key to evaluate."""
    for k, (name, content) in enumerate(PROTOCOLS.items()):
        corpus = folder / f"protocol{k}"
        (corpus / "wav").mkdir(parents=True)
        for n, utterance in enumerate("ab"):
            _audio(corpus / "wav" / f"{utterance}.wav", sound(seed=n))
        _write(corpus / "own.txt", content)
        (corpus.with_suffix(".scores")).write_text("a 1\nb -1\n")
        row = Row("Protocols and keys", name)
        row.ask("verify", partial(_opened, corpus, _verify, False), corpus)
        row.ask("score", partial(_opened, corpus, _clips), corpus)
        row.ask("train", partial(_trained, corpus), corpus)
        scores = corpus.with_suffix(".scores")
        row.ask("evaluate", partial(_evaluated, scores, corpus / "own.txt"), corpus)
        yield row


def _opened(corpus: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(open_corpus(str(corpus)), *arguments)


def _clips(corpus: Any) -> None:
    for clip in map(TrialDataset(corpus).__getitem__, range(len(corpus))):
        if clip.error:
            raise SlslibError(clip.error)


def _trained(corpus: Path) -> None:
    """Begin a training, and stop it at its second step."""
    config = recipe(train=str(corpus), dev=None, monitor="train_loss", batch_size=2)
    train(config, corpus.with_suffix(".run"), progress=False, max_steps=1)


def _evaluated(scores: Path, key: Path, **options: Any) -> list[str]:
    return evaluate(scores, key, **options)["warnings"]


def score_rows(folder: Path) -> Iterator[Row]:
    """Give each score file to evaluate."""
    key = folder / "key.txt"
    key.write_text(_KEY)
    for k, (name, (content, options)) in enumerate(SCORES.items()):
        (folder / str(k)).mkdir()
        path = folder / str(k) / "scores.txt"
        _write(path, content)
        row = Row("Score files", name)
        row.ask("evaluate", partial(_evaluated, path, key, **options), path.parent)
        yield row


def checkpoints() -> dict[str, tuple[str, Maker]]:
    """Return the ending of each checkpoint and what makes it."""
    detector = Detector(DETECTOR, seed=0)
    torch.manual_seed(0)
    theirs = authors_file(detector)
    ours = detector.state_dict()
    other = {"module.weight": torch.zeros(3)}
    saved = partial(partial, torch.save)

    def changed(**tensors: torch.Tensor | None) -> Any:
        state = told(theirs, DETECTOR) | {n.replace("__", "."): t for n, t in tensors.items()}
        state._metadata = told(theirs, DETECTOR)._metadata
        for name in [n for n, t in state.items() if t is None]:
            del state[name]
        return state

    def run(path: Path, file: str = "epoch_0.safetensors") -> None:
        path.mkdir()
        detector.save(path / "epoch_0.safetensors")
        write_json(path / "best.json", {"file": file})

    def begun(path: Path) -> None:
        path.mkdir()
        (path / "config.json").write_text("{}")
        (path / "state.pt").write_text("x")

    def shortened(path: Path) -> None:
        detector.save(path)
        path.write_bytes(path.read_bytes()[:-1])

    def compressed(path: Path) -> None:
        torch.save(changed(), path)
        hostile.compress(path)

    half = {name: t.half() if t.is_floating_point() else t for name, t in theirs.items()}
    halves = changed(**{name.replace(".", "__"): tensor for name, tensor in half.items()})
    return {
        "safetensors of slslib": (".safetensors", detector.save),
        "the authors' .pth, converted": (".pth", saved(changed())),
        "16-bit floats": (".pth", saved(halves)),
        "a .pth that does not state its number of heads": (".pth", saved(theirs)),
        "a folder of a training run": ("", run),
        "a run without a finished epoch": ("", begun),
        "a run whose best.json leads elsewhere": ("", partial(run, file="../../x.safetensors")),
        "a transformers folder": ("", detector.backbone.model.save_pretrained),
        "a symbolic link to a checkpoint": (".safetensors", partial(_linked, detector)),
        "no file": (".pth", lambda path: None),
        "an empty file": (".pth", lambda path: path.touch()),
        "safetensors, cut by a byte": (".safetensors", shortened),
        "safetensors of somebody else": (".safetensors", partial(save_file, other)),
        "a .pth of another model": (".pth", saved(other)),
        "a list": (".pth", saved([1, 2])),
        "two models in one .pth": (".pth", saved({"model": changed(), "model_ema": changed()})),
        "NaN among the weights": (".pth", saved(changed(fc0__bias=torch.tensor([torch.nan])))),
        "another shape": (".pth", saved(changed(fc1__bias=torch.zeros(7)))),
        "32-bit integers": (".pth", saved(changed(fc0__bias=torch.zeros(1, dtype=torch.int32)))),
        "head without its gate": (".pth", saved(changed(fc0__weight=None))),
        "a compressed .pth": (".pth", compressed),
        "code": (".pth", saved({"model": hostile.Bomb()})),
        "a FIFO": (".pth", os.mkfifo),
    } | {"ours, a tensor too many": (".safetensors", partial(_too_many, ours))}


def _linked(detector: Detector, path: Path) -> None:
    detector.save(path.with_name("target.safetensors"))
    path.symlink_to("target.safetensors")


def _too_many(ours: dict[str, torch.Tensor], path: Path) -> None:
    detector = Detector(DETECTOR, seed=0)
    detector.register_buffer("head_more", torch.zeros(2))
    detector.save(path)


def checkpoint_rows(folder: Path) -> Iterator[Row]:
    """Give each checkpoint to score, to detect, and as a backbone to train."""
    for k, (name, (ending, make)) in enumerate(checkpoints().items()):
        (folder / str(k)).mkdir()
        path = folder / str(k) / f"checkpoint{ending}"
        make(path)
        row = Row("Checkpoints", name)
        for command in ("score", "detect"):
            row.ask(command, partial(_silently, Detector.load, path), path.parent)
        row.ask("train", partial(_silently, load_backbone, path), path.parent)
        yield row


def _silently(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call a function whose result is not shown."""
    function(*arguments, **options)


@contextmanager
def _folders() -> Iterator[Callable[[], Path]]:
    with tempfile.TemporaryDirectory() as name:
        yield lambda: Path(tempfile.mkdtemp(dir=Path(name).resolve()))


def table() -> list[dict[str, Any]]:
    """Return what the commands make of all inputs."""
    with _folders() as new, torch.random.fork_rng():
        rows = [
            *audio_rows(new()),
            *protocol_rows(new()),
            *score_rows(new()),
            *checkpoint_rows(new()),
        ]
    return [
        {"group": row.group, "input": row.name, "results": row.results, "says": row.says}
        | ({"differs": DIFFERENCES.get(row.name, "")} if row.differs() else {})
        for row in rows
    ]


def main() -> None:
    """Make the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = provenance.provenance("torch", "soundfile", "av", "pandas", "safetensors")
    rows = table()
    provenance.write(args.out, WHAT, where, rows)
    for row in rows:
        if "differs" in row:
            print(row["input"], row["results"], row["differs"] or "UNEXPLAINED")


if __name__ == "__main__":
    main()
