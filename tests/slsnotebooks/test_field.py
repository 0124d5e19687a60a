"""The published numbers of notebook 11: each has a source, and other pages say the same."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FIELD = tomllib.loads((files("slsnotebooks") / "field_2026.toml").read_text("utf-8"))
SETS = {entry["name"]: entry for entry in FIELD["sets"]}
TABLES = [name for name, entries in FIELD.items() if isinstance(entries, list)]
PAGE = (ROOT / "notebooks" / "11_field_2026.ipynb").read_text("utf-8")
INTRO = (ROOT / "book" / "intro.md").read_text("utf-8")
# A page of arXiv, a fixed commit of a repository, or a card on the Hugging Face hub.
ADDRESS = re.compile(
    r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}"
    r"|github\.com/[\w.-]+/[\w.-]+/(blob|tree)/[0-9a-f]{7,40}(/\S+)?"
    r"|huggingface\.co/\S+)"
)


def named_sources() -> set[str]:
    """Return the sources that entries name, of numbers and of counts of clips."""
    entries = [entry for table in TABLES for entry in FIELD[table]]
    named = {entry[key] for entry in entries for key in ("source", "clips_source") if key in entry}
    return named - {"official key"}


def test_every_number_has_a_source_and_every_source_a_number() -> None:
    for table in set(TABLES) - {"transfer"}:  # one source for all of them
        assert all("source" in entry for entry in FIELD[table]), table
    assert named_sources() == set(FIELD["sources"])


def test_every_source_has_a_lasting_address() -> None:
    for name, source in FIELD["sources"].items():
        assert source.get("how") in (None, "second hand", "recomputed"), name
        if source.get("how") != "recomputed":
            assert ADDRESS.fullmatch(source["url"]), name


def test_names_are_unique_and_rates_are_percentages() -> None:
    for table in TABLES:
        names = [entry["name"] for entry in FIELD[table]]
        assert len(names) == len(set(names)), table
    assert all(0 <= entry["eer"] <= 50 for entry in SETS.values())
    for system in FIELD["systems"]:
        assert all(best <= mean for best, *means in rates(system) for mean in means), system["name"]


def rates(system: dict) -> list[list[float]]:
    """Return the best EER of a system, and the mean where it is known, of each track."""
    return [system[track] for track in ("LA", "DF", "ITW")]


def test_the_first_table_is_the_arenas_ranking() -> None:
    arena = [entry["arena"] for entry in SETS.values() if "arena" in entry]
    assert len(arena) == 22
    assert sum(arena) / len(arena) == pytest.approx(12.06, abs=0.005)
    one = next(entry for entry in FIELD["same_protocol"] if entry["name"] == "SLS")
    names = ("ASVspoof 2021 LA", "ASVspoof 2021 DF", "ASVspoof 5", "In-the-Wild")
    assert one["eer"] == [SETS[name]["arena"] for name in names]


def test_the_landing_page_has_the_same_numbers() -> None:
    rows = dict(
        re.findall(r"^\| \**(\S[^|*]*?)\**(?:, best[^|]*)? \| (.*) \|$", INTRO, re.MULTILINE)
    )
    own = {"SSL-AASIST": "SSL + AASIST"}
    compared = 0
    for system in FIELD["systems"]:
        row = rows.get(own.get(system["name"], system["name"]))
        if row is not None:
            shown = [re.findall(r"\d+\.\d+", cell) for cell in row.split(" | ")[:3]]
            assert [[f"{rate:.2f}" for rate in pair] for pair in rates(system)] == shown
            compared += 1
    assert compared == 7


def test_the_page_says_when_and_leaves_no_address_open() -> None:
    assert "November 2026" in PAGE
    assert FIELD["as_of"] == "2026-11"
    repositories = re.findall(r"https://github\.com/[\w.-]+/[\w.-]+(?=[/)])(/?[\w./-]*)", PAGE)
    assert repositories
    homes = [path for path in repositories if path]
    assert all(re.match(r"/(blob|tree)/[0-9a-f]{7,40}", path) for path in homes)
