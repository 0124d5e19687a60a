"""The page: a recording on top, below it a column for each checkpoint.

A recording is a file that somebody uploads, and nothing in it is trusted: another process decodes
it (:mod:`slslib.data.isolate`). Its size, its length and the number of recordings in a minute are
limited, and one request is computed at a time. What cannot be scored gives a sentence.

Nothing is sent anywhere: no analytics, no share link, no font from elsewhere. What is uploaded lies
in the folder that ``GRADIO_TEMP_DIR`` names, and is removed after ten minutes.
"""

import time
from collections import deque
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from slsapp.explain import leave_one_out, occlusion, plot_gates
from slslib.data.audio import SAMPLE_RATE, Mono, fix_length
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError, SlslibError
from slslib.evaluation import plots
from slslib.model.detector import Detector
from slslib.runs.detect import detect

MEGABYTES, MINUTES, PER_MINUTE = 50, 10, 12
"""Limits: of a file, of a recording, and of the recordings of all who use the page."""

_ABOUT = """# Spoken by a person, or made by a machine?
The score is a log-likelihood ratio (LLR). The higher it is, the better a recording fits the bona
fide speech of the training, compared with the spoofed. It is not the probability of being real."""
_CLOSER = """A closer look: how far the lowest window's score falls when a stretch of time is
played backwards, or a layer left out. It shows what moves the detector, not where a forgery is."""
_asked: deque[float] = deque(maxlen=PER_MINUTE)


def read(path: str | None) -> Mono:
    """Decode a recording, within the limits.

    Raises:
        AudioError: If there is none, it is damaged or too long, or there were too many.
    """
    if not path:
        raise AudioError("There is no recording yet: drop a file, or record one.")
    if len(_asked) == PER_MINUTE and time.monotonic() < _asked[0] + 60:
        raise AudioError(f"More than {PER_MINUTE} recordings in a minute: wait, then try again.")
    _asked.append(time.monotonic())
    limit = MINUTES * 60 * SAMPLE_RATE
    samples = np.concatenate([*blocks_isolated(path, max_samples=limit + 1)])
    if len(samples) > limit:
        raise AudioError(f"The recording is longer than {MINUTES} minutes: cut it.")
    return samples


def describe(made: dict[str, Any]) -> tuple[str, Any, float]:
    """Say and draw what :func:`slslib.runs.detect.detect` found in one recording.

    Returns:
        Markdown, with a verdict only where the checkpoint has a threshold; the scores of the
        windows over time; and where the lowest of them begins, in seconds.

    Raises:
        AudioError: If it could not be scored.
    """
    if made["errors"]:
        raise AudioError(made["errors"][0])
    (row,), width, threshold = made["files"], made["window_s"], made["threshold"]
    verdict = f"**No verdict.** {made['meaning']}"
    if threshold is not None:
        verdict = f"**{row['verdict']}**: threshold {threshold:.2f} ({made['threshold_source']})."
    starts, llrs = (np.array([w[key] for w in row["windows"]], float) for key in ("start_s", "llr"))
    lowest = np.nanargmin(llrs)
    facts = f"{len(llrs)} windows, {row['n_silent']} silent; the lowest at {starts[lowest]:.1f} s."
    line = {"windows (dashed: the threshold, if any)": (starts + width / 2, llrs)}
    figure, _ = plots.plot_lines(line, xlabel="time (s)", ylabel="LLR (nats)", reference=threshold)
    text = "\n\n".join([f"## LLR {row['llr']:.2f}", verdict, facts, *made["warnings"]])
    return text, figure, float(starts[lowest])


def gates(detector: Detector, clip: Mono, reference: pd.DataFrame | None) -> Any:
    """Draw the gates of a clip, before those of a reference set where there is one."""
    with torch.inference_mode():
        found = detector.gates(_batch(detector, clip))[0].cpu()
    if reference is None:
        return plots.plot_layers({"the lowest window": found}, ylabel="gate")[0]
    return plot_gates(found, reference)[0]


def closer(detector: Detector, clip: Mono, start_s: float) -> list[Any]:
    """Draw how far the score falls without each stretch of time, and without each layer."""
    stretches, ylabel = occlusion(detector, clip), "fall of the LLR (nats)"
    layers = leave_one_out(detector, _batch(detector, clip))[0].cpu()
    line = {"stretches of 0.2 s": (start_s + 0.1 + stretches["start_s"], -stretches["change"])}
    over_time = plots.plot_lines(line, xlabel="time (s)", ylabel=ylabel, reference=0)[0]
    return [over_time, plots.plot_layers({"layers": -layers}, ylabel=ylabel, reference=0)[0]]


def _batch(detector: Detector, clip: Mono) -> torch.Tensor:
    waveform = torch.from_numpy(fix_length(clip, detector.config.n_samples))
    return waveform[None].to(detector.device)


def build(detectors: dict[str, Detector], references: dict[str, pd.DataFrame]) -> Any:
    """Build the page.

    Args:
        detectors: The loaded checkpoints by name.
        references: Tables of gates by the name of the checkpoint, for none, some or all; see
            :func:`slsapp.explain.gate_quantiles`.

    Returns:
        A ``gradio.Blocks``, not yet launched.
    """
    import gradio as gr

    def score(path: str) -> list[Any]:
        shown, kept = list[Any](), []
        try:
            samples = read(path)
            for name, detector in detectors.items():
                text, figure, start_s = describe(detect((Path(path),), checkpoint=detector))
                clip = samples[round(start_s * SAMPLE_RATE) :][: detector.config.n_samples]
                shown += [text, figure, gates(detector, clip, references.get(name))]
                kept.append((name, clip, start_s))
        except (SlslibError, OSError, RuntimeError, ValueError) as error:
            text = escape(str(error).replace(path or "", Path(path or "").name))
            return [f"**Not scored.** {text}", None, hidden, *[None] * len(scored), *unseen]
        return ["", kept, gr.Column(visible=True), *shown, *unseen]

    def look_closer(kept: list[Any] | None) -> list[Any]:
        if not kept:  # the server forgot it, or there was nothing to score
            return unseen
        return [gr.Plot(f, visible=True) for n, *at in kept for f in closer(detectors[n], *at)]

    scored, looked, hidden = list[Any](), list[Any](), gr.Column(visible=False, render=False)
    with gr.Blocks(title="slslib", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.Markdown(_ABOUT)
        label = f"At most {MINUTES} minutes and {MEGABYTES} MB"
        recording = gr.Audio(type="filepath", label=label, buttons=[])
        button = gr.Button("Score", variant="primary")
        said, kept = gr.Markdown(elem_id="said"), gr.State()
        with gr.Column(visible=False) as results:
            with gr.Row():
                for name, detector in detectors.items():
                    with gr.Column(min_width=320):
                        gr.Markdown(f"`{escape(name)}`, SHA-256 {detector.source[2][:12]}")
                        scored += [gr.Markdown(), *(gr.Plot(show_label=False) for _ in range(2))]
                        looked += [gr.Plot(show_label=False, visible=False) for _ in range(2)]
            ask = gr.Button("Look closer at the lowest window")
            gr.Markdown(_CLOSER)
        unseen = [gr.Plot(visible=False, render=False)] * len(looked)
        one: dict[str, Any] = {"concurrency_id": "detector", "api_visibility": "private"}
        button.click(score, recording, [said, kept, results, *scored, *looked], **one)
        ask.click(look_closer, kept, looked, **one)
        recording.change(lambda: ("", hidden), None, [said, results], queue=False)
    return page.queue(max_size=8, default_concurrency_limit=1)
