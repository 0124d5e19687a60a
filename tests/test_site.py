"""Open every page of the built book in headless Chromium, on a desktop and a phone, light and dark.

`make book` first. Set `CHROMIUM` to use another browser than the one found on the PATH, and
`SLSLIB_SCREENSHOTS` to a folder that shall receive a picture of every page.
"""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation import metrics

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


@pytest.mark.parametrize("path", MOVABLE)
def test_the_threshold_moves_and_the_rates_are_those_of_metrics(
    window, base: str, shared: Path, path: str
) -> None:
    page, errors, variant = window
    bonafide, spoof = MOVABLE[path](shared)
    curve = metrics.det_curve(bonafide, spoof)
    page.goto(base + path, wait_until="load")
    figure = page.locator(".sls-threshold")
    slider = figure.get_by_role("slider", name="Threshold")
    slider.scroll_into_view_if_needed()

    def shown() -> float:
        """Return the shown threshold; the rates beside it are right."""
        at = float(figure.locator(".sls-at").text_content())
        point = np.searchsorted(curve.thresholds[1:], at, side="right")
        for name, rate, n in (("frr", curve.frr, bonafide.size), ("far", curve.far, spoof.size)):
            text = f"{100 * rate[point]:.2f} %: {round(rate[point] * n):,} of {n:,}"
            assert figure.locator(f".sls-{name}").text_content() == text
            assert text in slider.get_attribute("aria-valuetext")
        return at

    start = shown()
    assert abs(start - metrics.eer(bonafide, spoof).threshold) <= 0.0251
    line, before = figure.locator(".sls-line"), figure.locator(".sls-line").bounding_box()
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
        said = [figure.locator(name).text_content().split()[0] for name in (".sls-frr", ".sls-far")]
        assert said == list(rates)
    take_screenshot(page, f"moved_{Path(path).stem}-{variant}")
    page.emulate_media(media="print")
    assert not slider.is_visible()
    assert figure.locator("svg").is_visible()
    assert not errors


@pytest.mark.parametrize("path", MOVABLE)
def test_without_scripts_the_figure_is_a_picture(browser, base: str, path: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(base + path, wait_until="load")
        box = page.locator(".sls-threshold img").bounding_box()
        assert box["width"] > 400
        assert box["height"] > 200
        assert not page.locator(".sls-threshold input").count()
