"""The page that scores recordings: its limits, what it says, and the whole of it in Chromium."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import select
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import DETECTOR

from slsapp import page
from slsapp.explain import gate_quantiles
from slslib.errors import AudioError
from slslib.model.detector import Detector
from slslib.runs.detect import detect

WIDTHS = (1200, 390)


@pytest.fixture(autouse=True)
def _nothing_asked() -> Iterator[None]:
    page._asked.clear()
    yield
    page._asked.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two checkpoints, one of which has a threshold, a recording and a file that is none."""
    folder = tmp_path_factory.mktemp("page")
    detector = Detector(DETECTOR, seed=5)
    detector.save(folder / "with.safetensors", {"dev_eer_threshold": -40.0})
    Detector(DETECTOR, seed=6).save(folder / "without.safetensors", {})
    x = 0.1 * np.random.default_rng(0).standard_normal(10_000)
    sf.write(folder / "call.wav", x, 16_000, subtype="PCM_16")
    (folder / "notes.wav").write_text("not audio at all")
    return folder


def scored(folder: Path, name: str = "with.safetensors"):
    return detect((folder / "call.wav",), checkpoint=str(folder / name))


def test_a_recording_is_read_whole(folder):
    assert len(page.read(str(folder / "call.wav"))) == 10_000


@pytest.mark.parametrize(("name", "says"), [(None, "no recording yet"), ("notes.wav", "neither")])
def test_what_is_no_recording_is_refused(folder, name, says):
    with pytest.raises(AudioError, match=says):
        page.read(name and str(folder / name))


def test_a_long_recording_is_refused(folder, monkeypatch):
    monkeypatch.setattr(page, "SAMPLE_RATE", 10)  # ten minutes are 6,000 samples
    with pytest.raises(AudioError, match="longer than"):
        page.read(str(folder / "call.wav"))


def test_too_many_recordings_in_a_minute_are_refused(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(page.time, "monotonic", lambda: now[0])
    for _ in range(page.PER_MINUTE):
        page.read(str(folder / "call.wav"))
    with pytest.raises(AudioError, match="in a minute"):
        page.read(str(folder / "call.wav"))
    now[0] += 60
    assert len(page.read(str(folder / "call.wav")))


def test_a_threshold_gives_a_verdict(folder):
    made = scored(folder)
    text, figure, start_s = page.describe(made)
    assert f"## LLR {made['files'][0]['llr']:.2f}" in text
    assert "**bona fide**: threshold -40.00" in text
    (threshold,) = figure.axes[0].lines
    assert list(threshold.get_ydata()) == [-40, -40]
    assert len(figure.axes[0].collections[0].get_paths()) == len(made["files"][0]["windows"])
    assert len(figure.axes) == 1
    samples = page.read(str(folder / "call.wav"))
    assert len(page.describe(made, samples)[1].axes) == 2  # with a spectrogram
    lowest = min(made["files"][0]["windows"], key=lambda window: window["llr"])
    assert start_s == lowest["start_s"]
    assert f"lowest at 0:{int(start_s):02}." in text
    made["files"][0]["windows"].append({"start_s": 541.5, "llr": lowest["llr"] - 1})
    made["files"][0]["duration_s"] = 542.0
    assert "lowest at 9:01." in page.describe(made)[0]


def test_without_a_threshold_there_is_no_verdict(folder):
    made = scored(folder, "without.safetensors")
    text, figure, _ = page.describe(made)
    assert f"## LLR {made['files'][0]['llr']:.2f}" in text
    assert "**No verdict.**" in text
    assert "slslib threshold" in text
    assert "**bona fide**" not in text
    assert "**spoof**" not in text
    (legend,) = figure.legends
    assert [one.get_text() for one in legend.get_texts()] == ["0; there is no threshold"]


def test_a_silent_window_is_told_and_drawn(folder, tmp_path):
    x, _ = sf.read(folder / "call.wav")
    x[4000:8000] = 0
    sf.write(tmp_path / "gap.wav", x[:8500], 16_000, subtype="PCM_16")
    made = detect((tmp_path / "gap.wav",), checkpoint=str(folder / "with.safetensors"))
    text, figure, _ = page.describe(made)
    assert "3 windows, 1 silent" in text
    _, bands = figure.axes[0].collections
    assert len(bands.get_paths()) == 1


def test_what_cannot_be_scored_is_an_error(folder):
    made = detect((folder / "notes.wav",), checkpoint=str(folder / "with.safetensors"))
    with pytest.raises(AudioError, match="neither"):
        page.describe(made)


@pytest.mark.parametrize("n_samples", [4000, 1500])
def test_gates_and_a_closer_look(folder, n_samples):
    detector = Detector.load(folder / "with.safetensors")
    clip = page.read(str(folder / "call.wav"))[:n_samples]
    assert len(page.gates(detector, clip, None).axes[0].lines[0].get_ydata()) == 3
    table = gate_quantiles(np.random.default_rng(0).random((9, 3)), ["bona fide", "A01", "A02"] * 3)
    assert len(page.gates(detector, clip, table).axes) == 3
    over_time, layers = page.closer(detector, clip, 2.0)
    assert over_time.axes[0].lines[0].get_xdata()[0] == pytest.approx(2.1)
    assert len(layers.axes[0].lines[0].get_ydata()) == 3


def test_text_of_a_file_is_no_markup():
    hostile = "\x1b[31m![x](http://e/x.png)\n**bona fide**: `a` <img src=x> | # " + "A" * 5000
    shown = page.plain(hostile)
    assert re.search(r"(?<!\\)[\[\]*`!|#]|<|\n|\x1b", shown.replace("&lt;", "")) is None
    assert len(shown) < 1200


def ask(guard: page.Guard, method: str, path: str, **headers: str) -> int:
    """Return the status that a guard gives a request; 200 where it passes it on."""
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named}
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"] if sent else 200


@pytest.fixture
def guard() -> page.Guard:
    async def app(scope, receive, send) -> None:
        """Accept everything."""

    return page.Guard(app)


def test_addresses_and_what_is_of_no_use_are_refused(guard):
    assert ask(guard, "GET", "/") == ask(guard, "GET", "/gradio_api/file=/srv/a.wav") == 200
    assert ask(guard, "GET", "/gradio_api/file=http://example.com/n.wav") == 403
    assert ask(guard, "HEAD", "/gradio_api/file=https:/example.com/n.wav") == 403
    assert ask(guard, "GET", "/gradio_api/proxy=example.com") == 403
    assert ask(guard, "POST", "/gradio_api/process_recording", content_length="1") == 403
    assert ask(guard, "PUT", "/gradio_api/upload", content_length="1") == 403


def test_uploads_are_limited_together(guard, monkeypatch):
    now, path = [1000.0], "/gradio_api/upload"
    monkeypatch.setattr(page.time, "monotonic", lambda: now[0])
    assert ask(guard, "POST", path) == 411
    assert ask(guard, "POST", path, content_length="9", transfer_encoding="chunked") == 411
    assert ask(guard, "POST", path, content_length=str(page.MEGABYTES + 2 << 20)) == 413
    size = str(page.MEGABYTES << 20)
    statuses = [ask(guard, "POST", path, content_length=size) for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    now[0] += page.KEPT_SECONDS + page.CHECK_SECONDS + 1
    assert ask(guard, "POST", path, content_length=size) == 200


# ------------------------------------------------------------------------------------- the command


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the page's command."""
    command = [sys.executable, "-m", "slsapp", *arguments]
    pipe = subprocess.PIPE
    env = os.environ | environment
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env)


def test_an_unknown_checkpoint_is_one_sentence():
    with start("nosuch.safetensors") as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert said.startswith("slsapp: nosuch.safetensors: no such checkpoint")
    assert "Traceback" not in said


def test_a_threshold_that_does_not_fit_is_refused_at_the_start(folder, tmp_path):
    (tmp_path / "t.json").write_text('{"threshold": 0}')
    with start(
        str(folder / "with.safetensors"), "--threshold", str(tmp_path / "t.json")
    ) as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "t.json was chosen for checkpoint_sha256 unset" in " ".join(said.split())
    assert "Traceback" not in said


def test_a_probability_is_said_beside_the_verdict(folder, tmp_path):
    detector = Detector.load(folder / "without.safetensors")
    facts = {"threshold": 0, "checkpoint_sha256": detector.source[2], "hop_s": None, "pool": "mean"}
    facts["calibration"] = {"slope": 1, "offset": 0, "prior_percent": 99.0}
    (tmp_path / "t.json").write_text(json.dumps(facts))
    made = page.decide((folder / "call.wav",), detector, tmp_path / "t.json")
    assert "if 99 % of all recordings are" in page.describe(made)[0]
    made = page.decide((folder / "call.wav",), detector, 0.5)
    assert made["threshold"] == 0.5
    assert "Probability" not in page.describe(made)[0]


needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None,
    reason='gradio is not installed: pip install -c constraints.txt -e ".[app]"',
)


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory) -> Iterator[tuple[str, Path, subprocess.Popen[str]]]:
    """Serve two checkpoints on a free port, with a network that leads nowhere for anything."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = tmp_path_factory.mktemp("temporary")
    names = [str(folder / f"{name}.safetensors") for name in ("with", "without")]
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    env = {"TMPDIR": str(temporary), "NO_PROXY": "", **nowhere}
    with start(*names, "--port", str(port), **env) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 120)
        line = process.stdout.readline() if ready else ""
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if not found:
            process.kill()
        assert found, process.communicate()[1]
        yield found.group(), temporary, process
        process.kill()


@pytest.fixture(params=WIDTHS)
def window(request, browser, served) -> Iterator[tuple]:
    """Open the page; yield it and the list of what it asked of others or said of scripts."""
    base, _, _ = served
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    errors: list[str] = []

    def only_local(route) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            errors.append(f"asks for {route.request.url}")
            route.abort()

    context.route("**/*", only_local)
    view = context.new_page()
    view.on("pageerror", lambda error: errors.append(f"script: {error}"))
    view.goto(base)
    view.get_by_role("button", name="Score", exact=True).wait_for(timeout=60_000)
    yield view, errors, request.param
    context.close()


def upload(view, file: Path) -> None:
    view.set_input_files("input[type=file]", file)
    # Gradio's notice of a running request, in #said, has such a button for a moment.
    view.locator("button[aria-label=Clear]:not(#said button)").wait_for(timeout=30_000)
    view.get_by_role("button", name="Score", exact=True).click()


def take_screenshot(view, name: str) -> None:
    if folder := os.environ.get("SLSLIB_SCREENSHOTS"):
        view.wait_for_timeout(500)
        view.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@needs_gradio
@pytest.mark.app
def test_a_recording_is_scored(window, folder):
    view, errors, width = window
    upload(view, folder / "call.wav")
    view.get_by_text("No verdict").wait_for(timeout=60_000)
    headings = view.get_by_role("heading", level=2).all_inner_texts()
    names = ("with.safetensors", "without.safetensors")
    want = [scored(folder, name)["files"][0]["llr"] for name in names]
    assert headings == [f"LLR {llr:.2f}" for llr in want]
    assert view.get_by_text("bona fide: threshold -40.00").count() == 1
    pictures = view.locator("img[src^='data:image']")
    pictures.nth(3).wait_for(timeout=30_000)
    assert pictures.count() == 4
    view.get_by_role("button", name="Look closer").click()
    pictures.nth(7).wait_for(timeout=60_000)
    assert pictures.count() == 8
    take_screenshot(view, f"app-{width}")
    assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert errors == []


@needs_gradio
@pytest.mark.app
def test_a_hostile_file_is_refused_in_one_sentence(window, folder):
    view, errors, width = window
    view.get_by_role("button", name="Score", exact=True).click()
    view.get_by_text("There is no recording yet").wait_for(timeout=30_000)
    upload(view, folder / "notes.wav")
    view.get_by_text("notes.wav: neither WAV").wait_for(timeout=60_000)
    said = view.locator("#said").inner_text()
    assert said.startswith("Not scored. notes.wav: neither WAV")
    assert len(said.splitlines()) == 1
    assert view.get_by_role("heading", level=2).count() == 0
    take_screenshot(view, f"app-refused-{width}")
    assert errors == []


def request(base: str, path: str, facts: object = None) -> str:
    """Return what the server answers, whatever the status."""
    data = None if facts is None else json.dumps(facts).encode()
    asked = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=60) as answer:
            text = ""
            for line in answer:
                text += line.decode()
                if "process_completed" in text:
                    break
            return text
    except urllib.error.HTTPError as error:
        return error.read().decode()


def run_event(base: str, index: int, value: object) -> str:
    """Have the server run an event of the page, without the page."""
    facts = {"data": [value], "fn_index": index, "session_hash": f"s{index}"}
    request(base, "gradio_api/queue/join", facts)
    return request(base, f"gradio_api/queue/data?session_hash=s{index}")


@needs_gradio
@pytest.mark.app
def test_no_address_of_a_visitor_is_asked_for_anything(served):
    base, _, _ = served
    address = "http://example.invalid/n.wav"
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    assert "Not an upload." in run_event(base, 0, file)
    assert "fetches nothing" in request(base, f"gradio_api/file={address}")


@needs_gradio
@pytest.mark.app
def test_a_closer_look_at_nothing_is_no_error(served):
    assert '"success":true' in run_event(served[0], 1, None).replace(" ", "")


@needs_gradio
@pytest.mark.app
def test_the_end_leaves_no_file_and_no_traceback(served, folder):
    _, temporary, process = served
    assert process.poll() is None
    process.terminate()
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert list(temporary.iterdir()) == []


@needs_gradio
@pytest.mark.app
def test_an_open_address_is_warned_of(folder):
    name = str(folder / "with.safetensors")
    with socket.create_server(("0.0.0.0", 0)) as taken:  # so that it does not start
        process = start(name, "--host", "0.0.0.0", "--port", str(taken.getsockname()[1]))
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert said.startswith("WARNING: 0.0.0.0 is open to others")
    assert "choose another --port" in said
    assert "Traceback" not in said


@needs_gradio
def test_a_table_of_something_else_is_refused_at_the_start(folder, tmp_path):
    name, table = str(folder / "with.safetensors"), tmp_path / "labels.csv"
    table.write_text("file,label\na.wav,bonafide\n")
    for tables, said in (((table,), "labels.csv lacks the columns"), ((table, table), "2 tables")):
        process = start(name, "--references", *map(str, tables))
        assert said in process.communicate(timeout=120)[1]
        assert process.returncode == 1
