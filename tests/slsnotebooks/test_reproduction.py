"""The reproduction table: right numbers from the right files, and nothing from other files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import hub_server
import numpy as np
import pytest
from provenance import read

from slslib.errors import ConfigError, ScoreError
from slsnotebooks import reproduction as module
from slsnotebooks.reproduction import FILES, PAIRS, ROWS, File, errors, reproduce, to_markdown

KEY, SCORES = ROWS[0].key, ROWS[0].scores
LA_KEY, DF_KEY = "keys/LA/CM/trial_metadata.txt", "keys/DF/CM/trial_metadata.txt"
LABELS = "scores/la2021/key_cm_eval_labels.csv"
N = 400


def scores(seed, name="{}", n=N):
    """Return a score file of n trials, of which every other is bona fide."""
    values = np.random.default_rng(seed).normal(size=n) + 2 * (np.arange(n) % 2)
    return "".join(f"{name.format(k)} {float(v)!r}\n" for k, v in enumerate(values))


def key(line):
    """Return a key of the trials of :func:`scores`."""
    labels = ("spoof", "bonafide")
    return "".join(
        line.format(
            k=k, speaker=k % 7, attack="-" if k % 2 else f"A{7 + k % 4:02d}", label=labels[k % 2]
        )
        + "\n"
        for k in range(N)
    )


WILD_KEY = key("- {k}.wav - - - {label}")
WILD_SCORES = scores(0, "{}.wav")


def git_id(content):
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def web(monkeypatch, tmp_path):
    """Run a server with the first row's two files, pinned as if they were the published ones.

    Returns:
        A function that puts a file on the server and pins it; ``web.files`` holds what was put.
    """
    monkeypatch.setattr(
        module, "FILES", {name: File("nowhere", also=f.also) for name, f in FILES.items()}
    )
    monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with hub_server.serve() as hub:

        def put(name, text, pin="sha256", n_bytes=None):
            content = text.encode()
            put.files[name] = hub_server.File(content, large=False)
            hub.put("owner/name", name, put.files[name])
            hashes = {
                "sha256": "sha256:" + hashlib.sha256(content).hexdigest(),
                "git": git_id(content),
                "both": f"{git_id(content)} sha256:{hashlib.sha256(content).hexdigest()}",
            }
            module.FILES[name] = File(
                f"{hub.url}/owner/name/resolve/main/{name}",
                hashes[pin],
                len(content) if n_bytes is None else n_bytes,
            )

        put.files, put.hub = {}, hub
        put(KEY, WILD_KEY)
        put(SCORES, WILD_SCORES)
        yield put


def first(result):
    return result["rows"][0]


def cached(tmp_path):
    return [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]


@pytest.mark.parametrize("pin", ["sha256", "git", "both"])
def test_files_are_downloaded_once_and_evaluated(web, tmp_path, pin):
    web(SCORES, WILD_SCORES, pin)
    result = reproduce(tmp_path, bootstrap=20)
    assert first(result)["status"] == "recomputed from published scores"
    assert (first(result)["n_bonafide"], first(result)["n_spoof"]) == (200, 200)
    assert first(result)["missing"] == ["release_in_the_wild/meta.csv"]
    assert result["files"][SCORES]["sha256"] == hashlib.sha256(WILD_SCORES.encode()).hexdigest()
    assert {row["status"] for row in result["rows"][1:]} == {"published", "recomputed elsewhere"}
    assert not first(result)["agrees"]  # these are not the published scores
    assert errors(result)
    assert "published scores, **DIFFERS**" in to_markdown(result)
    web.hub.files.clear()
    assert first(reproduce(tmp_path, bootstrap=20)) == first(result)


BREAKS = {
    "wrong bytes": ("its hash is", lambda file: {"sent": file.content.replace(b"0.wav", b"0.wAv")}),
    "an error page": ("bytes, not", lambda file: {"sent": b"<html>Sign in</html>"}),
    "too large": ("it has more than", lambda file: {"sent": 2 * file.content}),
    "truncated": ("IncompleteRead", lambda file: {"break_at": 1000}),
    "cut, and the length fits": ("bytes, not", lambda file: {"sent": file.content[:1000]}),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_what_is_not_the_published_file_is_told_and_leaves_nothing(web, tmp_path, kind):
    message, change = BREAKS[kind]
    web.hub.put("owner/name", SCORES, replace(web.files[SCORES], **change(web.files[SCORES])))
    result = reproduce(tmp_path, bootstrap=20)
    assert first(result)["status"] == "published"
    assert message in result["unreachable"][SCORES]
    assert any(SCORES in line and message in line for line in errors(result))
    assert cached(tmp_path) == [Path(KEY).name]
    web.hub.put("owner/name", SCORES, web.files[SCORES])
    assert first(reproduce(tmp_path, bootstrap=20))["status"].startswith("recomputed from")


def test_a_download_of_unknown_size_has_a_limit(web, tmp_path, monkeypatch):
    web(SCORES, WILD_SCORES, n_bytes=0)
    monkeypatch.setattr(module, "MAX_BYTES", len(WILD_SCORES) - 1)
    result = reproduce(tmp_path, bootstrap=20)
    assert f"more than {len(WILD_SCORES) - 1:,} bytes" in result["unreachable"][SCORES]
    monkeypatch.setattr(module, "MAX_BYTES", len(WILD_SCORES))
    assert "eer_percent" in first(reproduce(tmp_path, bootstrap=20))


def test_a_damaged_cache_is_filled_again(web, tmp_path):
    whole = reproduce(tmp_path, bootstrap=20)
    path = tmp_path / "cache" / SCORES
    path.write_text(path.read_text()[:-100])
    assert first(reproduce(tmp_path, bootstrap=20)) == first(whole)


def test_a_broken_download_is_told(web, tmp_path):
    del web.hub.files["owner/name", "main", SCORES]
    result = reproduce(tmp_path, bootstrap=20)
    assert "404" in result["unreachable"][SCORES]
    assert f"Could not be downloaded:\n\n- `{SCORES}`: HTTPError" in to_markdown(result)
    assert f"- `{SCORES}`: http://127.0.0.1" in to_markdown(result)
    command = next(row["command"] for row in result["rows"] if "hub:sukh" in row.get("command", ""))
    shown = to_markdown(result).replace(" \\\n", " ")  # to be copied whole
    assert command in " ".join(shown.split())
    missing = next(one for one in result["missing"] if one["file"] == SCORES)
    assert f"{len(WILD_SCORES):,} bytes, sha256:" in missing["known"]


def test_without_a_network_it_ends_and_says_so(web, tmp_path):
    for name in (KEY, SCORES):  # port 9 of this machine: nobody answers
        source = re.sub(r":\d+/", ":9/", module.FILES[name].source)
        module.FILES[name] = replace(module.FILES[name], source=source)
    result = reproduce(tmp_path, bootstrap=20)
    assert set(result["unreachable"]) == {KEY, SCORES}
    assert all("ConnectionError" in why for why in result["unreachable"].values())
    assert cached(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        reproduce(tmp_path / "nowhere", offline=True)


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
    result = reproduce(tmp_path, bootstrap=20, offline=True)
    assert first(result)["status"] == "published"
    assert "it has 8 bytes, not 975,584; remove it" in result["refused"][SCORES]
    assert any("is not the published file" in line for line in errors(result))
    assert f"not the published file:\n\n- `{SCORES}`" in to_markdown(result)
    path.write_bytes(bytes(975_584))
    assert "its hash is" in reproduce(tmp_path, offline=True)["refused"][SCORES]


def test_git_ids_are_those_of_git(tmp_path):
    path = tmp_path / "a"
    path.write_text("hello\n")  # printf 'hello\n' | git hash-object --stdin
    known = "git:ce013625030ba8dba906f756967f9e9ca394464a"
    assert not module._wrong(path, File("", known))
    assert module._wrong(path, File("", known[:-1] + "b"))
    whole = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # sha256sum
    assert not module._wrong(path, File("", f"{known} {whole}"))
    assert module._wrong(path, File("", f"{known} {whole[:-1]}4"))
    assert module._wrong(path, File("", f"{known} {whole[:-1]}")), "a part is not the hash"


@pytest.fixture
def archives(web, tmp_path):
    """Return a data folder with stand-ins of the official archives; serve the public files."""
    data = tmp_path / "data"
    la = "{speaker} LA_E_{k} alaw ita_tx {attack} {label} notrim eval"
    df = "{speaker} DF_E_{k} nocodec asvspoof {attack} {label} notrim eval voc - - - -"
    texts = {LA_KEY: key(la), DF_KEY: key(df)}
    for seed, row in enumerate(ROWS):
        name = {"LA_E": "LA_E_{}", "DF_E": "DF_E_{}"}.get(f"{row.corpus[14:16]}_E", "{}.wav")
        if FILES[row.scores].is_public and "2019" not in row.corpus:
            web(row.scores, scores(seed, name))
        elif "2021" in row.corpus:
            texts[FILES[row.scores].also or row.scores] = scores(seed, name)
    for name, text in texts.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    return data


def test_the_card_and_the_eight_systems_go_the_whole_way(archives, monkeypatch):
    monkeypatch.setattr(module, "ROWS", [replace(row, trials=0) for row in ROWS])
    result = reproduce(archives, bootstrap=5)
    rows = {row["name"]: row for row in result["rows"]}
    card = [row for row in rows.values() if row["system"].startswith("SLS")]
    media = [row for row in rows.values() if row["corpus"] == "ASVspoof 2021 DF, eval"]
    assert (len(card), len(media)) == (9, 10)  # SLS of the authors is one of the eight
    computed = {row["name"] for row in (*card, *media)} | {"la2021_lfcc_gmm", "la2021_lfcc_lcnn"}
    for name in computed:
        assert rows[name]["status"] == "recomputed from published scores", name
        assert rows[name]["n_bonafide"] == rows[name]["n_spoof"] == N // 2
        assert not rows[name]["agrees"]
    assert set(rows["df2021_rawnet2"]["eer_intervals_percent"]) == {
        "trials",
        "speaker",
        "speaker and attack",
    }
    assert "min_tdcf_2021" not in rows["la2021_repro_v1"], "there are no ASV scores here"
    assert rows["la2021_repro_v1"]["missing"] == [*ROWS[7].asv]
    text = to_markdown(result)
    assert text.count("recomputed from published scores, **DIFFERS**") == len(computed) == 18
    pairs = [one for one in result["differences"] if "published" in one]
    assert len(pairs) == 2
    for one in pairs:
        assert not one["agrees"]
        assert set(one["intervals_percent"]) == {"trials", "speaker", "speaker and attack"}
        assert set(one["inside_the_band"]) == {"trials", "speaker and attack"}
        assert set(one["published_intervals_percent"]) == {"speaker and attack"}
        pair = f"{one['corpus']}, {one['first']} minus {one['second']}"
        assert f"{pair} differs from the published value" in errors(result)
    assert "XLSR-Mamba minus SLS, authors" in text
    assert "band over speaker and attack: -1.78 to -0.09, **ours reaches beyond**" in text
    assert "95 % over speaker and attack: -1.48 to -0.36; band over trials: -1.14 to -0.73" in text


def test_a_band_is_compared_with_our_interval_of_the_same_kind(archives, monkeypatch):
    def last():
        return reproduce(archives, bootstrap=5)["differences"][-1]

    low, high = last()["intervals_percent"]["speaker and attack"]
    for less, says in ((0, ", ours lies inside"), (0.001, ", **ours reaches beyond**")):
        bands = {"speaker and attack": (low + less, high)}
        monkeypatch.setattr(module, "PAIRS", [replace(PAIRS[-1], bands=bands)])
        one = last()
        assert one["inside_the_band"] == {"speaker and attack": not less}
        assert f"to {high:+.2f}{says}; {one['published_by']}" in module._difference_line(one)


def test_a_row_with_too_few_trials_does_not_agree(archives, monkeypatch):
    value = reproduce(archives, bootstrap=5, offline=True)
    row = next(row for row in value["rows"] if row["name"] == "df2021_rawnet2")
    same = {"eer_percent": round(row["eer_percent"], 3)}
    for trials, agrees in ((N, True), (N + 1, False)):
        changed = [
            replace(one, elsewhere=same, trials=trials) if one.name == row["name"] else one
            for one in ROWS
        ]
        monkeypatch.setattr(module, "ROWS", changed)
        again = reproduce(archives, bootstrap=5, offline=True)["rows"]
        assert next(one for one in again if one["name"] == row["name"])["agrees"] is agrees


def test_a_table_of_labels_does_where_the_official_key_is_missing(archives):
    def rows():
        result = reproduce(archives, bootstrap=5, offline=True)
        return {row["name"]: row for row in result["rows"]}

    whole = rows()["la2021_lfcc_gmm"]
    (archives / LA_KEY).unlink()
    assert LA_KEY in rows()["la2021_lfcc_gmm"]["missing"], "the file that everybody can get"
    labels = "file_name,label\n" + key("LA_E_{k},{label}")
    (archives / LABELS).parent.mkdir(parents=True, exist_ok=True)
    (archives / LABELS).write_text(labels)
    path = archives / "keys/LA/CM/LFCC-GMM/score.txt"
    path.write_text(path.read_text() + "LA_E_9999 1.5\n")  # a trial of another phase
    row = rows()["la2021_lfcc_gmm"]
    assert row["eer_percent"] == whole["eer_percent"]
    assert (row["phase"], row["missing"]) == ("eval", [*ROWS[7].asv, LA_KEY])
    assert list(row["eer_intervals_percent"]) == ["trials"]


def test_own_scores_are_called_measured_here_and_speakers_are_resampled(web, tmp_path):
    data = tmp_path / "data"
    (data / "scores" / "measured").mkdir(parents=True)
    own = data / "scores" / "measured" / f"{ROWS[0].name}.txt"
    own.write_text(WILD_SCORES)
    (data / "release_in_the_wild").mkdir()
    meta = key("{k}.wav,Speaker {speaker},{label}").replace("bonafide", "bona-fide")
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
     (0.0336, 0.0335, False), (1.9164, 1.916, True), (1.9166, 1.916, False)],
)  # fmt: skip
def test_agreement_is_to_the_published_digits(value, published, agrees):
    assert module._agrees(value, published) is agrees


def test_every_download_is_pinned():
    for name, file in FILES.items():
        if file.source.startswith("http"):
            assert re.search(r"githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", file.source), name
            assert file.is_public, name
        for one in file.hash.split():
            assert re.fullmatch("sha256:[0-9a-f]{64}|git:[0-9a-f]{40}", one), name
        assert not Path(name).is_absolute()
    for row in ROWS:
        assert {row.scores, row.key, row.c012, row.cluster_key, *row.asv} <= {*FILES, ""}
        assert row.published or row.elsewhere, "nothing to compare with"
    for pair in PAIRS:
        assert {pair.first, pair.second} <= {row.name for row in ROWS}


def test_of_the_eight_systems_and_their_key_size_and_hash_are_known():
    media = [row for row in ROWS if "2021 DF" in row.corpus and "SLS v" not in row.system]
    assert len(media) == 8
    for name in {name for row in media for name in (row.scores, row.key)}:
        file = FILES[name]
        assert "sha256:" in file.hash and file.bytes, name
        assert file.is_public == name.startswith("scores/"), name
        assert file.known.endswith(f"size and SHA-256 stated by {file.stated_by}"), name
        assert file.stated_by == media[0].elsewhere_by, name


def test_the_committed_table_holds_every_published_value():
    result = read("reproduction")
    assert [row["name"] for row in result["rows"]] == [row.name for row in ROWS]
    assert all(row.get("agrees", True) for row in result["rows"])
    assert not re.search(r'"/|[A-Z]:\\\\', json.dumps(result)), "a path of a machine"
    text = to_markdown(result)
    for row in ROWS:
        assert row.corpus in text
        for value in (*row.published.values(), *row.elsewhere.values()):
            assert any(f"{value:.{digits}f}" in text for digits in (2, 3, 4))
    for pair in PAIRS:
        assert pair.published is None or f"published {pair.published:+.2f}" in text


@pytest.mark.shared
def test_real_score_files(shared):
    result = reproduce(shared, bootstrap=100, offline=True)
    by_name = {row["name"]: row for row in result["rows"]}
    expected = {
        "in_the_wild_authors": 7.464131511,
        "in_the_wild_repro_v1": 7.835662614,
        "in_the_wild_repro_v2": 12.668849313,
        "la2019_rawgat_st": 1.060135,
        "la2021_progress_lfcc_gmm": 21.126859,
    }
    rounded = {
        ("la2021_lfcc_gmm", "eer_percent"): 19.2967,
        ("la2021_lfcc_gmm", "min_tdcf_2021"): 0.5758,
        ("la2021_lfcc_lcnn", "eer_percent"): 9.2601,
        ("la2021_lfcc_lcnn", "min_tdcf_2021"): 0.3445,
        ("asvspoof5_w2v2_dann_v2", "eer_percent"): 19.600,
        ("asvspoof5_w2v2_dann_v2", "eer_tie_aware_percent"): 18.260,
        ("asvspoof5_w2v2_dann_v2", "bonafide_at_highest_percent"): 79.456,
        ("asvspoof5_w2v2_erm", "eer_percent"): 15.192,
        ("asvspoof5_w2v2_erm", "eer_tie_aware_percent"): 15.164,
    }
    for name, value in expected.items():
        assert by_name[name]["status"] == "recomputed from published scores"
        assert by_name[name]["eer_percent"] == pytest.approx(value, abs=1e-6)
    for (name, quantity), value in rounded.items():
        assert by_name[name][quantity] == pytest.approx(value, abs=6e-4)
    assert by_name["la2021_lfcc_gmm"]["n_bonafide"] == 14_816
    assert by_name["la2021_lfcc_gmm"]["n_spoof"] == 133_360
    assert by_name["la2019_rawgat_st"]["min_tdcf_2019"] == pytest.approx(0.033539, abs=1e-6)
    assert by_name["la2019_rawgat_st"]["min_tdcf_2021"] == pytest.approx(0.094168, abs=1e-6)
    assert by_name["la2019_rawgat_st"]["asv_eer_percent"] == pytest.approx(2.457784, abs=1e-6)
    tdcf = by_name["la2021_progress_lfcc_gmm"]["min_tdcf_2021"]
    assert tdcf == pytest.approx(0.583554, abs=1e-6)
    assert sum("difference_percent" in one for one in result["differences"]) == 3
    assert errors(result) == []
    committed = read("reproduction")
    for row, before in zip(result["rows"], committed["rows"], strict=True):
        if "eer_percent" in row:
            assert row["eer_percent"] == pytest.approx(before["eer_percent"], abs=1e-9)
            assert row["scores_sha256"] == before["scores_sha256"]
