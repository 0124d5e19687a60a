r"""Give malformed files to the parsers: only the library's own errors may come out.

    python studies/fuzz.py TARGET [--runs 1000] [--seed 0] [--engine mutate|atheris]

The targets read audio headers, keys, score files, checkpoints, files of thresholds, ONNX files and
the JSON beside a checkpoint. Each has sound files, made here, that are changed at random: bytes
flipped, removed, repeated, exchanged between files, words put in.
Atheris (not needed, `pip install atheris`) chooses the changes by the lines of slslib that they
reach. An execution ends in one of three ways: the file is accepted, refused by an error of
`slslib.errors`, or something else escapes, which is a fault.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

if "--engine=atheris" in sys.argv:  # before slslib is imported, whose lines it counts
    import atheris

    with atheris.instrument_imports(include=["slslib", "slsapp"]):
        import slsapp.publish
        import slsapp.threshold  # noqa: F401
        import slslib.data.headers
        import slslib.data.protocols
        import slslib.data.scorefiles
        import slslib.model.checkpoints
        import slslib.model.detector
        import slslib.model.foreign
        import slslib.model.geometry
        import slslib.model.onnx
        import slslib.model.pickles
        import slslib.runs.detect  # noqa: F401

import numpy as np
import onnx
import soundfile as sf
import torch
from provenance import ROOT
from safetensors.torch import save

import slslib.runs.detect as detecting
from slsapp.publish import _beside
from slsapp.threshold import threshold
from slslib.data.headers import inspect
from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import read_asv_scores, read_scores
from slslib.errors import SlslibError
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector, load_backbone

sys.path.append(str(ROOT / "tests"))

from make_mp4 import write_av
from tiny import DETECTOR, told

_WORDS = [
    *(b"\t", b" ", b",", b";", b"|", b'"', b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"-"),
    *(b"nan", b"inf", b"-1e999", b"1_0", b"0x1", b"bonafide", b"bona-fide", b"spoof", b"eval"),
    *(b"..", b"/", b"../", b"utterance", b"file,label", b"score", b"label", b"A07", b"Pooled"),
    *(b"RIFF", b"WAVE", b"fmt ", b"data", b"fLaC", b"OggS", b"ID3", b"Xing", b"LAME", b"TAG"),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", b"\0\0\0\0", b"{", b"}", b"[", b"null"),
    *(b"1e9", b"-1", b"true", b'"config":', b'"backbone":', b"cos\nsystem\n", b"\x8d", b"."),
    *(b"FORM", b"AIFF", b"AIFC", b"COMM", b"SSND", b"ftyp", b"moov", b"moof", b"elst", b"stsz"),
    *(b'"threshold":', b'"pool":', b'"n_samples":', b'"model_type":', b'"file":', b"AC3", b"E_1"),
]


@dataclass
class Outcome:
    """What became of the executions of one target."""

    runs: int = 0
    accepted: int = 0
    refused: int = 0
    sentences: set[str] = field(default_factory=set)
    escaped: dict[str, dict[str, Any]] = field(default_factory=dict)
    slowest_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def told(self) -> dict[str, Any]:
        """Return the counts; of what escaped, the number and one input of each kind."""
        counts = {"runs": self.runs, "accepted": self.accepted, "refused": self.refused}
        counts |= {"kinds_of_refusal": len(self.sentences), "slowest_s": round(self.slowest_s, 2)}
        counts |= {"seconds": round(time.monotonic() - self.began, 1)}
        return counts | {"escaped": self.escaped}


def _audio() -> list[bytes]:
    """Return small sound recordings of each container."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (800, 2))
    made = []
    for form, subtype in (
        *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "GSM610")),
        *(("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
        ("MP3", "MPEG_LAYER_III"),
    ):
        stream = io.BytesIO()
        samples = noise[:, 0] if subtype == "GSM610" else noise
        sf.write(stream, samples, 16_000, format=form, subtype=subtype)
        made.append(stream.getvalue())
    riff, flac, mp3 = made[0], made[5], made[-1]
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    streamed = riff[:4] + b"\xff" * 4 + riff[8:40] + b"\xff" * 4 + riff[44:]
    chunk = riff[:36] + b"LIST" + struct.pack("<I", 4) + b"INFO" + riff[36:]
    return [*made, tag + flac, tag + mp3, streamed, chunk, riff + b"TAG" + bytes(125)]


def _mp4_and_aiff() -> list[bytes]:
    """Return small recordings of phones, and of AIFF and AIFC."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (800, 2))
    made = []
    for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW"):
        stream = io.BytesIO()
        sf.write(stream, noise[:300], 16_000, format="AIFF", subtype=subtype)
        made.append(stream.getvalue())
    whole = np.rint(noise[:, :1] * 32_767).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        for rate, codec in ((16_000, "aac"), (16_000, "alac"), (48_000, "libopus")):
            for options in ({}, {"video": True}, {"movflags": "frag_keyframe+empty_moov"}):
                path = Path(folder) / "x.mp4"
                write_av(path, whole, rate, codec=codec, **options)  # type: ignore[arg-type]
                made.append(path.read_bytes())
    return made


def _keys() -> list[bytes]:
    lines = [
        *("LA_E_1\nLA_E_2", "s LA_E_1 - - bonafide\ns LA_E_2 - A07 spoof"),
        *("- 1.wav - - - bona-fide\n- 2.wav - - - spoof",),
        "s LA_E_1 alaw ita_tx bonafide bonafide notrim eval\ns LA_E_2 c t A07 spoof trim progress",
        "s DF_E_1 nocodec asvspoof A07 spoof notrim eval vocoder - - - -",
        "E_0001 E_1 F - - - AC1 A17 spoof -\nE_2 E_2 M C05 1 2 AC2 - bonafide -",
        'file,speaker,label\n"a, b.wav",x,bona-fide\nc.wav,y,spoof',
        "path\tkey\nx/a.flac\tspoof\nx/b.flac\tbonafide",
        "utterance|attack\na|bonafide\nb|A01",
        # ASVspoof 5, of 10 to 14 columns; tables of one's own.
        "T_1 T_0001 F - - - AC3 A05 spoof -\nT_1 T_0002 F - - - AC3 bonafide bonafide -",
        "D_1 D_0001 M C01 3 7 AC1 A09 spoof - - - -\nD_2 D_0002 F - - - AC2 - bonafide - - - -",
        'path;label\n"real/a; 1.wav";bonafide\nfake/b.m4a;spoof\n"c ""d"".mp4";spoof',
        "\ufefflabel,attack,filename,phase\nspoof,A01,a.aif,eval\nbonafide,-,b.aiff,eval",
        "file_name\tlabel\tspeaker\nsub/a b.opus\tspoof\t1\nsub/\u00e4.wav\tbonafide\t2",
    ]
    return [f"{text}\n".encode() for text in lines]


def _scores() -> list[bytes]:
    lines = [
        *("LA_E_1 0.5\nLA_E_2 -1e-3", "LA_E_1 - bonafide 1.5\nLA_E_2 A07 spoof -2."),
        *("a.wav 1 spoof\nb.wav 2 bonafide", "a spoof 1\nb bonafide 2", "a\t1\nb c\t2"),
        *("file,cm-score,key\na,0.1,spoof\nb,.2,bonafide", "a 1.0 2.0\nb 3.0 4.0"),
        *("bonafide target 3.1\nA07 spoof 0.1\nbonafide nontarget -1",),
        "subset,attack,codec,C0,C1,C2\neval,Pooled,Pooled,0.1,0.2,0.3\neval,A07,alaw,nan,1,2",
        "filename\tcm-score\nE_0001\t0.5\nE_0002\t-3.25",  # ASVspoof 5
        # The key that goes with the ASV scores of _ASV.
        "s LA_1 alaw c - target notrim eval\ns LA_2 alaw c A07 spoof notrim progress",
    ]
    return [f"{text}\n".encode() for text in lines]


def _checkpoints() -> list[bytes]:
    """Return files of a detector whose tensors are left out or small: what is read is the rest."""
    few = {"ssl_model.model.mask_emb": torch.zeros(4), "fc0.bias": torch.zeros(1)}
    made = []
    for content, old in (
        *((few, True), ({"state_dict": few, "epoch": 3}, True), (told(few, DETECTOR), True)),
        *((few, False), ({"model": few, "cfg": {"model": {"encoder_attention_heads": 2}}}, False)),
    ):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=not old)
        made.append(stream.getvalue())
    return made


def _descriptions() -> list[bytes]:
    """Return the JSON that our safetensors hold beside the tensors, and some of its parts."""
    about = {"format": "slslib-1", "config": asdict(DETECTOR), "metadata": {"epoch": 1}}
    backbone = {"config": {"backbone": asdict(DETECTOR.backbone)}, "card": {"license": "x"}}
    return [json.dumps(one).encode() for one in (about, backbone, {"config": {}}, {})]


def _headers() -> list[bytes]:
    """Return whole small safetensors files."""
    tensors = {"head.gate.bias": torch.zeros(1), "backbone.model.x": torch.zeros(2, 2)}
    return [save(tensors), save(tensors, {"slslib": "{}"}), save({})]


def _thresholds() -> list[bytes]:
    """Return what `slslib threshold` writes, whole and without what is optional."""
    made = {"threshold": -1.5, "wanted_frr_percent": 5.0, "confidence_percent": 95.0}
    made |= {"n_bonafide": 59, "rank": 1, "quantiles": {"50 %": 1.0}} | _ThresholdReader.facts
    least = {"threshold": 0} | _ThresholdReader.facts
    return [json.dumps(one).encode() for one in (made, least, {"threshold": 1.0}, {})]


def _graph(n_samples: int) -> onnx.ModelProto:
    """Return a graph as `slslib export` writes it: the score is the mean of the samples."""
    h, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        h.make_node("ReduceMean", ["samples", "axes"], ["mean"], keepdims=0),
        h.make_node("Cast", ["mean"], ["llr"], to=kinds.DOUBLE),
    ]
    ends = [h.make_tensor_value_info("samples", kinds.FLOAT, ["batch", n_samples])]
    ends += [h.make_tensor_value_info("llr", kinds.DOUBLE, ["batch"])]
    axes = [h.make_tensor("axes", kinds.INT64, [1], struct.pack("<q", 1), raw=True)]
    graph = h.make_graph(nodes, "x", ends[:1], ends[1:], axes)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)


def _onnx_descriptions() -> list[bytes]:
    """Return the JSON that stands in the metadata of ONNX files."""
    training = {"recipe": "v1", "dev_eer_percent": 2.5, "dev_eer_threshold": -0.5, "epoch": 3}
    about = {"checkpoint": "x.pth", "checkpoint_sha256": "0", "n_samples": 400, "int8": False}
    described = [about | {"metadata": one} for one in (training, {"epoch": 1}, {})]
    return [json.dumps(one).encode() for one in (*described, {"n_samples": 400})]


def _onnx_files() -> list[bytes]:
    """Return whole small ONNX files, one of which keeps its constant in a file beside it."""
    made = []
    for about in _onnx_descriptions()[:2]:
        model = _graph(400)
        onnx.helper.set_model_props(model, {"slslib": about.decode()})
        made.append(model.SerializeToString())
    model = onnx.load_from_string(made[0])
    (constant,) = model.graph.initializer
    onnx.external_data_helper.set_external_data(constant, "/etc/passwd", 0, 8)
    constant.ClearField("raw_data")
    return [*made, model.SerializeToString()]


def _configs() -> list[bytes]:
    """Return the config.json of models on a hub: of transformers and of `slslib publish`."""
    known = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    known |= {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": True, "hidden_act": "gelu"}
    known |= {"feat_extract_activation": "gelu", "layer_norm_eps": 1e-5}
    kinds = [{"model_type": kind, "do_stable_layer_norm": True} for kind in ("wav2vec2", "hubert")]
    return [json.dumps(known | one).encode() for one in (*kinds, {"model_type": "wavlm"}, {})]


def _runs() -> list[bytes]:
    """Return what stands beside a checkpoint: a run, its best epoch, records of its scores."""
    config = {"recipe": "v1", "seed": 1, "dev": None, "backbone": "random", "init": None}
    run = {"config": config, "detector": asdict(DETECTOR), "initial_sha256": None}
    run |= {"slslib": "1", "torch": "2", "device": "cpu"}
    run |= {"data": [{"corpus": "x", "partition": "-", "protocol_sha256": "0", "n_trials": 1}]}
    scored = {"checkpoint_sha256": _RunReader().digest, "scores_sha256": "1"}
    scored |= {"corpus": "x", "partition": "-", "precision": "exact"}
    result = {"sha256": {"scores": "1"}, "eer_percent": 1.5, "eer_rule": "official"}
    result |= {"phase": "eval", "n_bonafide": 1, "n_spoof": 1, "warnings": []}
    result |= {"eer_interval_percent": [1, 2], "bootstrap": {"replicates": 9, "seed": 0}}
    best = {"file": "x.safetensors"}
    return [json.dumps(one | best).encode() for one in (run, scored, scored | result, {})]


_ASV = b"s LA_1 3.5\ns LA_2 -1\n"


def _read_scores(path: Path) -> None:
    """Read a file as each kind of scores; all have to refuse it in the same way."""
    beside = path.with_name("asv.txt")
    beside.write_bytes(_ASV)
    readers: list[Callable[[], Any]] = [
        lambda: read_asv_scores(beside, path),
        lambda: read_scores(path),
        lambda: read_scores(path, "utterance,spoof,bonafide"),
        lambda: read_scores(path, "cm-score"),
        lambda: read_asv_scores(path),
    ]
    refusals = []
    for reader in readers:
        try:
            reader()
        except SlslibError as error:
            refusals.append(error)
    if len(refusals) == len(readers):
        raise refusals[0]


class _Described:
    """Reads a detector that has the given description beside sound tensors."""

    def __init__(self) -> None:
        self.tensors = Detector(DETECTOR, seed=0).state_dict()

    def __call__(self, path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "replace")
        path.write_bytes(save(self.tensors, {"slslib": text}))
        Detector.load(path)


class _ThresholdReader:
    """Takes a file as the threshold of `slslib detect`, and of `slslib threshold --compare`."""

    facts: ClassVar[dict[str, Any]] = {
        **{"checkpoint": "mini", "checkpoint_sha256": "0", "hop_s": None},
        **{"pool": "mean", "allow_silence": False, "speech_only": False},
    }

    def detect(self, files: Any, *, threshold: Any, **_options: Any) -> dict[str, Any]:
        scores = {name: value for name, value in self.facts.items() if name != "checkpoint"}
        detecting._threshold(threshold, Path("x"), {}, scores)
        rows = [{"file": str(file), "llr": k / 7, "error": None} for k, file in enumerate(files)]
        return self.facts | {"files": rows, "warnings": []}

    def __call__(self, path: Path) -> None:
        for k in range(2):
            path.with_name(f"{k}.wav").touch()
        recordings = tuple(path.with_name(f"{k}.wav") for k in range(2))
        # The real one would load a model and decode recordings.
        with mock.patch.object(detecting, "detect", self.detect):
            threshold(bonafide=recordings, checkpoint="mini", compare=path)


def _read_onnx(path: Path) -> None:
    """Score a recording by an ONNX file, as a user would."""
    recording = path.with_name("a.wav")
    if not recording.exists():
        sf.write(recording, np.random.default_rng(0).uniform(-0.1, 0.1, 500), 16_000)
    result = detecting.detect((recording,), checkpoint=path)
    if result["errors"]:
        raise SlslibError(result["errors"][0])


def _read_onnx_description(path: Path) -> None:
    """Put a text into the metadata of a sound ONNX file, and score by that."""
    model = _graph(400)
    text = path.read_bytes().decode("utf-8", "replace")
    onnx.helper.set_model_props(model, {"slslib": text})
    path.write_bytes(model.SerializeToString())
    _read_onnx(path)


class _ConfigReader:
    """Reads a transformers folder that has the given config.json beside sound weights."""

    def __init__(self) -> None:
        tensors = Detector(DETECTOR, seed=0).backbone.model.state_dict()
        self.weights = save({name: tensor.contiguous() for name, tensor in tensors.items()})

    def __call__(self, path: Path) -> None:
        path.with_name("config.json").write_bytes(path.read_bytes())
        weights = path.with_name("model.safetensors")
        if not weights.exists():
            weights.write_bytes(self.weights)
        load_backbone(path.parent)


class _RunReader:
    """Looks beside a checkpoint for its run and scores, in JSON under each name that counts."""

    def __init__(self) -> None:
        training: dict[str, Any] = {"recipe": "v1", "seed": 1, "epoch": 1, "train_loss": 0.5}
        self.detector = Detector(DETECTOR, seed=0)
        self.detector.metadata = training
        about = json.dumps({"format": "slslib-1", "config": asdict(DETECTOR)})
        self.weights = save(self.detector.state_dict(), {"slslib": about})
        self.digest = hashlib.sha256(self.weights).hexdigest()

    def __call__(self, path: Path) -> None:
        run = path.with_name("run")
        if not run.exists():
            run.mkdir()
            (run / "x.safetensors").write_bytes(self.weights)
            (run / "log.csv").write_text("epoch,train_loss\n1,0.5\n")
        for name in ("config.json", "scores.txt.json", "best.json"):
            (run / name).write_bytes(path.read_bytes())
        _beside(run / "x.safetensors", self.detector)
        locate(run)


TARGETS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[], Callable[[Path], Any]]]] = {
    "audio headers": (".wav", _audio, lambda: inspect),
    "MP4 and AIFF headers": (".m4a", _mp4_and_aiff, lambda: inspect),
    "protocols": (".txt", _keys, lambda: read_protocol),
    "scores": (".txt", _scores, lambda: _read_scores),
    "checkpoint descriptions": (".safetensors", _descriptions, _Described),
    "safetensors": (".safetensors", _headers, lambda: Detector.load),
    "pickles": (".pth", _checkpoints, lambda: Detector.load),
    "thresholds": (".json", _thresholds, _ThresholdReader),
    "ONNX descriptions": (".onnx", _onnx_descriptions, lambda: _read_onnx_description),
    "ONNX files": (".onnx", _onnx_files, lambda: _read_onnx),
    "configs of transformers": (".json", _configs, _ConfigReader),
    "JSON beside a checkpoint": (".json", _runs, _RunReader),
}
"""The ending of the files, what makes sound ones, and what makes the reader."""


def mutate(data: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    """Change a file in one to eight places."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        place = rng.randrange(len(made) + 1)
        end = min(len(made), place + rng.choice((1, 1, 2, 4, 16, 200)))
        kind = rng.randrange(7)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(made):
            made[place] = rng.randrange(256)
        elif kind == 2:
            del made[place:end]
        elif kind == 3:
            made[place:place] = made[place:end]
        elif kind == 4:
            made[place : place + rng.choice((0, 4))] = rng.choice(_WORDS)
        elif kind == 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            made[place:end] = other[start : start + end - place]
        elif kind == 6 and rng.random() < 0.3:
            del made[place:]
    return bytes(made)


def execute(read: Callable[[Path], Any], path: Path, data: bytes, outcome: Outcome) -> None:
    """Read one file and note what came of it."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        read(path)
        outcome.accepted += 1
    except SlslibError as error:
        outcome.refused += 1
        # The sentence without what stands in the file.
        outcome.sentences.add(re.sub(r"'.*'|\".*\"|[\d.]+|\(.*\)", "", str(error))[:200])
    except Exception as error:
        kind = f"{type(error).__name__}: {re.sub('[0-9]+', 'N', str(error))[:100]}"
        example = {"count": 0, "input_hex": data[:2000].hex()}
        outcome.escaped.setdefault(kind, example)["count"] += 1
    outcome.runs += 1
    outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - began)


def fuzz(
    target: str, runs: int, seed: int, *, seconds: float = 3600, with_atheris: bool = False
) -> dict[str, Any]:
    """Execute a target ``runs`` times, or for so long; return what :class:`Outcome` tells.

    With Atheris this process prints that itself and ends.
    """
    ending, make, reader = TARGETS[target]
    seeds, read, outcome, rng = make(), reader(), Outcome(), random.Random(seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        path = Path(folder) / f"x{ending}"
        for data in seeds:
            execute(read, path, data, outcome)
        if not with_atheris:
            while outcome.runs < runs and time.monotonic() < end:
                execute(read, path, mutate(rng.choice(seeds), seeds, rng), outcome)
            return outcome.told()
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        for i, data in enumerate(seeds):
            (inputs / str(i)).write_bytes(data)

        def once(data: bytes) -> None:
            execute(read, path, data, outcome)
            if outcome.runs >= runs or time.monotonic() > end:  # libFuzzer does not return
                print(json.dumps(outcome.told() | {"inputs_kept": len([*inputs.iterdir()])}))
                sys.stdout.flush()
                os._exit(0)

        options = [f"-seed={seed + 1}", "-max_len=4096", "-rss_limit_mb=0", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, str(inputs)], once)
        atheris.Fuzz()
    raise AssertionError("libFuzzer came back")


def memory() -> str | None:
    """Return a folder that lies in memory, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    """Fuzz one target and print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    args = parser.parse_args()
    torch.set_num_threads(1)
    limit = 4 << 30  # an input that asks for more is told that there is none
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    how: Any = {"seconds": args.seconds, "with_atheris": args.engine == "atheris"}
    print(json.dumps(fuzz(args.target, args.runs, args.seed, **how)))


if __name__ == "__main__":
    main()
