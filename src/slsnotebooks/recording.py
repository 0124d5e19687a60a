"""One recording as a detector hears it: windows, layers and gates in one figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from slsapp.timeline import draw_windows
from slslib.data.audio import SAMPLE_RATE, fix_length
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError
from slslib.evaluation import plots
from slslib.model.detector import Detector


def plot_recording(
    result: Mapping[str, Any], detector: Detector, reference: pd.DataFrame
) -> plots.Plot:
    """Draw the windows of a recording, and the layers and gates of its lowest window.

    The upper panel has the score of each window, as in :func:`slsapp.timeline.plot_windows`. The
    lower left panel has the norm of each layer's output over time, divided by its mean over the
    window. Outputs grow with depth, so only changes within a layer can be compared. The lower right
    panel has the gates (black) over the middle 90 % of each group of the reference.

    Args:
        result: What :func:`slslib.runs.detect.detect` returned for one file.
        detector: The detector that scored it.
        reference: What :func:`slsapp.explain.gate_quantiles` returned; the group ``bona fide`` is
            blue.

    Raises:
        AudioError: The recording has no score.
    """
    (one,) = result["files"]
    if not one["windows"]:
        raise AudioError(one["error"] or f"{one['file']} is silent: it has no score")
    scored = [window for window in one["windows"] if window["llr"] is not None]
    start = min(scored, key=lambda window: window["llr"])["start_s"]
    norms, gates = _inside(detector, one["file"], start, result["allow_silence"])
    figure = Figure(figsize=(6.8, 5.4), dpi=120, layout="constrained")
    panels: Any = figure.subplot_mosaic(
        [["windows"] * 2, ["layers", "gates"]], height_ratios=(1, 2.2), width_ratios=(2, 1)
    )
    draw_windows(panels["windows"], result, one, "")
    panels["windows"].set(xlabel="time (s)", ylabel="score (nats)")
    layers = np.arange(1, len(gates) + 1)
    extent = (start, start + result["window_s"], 0.5, len(gates) + 0.5)
    style = {"aspect": "auto", "origin": "lower", "cmap": "cividis", "interpolation": "nearest"}
    image = panels["layers"].imshow(norms, extent=extent, **style)
    figure.colorbar(image, ax=panels["layers"], label="strength (norm / its mean)")
    panels["layers"].set(xlabel="time (s)", ylabel="transformer layer", title="layers")
    for name, of in reference.groupby("group"):
        colour = plots.BONAFIDE if name == "bona fide" else plots.SPOOF
        ends = {"x1": of["5%"], "x2": of["95%"]}
        panels["gates"].fill_betweenx(of["layer"], **ends, color=colour, alpha=0.25, label=name)
    panels["gates"].plot(gates, layers, "k.-", label="this window")
    panels["gates"].set(xlabel="gate", title="gates", ylim=extent[2:])
    return plots.legend(panels["gates"])


@torch.inference_mode()
def _inside(
    detector: Detector, file: str, start_s: float, allow_silence: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the relative norms (layers, frames) and the gates of the window at ``start_s``."""
    n_samples = detector.config.n_samples
    samples = np.concatenate([*blocks_isolated(file, any_length=True, allow_silence=allow_silence)])
    samples = samples[round(start_s * SAMPLE_RATE) :]
    waveform = torch.from_numpy(fix_length(samples, n_samples))[None].to(detector.device)
    layers = list(detector.backbone.layers(waveform))
    norms = torch.stack([layer[0].norm(dim=1) for layer in layers])
    gates = detector.head.fuse(layers)[1][0]
    return (norms / norms.mean(dim=1, keepdim=True)).cpu().numpy(), gates.cpu().numpy()
