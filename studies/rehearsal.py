"""Rehearse the book and the commands at full size, without the real corpora and weights.

    python studies/rehearsal.py corpora FOLDER
    python studies/rehearsal.py weights FOLDER
    python studies/rehearsal.py run --corpora FOLDER --weights FOLDER --clips 4 --out FILE

``corpora`` writes the four corpora as they are distributed: official file names, columns, attacks
A01 to A19, codecs, transmissions, sources, vocoders and phases. The recordings are MiniSpoof's, so
the numbers mean nothing, and there are only as many trials as MiniSpoof has. Keys with the official
numbers of trials, and random scores for them, are written for the commands that read no recordings
(:func:`official_counts`). ``weights`` writes XLS-R 300M as fairseq does, and a detector as the
authors' code does, both with random numbers.

``run`` calls the commands and executes the notebooks on these, and measures time and memory. The
runs that the notebooks show are a stand-in with random scores and the one that the commands train.
Whatever ``SLSLIB_`` variables the reader has set, none is used. What would fail on the real files
fails here. The page of ``python -m slsapp`` is not rehearsed: its tests open it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from checkpoints import write as write_weights
from provenance import ROOT, provenance, write
from tqdm import tqdm
from tyro.conf import Positional

from minispoof.corpus import simulation
from slslib.data.corpora import open_corpus
from slslib.data.protocols import LABELS, PHASES
from slslib.data.scorefiles import format_score
from slslib.runs.clips import describe
from slslib.runs.recipes import v2

WHAT = "seconds and memory of commands and notebooks at XLS-R's full size, with random weights"
# Official names for those of MiniSpoof; several are given out in turn. A16 is the algorithm of
# A04, and A19 that of A06 (Wang et al. 2020, Table 1).
TRAINING = {"M01": ["A04"], "M02": ["A06"], "M03": ["A01", "A03"], "M04": ["A02", "A05"]}
EVALUATION = {
    "M01": ["A16"],
    "M02": ["A19"],
    "M03": ["A07", "A11"],
    "M04": ["A09", "A13"],
    "M05": ["A07", "A08"],
    "M06": ["A09", "A10"],
    "M07": ["A11", "A12"],
    "M08": ["A13", "A14"],
    "M09": ["A15", "A17", "A18"],
}
# Those of the meta-labels that the organisers' evaluation package lists.
CODECS = {
    "LA": {"alaw": ["alaw", "pstn"], "opus": ["opus", "g722"]},
    "DF": {
        "low_mp3": ["low_mp3", "mp3m4a"],
        "high_mp3": ["high_mp3", "high_m4a"],
        "low_ogg": ["low_ogg", "low_m4a"],
        "high_ogg": ["high_ogg", "oggm4a"],
    },
}
OTHERS = {
    "sim_tx": ["ita_tx", "sin_tx", "loc_tx"],  # and mad_tx, which is that of pstn
    "shared": ["asvspoof"],
    "own": ["vcc2018", "vcc2020"],
    "traditional_vocoder": [
        "traditional_vocoder",
        "neural_vocoder_autoregressive",
        "neural_vocoder_nonautoregressive",
        "waveform_concatenation",
        "unknown",
    ],
}
# Bona fide and spoofed trials of each phase.
COUNTS = {
    "LA": {"progress": (1_676, 14_788), "eval": (14_816, 133_360), "hidden": (1_960, 14_966)},
    "DF": {"progress": (5_768, 53_557), "eval": (14_869, 519_059), "hidden": (1_980, 16_596)},
}


def corpora(folder: Positional[Path]) -> None:
    """Write the four corpora in their official form; recordings are links to MiniSpoof's."""
    source = simulation().resolve()
    given: dict[tuple[str, str], str] = {}
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.suffix in (".flac", ".wav"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(path)
        elif path.suffix in (".txt", ".csv") and path.name != "README.txt":
            is_known = any(f".{part}." in path.name for part in ("train", "dev"))
            track = "DF" if "DF" in path.parts else "LA"
            names = (TRAINING if is_known else EVALUATION) | CODECS[track] | OTHERS
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open() as lines, target.open("w") as out:
                out.writelines(official(lines, names, given))


def official(
    lines: Iterator[str], names: dict[str, list[str]], given: dict[tuple[str, str], str]
) -> Iterator[str]:
    """Give lines of a protocol their official names, which ``given`` keeps for each trial."""
    turns: Counter[tuple[str, bool]] = Counter()
    for line in lines:
        words = line.rstrip("\n").split(" ")
        # ASV lists name several speakers for a trial, whose names stay the same.
        trial = next((word for word in words if word[:3] in ("LA_", "DF_")), None)
        for place, ours in enumerate(words):
            if ours not in names:
                continue
            key = (trial or "", ours)
            if key not in given or not trial:
                turn = ours, "spoof" in words
                given[key] = names[ours][turns[turn] % len(names[ours])]
                turns[turn] += 1
            words[place] = given[key]
        if "pstn" in words:
            words = ["mad_tx" if word.endswith("_tx") else word for word in words]
        if "vcc2020" in words and "spoof" in words:  # its teams stand in the last columns, too
            words[words.index("vcc2020") + 1] = "Task1-team20"
            words[-4:] = ["Task1", "team20", "FF", "E"]
        elif "vcc2018" in words and "spoof" in words:
            words[words.index("vcc2018") + 1] = "SPO-B01"
        yield " ".join(words) + "\n"


def weights(folder: Positional[Path]) -> None:
    """Write ``xlsr2_300m.pt`` and ``epoch_2.pth`` at full size, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "xlsr2_300m.pt").exists():  # the one that is written last
        write_weights(folder)


def official_counts(folder: Path) -> None:
    """Write keys of 2021 LA and DF with the official numbers of trials, and random scores."""
    rng = np.random.default_rng(0)
    for track, phases in COUNTS.items():
        codecs = {"LA": ["none", "ulaw", "gsm"], "DF": ["nocodec"]}[track]
        codecs += [name for names in CODECS[track].values() for name in names]
        attacks = sorted({name for names in EVALUATION.values() for name in names})
        key, scores, number = [], [], 1_000_000
        for phase, counts in phases.items():
            for label, count in zip(("bonafide", "spoof"), counts, strict=True):
                values = rng.normal(3.0 * (label == "bonafide"), 1, count).tolist()
                for k, value in enumerate(values):
                    number += 1
                    name, codec = f"{track}_E_{number}", codecs[k % len(codecs)]
                    attack = attacks[k % 13] if label == "spoof" else "-"
                    line = "ita_tx" if track == "LA" else "asvspoof"
                    trim = "trim" if phase == "hidden" else "notrim"
                    words = [f"LA_{k % 48:04d}", name, codec, line, attack, label, trim, phase]
                    if track == "DF":
                        vocoder = OTHERS["traditional_vocoder"][k % 5]
                        words += [vocoder if label == "spoof" else label, "-", "-", "-", "-"]
                    key.append(" ".join(words) + "\n")
                    scores.append(f"{name} {format_score(value)}\n")
        (folder / "keys" / track / "CM").mkdir(parents=True)
        (folder / "keys" / track / "CM" / "trial_metadata.txt").write_text("".join(key))
        (folder / f"{track}.txt").write_text("".join(scores))


def stand_in_run(run: Path, corpora: Path) -> None:
    """Write what a training run and the scoring of corpora leave, with random numbers."""
    run.mkdir(parents=True)
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"epoch": range(4), "train_loss": rng.uniform(0, 1, 4)})
    log["dev_loss"], log["dev_eer_percent"] = rng.uniform(0, 1, 4), rng.uniform(0, 50, 4)
    log.to_csv(run / "log.csv", index=False)
    about = {"config": asdict(v2()), "note": "a stand-in: nothing was trained"}
    (run / "config.json").write_text(json.dumps(about))
    best = int(log["dev_loss"].to_numpy().argmin())
    facts = {"epoch": best, "dev_loss": log["dev_loss"][best]}
    (run / "best.json").write_text(json.dumps({"file": f"epoch_{best}.safetensors", **facts}))
    for name in ("asvspoof2021-la", "asvspoof2021-df", "asvspoof2021-la:progress", "in-the-wild"):
        corpus = open_corpus(name, corpora)
        n = len(corpus)
        scores = (corpus.trials["label"] + rng.normal(size=n)).map(format_score)
        out = run / f"{name.replace(':', '-')}.txt"
        out.write_text("".join(corpus.trials["utterance"] + " " + scores + "\n"))
        facts = describe(corpus) | {"checkpoint": "a stand-in, whose scores are random numbers"}
        facts |= {"n_scores": n, "n_failures": 0, "decoders": {"stand-in": n}}
        facts |= {"n_over_range": 0, "n_converted": 0}
        out.with_name(f"{out.name}.json").write_text(json.dumps(facts))


def shorten(corpora: Path, few: Path, clips: int) -> None:
    """Write the corpora with ``clips`` trials of each class and phase, for the commands.

    Beside them, ``own`` holds the first recordings of In-the-Wild, in a folder for each class.
    """
    for path in sorted(corpora.rglob("*")):
        target = few / path.relative_to(corpora)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "flac" or path.suffix == ".wav":
            target.symlink_to(path.resolve())
        elif path.suffix in (".txt", ".csv"):
            # Five of each class make two batches of v2.
            most = max(clips, 5) if ".train." in path.name else clips
            with path.open() as lines:
                target.write_text("".join(lines if "ASV" in path.parts else first(lines, most)))
    wild = open_corpus("in-the-wild", corpora)
    for label, name in enumerate(("spoof", "bonafide")):
        for utterance in wild.trials["utterance"][wild.trials["label"] == label].head(clips):
            file = wild.audio_path(utterance)
            target = few / "own" / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.resolve())


def first(lines: Iterator[str], most: int) -> Iterator[str]:
    """Keep the first lines of each class and phase of a protocol, and all that name no class."""
    seen: Counter[str] = Counter()
    for line in lines:
        words = set(line.replace(",", " ").split())
        kind = " ".join(sorted(words & {*LABELS, *PHASES}))
        seen[kind] += 1
        if not words & {*LABELS} or seen[kind] <= most:
            yield line


def listed(clips: int) -> list[str]:
    """Return the commands, which run where ``weights``, ``corpora``, ``few`` and ``counts`` lie.

    Some read what one before wrote.
    """
    pth, converted = "weights/epoch_2.pth", "epoch_2.safetensors"
    train = "train v2 --data few --backbone weights/xlsr2_300m.pt --max-epochs 1 --out runs/v2"
    score = f"score --checkpoint {converted} --data few --corpus"
    key = "--key few/keys/LA/CM/trial_metadata.txt"
    asv = "few/keys/LA/ASV/"
    asv = f"--asv-scores {asv}ASVTorch_Kaldi/score.txt --asv-key {asv}trial_metadata.txt"
    own = "--bonafide few/own/bonafide --spoof few/own/spoof"
    # With so few recordings, the share that is promised has to be as large as the doubt.
    promise = f"--frr {100 * (1 - 0.2 ** (1 / clips)) + 1:.0f} --confidence 80"
    return [
        *(f"verify {name} --data corpora" for name in ("asvspoof2019-la", "asvspoof2021-la")),
        *(f"verify {name} --data corpora" for name in ("asvspoof2021-df", "in-the-wild")),
        "protocol few/own --bonafide bonafide/* --spoof spoof/* --out few/own/own.csv",
        f"convert {pth} {converted}",
        f"convert {converted} back.pth",
        "convert weights/xlsr2_300m.pt xlsr2_300m.safetensors",
        f"{score} asvspoof2021-la:eval --out LA.txt",
        f"score --checkpoint {pth} --data few --corpus few/own --out own.txt",
        f"evaluate --scores LA.txt {key} --by attack codec --bootstrap 1000 {asv}",
        "evaluate --scores own.txt --key few/own/own.csv",
        *(
            f"evaluate --scores counts/{track}.txt --key counts/keys/{track}/CM/trial_metadata.txt"
            " --by attack codec --bootstrap 1000"
            for track in COUNTS
        ),
        f"detect few/own/bonafide --checkpoint {pth} --plot windows.png",
        f"threshold {own} --checkpoint {converted} {promise}",
        f"detect few/own/spoof --checkpoint {converted} --out windows.csv",
        f"bench --checkpoint {converted} --batch-size 1",
        f"export {converted} epoch_2.onnx",
        "detect few/own/spoof --checkpoint epoch_2.onnx",
        f"{train} --max-steps 1",
        f"{train} --resume",
        "detect few/own/bonafide --checkpoint runs/v2",
        "publish runs/v2 owner/name --license mit --folder published",
        "reproduce --data runs --offline",  # it refuses keys that are not the published ones
        "report runs/stand-in --data corpora --only 01 --out report",
        "minispoof minispoof --scale 0.02",
    ]


def with_what_they_read(lines: list[str], beginnings: tuple[str, ...]) -> list[str]:
    """Return the commands that begin so, and those before them that write what they read.

    >>> with_what_they_read(["convert a b", "detect f", "score --checkpoint b --out c"], ("score",))
    ['convert a b', 'score --checkpoint b --out c']
    """
    kept, read = [], set[str]()
    for line in reversed(lines):
        name, *words = line.split()
        written = words[words.index("--out") + 1] if "--out" in words else words[-1]
        is_read = not read.isdisjoint((written, str(Path(written).parent)))
        is_read &= "--out" in words or name in ("convert", "export")
        if line.startswith(beginnings) or is_read:
            kept.insert(0, line)
            read.update(words)
    return kept


def run(
    corpora: Path,
    weights: Path,
    out: Path,
    clips: int = 4,
    notebooks: tuple[str, ...] = (),
    commands: tuple[str, ...] = (),
    keep: Path | None = None,
) -> None:
    """Call the commands and execute the notebooks on the stand-ins; measure time and memory.

    Args:
        corpora: Folder that ``corpora`` wrote.
        weights: Folder that ``weights`` wrote.
        out: JSON file to write. What the commands write lies beside it for the while, 9 GB.
        clips: Most clips of each class of a corpus.
        notebooks: Beginnings of names, as 02 09. Without these and ``commands``, all of both.
        commands: Beginnings of commands, as verify "train v2"; what they read is written before.
        keep: Folder for the executed notebooks, which may hold some already.
    """
    where = provenance("torch", "transformers", "numpy")
    either = notebooks or commands
    paths = [
        path
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
        if not either or path.name.startswith(notebooks or "-")
    ]
    lines = listed(clips) if not either else with_what_they_read(listed(clips), commands or ("-",))
    called: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    result = {"clips_of_a_class": clips, "commands": called, "notebooks": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        work = Path(folder).resolve()
        environment = prepare(work, corpora.resolve(), weights.resolve(), clips)
        for number, line in enumerate(tqdm(lines, "commands", unit="command"), 1):
            words = [sys.executable, "-m", "slslib", *line.split()]
            called.append({"command": f"slslib {line}"} | measure(words, work, environment))
            print(json.dumps(called[-1]), flush=True)
            write(out, WHAT, where, result)  # what was measured counts, whatever ends the rest
            later = " ".join(lines[number:])
            for path in work.glob("*.*"):  # weights of a gigabyte each
                if path.is_file() and path.name not in later:
                    path.unlink()
        for path in tqdm(paths, "notebooks", unit="notebook"):
            copy = path.with_name(f".rehearsal-{path.name}")  # where its relative paths hold
            shutil.copy(path, copy)
            rows.append({"notebook": path.stem} | execute(copy, environment))
            print(json.dumps(rows[-1]), flush=True)
            write(out, WHAT, where, result)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(copy, keep / path.name)
            copy.unlink()
    sys.exit(1 if any("error" in row for row in called + rows) else 0)


def prepare(work: Path, corpora: Path, weights: Path, clips: int) -> dict[str, str]:
    """Write what commands and notebooks read; return the environment that tells them of it.

    No variable of the reader's is left that names corpora, weights, runs or a recording. What
    earlier rehearsals computed is not used again.
    """
    (work / "corpora").symlink_to(corpora)
    (work / "weights").symlink_to(weights)
    shorten(corpora, work / "few", clips)
    official_counts(work / "counts")
    stand_in_run(work / "runs" / "stand-in", corpora)
    (work / "cache").mkdir()
    simulated = simulation().resolve()
    (work / "cache" / simulated.name).symlink_to(simulated)  # notebook 00 shows it
    others = {name: text for name, text in os.environ.items() if not name.startswith("SLSLIB_")}
    return others | {
        "SLSLIB_CACHE": str(work / "cache"),
        "SLSLIB_DATA": str(corpora),
        "SLSLIB_CHECKPOINT": str(weights / "epoch_2.pth"),
        "SLSLIB_BACKBONE": str(weights / "xlsr2_300m.pt"),
        "SLSLIB_LABEL": "random weights",
        "SLSLIB_CLIPS": str(clips),
        "SLSLIB_RUNS": str(work / "runs"),
        "SLSLIB_RECORDING": str(min((work / "few" / "own" / "bonafide").iterdir())),
    }


def execute(notebook: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Execute a notebook in place and measure it."""
    words = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=-1"]
    return measure([*words, notebook.name], notebook.parent, environment)


def measure(words: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Call a program; return times, the largest resident process and an error.

    CPU seconds, unlike seconds, do not grow where the machine does other work beside it. They
    and the memory leave out what the workers of a pool use.
    """
    measured = (
        "import resource, subprocess, sys\n"
        "status = subprocess.call(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print()\n"
        "print(used.ru_maxrss, used.ru_utime + used.ru_stime)\n"
        "sys.exit(status)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measured, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    with suppress(ValueError):  # the kernel ended what measures, too
        kilobytes, cpu_seconds = map(float, done.stdout.split()[-2:])
        row |= {"cpu_seconds": round(cpu_seconds, 1), "peak_gb": round(kilobytes * 1024 / 1e9, 2)}
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        row["error"] = last_words(done.stderr)
    return row


def last_words(text: str) -> str:
    r"""Return the error that a program ended with, without the folders of this machine.

    >>> last_words("warning: slow\nslslib: no file /a/b/c.txt; get it from\nhttps://d.org/e/c.txt\n")
    'slslib: no file c.txt; get it from https://d.org/e/c.txt'
    """
    lines = text.strip().splitlines() or ["no word of it"]
    begins = [number for number, line in enumerate(lines) if line.startswith("slslib: ")]
    error = " ".join(lines[begins[-1] if begins else -1 :])
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", error)[:400]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"corpora": corpora, "weights": weights, "run": run})
