"""The extension of the book: chapters numbered by their files, pages described to other sites."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sphinx")
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def slsbook():
    path = ROOT / "book" / "_ext" / "slsbook.py"
    spec = importlib.util.spec_from_file_location("slsbook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tags(slsbook, base: str, text: str = 'Is it "real"?  <b>\nOr not?') -> str:
    document = new_document("x", get_default_settings())
    section = nodes.section()
    section += nodes.container("", nodes.paragraph("", "You will learn"))
    section += nodes.paragraph("", text)
    document += section
    config = SimpleNamespace(project="slslib", root_doc="book/intro", html_baseurl=base)
    context = {"title": '<span class="section-number">8b. </span>A &amp; B', "metatags": "<x>"}
    app = SimpleNamespace(config=config)
    slsbook.describe(app, "notebooks/08b_x", "page.html", context, document)
    return context["metatags"]


def test_other_sites_see_title_and_first_paragraph_of_the_text(slsbook):
    told = tags(slsbook, "")
    assert told.startswith("<x>")
    assert '<meta property="og:title" content="8b. A &amp; B">' in told
    said = 'content="Is it &quot;real&quot;? &lt;b&gt; Or not?"'
    assert f'<meta property="og:description" {said}>' in told
    assert f'<meta name="description" {said}>' in told
    assert '<meta property="og:type" content="article">' in told
    assert "og:image" not in told, "a picture without an address is none"
    assert len(tags(slsbook, "", "word " * 100)) < 700


def test_a_public_book_shows_its_cover(slsbook):
    told = tags(slsbook, "https://example.org/book/")
    assert 'og:image" content="https://example.org/book/_static/cover.png"' in told
    assert 'og:url" content="https://example.org/book/notebooks/08b_x.html"' in told
    head = (ROOT / "book" / "_static" / "cover.png").read_bytes()[:24]
    assert struct.unpack(">II", head[16:24]) == (1200, 630)


def test_chapters_are_numbered_by_their_files(slsbook):
    pages = ("00_a", "08_b", "08b_c", "09_d")
    sections = {f"notebooks/{p}": {"": (k,), "#s": (k, 2)} for k, p in enumerate(pages, 1)}
    title = nodes.title("", "", secnumber=(3,))
    env = SimpleNamespace(
        toc_secnumbers=sections | {"book/intro": {}},
        toc_fignumbers={"notebooks/08b_c": {"figure": {"f": (3, 1)}}, "book/x": {}},
        tocs={},
        titles={"notebooks/08b_c": title},
    )
    slsbook.number_by_name(None, env)
    assert [env.toc_secnumbers[f"notebooks/{p}"]["#s"] for p in pages] == [
        ("0", 2),
        ("8", 2),
        ("8b", 2),
        ("9", 2),
    ]
    assert env.toc_fignumbers["notebooks/08b_c"]["figure"]["f"] == ("8b", 1)
    assert title["secnumber"] == ("8b",)


@pytest.mark.parametrize(
    "origin",
    [
        "https://github.com/someone/slslib",
        "https://github.com/someone/slslib.git",
        "https://x-access-token:secret@github.com/someone/slslib.git/",
        "git@github.com:someone/slslib.git",
    ],
)
def test_a_clone_from_github_links_to_it_without_credentials(slsbook, tmp_path, origin):
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert slsbook.github_address(tmp_path) == ""
    subprocess.run([*git, "remote", "add", "origin", origin], check=True)
    assert slsbook.github_address(tmp_path) == "https://github.com/someone/slslib"
    (tmp_path / "unpacked").mkdir()  # below a clone of something else
    assert slsbook.github_address(tmp_path / "unpacked") == ""


@pytest.mark.parametrize("origin", ["/srv/slslib", "https://example.org/someone/slslib"])
def test_other_origins_give_no_buttons(slsbook, monkeypatch, origin):
    said = subprocess.CompletedProcess([], 0, origin + "\n")
    monkeypatch.setattr(slsbook.subprocess, "run", lambda *words, **how: said)
    theirs = {"repository_url": "https://github.com/executablebooks/jupyter-book"}
    config = SimpleNamespace(html_theme_options=theirs)
    slsbook.link_repository(None, config)
    shown = ("repository_url", "launch_buttons", "use_repository_button", "use_source_button")
    assert not any(config.html_theme_options[name] for name in shown)


def test_an_address_that_was_set_stays(slsbook):
    chosen = {"repository_url": "https://github.com/a/b", "launch_buttons": {"colab_url": "c"}}
    config = SimpleNamespace(html_theme_options=dict(chosen))
    slsbook.link_repository(None, config)
    assert config.html_theme_options == chosen | {
        "use_repository_button": True,
        "use_source_button": True,
    }


def test_heads_and_backbones_are_laid_out_by_system(slsbook):
    run = {"n_head_parameters": 1234}

    def system(mean: float, std: float) -> dict[str, Any]:
        return {"eer_percent": {"dev": {"mean": mean, "std": std}}, "runs": [run]}

    found = {"simulated": {"SLS": system(18.75, 2.16), "AASIST": system(20.0, 0.04)}}
    header, row = slsbook.head_rows(found, {})
    assert header == ("EER in %", "SLS (1,234 parameters)", "AASIST (1,234 parameters)")
    assert row == ("dev, simulated", "18.8 ± 2.2", "20.0 ± 0.0")
    assert slsbook.head_rows(found, {"AASIST": "another"}) == [
        ("EER in %", "another"),
        ("dev, simulated", "20.0 ± 0.0"),
    ]


def test_a_number_and_its_unit_stay_on_one_line(slsbook):
    document = new_document("x", get_default_settings())
    text = "20 to 30 % of 4 s at 16 kHz, 3 states"
    document += nodes.paragraph("", "", nodes.Text(text), nodes.literal("", "2 %"))
    slsbook.keep_units(None, document, "x")
    assert document.astext() == "20 to 30\xa0% of 4\xa0s at 16\xa0kHz, 3 states2 %"


def test_long_lists_below_the_table_are_folded(slsbook):
    told = "| a |\n\n- A: b\n\nFiles not at hand, x:\n\n- `c`: d\n\n"
    told += "Commands that measure y:\n\n- E:\n\n      f\n\nRefused:\n\n- g\n"
    assert slsbook.fold_lists(told) == (
        "| a |\n\n- A: b\n\n:::{dropdown} Files not at hand, x\n\n- `c`: d\n:::\n\n"
        ":::{dropdown} Commands that measure y\n\n- E:\n\n      f\n:::\n\nRefused:\n\n- g\n"
    )
    assert slsbook.fold_lists("| a |\n") == "| a |\n"


def test_only_long_words_of_code_break_on_a_phone(slsbook):
    document = new_document("x", get_default_settings())
    long = nodes.literal("", "hub:owner/name/folder/file.safetensors")
    short = nodes.literal("", "slslib score --checkpoint runs/v1 --out scores.txt")
    document += nodes.paragraph("", "", short, long)
    slsbook.mark_long(None, document, "x")
    assert (short["classes"], long["classes"]) == ([], ["long"])
