"""Mend what Sphinx and the theme get wrong; describe pages to other sites; link them to
the repository; show studies/results/*.json as tables.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from html import escape, unescape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from matplotlib.image import imread
from numpy.typing import ArrayLike
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from slsnotebooks.reproduction import to_markdown

ROOT = Path(__file__).resolve().parents[2]
GITHUB = re.compile(r"(https://([^/@]+@)?|git@)github\.com[/:](?P<name>[\w.-]+/[\w.-]+?)(\.git)?/?")
UNIT = re.compile(r"(?<=\d) (?=%|(?:k?Hz|[kMGT]B|m?s|dB)\b)")
COLON = "\ue000"  # stands for a colon while napoleon reads a docstring
OPTION = re.compile(r"(``.*?``|`[^`]*`)|(?<![\w`-])(--[a-z][a-z-]*)", re.DOTALL)
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")
NDARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([^\]]+)\]\]")
BUTTONS = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}


def link_repository(app: Any, config: Any) -> None:
    """Show buttons to Binder and to the source in a clone of a repository on GitHub.

    ``set_repository.py``, which adds Colab, goes first.
    """
    options = config.html_theme_options
    if "executablebooks/" in options["repository_url"]:  # Jupyter Book's own, as none was set
        address = github_address(ROOT)
        options["repository_url"], options["repository_branch"] = address, "HEAD"
        options["launch_buttons"] = BUTTONS if address else {}
    shown = bool(options["repository_url"])
    options.update(use_repository_button=shown, use_source_button=shown)


def github_address(root: Path) -> str:
    """Return the web address of the origin of a clone, if that is on GitHub."""
    if not (root / ".git").exists():  # or git would look in the folders above
        return ""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        origin = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:  # there is no git
        return ""
    found = GITHUB.fullmatch(origin)
    return f"https://github.com/{found['name']}" if found else ""


def keep_once(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Drop the later copies of a script, told apart by file name and body.

    Sphinx emits the inline scripts of two of the theme's extensions twice, and a second `const` of
    the same name is an error in the browser.
    """
    first = {}
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        first.setdefault((str(getattr(script, "filename", script) or ""), body), script)
    context["script_files"] = list(first.values())


def keep_colon(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading "Limit of x: 3 s." in an attribute's docstring as a type."""
    if what in {"attribute", "data", "property"} and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_options(
    app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Put back the colons; show options and examples of commands as code.

    Docstrings that are the help of a command have no marks, and Sphinx makes a dash of --.
    """
    text = "\n".join(lines).replace(COLON, ":")
    text = re.sub(
        r"^( *Example: )(slslib (?:.+\n)+)",
        lambda m: f"{m[1]}``{' '.join(m[2].split())}``\n",
        text + "\n",
        flags=re.MULTILINE,
    )
    lines[:] = OPTION.sub(lambda m: m[1] or f"``{m[2]}``", text).split("\n")


def shorten_types(
    app: Any, what: str, name: str, obj: object, options: Any, signature: str, returns: str
) -> tuple[str | None, str | None]:
    """Write array types by their names, and defaults so that Sphinx can parse the signature."""

    def shorten(text: str | None) -> str | None:
        if not text:
            return text
        text = text.replace(ARRAY_LIKE, "~numpy.typing.ArrayLike").replace("<factory>", "...")
        text = text.replace("PosixPath(", "Path(")
        text = NDARRAY.sub(r"~numpy.typing.NDArray[\1]", text)
        text = re.sub(r"'libsndfile [\d.]+'", "...", text)  # that of the building machine
        text = re.sub(r", _\w+: .*? = \.\.\.(?=[,)])", "", text)  # private fields
        return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)

    return shorten(signature), shorten(returns)


def skip_aliases(
    app: Any, what: str, name: str, obj: object, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples that say only "Alias for field number 0"."""
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def number_by_name(app: Any, env: Any) -> list[str]:
    """Number the chapters by their files, as the text does: notebook 04 is chapter 4, 08b is 8b.

    Sphinx numbers them from 1, anew at each build, right before this.
    """
    names = {}
    for page, sections in env.toc_secnumbers.items():
        if found := re.match(r"notebooks/0?(\d+[a-z]*)_", page):
            names[sections[""][0]] = found[1]

    def renamed(number: Any) -> Any:
        return type(number)((names[number[0]], *number[1:])) if number else number

    for sections in env.toc_secnumbers.values():
        sections.update({anchor: renamed(number) for anchor, number in sections.items()})
    for page, kinds in env.toc_fignumbers.items():
        if env.toc_secnumbers.get(page):  # figures elsewhere bear no chapter's number
            for figures in kinds.values():
                figures.update({name: renamed(number) for name, number in figures.items()})
    for node in (*env.tocs.values(), *env.titles.values()):
        for numbered in node.findall(lambda n: isinstance(n, nodes.Element) and "secnumber" in n):
            numbered["secnumber"] = renamed(numbered["secnumber"])
    return []


def mark_pictures(app: Any, doctree: Any, docname: str) -> None:
    """Mark pictures that a phone scrolls instead of shrinking them, and plots on white paper.

    The dark theme inverts such plots. Heat maps and spectrograms stay as they are.
    """
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"])  # myst-nb's are absolute
        if path.suffix == ".png" and path.is_file():
            pixels = imread(path)[..., :3]
            image["classes"] += ["wide"] * (pixels.shape[1] > 800)
            image["classes"] += ["plain"] * bool((pixels.min(axis=2) > 0.97).mean() > 0.7)


def keep_units(app: Any, doctree: Any, docname: str) -> None:
    """Let no line end between a number and its unit: "46" and "%"."""
    as_it_is = (nodes.FixedTextElement, nodes.literal, nodes.math, nodes.math_block, nodes.raw)
    for text in [*doctree.findall(nodes.Text)]:
        if UNIT.search(text) and not isinstance(text.parent, as_it_is):
            text.parent.replace(text, nodes.Text(UNIT.sub("\N{NO-BREAK SPACE}", text)))


def mark_long(app: Any, doctree: Any, docname: str) -> None:
    """Mark code with words of more than 30 characters: on a phone, only these break."""
    for code in doctree.findall(nodes.literal):
        if max(map(len, code.astext().split()), default=0) > 30:
            code["classes"].append("long")


def describe(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Say what other sites show of a link: title, first paragraph and, in public, the cover.

    A picture needs its whole address, which only a book with `baseurl` in `_config.yml` has.
    """
    if doctree is None:
        return
    paragraphs = [
        p for p in doctree.findall(nodes.paragraph) if isinstance(p.parent, nodes.section)
    ]
    text = " ".join(paragraphs[0].astext().split()) if paragraphs else app.config.project
    title = unescape(re.sub("<[^>]*>", "", context["title"]))
    about = {"title": title, "description": textwrap.shorten(text, 200, placeholder=" ...")}
    about |= {"type": "website" if pagename == app.config.root_doc else "article"}
    if base := app.config.html_baseurl:
        about["url"] = f"{base.rstrip('/')}/{pagename}.html"
        about["image"] = f"{base.rstrip('/')}/_static/cover.png"
    tags = [f'<meta property="og:{name}" content="{escape(what)}">' for name, what in about.items()]
    tags.append(f'<meta name="description" content="{escape(about["description"])}">')
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])


class _Results(SphinxDirective):
    """What a study wrote into a file, which is named relative to the page."""

    required_arguments = 1

    def results(self, named: str = "") -> Any:
        _, path = self.env.relfn2path(named or self.arguments[0])
        self.env.note_dependency(path)
        return json.loads(Path(path).read_text(encoding="utf-8"))["results"]


class ReproductionTable(_Results):
    """The rows of a file that `studies/reproduction.py` wrote."""

    def run(self) -> list[nodes.Node]:
        lines = fold_lists(to_markdown(self.results())).splitlines()
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, self.arguments[0]), 0, parent)
        return parent.children


def fold_lists(markdown: str) -> str:
    """Fold two long lists below the table: the missing files and the commands."""
    start, *rest = re.split(r"^([A-Z].*):\n", markdown, flags=re.MULTILINE)
    for head, items in zip(rest[::2], rest[1::2], strict=True):
        if head.startswith(("Files not at hand", "Commands that measure")):
            start += f":::{{dropdown}} {head}\n{items.rstrip()}\n:::\n\n"
        else:
            start += f"{head}:\n{items}"
    return start


class InputsTable(_Results):
    """One group of the file that `studies/inputs.py` wrote: input, outcome, what is said."""

    option_spec: ClassVar[dict[str, Any]] = {"group": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        rows = [row for row in self.results() if row["group"] == self.options["group"]]
        if not rows:
            raise self.error(f"no inputs of the group {self.options['group']!r}")
        cells = [[["input"], ["outcome"], ["what slslib says"]]]
        cells += [[[row["input"]], _outcome(row), _said(row)] for row in rows]
        return [_table(cells, (27, 22, 51))]


class FaultsTable(_Results):
    """The counts of the file that `studies/faults.py` wrote."""

    def run(self) -> list[nodes.Node]:
        rows = [("fault", "tried", "outcome"), *fault_rows(self.results())]
        cells = [[[cell] for cell in row] for row in rows]
        return [_table(cells, (33, 17, 50))]


class SpeedTable(_Results):
    """What `studies/speed.py` measured beside one reference: a row for each setting."""

    option_spec: ClassVar[dict[str, Any]] = {"beside": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        results = self.results()
        rows = speed_rows(results["beside"][self.options["beside"]])
        there = results["conditions"]
        n_clips = there["clips"] * (2 if self.options["beside"] == "transformers" else 1)
        where = f"{n_clips} clips, {there['threads']} threads, {there['pairs']} pairs"
        table = _table([[[cell] for cell in row] for row in rows], (28, 26, 22, 24), "numbers")
        text = f"({where}; load average at the start: {there['load_before'][0]:.1f}.)"
        return [table, nodes.paragraph("", text)]


class EvaluateTable(_Results):
    """What `studies/speed_evaluate.py` measured: a row for each call."""

    def run(self) -> list[nodes.Node]:
        rows = [("call", "CPU seconds before", "CPU seconds now", "MB before", "MB now")]
        for row in self.results()["calls"]:
            cells = (f"{row[f'{when}_cpu_s']:.2f}" for when in ("before", "after"))
            memory = (f"{row[f'{when}_peak_mb']:.0f}" for when in ("before", "after"))
            rows.append((row["call"], *cells, *memory))
        return [_table([[[cell] for cell in row] for row in rows], (40, 18, 12, 18, 12), "numbers")]


class DecodingTable(_Results):
    """What `studies/speed_decoding.py` measured: rates per core."""

    def run(self) -> list[nodes.Node]:
        found, rows = self.results(), [("what", "per second and core", "relative to soundfile")]
        names = {"load": "by load", "blocks_isolated": "in another process", "audit": "by verify"}
        for form in ("FLAC", "WAV"):
            rates = found[f"decoding_{form.lower()}"]
            rows.append(
                (f"{form} files, by soundfile alone", _rate(rates["soundfile_per_core"]), "1")
            )
            for key, name in names.items():
                share = f"{rates[f'{key}_to_soundfile']['median']:.2f}"
                rows.append((f"{form} files, {name}", _rate(rates[f"{key}_per_core"]), share))
        for row in found["dataset"]:
            name = f"training clips, RawBoost {row['rawboost']}"
            rows.append((name, _rate(row["items_per_core"]), ""))
        passed = _rate(found["load_batches"]["main_process_per_core"])
        rows.append(("clips that one process can take from those that decode", passed, ""))
        rows.append(
            ("files scored by detect with mini", _rate(found["detect_mini"]["files_per_core"]), "")
        )
        return [_table([[[cell] for cell in row] for row in rows], (50, 25, 25), "numbers")]


class RawBoostTable(_Results):
    """What `studies/rawboost.py` measured beside the published code: a row for each algorithm."""

    def run(self) -> list[nodes.Node]:
        heads = ("algorithm", "ms", "times as fast, same draws", "times as fast, usual draws")
        rows = [heads]
        for row in self.results()["algorithms"][1:]:
            times = [_ratio(row, name) for name in ("speed_ratio", "default_draws_ratio")]
            rows.append((f"{row['algo']} {row['name']}", f"{row['default_draws_ms']:.1f}", *times))
        return [_table([[[cell] for cell in row] for row in rows], (28, 12, 30, 30), "numbers")]


def _ratio(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_quartiles"]
    return f"{row[name]:.1f} [{low:.1f} to {high:.1f}]"


class BatchTable(_Results):
    """What `studies/speed_parts.py` measured: a row for each size of a batch."""

    def run(self) -> list[nodes.Node]:
        heads = (
            "clips",
            "original (s per clip)",
            "exact (s)",
            "bf16 (s)",
            "original (GB)",
            "exact (GB)",
            "bf16 (GB)",
        )
        rows: dict[int, list[dict[str, Any]]] = {}
        for row in self.results()["batches"]:
            rows.setdefault(row["clips"], []).append(row)
        lines = [heads]
        for n_clips, (exact, bf16) in rows.items():
            seconds = (exact["reference_seconds"], exact["seconds"], bf16["seconds"])
            gb = (exact["reference_peak_gb"], exact["peak_gb"], bf16["peak_gb"])
            each = (f"{one['median'] / n_clips:.2f}" for one in seconds)
            lines.append((str(n_clips), *each, *(f"{one['median']:.1f}" for one in gb)))
        widths = (10, 24, 12, 12, 18, 12, 12)
        return [_table([[[cell] for cell in row] for row in lines], widths, "numbers")]


class FrozenTable(_Results):
    """What `studies/frozen_layers.py` measured, in seconds."""

    def run(self) -> list[nodes.Node]:
        found = self.results()
        names = {
            "first_s": "computing and keeping the layers",
            "again_s": "the same call again",
            "epoch_from_kept_s": "an epoch that trains the head on kept layers",
            "epoch_s": "an epoch that computes the layers anew",
        }
        rows = [("what", f"seconds for {found['clips']} clips")]
        rows += [(name, f"{found[key]:.1f}") for key, name in names.items()]
        return [_table([[[cell] for cell in row] for row in rows], (65, 35), "numbers")]


class StorageTable(_Results):
    """What `studies/storage.py` measured of reading: a row for each place of a corpus."""

    def run(self) -> list[nodes.Node]:
        rows = [("the corpus is", "files read per second", "files decoded per second")]
        names = {"folder": "a folder", "tar": "a tar file mounted by ratarmount"}
        names |= {"squashfs": "a squashfs file mounted by squashfuse"}
        for row in self.results()["reading"]:
            rates = (f"{row[name]:,}" for name in ("read_per_s", "decoded_per_s"))
            rows.append((names[row["place"]], *rates))
        return [_table([[[cell] for cell in row] for row in rows], (40, 30, 30), "numbers")]


class SavingTable(_Results):
    """What a save costs: measured by `studies/storage.py`, and its share of training."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        saved = self.results()["saving"]["seconds"]
        training = self.results(self.arguments[1])["beside"]["original"]["exact"]["seconds"][
            "median"
        ]
        rows = [("seconds per step", "steps between saves", "share of the training time")]
        for name, step in (("measured", training), ("assumed", 0.06)):
            for steps in (1000, 5076):
                share = saved["median"] / (saved["median"] + steps * step)
                rows.append((f"{step:.2f} ({name})", f"{steps:,}", f"{100 * share:.2g} %"))
        low, high = saved["range"]
        text = f"(A save took {saved['median']:.1f} s [{low:.1f} to {high:.1f}].)"
        table = _table([[[cell] for cell in row] for row in rows], (34, 33, 33), "numbers")
        return [table, nodes.paragraph("", text)]


class ImageTable(_Results):
    """What `studies/image.py` measured of the image: size, seconds, memory."""

    def run(self) -> list[nodes.Node]:
        found, rows = self.results(), [("what", "MB on disk", "seconds", "GB of memory")]
        made = found["build"]
        names = {"detect": "detect with mini, 10 s of noise", "page": "starting the page"}
        size = f"{made['mb'] - made['mb_of_base']:,.0f}"
        rows.append(("the build, beyond its base image", size, f"{made['seconds']:.0f}", ""))
        for key, name in names.items():
            one = found[key]
            rows.append((name, "", f"{one['seconds']:.1f}", f"{one['peak_gb']:.2f}"))
        return [_table([[[cell] for cell in row] for row in rows], (40, 20, 20, 20), "numbers")]


class ThresholdTable(_Results):
    """One part of what `studies/threshold.py` measured."""

    option_spec: ClassVar[dict[str, Any]] = {"part": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        parts = {"published": (40, 30, 30), "transfer": (30, 30, 22, 18)}
        parts |= {"repair": (26, 12, 16, 22, 24), "simulation": (34, 14, 13, 13, 13, 13)}
        part = self.options["part"]
        rows = threshold_rows(self.results(), part)
        return [_table([[[cell] for cell in row] for row in rows], parts[part], "numbers")]


def threshold_rows(found: dict[str, Any], part: str) -> list[tuple[str, ...]]:
    """Lay out one part of `studies/threshold.py`: rates in percent."""
    rows: list[tuple[str, ...]] = []
    if part == "published":
        rows.append(("used on", "real speech rejected", "with 500 own clips"))
        for row in found["published"]["rows"]:
            percent = (f"{row[name]:.1f} %" for name in ("transferred_percent", "own_500_percent"))
            rows.append((row["set"], *percent))
    elif part == "transfer":
        rows.append(("threshold from", "used on", "real speech rejected", "fakes accepted"))
        for row in found["transfer"]:
            low, high = row["frr"]["interval_percent"]
            frr = f"{row['frr']['percent']:.1f} % [{low:.1f} to {high:.1f}]"
            far = f"{row['far']['percent']:.1f} %"
            rows.append((row["chosen_on"], row["used_on"], frr, far))
    elif part == "repair":
        head = "promise kept, % of draws", "real speech rejected", "fakes accepted"
        rows.append(("set, system", "500 clips of", *head))
        for row in found["repair"]:
            if row["rule"] == "guarantee" and row["wanted_percent"] == 5:
                few = f"{row['n_speakers']} speakers" if row["drawn_by"] == "speakers" else "all"
                both = (row["frr_percent"], row["far_percent"])
                spread = (f"{v['median']:.1f} % [{v['low']:.1f} to {v['high']:.1f}]" for v in both)
                rows.append((row["set"], few, f"{row['kept_percent']:.1f}", *spread))
    else:
        sizes = sorted({row["n"] for row in found["simulation"]})
        rows.append(("scores", "wanted", *(f"{n:,} clips" for n in sizes)))
        cells: dict[tuple[str, str], list[str]] = {}
        for row in found["simulation"]:
            name = _SCORES[row["scores"]].format(percent=100 * row.get("share", 0), **row)
            kept = "refused" if row.get("refused") else f"{row['kept_percent']:.1f}"
            cells.setdefault((name, f"{row['wanted_percent']:g} %"), []).append(kept)
        rows += [(*names, *kept) for names, kept in cells.items()]
    return rows


_SCORES = {
    "independent": "independent, none equal",
    "rounded": "independent, rounded",
    "saturated": "independent, four of five equal",
    "clustered": "{clips} of each speaker, {percent:.0f}\N{NO-BREAK SPACE}%",
}


class CostTable(_Results):
    """What archives cost, from the files of `studies/speed.py` and `studies/speed_decoding.py`."""

    required_arguments = 2
    sizes: ClassVar[dict[str, float]] = {  # hours of audio, in windows of 4.0375 s
        "2021 LA, 181,566 trials": 181_566 * 4.0375 / 3600,
        "2021 DF, 611,829 trials": 611_829 * 4.0375 / 3600,
        "1,000 hours": 1e3,
        "1,000,000 hours": 1e6,
    }

    def run(self) -> list[nodes.Node]:
        scoring = self.results()
        decoding = self.results(self.arguments[1])["decoding_flac"]["load_per_core"]["median"]
        there, rows = scoring["conditions"], scoring["beside"]["original"]
        each = [rows[name]["cpu_seconds"]["median"] / there["clips"] for name in ("exact", "bf16")]
        heads = ("decoding", "scoring, exact", "scoring, bf16")
        lines = [("audio", "windows", *(f"{head} (core hours)" for head in heads), "16-bit size")]
        for name, hours in self.sizes.items():
            windows = hours * 3600 / 4.0375
            core_hours = (windows * seconds / 3600 for seconds in (1 / decoding, *each))
            cells = (f"{value:,.3g}" if value < 10 else f"{value:,.0f}" for value in core_hours)
            lines.append((name, f"{windows:,.0f}", *cells, f"{hours * 0.1152:,.0f} GB"))
        widths = (28, 16, 14, 14, 14, 14)
        return [_table([[[cell] for cell in row] for row in lines], widths, "numbers")]


class HeadsTable(_Results):
    """What `studies/heads.py` measured: a row for each set of trials, a column for each system.

    A second file adds its systems. ``columns`` chooses systems and names them, as in
    ``SLS: all layers; 12 layers: half of them``.
    """

    optional_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"columns": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        found = self.results()
        for path in self.arguments[1:]:
            for where, systems in self.results(path).items():
                found[where] |= systems
        columns = filter(None, self.options.get("columns", "").split("; "))
        rows = head_rows(found, dict(column.split(": ", 1) for column in columns))
        widths = (34, *(66 // len(rows[0][1:]) for _ in rows[0][1:]))
        return [_table([[[cell] for cell in row] for row in rows], widths, "numbers")]


def head_rows(found: dict[str, Any], columns: dict[str, str]) -> list[tuple[str, ...]]:
    """Lay out `studies/heads.py`: the EER of each system (mean and deviation over the seeds).

    Without ``columns``, all systems are shown, with the size of the head.
    """
    sizes = {head: one["runs"][0]["n_head_parameters"] for head, one in found["simulated"].items()}
    columns = columns or {head: f"{head} ({size:,} parameters)" for head, size in sizes.items()}
    rows = [("EER in %", *columns.values())]
    for where, systems in found.items():
        for name in systems["SLS"]["eer_percent"]:
            eers = (systems[system]["eer_percent"][name] for system in columns)
            rows.append((f"{name}, {where}", *(f"{e['mean']:.1f} ± {e['std']:.1f}" for e in eers)))
    return rows


class ExportTable(_Results):
    """What `studies/export.py` measured of size, start, memory and speed."""

    def run(self) -> list[nodes.Node]:
        rows = [
            ("model", "file (MB)", "start (s)", "memory (GB)", "seconds per clip", "times as fast")
        ]
        for model in [one for one in _EXPORTED if one in self.results()]:
            for setting, row in self.results()[model]["settings"].items():
                low, high = row["times_exact"]["range"]
                cells = (
                    f"{row['file_mb']:,.0f}" if setting != "bf16" else "",
                    f"{row['start_s']:.1f}",
                    f"{row['peak_gb']:.2f}",
                    f"{row['seconds_per_clip']['median']:.3f}",
                    f"{row['times_exact']['median']:.2f} [{low:.2f} to {high:.2f}]",
                )
                rows.append((f"{_EXPORTED[model]}, {setting}", *cells))
        there = self.results()["conditions"]
        where = f"Batches of {there['batch']} clips, {there['pairs']} rounds"
        table = _table(
            [[[cell] for cell in row] for row in rows], (28, 12, 12, 10, 16, 22), "numbers"
        )
        text = f"({where}; load average at the start: {there['load_before'][0]:.1f}.)"
        return [table, nodes.paragraph("", text)]


class ExportDrift(_Results):
    """What `studies/export.py` found of scores: a row for each model, clips and setting."""

    def run(self) -> list[nodes.Node]:
        rows = [("clips", "setting", "largest drift", "mean drift", "mean / spread", "EER (%)")]
        for model in [one for one in _EXPORTED if one in self.results()]:
            settings = self.results()[model]["settings"]
            for clips in settings["exact"]["scores"]:
                for setting, row in settings.items():
                    found = row["scores"][clips]
                    eer = f"{found['eer_percent']:.2f}" if "eer_percent" in found else ""
                    drifts = ("max_abs", "mean_abs", "mean_abs_over_spread")
                    cells = (_small(found[one]) for one in drifts)
                    first = f"{_EXPORTED[model]}, {clips} ({found['n_clips']})"
                    rows.append((first, setting, *cells, eer))
        widths = (34, 12, 14, 12, 16, 12)
        return [_table([[[cell] for cell in row] for row in rows], widths, "numbers")]


_EXPORTED = {"mini": "mini", "full_size_random_weights": "300M, random weights"}


def _small(value: float) -> str:
    """Write two digits, and a power of ten as people do."""
    digits, _, power = f"{value:.2g}".partition("e")
    raised = f"{int(power)}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if power else ""
    return f"{digits} × 10{raised}".replace(" ", "\N{NO-BREAK SPACE}") if power else digits


def _rate(found: dict[str, float]) -> str:
    return f"{found['median']:,.0f}"


def speed_rows(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Lay out one reference of `studies/speed.py`."""
    rows = [("setting", "times as fast", "seconds; of reference", "GB; of reference")]
    for name, row in found.items():
        low, high = row["times_seconds"]["range"]
        times = f"{row['times_seconds']['median']:.2f} [{low:.2f} to {high:.2f}]"
        seconds, gb = (
            f"{row[what]['median']:.2f}; {row[f'reference_{what}']['median']:.2f}"
            for what in ("seconds", "peak_gb")
        )
        rows.append((name, times, seconds, gb))
    return rows


def fault_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Lay out the counts of `studies/faults.py`: what was tried, how often, with what outcome."""
    rows = []
    kills, fuzz = found["kills"], found["fuzz"]
    for row in kills["killed"]:
        outcome = f"{row['same']} ended like an undisturbed run"
        told = {"wrong_before_the_end": "left a wrong score file", "hung": "hung"}
        told |= {"left_processes": "left processes running", "leftovers": "left a temporary file"}
        outcome += "".join(f"; {row[name]} {text}" for name, text in told.items() if row[name])
        workers = "1 worker" if row["workers"] == 1 else f"{row['workers']} workers"
        name = f"{row['command']} killed, {workers}"
        rows.append((name, row["kills"], outcome))
    full = [
        (f"{row['command']} on a full disk", row, len(row["limits_bytes"]))
        for row in kills["full_disk"]
    ]
    if small := kills["small_disk"]:
        full.append(("score on a full disk in memory (tmpfs)", small, len(small["pages_left"])))
    for name, row, n in full:
        outcome = f"{row['failed']} failed, {row['wrong_before_the_end']} left a wrong file; "
        outcome += f"run again, {row['same']} ended like an undisturbed run"
        rows.append((name, n, outcome))
    pair = kills["two_writers"]
    outcome = (
        f"one of the two was refused {pair['one_refused']} times; {pair['same']} right results"
    )
    rows.append(("two runs with the same output", pair["pairs"], outcome))
    for row in kills["moved"]:
        name = f"{row['command']} killed, its folder moved"
        rows.append((name, row["moves"], f"{row['same']} ended like an undisturbed run"))
    for name, row in fuzz["targets"].items():
        escaped = sum(kind["count"] for kind in row["escaped"].values())
        outcome = f"{row['accepted']:,} accepted, {row['refused']:,} refused, "
        outcome += f"{escaped} raised another error"
        rows.append((f"malformed {name} ({fuzz['engine']})", row["runs"], outcome))
    for row in found["mutations"]["formats"]:
        outcome = f"{row['refused']:,} refused, {row['same']:,} accepted with the same samples, "
        outcome += f"{row['other']:,} accepted with other samples, {row['crashed']} crashes"
        rows.append((f"damaged {row['format']}", row["mutations"] - row["unchanged"], outcome))
    loaded = found["payloads"]
    outcome = f"{loaded['ran_code']} ran code, {loaded['escaped']} raised another error"
    for name in loaded["over_300_mb"]:
        outcome += f"; took more than 300 MB: {Path(name).stem}"
    rows.append(("hostile checkpoints", loaded["payloads"], outcome))
    return [(name, f"{n:,} times", outcome) for name, n, outcome in rows]


def _table(
    cells: list[list[list[str]]], widths: tuple[int, ...], kind: str = "inputs"
) -> nodes.table:
    """Make a table of cells, each of some paragraphs; the first row is its head."""

    def row(one: list[list[str]]) -> nodes.row:
        # Keep quotation marks as the library prints them.
        as_it_is = {"support_smartquotes": False}
        paragraphs = ([nodes.paragraph(text, text, **as_it_is) for text in cell] for cell in one)
        return nodes.row("", *(nodes.entry("", *cell) for cell in paragraphs))

    head, *rows = map(row, cells)
    columns = [nodes.colspec(colwidth=width) for width in widths]
    parts = [*columns, nodes.thead("", head), nodes.tbody("", *rows)]
    group = nodes.tgroup("", *parts, cols=len(widths))
    return nodes.table("", group, classes=[kind, "colwidths-given"])


def _outcome(row: dict[str, Any]) -> list[str]:
    """Say which commands accept and refuse an input."""
    by_word: dict[str, list[str]] = {}
    for command, result in row["results"].items():
        word = "refused" if result == "refused" else "accepted"
        by_word.setdefault(word, []).append(command)
    if len(by_word) == 1:
        return [*by_word]
    return [f"{word} by {', '.join(names)}" for word, names in by_word.items()]


def _said(row: dict[str, Any]) -> list[str]:
    """Say each sentence once, with the commands that say it, where others say something else.

    Where commands differ in what they accept, the last sentence says why.
    """
    by_text: dict[str, list[str]] = {}
    for command, text in row["says"].items():
        by_text.setdefault(text, []).append(command)
    if len(by_text) == 1 and "refused" in row["results"].values():
        return [*by_text]
    said = [f"{', '.join(commands)}: {text}" for text, commands in by_text.items()]
    return said + [why[0].upper() + why[1:] + "." for why in [row.get("differs", "")] if why]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx: the scripts after the theme's, the docstrings around napoleon."""
    app.add_directive("reproduction-table", ReproductionTable)
    app.add_directive("inputs-table", InputsTable)
    app.add_directive("faults-table", FaultsTable)
    app.add_directive("speed-table", SpeedTable)
    app.add_directive("evaluate-table", EvaluateTable)
    app.add_directive("decoding-table", DecodingTable)
    app.add_directive("rawboost-table", RawBoostTable)
    app.add_directive("batch-table", BatchTable)
    app.add_directive("frozen-table", FrozenTable)
    app.add_directive("storage-table", StorageTable)
    app.add_directive("saving-table", SavingTable)
    app.add_directive("image-table", ImageTable)
    app.add_directive("threshold-table", ThresholdTable)
    app.add_directive("heads-table", HeadsTable)
    app.add_directive("cost-table", CostTable)
    app.add_directive("export-table", ExportTable)
    app.add_directive("export-drift", ExportDrift)
    app.connect("config-inited", link_repository)
    app.connect("doctree-resolved", mark_pictures)
    app.connect("doctree-resolved", mark_long)
    app.connect("doctree-resolved", keep_units)
    app.connect("html-page-context", keep_once, priority=900)
    app.connect("html-page-context", describe)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)
    app.connect("autodoc-process-docstring", show_options, priority=600)
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("env-get-updated", number_by_name, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
