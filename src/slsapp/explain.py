"""Look into one score: the gates of a clip, its layers, its stretches of time.

* *Gates*: alone, the gates of a clip mean little. :func:`gate_quantiles` describes those of a
  reference set, for comparison.
* *Layers*: :func:`leave_one_out` takes each layer's term :math:`g_l h_l` out of the sum of
  :mod:`slslib.model.sls`, and returns how far the score moves.
* *Time*: :func:`occlusion` takes the speech out of each stretch of a copy of the clip, and returns
  how far the score moves.

None of them shows what a forgery is, or that there is one. They show what this detector reacts to,
also when it errs. The layers build on one another, so what one layer held is still in its
neighbours. And a change that the detector never met in training may move its score merely because
it is new.
"""

from collections.abc import Sequence
from math import ceil
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from slslib.data.audio import SAMPLE_RATE, Mono, fix_length
from slslib.evaluation import plots
from slslib.model.detector import Detector


def gate_quantiles(
    gates: Float[np.ndarray, "trials layers"], groups: Sequence[str]
) -> pd.DataFrame:
    """Describe the gates of a reference set, group by group.

    Args:
        gates: Gates from :meth:`slslib.model.detector.Detector.gates`, a row for each clip.
        groups: The group of each clip: ``bona fide``, or the name of its attack.

    Returns:
        A row for each group and layer, with the columns ``group``, ``layer`` (from 1), ``count``
        (of clips), ``mean``, ``std``, ``min``, the quantiles ``5%``, ``25%``, ``50%``, ``75%``,
        ``95%``, and ``max``. Save it with ``to_csv(path, index=False)``. In a group of few clips
        the outer quantiles are little more than its lowest and its highest clip.
    """
    frame = pd.DataFrame(gates, columns=range(1, gates.shape[1] + 1))
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    table = frame.groupby(list(groups), sort=False).describe(percentiles=quantiles)
    return table.stack(0, future_stack=True).rename_axis(["group", "layer"]).reset_index()


def plot_gates(clip: ArrayLike, reference: pd.DataFrame) -> plots.Plot:
    """Draw the gates of a clip over those of a reference set, a panel for each group.

    A band is the middle 90 % of the group, the line in it is the median, and the number is the
    number of clips. Bona fide speech comes first, then the attacks by name.

    Args:
        clip: Gates of layer 1, 2, ...
        reference: What :func:`gate_quantiles` returned; the group ``bona fide`` is blue.
    """
    groups = sorted(reference.groupby("group"), key=lambda group: group[0] != "bona fide")
    lines = ceil(len(groups) / 4)
    _, own = plots.panels(ceil(len(groups) / lines), 9, 1 + 1.8 * lines, rows=lines, sharey=True)
    for axes, (name, of) in zip(own, groups, strict=False):
        colour = plots.BONAFIDE if name == "bona fide" else plots.SPOOF
        axes.fill_between(of["layer"], of["5%"], of["95%"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(of["layer"], of["50%"], color=colour)
        axes.plot(of["layer"], clip, "k--", label="the clip")
        title = fill(f"{name} ({of['count'].max():.0f})", 22)  # as wide as a panel
        axes.set(title=title, xlabel="transformer layer", ylabel="gate")
    for axes in own[len(groups) :]:
        axes.remove()
    return plots.legend(own[0])


@torch.inference_mode()
def leave_one_out(detector: Detector, waveform: Float[Tensor, "batch samples"]) -> Tensor:
    """Return how far the LLR moves when one layer is left out of the sum.

    A negative value means that the score is lower without the layer: the layer spoke for bona fide.
    It takes one pass, and keeps all layers of the batch twice: 40 MB for a clip of XLS-R 300M.

    Args:
        detector: A detector in evaluation mode.
        waveform: Clips of the detector's length.

    Returns:
        The LLR without the layer minus the LLR with it, of shape (batch, layers).
    """
    layers = list(detector.backbone.layers(waveform))
    fused, gates = detector.head.fuse(layers)
    planes = [fused, *(fused - g[:, None, None] * h for g, h in zip(gates.T, layers, strict=True))]
    llrs = torch.stack([detector.llr_of(detector.head.classify(plane)) for plane in planes], dim=1)
    return llrs[:, 1:] - llrs[:, :1]


@torch.inference_mode()
def occlusion(detector: Detector, samples: Mono, *, stretch_s: float = 0.2) -> pd.DataFrame:
    """Return how far the LLR moves when the speech in a stretch of the clip is undone.

    A copy of the clip plays the stretch backwards. The samples are the same, and with them level,
    spectrum, noise and channel, but they are no longer speech. Silence or noise in their place
    would be a cue of its own. With ``mini`` on 80 simulated clips, the LLR falls on average by 0.13
    for noise of the stretch's own spectrum, wherever it is, by 0.05 for zeros, but by 0.01 for the
    reversal (``studies/occlusion.py``; none of them finds a forged second reliably). The reversal
    cannot show evidence that sounds the same backwards, such as a band that is missing throughout.

    Args:
        detector: A detector in evaluation mode.
        samples: The clip. Samples beyond the detector's length are ignored; a shorter clip is
            changed before it is tiled.
        stretch_s: Length of a stretch in seconds. Each stretch takes one pass.

    Returns:
        A row for each stretch, with ``start_s`` and ``change``, the LLR of the copy minus that of
        the clip. A negative change means that the stretch, as it was, spoke for bona fide.
    """
    clip, step = samples[: detector.config.n_samples], round(stretch_s * SAMPLE_RATE)
    starts, llrs = np.arange(0, len(clip), step), []
    for start in (*starts, len(clip)):  # the last copy is the clip as it is
        copy = clip.copy()
        copy[start : start + step] = clip[start : start + step][::-1]
        waveform = torch.from_numpy(fix_length(copy, detector.config.n_samples))[None]
        llrs.append(detector.llr(waveform.to(detector.device)).item())
    return pd.DataFrame({"start_s": starts / SAMPLE_RATE, "change": np.array(llrs[:-1]) - llrs[-1]})
