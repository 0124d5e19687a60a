"""The page: a recording at the top, and below it a column for each checkpoint.

A recording is a file that somebody uploads, and it is not trusted: another process decodes it
(:mod:`slslib.data.isolate`). Its size, its length and the number of recordings per minute are
limited, and one request is computed at a time. If a recording cannot be scored, the page says why
in a sentence. The page fetches nothing from an address that somebody sends (:class:`Guard`).

Nothing is sent anywhere: no analytics, no share link, no font from elsewhere. Uploads lie in the
folder that ``GRADIO_TEMP_DIR`` names, and are removed after ten minutes.
"""

import re
import time
from collections import deque
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from slsapp.explain import leave_one_out, occlusion, plot_gates
from slsapp.threshold import add_probabilities
from slsapp.timeline import plot_windows
from slslib.data.audio import SAMPLE_RATE, Mono, fix_length
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError, SlslibError
from slslib.evaluation import plots
from slslib.model.detector import Detector
from slslib.runs.detect import detect

MEGABYTES = 50
"""Largest file, in megabytes."""
MINUTES = 10
"""Longest recording, in minutes."""
PER_MINUTE = 12
"""Recordings per minute, of all users together."""
KEPT_SECONDS = 600
"""Seconds for which an upload is kept."""
CHECK_SECONDS = 60
"""Seconds between two searches for uploads to delete."""
MEGABYTES_KEPT = 1000
"""Megabytes that all uploads may take."""

_ABOUT = """# Spoken by a person, or made by a machine?
The score is a log-likelihood ratio (LLR). The higher it is, the better a recording fits the bona
fide speech of the training, compared with the spoofed. It is not the probability of being real."""
_CLOSER = """A closer look: how far the lowest window's score falls when a stretch of time is
played backwards, or a layer left out. It shows what moves the detector, not where a forgery is."""
_POSTS = ("/upload", "/queue/join", "/cancel", "/reset", "/reset/")
_asked: deque[float] = deque(maxlen=PER_MINUTE)


class Guard:
    """ASGI middleware that refuses what the page has no use for, and what would fill the disk.

    Gradio fetches any public address for visitors, by ``/gradio_api/file=http://...`` and as the
    path of a file; see :func:`build` for the latter. It limits the size of a file, but not the
    number of files.
    """

    def __init__(self, app: Any) -> None:
        """Guard an application."""
        self._app = app
        self._received: deque[tuple[float, int]] = deque()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with a status and a sentence."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, text = refusal
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        path, headers = scope["path"], dict(scope["headers"])
        if ":/" in path or "/proxy=" in path:
            return 403, "The page fetches nothing from elsewhere."
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if scope["method"] != "POST" or not path.endswith(_POSTS):
            return 403, "The page has no use for this."
        length = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not length.isdigit():
            return 411, "State the length."
        n_bytes, now = int(length), time.monotonic()
        if n_bytes > (MEGABYTES + 1) << 20:  # 1 MB for what surrounds the file
            return 413, f"At most {MEGABYTES} MB."
        while self._received and self._received[0][0] < now - KEPT_SECONDS - CHECK_SECONDS:
            self._received.popleft()
        if sum(size for _, size in self._received) + n_bytes > MEGABYTES_KEPT << 20:
            return 429, "Too many uploads: wait some minutes, then try again."
        self._received.append((now, n_bytes))
        return None


def read(path: str | None) -> Mono:
    """Decode a recording, within the limits, to float32 mono at 16 kHz.

    Raises:
        AudioError: If there is no recording, it is damaged or too long, or there were too many.
    """
    if not path:
        raise AudioError("There is no recording yet: drop a file, or record one.")
    if len(_asked) == PER_MINUTE and time.monotonic() < _asked[0] + 60:
        raise AudioError(f"More than {PER_MINUTE} recordings in a minute: wait, then try again.")
    _asked.append(time.monotonic())
    limit = MINUTES * 60 * SAMPLE_RATE
    samples = np.concatenate([*blocks_isolated(path, max_samples=limit + 1, any_length=True)])
    if len(samples) > limit:
        raise AudioError(f"The recording is longer than {MINUTES} minutes: cut it.")
    return samples


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line, at most 1,000 characters of it."""
    shown = "".join(c if c.isprintable() else " " for c in text[:1000])
    return re.sub(r"([\\`*_\[\]#|~!])", r"\\\1", escape(shown))


def describe(made: dict[str, Any], samples: Mono | None = None) -> tuple[str, Any, float]:
    """Say and draw what :func:`slslib.runs.detect.detect` found in one recording.

    The text includes a probability if :func:`slsapp.threshold.add_probabilities` added one.

    Args:
        made: The result.
        samples: The recording; if given, its spectrogram is drawn too.

    Returns:
        Markdown, with a verdict only if the checkpoint has a threshold; a figure of the windows'
        scores over time; and the time at which the lowest window begins, in seconds.

    Raises:
        AudioError: If the recording could not be scored.
    """
    if made["errors"]:
        raise AudioError(made["errors"][0])
    (row,), threshold = made["files"], made["threshold"]
    verdict = f"**No verdict.** {plain(made['meaning'] or '')}"
    if threshold is not None:
        source = plain(made["threshold_source"])
        verdict = f"**{row['verdict']}**: threshold {threshold:.2f} ({source})."
    if (probability := row.get("bonafide_percent")) is not None:
        prior = f"if {made['prior_percent']:g} % of all recordings are"
        verdict += f" Probability of being bona fide, {prior}: {probability:.1f} %."
    starts, llrs = (np.array([w[key] for w in row["windows"]], float) for key in ("start_s", "llr"))
    lowest = np.nanargmin(llrs)
    minutes, seconds = divmod(int(starts[lowest]), 60)
    facts = f"{len(llrs)} windows, {row['n_silent']} silent; lowest at {minutes}:{seconds:02}."
    figure, _ = plot_windows(made, None if samples is None else [samples], width=6.4)
    text = "\n\n".join([f"## LLR {row['llr']:.2f}", verdict, facts, *map(plain, made["warnings"])])
    return text, figure, float(starts[lowest])


def decide(
    files: tuple[Path, ...], detector: Detector, threshold: float | Path | None
) -> dict[str, Any]:
    """Detect, with a threshold if there is one, and add probabilities if it has a calibration."""
    return add_probabilities(detect(files, checkpoint=detector, threshold=threshold))


def gates(detector: Detector, clip: Mono, reference: pd.DataFrame | None) -> Any:
    """Draw the gates of a clip, over those of a reference set if there is one."""
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


def build(
    detectors: dict[str, Detector],
    references: dict[str, pd.DataFrame],
    thresholds: dict[str, float | Path] | None = None,
) -> Any:
    """Build the page.

    Args:
        detectors: The loaded checkpoints by name.
        references: Tables of gates by the name of the checkpoint, for none, some or all; see
            :func:`slsapp.explain.gate_quantiles`.
        thresholds: Thresholds by the name of the checkpoint, as for
            :func:`slslib.runs.detect.detect`.

    Returns:
        A ``gradio.Blocks``, not yet launched.
    """
    import gradio as gr

    def score(path: str) -> list[Any]:
        shown, kept = list[Any](), []
        try:
            samples = read(path)
            for name, detector in detectors.items():
                made = decide((Path(path),), detector, (thresholds or {}).get(name))
                text, figure, start_s = describe(made, samples)
                clip = samples[round(start_s * SAMPLE_RATE) :][: detector.config.n_samples]
                shown += [text, figure, gates(detector, clip, references.get(name))]
                kept.append((name, clip, start_s))
        except (SlslibError, OSError, RuntimeError, ValueError) as error:
            text = plain(str(error).replace(path or "", Path(path or "").name))
            return [f"**Not scored.** {text}", None, hidden, *[None] * len(scored), *unseen]
        return ["", kept, gr.Column(visible=True), *shown, *unseen]

    def look_closer(kept: list[Any] | None) -> list[Any]:
        if not kept:  # the server forgot it, or there was nothing to score
            return unseen
        return [gr.Plot(f, visible=True) for n, *at in kept for f in closer(detectors[n], *at)]

    async def keep(path: str) -> str | None:
        if "://" in path:
            raise gr.Error("Not an upload.", print_exception=False)
        return await gr.Audio.async_move_resource_to_block_cache(recording, path)

    scored, looked, hidden = list[Any](), list[Any](), gr.Column(visible=False, render=False)
    kept_for = (CHECK_SECONDS, KEPT_SECONDS)
    with gr.Blocks(title="slslib", analytics_enabled=False, delete_cache=kept_for) as page:
        gr.Markdown(_ABOUT)
        label = f"At most {MINUTES} minutes and {MEGABYTES} MB"
        recording: Any = gr.Audio(type="filepath", label=label, buttons=[])
        recording.async_move_resource_to_block_cache = keep
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
