"""What the page *What is accepted* shows is what the library says."""

from __future__ import annotations

import re

import inputs
from provenance import ROOT, read


def test_the_committed_table_is_what_the_library_says() -> None:
    """If not: python studies/inputs.py, from a clean tree."""
    assert inputs.table() == read("inputs")


def test_commands_agree_or_the_table_says_why() -> None:
    rows = read("inputs")
    differ = {row["input"] for row in rows if "differs" in row}
    assert differ == {*inputs.DIFFERENCES}
    for row in rows:
        refused = {result == "refused" for result in row["results"].values()}
        assert (len(refused) == 2) == ("differs" in row), row["input"]
        assert row.get("differs", "agreed"), row["input"]


def test_a_refusal_says_why() -> None:
    for row in read("inputs"):
        for command, result in row["results"].items():
            assert (result == "accepted") == (command not in row["says"]), row["input"]


def test_the_page_shows_every_group() -> None:
    page = (ROOT / "book" / "inputs.md").read_text(encoding="utf-8")
    shown = re.findall(r"^:group: (.*)$", page, re.M)
    assert shown == list(dict.fromkeys(row["group"] for row in read("inputs")))
    assert all(f"\n## {group}\n" in page for group in shown)


def test_inputs_have_names_of_their_own() -> None:
    named = [(row["group"], row["input"]) for row in read("inputs")]
    assert len(named) == len({*named})
