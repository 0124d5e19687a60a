"""The gates of a clip before those of its reference."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from moving_page import SVG, Figure, said

from slsapp.explain import gate_quantiles
from slsnotebooks.gates import movable_gates

GROUPS = ["bona fide"] * 30 + ["M01"] * 12 + ["<M02>"] * 8


@pytest.fixture
def gates() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.3, (len(GROUPS), 24)).astype(np.float32)


@pytest.fixture
def figure(gates: np.ndarray) -> Figure:
    clips = [f"clip {k} ({group})" for k, group in enumerate(GROUPS)]
    return Figure(movable_gates(gates, clips, gate_quantiles(gates, GROUPS), [3, "M01"], "x"))


def lines(root: object) -> list[np.ndarray]:
    """Return the gates of each path, from the height of its points."""
    top = float(next(e.text for e in root.iter(f"{SVG}text") if e.get("y") == "74"))
    paths = [re.findall(r"\d+ ([\d.]+)", path.get("d")) for path in root.iter(f"{SVG}path")]
    return [np.interp(np.array(path, float), (70, 232), (top, 0)) for path in paths]


def test_every_clip_is_drawn_before_the_quantiles_of_both_groups(
    figure: Figure, gates: np.ndarray
) -> None:
    frame, groups = pd.DataFrame(gates), np.array(GROUPS)
    for k, attack in figure.settings:
        root, words = figure.at(k, attack), [f"clip {k} ({GROUPS[k]})"]
        _, *of_groups, clip = lines(root)[:6]  # the first is a dash in the legend
        np.testing.assert_allclose(clip, gates[k], atol=1e-3)
        for name in ("bona fide", attack):
            band, median = of_groups.pop(0), of_groups.pop(0)
            own = frame[groups == name]
            low, middle, high = own.quantile([0.05, 0.5, 0.95]).to_numpy()
            np.testing.assert_allclose(band, [*low, *high[::-1]], atol=1e-3)
            np.testing.assert_allclose(median, middle, atol=1e-3)
            inside = np.sum((low <= gates[k]) & (gates[k] <= high))
            words.append(f"{name} ({len(own)} clips): {inside} of 24 layers in the band")
        assert said(root) == words


def test_the_attacks_are_those_of_the_reference(figure: Figure) -> None:
    assert figure.fields[0][1] == list(range(len(GROUPS)))
    assert figure.fields[1] == ["Attack", ["M01", "<M02>"]]
    assert figure.start == [3, "M01"]


def test_a_backbone_of_another_depth_is_drawn() -> None:
    gates = np.full((4, 12), 0.5)
    reference = gate_quantiles(gates, ["bona fide", "bona fide", "A07", "A07"])
    figure = Figure(movable_gates(gates, list("abcd"), reference, [0, "A07"], "x"))
    assert "12 of 12 layers" in said(figure.at(1, "A07"))[1]
