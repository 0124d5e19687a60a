"""The command ``slslib detect``, and the files that it writes.

:func:`slslib.runs.detect.detect` scores. This module writes its result to a file that another
program reads (JSON, CSV, RTTM, labels of Audacity), or draws the scores over time.
"""

from __future__ import annotations

import json
import os
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

from slsapp.threshold import add_probabilities
from slslib.errors import ConfigError
from slslib.files import write_text, writing
from slslib.runs import detect as scoring
from slslib.runs.recipes import Precision

if TYPE_CHECKING:
    from slslib.model.detector import Detector

_ROUNDED = (
    "--precision bf16 changes scores slightly, and the threshold was chosen for exact ones: judge "
    "a score close to it by --precision exact"
)
_RTTM = "SPEAKER {name} 1 {start:.3f} {length:.3f} <NA> <NA> {side} <NA> <NA>\n"
_LINES = {  # the head of a file, and the line for a run of windows
    ".json": ("", ""),
    ".csv": ("file,start_s,end_s,side,llr\n", '"{quoted}",{start},{end},{side},{lowest}\n'),
    ".rttm": ("", _RTTM),
    ".txt": ("", "{start:.3f}\t{end:.3f}\t{side} {lowest:.4}\n"),
}


def detect(
    files: tuple[Path, ...],
    *,
    checkpoint: Any = scoring.PUBLISHED,
    threshold: float | Path | None = None,
    hop: float | None = None,
    pool: Literal["mean", "min", "trimmed"] = "mean",
    allow_silence: bool = False,
    speech_only: bool = False,
    precision: Precision = "exact",
    out: Path | None = None,
    plot: Path | None = None,
    cpu: bool = False,
) -> dict[str, Any]:
    """Score single recordings of any length, window by window, and give a verdict.

    The score is the log-likelihood ratio of bona fide against spoof, pooled over windows of the
    detector's length. Without a threshold there is no verdict. Another process decodes the files,
    within limits.

    Example: slslib detect call.wav --checkpoint runs/v1 --plot call.png

    Args:
        files: Recordings, or folders of them.
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], mini, or
            .onnx file of slslib export, which is scored on the CPU without PyTorch. From Python,
            also a detector that Detector.load returned, on the device where it is.
        threshold: Scores above it are called bona fide. It is a number, or a file that slslib
            threshold wrote. The default is such a file beside the checkpoint, else the checkpoint's
            own development threshold (not with hop, pool, allow_silence or speech_only, which
            change the scores), else none.
        hop: Seconds from one window to the next; default the window's length.
        pool: The recording's score is the mean of the windows' scores, the lowest, or the mean
            without the lowest and highest fifth.
        allow_silence: Score silent and very short recordings too.
        speech_only: Leave out windows with less than 0.25 s of speech, by Silero VAD (the extra
            speech), whatever else they hold; a recording of only such windows has no score.
        precision: exact computes in 32 bits; bf16 rounds products, which is faster on units for
            bfloat16 and changes the scores slightly. For a checkpoint that is loaded by its name.
        out: Write the result to this file. .json holds everything. .csv has a row for each window
            of the recordings that have a score; ./ precedes a name that a spreadsheet would
            compute. .rttm has a SPEAKER line for each run of windows on one side of the threshold,
            whose speaker is bonafide or spoof; a blank in a name becomes %20, a percent sign %25.
            .txt has the same runs of one recording, with the lowest score in each, as labels for
            Audacity. Without a threshold, each window is a run, called unknown. Runs overlap where
            windows do.
        plot: Draw the score of each window over time into this file; for a single recording, also
            the spectrogram, below.
        cpu: Use the CPU even if there is a GPU.

    Returns:
        What :func:`slslib.runs.detect.detect` returns, and ``precision``. If the threshold's file
        has a calibration, also probabilities: see :func:`slsapp.threshold.add_probabilities`.

    Raises:
        ConfigError: As for that function; or ``out`` or the plot has an unknown format; or the
            checkpoint's precision cannot be chosen.
        CheckpointError: The checkpoint cannot be read.
        AudioError: A folder holds no recordings. Errors of single files are in the result.
        FileError: ``out`` or the plot cannot be written.
    """
    out, plot = (Path(one) if one else None for one in (out, plot))
    recordings = scoring.listed(files)
    if out and out.suffix.lower() == ".txt" and len(recordings) > 1:
        raise ConfigError(f"{out}: labels are for one recording; these are {len(recordings)}")
    wanted: list[tuple[Path | None, list[str]]] = [(out, [*_LINES])]
    if plot:
        from matplotlib.figure import Figure

        from slsapp.timeline import plot_windows
        from slslib.data.isolate import blocks_isolated

        drawn = Figure().canvas.get_supported_filetypes().keys() - {"pgf"}  # which needs LaTeX
        wanted += [(plot, [f".{kind}" for kind in sorted(drawn)])]
    for file, kinds in wanted:
        if file and (file.suffix.lower() not in kinds or file.is_dir() or not file.parent.is_dir()):
            endings = f"that ends in one of {', '.join(kinds)}"
            raise ConfigError(f"{file}: name a file {endings}, in a folder that exists")
    how: dict[str, Any] = {"threshold": threshold, "hop": hop, "pool": pool, "cpu": cpu}
    how |= {"allow_silence": allow_silence, "speech_only": speech_only}
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r}: it must be one of exact, bf16")
    if precision == "bf16":
        checkpoint = _rounded(checkpoint, cpu)
    made = add_probabilities(scoring.detect(tuple(recordings), checkpoint=checkpoint, **how))
    made["precision"] = precision
    if precision == "bf16" and made["threshold"] is not None:
        made["warnings"].append(_ROUNDED)
    made["warnings"] += not_taken(files, recordings)
    if out:
        write(made, out)
    if plot and any(not one["error"] for one in made["files"]):
        blocks = None
        if len(recordings) == 1:
            blocks = blocks_isolated(recordings[0], any_length=True, allow_silence=allow_silence)
        with writing(plot) as temporary:
            plot_windows(made, blocks)[0].savefig(temporary, format=plot.suffix[1:].lower())
    return made


def _rounded(checkpoint: Any, cpu: bool) -> Detector:
    """Load a checkpoint, and round the weights of its products to bfloat16."""
    from slslib.model.detector import Detector
    from slslib.runs import processes

    if not isinstance(checkpoint, str | Path) or str(checkpoint).endswith(".onnx"):
        text = "an ONNX file and a loaded detector have theirs already"
        raise ConfigError(f"--precision is for a checkpoint named to detect: {text}")
    detector = Detector.load(checkpoint).to(processes.start(cpu=cpu).device)
    detector.backbone.to_bf16()
    return detector


def not_taken(files: Any, recordings: list[Path]) -> list[str]:
    """Say what else the folders among ``files`` hold, hidden files and folders left out."""
    found: dict[Path, Path] = {}
    for one in [files] if isinstance(files, str | Path) else files:
        for at, folders, names in os.walk(one, followlinks=True):  # of a file: nothing
            seen = found.setdefault(Path(at).resolve(), Path(at)) != Path(at)  # a link leads here
            folders[:] = [name for name in folders if name[0] != "." and not seen]
            found |= {Path(at, n).resolve(): Path(at, n) for n in names if n[0] != "." and not seen}
    taken = {one.resolve() for one in recordings}
    if not (others := sorted(p for real, p in found.items() if p.is_file() and real not in taken)):
        return []
    text = f"in folders, not taken for recordings by their endings: {len(others)} files"
    return [f"{text}, such as {others[0]}"]


def write(made: dict[str, Any], path: Path) -> None:
    """Write detections in the format of the file's ending: .json, .csv, .rttm or .txt.

    Args:
        made: What :func:`slslib.runs.detect.detect` returned.
        path: File to write, replaced if it exists.

    Raises:
        FileError: If it cannot be written.
    """
    kind, limit, width = path.suffix.lower(), made["threshold"], made["window_s"]

    def side(window: dict[str, Any]) -> str:
        if window["llr"] is None:
            return "no speech" if made["speech_only"] else "silence"
        return "unknown" if limit is None else "bonafide" if window["llr"] > limit else "spoof"

    def run(window: dict[str, Any]) -> Any:
        return window["start_s"] if limit is None or kind == ".csv" else side(window)

    text = json.dumps(made, indent=1) + "\n" if kind == ".json" else _LINES[kind][0]
    for one in made["files"] if kind != ".json" else ():
        # RTTM allows no blank in a field, and ./ keeps a spreadsheet from computing a name.
        facts = one | {"name": re.sub(r"[\s%]", lambda found: quote(found[0]), one["file"])}
        facts["quoted"] = re.sub(r"^(?=[=+@\t\r-])", "./", one["file"]).replace('"', '""')
        for _, group in groupby(one["windows"], run):
            windows = list(group)
            start, last = windows[0]["start_s"], windows[-1]["start_s"]
            facts |= {"side": side(windows[0]), "start": start}
            facts["end"] = min(last + width, one["duration_s"])
            facts["lowest"] = min((w["llr"] for w in windows if w["llr"] is not None), default="")
            if kind != ".rttm" or facts["side"] in ("bonafide", "spoof", "unknown"):
                text += _LINES[kind][1].format(**facts, length=facts["end"] - start)
    # A name that is not UTF-8 is written escaped.
    write_text(path, text.encode(errors="backslashreplace").decode())
