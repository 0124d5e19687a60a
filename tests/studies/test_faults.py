"""A small count of faults: nothing escapes, nothing runs, what is killed ends as undisturbed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import faults
import fuzz
import hostile
import kills
import pytest
import torch
from provenance import ROOT, read

from slsapp import page


@pytest.fixture(autouse=True)
def one_thread():
    """A process that is forked cannot use the threads of its parent, and would wait for them."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_only_the_librarys_own_errors_escape(target: str) -> None:
    told = fuzz.fuzz(target, 250, seed=1)
    assert told["escaped"] == {}
    assert told["runs"] == told["accepted"] + told["refused"] == 250
    assert told["kinds_of_refusal"] > 1 or target.startswith("ONNX"), "one sentence for all"


def test_an_error_that_escapes_is_counted(tmp_path: Path) -> None:
    outcome = fuzz.Outcome()
    for data in (b"a", b"b"):
        fuzz.execute(lambda path: {}[len(path.read_bytes())], tmp_path / "x", data, outcome)
    (kind,) = outcome.escaped
    assert kind.startswith("KeyError")
    assert outcome.escaped[kind] == {"count": 2, "input_hex": "61"}


def test_ci_audits_the_pinned_packages_as_the_page_says() -> None:
    page = " ".join((ROOT / "book" / "security.md").read_text(encoding="utf-8").split())
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "(`pip-audit`)" in page
    assert re.search(r"run: pip-audit .*-r constraints\.txt", workflow)
    assert "artifact `sbom`" in page
    assert re.search(r"run: cyclonedx-py requirements constraints\.txt .* sbom\.json", workflow)
    assert "name: sbom" in workflow


def test_the_limits_of_the_page_are_those_of_its_code() -> None:
    text = " ".join((ROOT / "book" / "security.md").read_text(encoding="utf-8").split())
    limits = f"{page.MEGABYTES} MB and {page.MINUTES} minutes, all uploads together to "
    assert f"{limits}{page.MEGABYTES_KEPT:,} MB" in text
    assert (page.PER_MINUTE, page.KEPT_SECONDS) == (12, 600), "twelve in a minute; ten minutes"


def test_chunks_are_added_up() -> None:
    escaped = {"KeyError": {"count": 2, "input_hex": "61"}}
    row = {"runs": 5, "accepted": 1, "refused": 2, "kinds_of_refusal": 3, "slowest_s": 0.5}
    row |= {"seconds": 1.5}
    first = {"engine": "mutate", "seeds": [0], "runs": 5, "targets": {"x": row | {"escaped": {}}}}
    again = first | {"seeds": [1], "targets": {"x": row | {"slowest_s": 2.0, "escaped": escaped}}}
    made = faults.together(faults.together(first, again), again)
    assert made["seeds"] == [0, 1, 1]
    assert made["runs"] == made["targets"]["x"]["runs"] == 15
    assert made["targets"]["x"]["slowest_s"] == 2.0
    assert made["targets"]["x"]["seconds"] == 4.5
    assert made["targets"]["x"]["escaped"] == {"KeyError": {"count": 4, "input_hex": "61"}}


def test_damage_is_refused_or_hits_no_sample_where_there_are_checksums() -> None:
    rows = {row["format"]: row for row in faults.mutations(40, 1, seed=1)["formats"]}
    assert {row["crashed"] for row in rows.values()} == {0}
    assert rows["FLAC"]["other"] == rows["Ogg Vorbis"]["other"] == 0
    assert rows["WAV"]["other"] > 0, "which has none"
    assert all(row["isolated_agree"] == 1 for row in rows.values())


def test_hostile_checkpoints_run_nothing() -> None:
    names = [*hostile.payloads({}, {}, {"backbone": {}})]
    code = [name for name in names if "reduce" in name or "calls os" in name or "protocol" in name]
    told = faults.payloads([*code, "compressed zip of 400 MB.pth"])
    assert told["ran_code"] == told["escaped"] == 0
    assert told["accepted"] == told["over_300_mb"] == []


def test_the_canary_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function, arguments = hostile.Bomb().__reduce__()
    monkeypatch.chdir(tmp_path)
    function(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == [hostile.CANARY]


def test_a_killed_run_ends_as_undisturbed(corpora: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(corpora, here / "data")
    kills.Detector(kills.DETECTOR, seed=0).save(here / "detector.safetensors")
    job = kills.Job(here, "asvspoof2019-la:eval")
    kills.finish(job)
    row = kills.killed(job, job.result(), 0, 2, kills.random.Random(0))
    assert row["kills"] == row["same"] == 2
    assert row["wrong_before_the_end"] == row["leftovers"] == 0


@pytest.mark.slow
def test_all_kinds_of_interruption(corpora: Path, tmp_path: Path) -> None:
    told = kills.count(tmp_path / "runs", corpora, "asvspoof2019-la:eval", 4, 3, seed=0)
    assert [row["kills"] for row in told["killed"]] == [2, 2, 1, 1, 1]
    for row in told["killed"]:
        assert row["same"] == row["kills"]
        assert sum(row["signals"].values()) == row["kills"]
    for row in told["full_disk"]:
        assert row["same"] == row["failed"] == len(row["limits_bytes"])
        assert row["wrong_before_the_end"] == row["leftovers"] == 0
    assert told["two_writers"]["otherwise"] == 0
    assert all(row["same"] == row["moves"] for row in told["moved"])


def test_the_command_writes_one_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "faults.json"
    other = {"provenance": {"commit": "c0"}, "results": {"kills": {"seed": 0}, "mutations": {}}}
    out.write_text(json.dumps(other))
    command = ["faults.py", "mutations", "--mutations", "3", "--isolated", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    faults.main()
    content = json.loads(out.read_text())
    assert list(content) == ["what", "provenance", "results"]
    assert content["results"]["kills"] == {"commit": "c0", "seed": 0}, "the other part stays"
    assert content["results"]["mutations"]["commit"] == content["provenance"]["commit"]
    assert [row["mutations"] for row in content["results"]["mutations"]["formats"]] == [3] * len(
        faults.FORMATS
    )


def test_further_executions_are_added_to_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"runs": 5, "accepted": 1, "refused": 2, "seconds": 1.5, "escaped": {}}

    def fuzzed(runs: int, seconds: float, seed: int) -> dict[str, Any]:
        return {"engine": "mutate", "seeds": [seed], "runs": 5, "targets": {"x": row}}

    monkeypatch.setattr(faults, "fuzzed", fuzzed)
    command = ["faults.py", "fuzz", "--out", str(tmp_path / "faults.json")]
    for more in ([], ["--add", "--seed", "1", "--chunks", "2"]):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        faults.main()
    content = json.loads((tmp_path / "faults.json").read_text())
    fuzz = content["results"]["fuzz"]
    assert (fuzz["runs"], fuzz["seeds"]) == (15, [0, 1, 2])
    assert fuzz["commit"] == content["provenance"]["commit"]
    with pytest.raises(SystemExit):  # the same seeds once more
        faults.main()


def test_the_committed_counts_keep_the_promises() -> None:
    found = read("faults")
    interrupted = found["kills"]
    for row in interrupted["killed"]:
        assert row["same"] == row["kills"]
        assert row["wrong_before_the_end"] == 0
    assert sum(row["kills"] for row in interrupted["killed"]) >= 60
    for row in interrupted["full_disk"]:
        assert row["same"] == row["failed"] == row["said_why"] == len(row["limits_bytes"])
    assert interrupted["two_writers"]["otherwise"] == 0
    assert {*found["fuzz"]["targets"]} == {*faults.SHARES} == {*fuzz.TARGETS}
    assert all(row["escaped"] == {} for row in found["fuzz"]["targets"].values())
    assert found["fuzz"]["runs"] >= 1_000_000
    rows = {row["format"]: row for row in found["mutations"]["formats"]}
    assert all(row["crashed"] == 0 for row in rows.values())
    assert all(row["isolated_agree"] == row["isolated"] for row in rows.values())
    assert rows["FLAC"]["other"] == rows["Ogg Vorbis"]["other"] == 0
    assert found["payloads"]["ran_code"] == found["payloads"]["escaped"] == 0
