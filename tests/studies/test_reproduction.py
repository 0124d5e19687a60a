"""The reproduction table: right numbers from the right files, and nothing from other files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import reproduction as module
from provenance import read
from reproduction import FILES, ROWS, File, errors, reproduce, to_markdown

from slslib.errors import ScoreError

KEY, SCORES = ROWS[0].key, ROWS[0].scores


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Serve a folder with the first row's two files, and pin them as if they were the published."""
    folder = tmp_path / "web"
    folder.mkdir()
    r = np.random.default_rng(0)
    labels = np.arange(400) % 2
    values = r.normal(size=400) + 2 * labels
    texts = {
        KEY: "".join(
            f"- {k}.wav - - - {('spoof', 'bona-fide')[y]}\n" for k, y in enumerate(labels)
        ),
        SCORES: "".join(f"{k}.wav {float(v)!r}\n" for k, v in enumerate(values)),
    }  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pinned = {}
    for name, text in texts.items():
        (folder / Path(name).name).write_text(text)
        address = f"http://127.0.0.1:{server.server_port}/{Path(name).name}"
        pinned[name] = File(address, "sha256:" + hashlib.sha256(text.encode()).hexdigest())
    nothing = {name: File("nowhere", file.hash) for name, file in FILES.items()}
    monkeypatch.setattr(module, "FILES", nothing | pinned)
    monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield folder
    server.shutdown()
    server.server_close()


def first(result):
    return result["rows"][0]


def test_files_are_downloaded_once_and_evaluated(web, tmp_path):
    result = reproduce(tmp_path, bootstrap=20)
    assert first(result)["status"] == "recomputed from published scores"
    assert (first(result)["n_bonafide"], first(result)["n_spoof"]) == (200, 200)
    assert first(result)["missing"] == ["release_in_the_wild/meta.csv"]
    assert result["files"][SCORES]["sha256"] in module.FILES[SCORES].hash
    assert all(row["status"] == "published" for row in result["rows"][1:])
    assert not first(result)["agrees"]  # these are not the published scores
    assert errors(result)
    assert "published scores, **DIFFERS**" in to_markdown(result)
    for path in web.iterdir():
        path.unlink()
    assert first(reproduce(tmp_path, bootstrap=20)) == first(result)


def test_wrong_bytes_are_refused_and_leave_nothing(web, tmp_path):
    path = web / Path(SCORES).name
    path.write_text(path.read_text().replace("0.wav", "0.wAv"))
    result = reproduce(tmp_path, bootstrap=20)
    assert first(result)["status"] == "published"
    assert "hash" in result["unreachable"][SCORES]
    assert errors(result)
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [Path(KEY).name]


def test_a_broken_download_is_told(web, tmp_path):
    (web / Path(SCORES).name).unlink()
    result = reproduce(tmp_path, bootstrap=20)
    assert "404" in result["unreachable"][SCORES]
    assert f"Could not be downloaded:\n\n- `{SCORES}`: HTTPError" in to_markdown(result)
    assert f"- `{SCORES}`: http://127.0.0.1" in to_markdown(result)
    command = next(row["command"] for row in result["rows"] if "hub:sukh" in row.get("command", ""))
    assert command in [
        line.strip() for line in to_markdown(result).splitlines()
    ]  # to be copied whole
    assert SCORES in [one["file"] for one in result["missing"]]


@pytest.mark.parametrize("variable", ["", "1", "True", "yes"])
def test_offline_makes_no_connection(web, tmp_path, monkeypatch, variable):
    monkeypatch.setenv("HF_HUB_OFFLINE", variable)
    result = reproduce(tmp_path, bootstrap=20, offline=not variable)
    assert first(result)["missing"] == [KEY, SCORES]
    assert result["unreachable"] == {}
    assert errors(result) == []
    assert not (tmp_path / "cache").exists()


def test_another_file_under_a_published_name_is_refused(tmp_path):
    path = tmp_path / SCORES
    path.parent.mkdir(parents=True)
    path.write_text("0.wav 1\n")
    with pytest.raises(ScoreError, match="not the published file"):
        reproduce(tmp_path, bootstrap=20, offline=True)


def test_git_ids_are_those_of_git(tmp_path):
    (tmp_path / "a").write_text("hello\n")  # printf 'hello\n' | git hash-object --stdin
    assert module._has_hash(tmp_path / "a", "git:ce013625030ba8dba906f756967f9e9ca394464a")
    assert not module._has_hash(tmp_path / "a", "git:ce013625030ba8dba906f756967f9e9ca394464b")


def test_own_scores_are_called_measured_here_and_speakers_are_resampled(web, tmp_path):
    data = tmp_path / "data"
    (data / "scores" / "measured").mkdir(parents=True)
    own = data / "scores" / "measured" / f"{ROWS[0].name}.txt"
    own.write_text((web / Path(SCORES).name).read_text())
    (data / "release_in_the_wild").mkdir()
    rows = [line.split() for line in (web / Path(KEY).name).read_text().splitlines()]
    meta = "".join(f"{row[1]},Speaker {k % 7},{row[5]}\n" for k, row in enumerate(rows))
    (data / "release_in_the_wild" / "meta.csv").write_text("file,speaker,label\n" + meta)
    result = reproduce(data, bootstrap=20)
    assert first(result)["status"] == "measured here"
    assert set(first(result)["eer_intervals_percent"]) == {"trials", "speaker"}
    assert "missing" not in first(result)
    swapped = meta.replace("bona-fide", "x").replace("spoof", "bona-fide").replace(",x", ",spoof")
    (data / "release_in_the_wild" / "meta.csv").write_text("file,speaker,label\n" + swapped)
    with pytest.raises(ScoreError, match="labels are not those of"):
        reproduce(data, bootstrap=20)


@pytest.mark.parametrize(
    ("value", "published", "agrees"),
    [(7.464, 7.46, True), (7.4652, 7.46, False), (19.304, 19.30, True), (0.03354, 0.0335, True),
     (0.0336, 0.0335, False)],
)  # fmt: skip
def test_agreement_is_to_the_published_digits(value, published, agrees):
    assert module._agrees(value, published) is agrees


def test_every_download_is_pinned():
    for name, file in FILES.items():
        if file.source.startswith("http"):
            assert re.search(r"githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", file.source), name
            assert re.fullmatch("sha256:[0-9a-f]{64}|git:[0-9a-f]{40}", file.hash), name
        assert not Path(name).is_absolute()
    for row in ROWS:
        assert {row.scores, row.key, *row.asv} <= set(FILES)


def test_the_committed_table_holds_every_published_value():
    result = read("reproduction")
    assert [row["name"] for row in result["rows"]] == [row.name for row in ROWS]
    assert all(row.get("agrees", True) for row in result["rows"])
    assert not re.search(r'"/|[A-Z]:\\\\', json.dumps(result)), "a path of a machine"
    text = to_markdown(result)
    for row in ROWS:
        assert row.corpus in text
        for value in row.published.values():
            assert f"{value:.2f}" in text or f"{value:.4f}" in text


@pytest.mark.shared
def test_real_score_files(shared, monkeypatch):
    result = reproduce(shared, bootstrap=100, offline=True)
    by_name = {row["name"]: row for row in result["rows"]}
    expected = {
        "in_the_wild_authors": 7.464131511,
        "in_the_wild_repro_v1": 7.835662614,
        "in_the_wild_repro_v2": 12.668849313,
        "la2019_rawgat_st": 1.060135,
        "la2021_progress_lfcc_gmm": 21.126859,
    }
    for name, value in expected.items():
        assert by_name[name]["status"] == "recomputed from published scores"
        assert by_name[name]["eer_percent"] == pytest.approx(value, abs=1e-6)
    assert by_name["la2019_rawgat_st"]["min_tdcf_2019"] == pytest.approx(0.033539, abs=1e-6)
    assert by_name["la2019_rawgat_st"]["min_tdcf_2021"] == pytest.approx(0.094168, abs=1e-6)
    assert by_name["la2019_rawgat_st"]["asv_eer_percent"] == pytest.approx(2.457784, abs=1e-6)
    tdcf = by_name["la2021_progress_lfcc_gmm"]["min_tdcf_2021"]
    assert tdcf == pytest.approx(0.583554, abs=1e-6)
    assert len(result["differences"]) == 3
    assert errors(result) == []
    committed = read("reproduction")
    for row, before in zip(result["rows"], committed["rows"], strict=True):
        if "eer_percent" in row:
            assert row["eer_percent"] == pytest.approx(before["eer_percent"], abs=1e-9)
            assert row["scores_sha256"] == before["scores_sha256"]
