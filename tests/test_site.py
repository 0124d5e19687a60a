"""Open every page of the built book in headless Chromium, on a desktop and a phone, light and dark.

`make book` first. Set `CHROMIUM` to use another browser than the one found on the PATH, and
`SLSLIB_SCREENSHOTS` to a folder that shall receive a picture of every page.
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from minispoof.corpus import simulation
from slslib.data.audio import fix_length, load
from slslib.data.corpora import open_corpus
from slslib.data.protocols import read_protocol
from slslib.data.rawboost import apply, draw
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation import metrics
from slslib.model.detector import Detector

pytestmark = pytest.mark.site

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(
    page.relative_to(SITE).as_posix()
    for page in SITE.rglob("*.html")
    if not {"_static", "_sources", "_modules", "reports"} & set(page.relative_to(SITE).parts)
)
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
PROBE = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const loading = (player) => !player.error && !(player.duration > 0);
  for (let n = 0; n < 30 && all('audio').some(loading); n++) {
    await new Promise((wake) => setTimeout(wake, 100));
  }
  return {
    formulas: all('article .math').length,
    drawn: all('article mjx-container').length,
    badFormulas: all('[data-mjx-error], mjx-merror').map((e) => e.textContent),
    broken: all('img').filter((i) => !(i.complete && i.naturalWidth)).map((i) => i.src),
    unnamed: all('img').filter((i) => !i.alt.trim()).map((i) => i.src),
    mute: all('audio').filter((a) => a.error || !(a.duration > 0)).length,
    wide: innerWidth < 1000 ? [] : all('article mjx-container[display]')
      .filter((e) => e.querySelector('svg').getBoundingClientRect().width > e.clientWidth + 1)
      .map((e) => MathJax.startup.document.getMathItemsWithin(e)[0]?.math),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Serve the built book on this machine and yield its address."""
    if not PAGES:
        pytest.skip(f"no built book in {SITE}: run `make book`")
    handler = functools.partial(QuietHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(params=[(screen, theme) for screen in SCREENS for theme in ("light", "dark")])
def window(request: pytest.FixtureRequest, browser, base: str) -> Iterator[tuple]:
    """Yield an empty page and the list that collects its errors."""
    screen, theme = request.param
    context = browser.new_context(color_scheme=theme, **SCREENS[screen])
    errors: list[str] = []

    def only_local(route) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            errors.append(f"asks for {route.request.url}")
            route.abort()

    context.route("**/*", only_local)
    page = context.new_page()
    page.on("console", lambda m: errors.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(f"script: {error}"))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.on(
        "response", lambda r: errors.append(f"{r.status}: {r.url}") if r.status >= 400 else None
    )
    yield page, errors, f"{screen}-{theme}"
    context.close()


def take_screenshot(page, name: str) -> None:
    """Write a picture of the whole page where it was asked for."""
    if folder := os.environ.get("SLSLIB_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_phone_scrolls_wide_figures_below_their_caption(browser, base: str) -> None:
    page = browser.new_context(**SCREENS["phone"]).new_page()
    page.goto(f"{base}notebooks/05_sls_head.html")
    wide, *_ = page.query_selector_all("figure:has(> img.wide)")
    assert wide.query_selector("img").bounding_box()["width"] > 600
    wide.evaluate("figure => { figure.scrollLeft = 300; }")
    assert wide.evaluate("figure => figure.scrollLeft") == 300
    caption = wide.query_selector("figcaption").bounding_box()
    assert caption["x"] >= 0 and caption["x"] + caption["width"] <= 390
    narrow = page.query_selector("figure > img:not(.wide)").bounding_box()
    assert narrow["x"] + narrow["width"] <= 390


def test_the_dark_theme_inverts_plots_and_no_heat_map(browser, base: str) -> None:
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(f"{base}notebooks/05_sls_head.html")
    look = "all => all.map(i => [i.classList.contains('plain'), getComputedStyle(i).filter])"
    found = page.eval_on_selector_all(".cell_output figure > img", look)
    assert {is_plain for is_plain, _ in found} == {True, False}
    assert all(kind.startswith("invert") == is_plain for is_plain, kind in found)


@pytest.mark.parametrize("path", PAGES or [""])
def test_page(window, base: str, path: str) -> None:
    page, errors, variant = window
    page.goto(base + path, wait_until="load")
    page.wait_for_load_state("networkidle")
    found = page.evaluate(PROBE)
    take_screenshot(page, f"{path.removesuffix('.html').replace('/', '_')}-{variant}")
    assert not errors
    assert found["drawn"] == found["formulas"], "formulas were left undrawn"
    assert not found["badFormulas"]
    assert not found["broken"], "images that do not load"
    assert not found["unnamed"], "images without alternative text"
    assert not found["mute"], "audio that cannot be played"
    assert not found["wide"], "formulas wider than the column"
    assert found["overflow"] <= 0, "the page is wider than the screen"


@pytest.mark.parametrize("word", ["EER", "RawBoost"])
def test_search_finds(window, base: str, word: str) -> None:
    page, errors, variant = window
    page.goto(f"{base}search.html?q={word}")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    take_screenshot(page, f"search_{word}-{variant}")
    assert page.locator("#search-results li").count() >= 2
    assert not errors


def test_every_page_of_the_contents_was_built() -> None:
    if not PAGES:
        pytest.skip(f"no built book in {SITE}: run `make book`")
    contents = (SITE.parent.parent / "_toc.yml").read_text()
    files = [line.split(":")[1].strip() for line in contents.splitlines() if "file:" in line]
    assert files
    assert {f"{name}.html" for name in files} <= set(PAGES)


def test_chapters_bear_the_numbers_of_their_notebooks() -> None:
    notebooks = [page for page in PAGES if page.startswith("notebooks/")]
    if not notebooks:
        pytest.skip(f"no built book in {SITE}: run `make book`")
    for page in notebooks:
        number = Path(page).name.split("_")[0].removeprefix("0")
        text = (SITE / page).read_text(encoding="utf-8")
        assert f'<h1><span class="section-number">{number}. </span>' in text, page
        assert f'<span class="caption-number">Fig. {number}.1 </span>' in text, page


def test_every_page_says_what_other_sites_show_of_it() -> None:
    if not PAGES:
        pytest.skip(f"no built book in {SITE}: run `make book`")
    pages = [page for page in PAGES if page.startswith(("book/", "notebooks/"))]
    heads = {page: (SITE / page).read_text(encoding="utf-8") for page in pages}
    assert [page for page, head in heads.items() if 'property="og:title"' not in head] == []
    told = [head.split('name="description" content="')[1].split('"')[0] for head in heads.values()]
    assert all(len(text) > 10 for text in told)


def random_scores(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores of notebook 08."""
    rng = np.random.default_rng(8)
    return rng.normal(2, 1, 1000), rng.normal(-1, 1.5, 2000)


def published_scores(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the scores of SLS on In-the-Wild."""
    folder = shared / "scores" / "in_the_wild"
    key = read_protocol(folder / "key_in_the_wild.txt")
    trials = match(read_scores(folder / "sls_authors.txt"), key)
    return metrics.split(trials.score, trials.label)


MOVABLE = {
    "notebooks/00_two_minute_detector.html": published_scores,
    "notebooks/08_eer_to_det.html": random_scores,
}


def said(figure) -> list[str]:
    """Return the lines of a figure that are read out."""
    return [text.strip() for text in figure.locator(".sls-said").all_text_contents()]


@pytest.mark.parametrize("path", MOVABLE)
def test_the_threshold_moves_and_the_rates_are_those_of_metrics(
    window, base: str, shared: Path, path: str
) -> None:
    page, errors, variant = window
    bonafide, spoof = MOVABLE[path](shared)
    curve = metrics.det_curve(bonafide, spoof)
    page.goto(base + path, wait_until="load")
    figure = page.locator(".sls-moving")
    slider = figure.get_by_role("slider", name="Threshold")
    slider.scroll_into_view_if_needed()

    def shown() -> float:
        """Return the shown threshold; the rates beside it are right."""
        threshold, *rates = said(figure)
        at = float(threshold.removeprefix("Threshold "))
        point = np.searchsorted(curve.thresholds[1:], at, side="right")
        classes = ("FRR", curve.frr, bonafide.size), ("FAR", curve.far, spoof.size)
        for text, (name, rate, n) in zip(rates, classes, strict=True):
            count = f"{round(rate[point] * n):,} of {n:,} "
            assert text.startswith(f"{name} {100 * rate[point]:.2f} %: {count}")
        assert slider.get_attribute("aria-valuetext") == "; ".join([threshold, *rates])
        return at

    start = shown()
    assert abs(start - metrics.eer(bonafide, spoof).threshold) <= 0.0251
    line = figure.locator("svg > path").last
    before = line.bounding_box()
    page.evaluate("document.addEventListener('keydown', () => { window.heard = true; })")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert shown() == pytest.approx(start + 0.5)
    assert line.bounding_box()["x"] > before["x"]
    assert not page.evaluate("window.heard"), "JupyterLab would hear the key and move to a cell"
    box = slider.bounding_box()
    for share in (0.3, 0.9):
        # A finger or a mouse takes the handle along; it stays below the line.
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        assert shown() != start
        middle = line.bounding_box()
        assert abs(middle["x"] + middle["width"] / 2 - box["x"] - share * box["width"]) < 4
    for key, rates in (("Home", ("0.00", "100.00")), ("End", ("100.00", "0.00"))):
        page.keyboard.press(key)
        shown()
        assert [text.split()[1] for text in said(figure)[1:]] == list(rates)
    take_screenshot(page, f"moved_{Path(path).stem}-{variant}")
    page.emulate_media(media="print")
    assert not slider.is_visible()
    assert figure.locator("svg").is_visible()
    assert not errors


def test_the_gates_are_those_of_the_detector_and_the_clip_moves(window, base: str) -> None:
    page, errors, variant = window
    page.goto(base + "notebooks/05_sls_head.html", wait_until="load")
    figure = page.locator(".sls-moving")
    slider = figure.get_by_role("slider", name="Clip")
    slider.scroll_into_view_if_needed()
    first = said(figure)
    detector, corpus = Detector.load("mini"), open_corpus("asvspoof2019-la:eval", simulation())
    top = float(figure.locator("svg text[y='74']").text_content())
    for key in ("Home", "ArrowRight", "End"):
        slider.press(key)
        clip, *inside = said(figure)
        assert "; ".join([clip, *inside]) == slider.get_attribute("aria-valuetext")
        name, made_by, score = re.fullmatch(r"(\S+) \((.+)\), score (.+)", clip).groups()
        n_samples = detector.config.n_samples
        waveform = fix_length(load(corpus.audio_path(name)).samples, n_samples)
        with torch.inference_mode():
            batch = torch.from_numpy(waveform)[None]
            gates, llr = detector.eval().gates(batch)[0].numpy(), detector.llr(batch).item()
        (row,) = corpus.trials[corpus.trials.utterance == name].itertuples()
        assert made_by == ("bona fide" if row.label else row.attack)
        assert float(score) == pytest.approx(llr, abs=0.0051)
        drawn = figure.locator("svg > path[stroke-dasharray]").last.get_attribute("d")
        heights = np.array(re.findall(r" ([\d.]+)", drawn), float)
        np.testing.assert_allclose((232 - heights) / 162 * top, gates, atol=2e-3)
    figure.get_by_role("combobox", name="Attack").select_option("M05")
    assert said(figure)[2].startswith("M05 (")
    assert figure.get_by_role("status").text_content() == "; ".join(said(figure))
    assert said(figure) != first
    take_screenshot(page, f"moved_05-{variant}")
    assert not errors


def test_a_threshold_moves_to_the_other_tracks_as_transfer_says(window, base: str) -> None:
    page, errors, variant = window
    page.goto(base + "notebooks/09_tracks.html", wait_until="load")
    (table,) = (
        [row.split("\t") for row in text.splitlines()]
        for text in page.locator("table.dataframe").all_inner_texts()
        if "FRR 5 %" in text
    )
    figure = page.locator(".sls-moving")
    figure.scroll_into_view_if_needed()
    seen, places = set(), set()
    for detector in ("LFCC-GMM", "mini"):
        figure.get_by_role("combobox", name="Detector").select_option(detector)
        for rule in ("FRR 5 %", "EER"):
            figure.get_by_role("combobox", name="Rule").select_option(rule)
            _, *rows = said(figure)
            rates = [re.findall(r"F[RA]R ([\d.]+)", row) for row in rows]
            seen.add(" ".join(f"{float(frr):.0f} / {float(far):.0f}" for frr, far in rates))
            places.add(figure.locator("svg .sls-glide").last.get_attribute("transform"))
    # The table beside it was checked against `slslib.evaluation.calibration.transfer`.
    assert seen == {" ".join(cell for cell in row if " / " in cell) for row in table[1:]}
    assert len(places) == 4
    assert said(figure)[1].endswith("(chosen here)")
    figure.get_by_role("combobox", name="Threshold from").select_option("In-the-Wild")
    assert said(figure)[4].endswith("(chosen here)")
    assert figure.get_by_role("status").text_content() == "; ".join(
        figure.locator(".sls-said").all_text_contents()
    )
    take_screenshot(page, f"moved_09-{variant}")
    assert not errors


def test_the_sounds_are_those_of_rawboost(window, base: str) -> None:
    page, errors, variant = window
    page.goto(base + "notebooks/04_rawboost.html", wait_until="load")
    figure = page.locator(".sls-moving")
    change = figure.get_by_role("combobox", name="Change")
    change.scroll_into_view_if_needed()
    train = open_corpus("asvspoof2019-la:train", simulation())
    name = train.trials.utterance[train.trials.label == 1].iloc[1]
    clip = load(train.audio_path(name)).samples.astype(np.float64)

    def heard(label: str) -> np.ndarray:
        """Return the samples of a player, which can play them."""
        player = figure.locator(f"audio[aria-label={label}]")
        player.evaluate("(a) => new Promise((go) => a.readyState ? go() : (a.onloadeddata = go))")
        assert player.evaluate("(a) => a.duration") == pytest.approx(1)
        address = player.get_attribute("src").removeprefix("data:audio/flac;base64,")
        return soundfile.read(io.BytesIO(base64.b64decode(address)))[0]

    np.testing.assert_allclose(heard("before"), clip[:16_000], atol=2**-12 + 1e-9)
    drawn = draw("ssi", len(clip), 1)
    slider = figure.get_by_role("slider", name="Strength")
    for key, snr in (("Home", 34), ("ArrowRight", 22), ("End", 10)):
        slider.press(key)
        assert said(figure) == ["3 ssi", f"SNR {snr} dB"]
        expected = apply(clip, replace(drawn, ssi=replace(drawn.ssi, snr=snr)))
        np.testing.assert_allclose(heard("after"), expected[:16_000], atol=2**-12 + 1e-6)
    pictures, sounds = set(), set()
    for algo in range(1, 9):
        change.select_option(index=algo - 1)
        sounds.add(heard("after").tobytes())
        pictures.add(figure.locator("svg image").last.get_attribute("href"))
    assert len(pictures) == len(sounds) == 8
    take_screenshot(page, f"moved_04-{variant}")
    assert not errors


@pytest.mark.parametrize("number", ["00", "04", "05", "08", "09"])
def test_without_scripts_the_figure_is_a_picture(browser, base: str, number: str) -> None:
    (path,) = (page for page in PAGES if page.startswith(f"notebooks/{number}_"))
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(base + path, wait_until="load")
        box = page.locator(".sls-moving img").bounding_box()
        assert box["width"] > 400
        assert box["height"] > 200
        assert not page.locator(".sls-moving :is(input, select, audio)").count()
