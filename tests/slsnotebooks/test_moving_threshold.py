"""The figure with a movable threshold; tests/test_site.py moves it in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from slslib.errors import ScoreError
from slslib.evaluation import metrics, plots
from slsnotebooks.threshold import STEPS_PER_BAR, count_rejected, movable_threshold

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    return rng.normal(2, 1, 300), rng.normal(-1, 1.5, 500)


class Tags(HTMLParser):
    """Attributes of every tag."""

    def __init__(self, text):
        super().__init__()
        self.found = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.setdefault(tag, []).append(dict(attrs))


def picture(page):
    """Return the root of the picture and its text by class."""
    source = Tags(page).found["img"][0]["src"]
    assert source.startswith("data:image/svg+xml,")
    root = ElementTree.fromstring(unquote(source.split(",")[1]))
    return root, {e.get("class"): e.text for e in root.iter(f"{SVG}tspan")}


def test_the_rates_are_exact_at_every_threshold(classes):
    bonafide, spoof = classes
    bonafide[:50] = np.round(bonafide[:50], 1)  # some are equal to a threshold
    rejected = count_rejected(bonafide, spoof)
    assert len(rejected) > 200
    for at, row in rejected.iterrows():
        assert row.bonafide == np.sum(bonafide <= at)
        assert row.spoof == np.sum(spoof <= at)
    assert rejected.iloc[0].to_list() == [0, 0]
    assert rejected.iloc[-1].to_list() == [300, 500]
    assert (len(rejected) - 1) % STEPS_PER_BAR == 0


@pytest.mark.parametrize("value", [-18.0, 0.0, 0.35, 3.0])
def test_equal_scores_are_counted_too(value):
    rejected = count_rejected([value], [value])
    assert rejected.iloc[0].sum() == 0
    assert rejected.iloc[-1].sum() == 2
    assert rejected.loc[value].sum() == 2


def test_scores_that_are_none_are_refused():
    with pytest.raises(ScoreError):
        count_rejected([np.nan], [0.0])


def test_the_picture_says_what_metrics_say(classes):
    eer = metrics.eer(*classes)
    rejected = count_rejected(*classes)
    page = movable_threshold(rejected, eer, name="x", alt='Two "classes" & a line')
    root, said = picture(page)
    at = float(said["sls-at"])
    assert abs(at - eer.threshold) <= 0.025 + 1e-9
    wrong = {"frr": np.sum(classes[0] <= at), "far": np.sum(classes[1] > at)}
    for name, n in (("frr", 300), ("far", 500)):
        assert said[f"sls-{name}"] == f"{100 * wrong[name] / n:.2f} %: {wrong[name]} of {n}"
    words = " ".join("".join(e.itertext()) for e in root.iter(f"{SVG}text"))
    assert f"EER {100 * eer.value:.2f} %" in words
    assert "trials of the class (%)" in words
    assert "score (higher: more bona fide)" in words
    assert root.get("aria-label") == Tags(page).found["img"][0]["alt"] == 'Two "classes" & a line'


def test_the_outlines_are_those_of_histograms(classes):
    rejected = count_rejected(*classes)
    root, _ = picture(movable_threshold(rejected, metrics.eer(*classes), name="x", alt="y"))
    ends = rejected.index[::STEPS_PER_BAR]
    tops = []
    for scores, colour in zip(classes, (plots.BONAFIDE, plots.SPOOF), strict=True):
        (outline,) = (p for p in root.iter(f"{SVG}path") if p.get("stroke") == colour)
        drawn = np.array(re.findall(r"V([\d.]+)H([\d.]+)", outline.get("d")), float)
        np.testing.assert_allclose(
            drawn[:, 1], np.interp(ends[1:], ends[[0, -1]], (46, 460)), atol=0.06
        )
        share = np.histogram(-scores, -ends[::-1])[0][::-1] / scores.size  # bins (a, b]
        tops.append((232 - drawn[:, 0]) / share.clip(1e-9) * (share > 0.02))
    scale = np.concatenate([top[top > 0] for top in tops])
    np.testing.assert_allclose(scale, scale.mean(), rtol=0.05)  # one scale for both classes


def test_the_page_is_always_the_same_and_asks_for_nothing(classes):
    first, again = (
        movable_threshold(count_rejected(*classes), metrics.eer(*classes), name="x", alt="y")
        for _ in range(2)
    )
    assert first == again
    addresses = set(re.findall(r"\w+://[\w./]+", first + unquote(first)))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG's namespace
