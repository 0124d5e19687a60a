"""The reproduction table: published results, computed again from published score files.

Each row is one system on one corpus, with one of three labels. *Recomputed from published scores*:
the authors' score file and the key were evaluated here. *Measured here*: the trials were scored on
this machine, with the row's command. *Published*: a number of a paper or a model card; the files
or the command that would turn it into one of the others are named.

A file is looked for below the data folder, under the name in :data:`FILES`, and otherwise
downloaded with pooch from a pinned commit of its public repository. Either way its bytes must have
the SHA-256 that ``published.toml`` states (or the git blob id, for files seen only in the tree of
their repository).
"""

from __future__ import annotations

import itertools
import os
import platform
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slslib import __version__
from slslib.errors import ScoreError
from slslib.evaluate import evaluate
from slslib.files import cache_root, git_sha1, sha256


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        source: Its address at a pinned commit, or in words where to get it.
        hash: ``sha256:...``, or ``git:...`` for a git blob id; empty if it is not known.
    """

    source: str
    hash: str = ""

    @property
    def can_be_fetched(self) -> bool:
        """Whether both an address and a SHA-256 are known."""
        return self.source.startswith("http") and self.hash.startswith("sha256:")


@dataclass(frozen=True)
class Row:
    """One system on one corpus.

    Attributes:
        name: Of the row, and of the score file that a measurement here writes.
        corpus: The corpus as a reader calls it, with the phase.
        system: The system.
        scores: Name of its published score file in :data:`FILES`.
        key: Name of the key.
        published: The published values.
        published_by: Where they stand.
        asv: Names of the ASV scores and, for 2021, their key.
        c012: Name of a table of t-DCF weights instead.
        phase: What to evaluate; by default what :func:`slslib.evaluate.evaluate` chooses.
        spec: The corpus as ``slslib score`` calls it.
        checkpoint: The checkpoint to measure with; empty for a system slslib does not have.
        clusters: What to resample, beside single trials.
        cluster_key: Name of another key that knows the speakers.
    """

    name: str
    corpus: str
    system: str
    scores: str
    key: str
    published: dict[str, float] = field(default_factory=dict)
    published_by: str = ""
    asv: Sequence[str] = ()
    c012: str = ""
    phase: str | None = None
    spec: str = ""
    checkpoint: str = ""
    clusters: Sequence[Sequence[str]] = ()
    cluster_key: str = ""


_PUBLISHED = tomllib.loads(
    resources.files("slslib").joinpath("published.toml").read_text(encoding="utf-8")
)

FILES = {name: File(**entry) for name, entry in _PUBLISHED["files"].items()}
"""The published files by their names below the data folder."""

ROWS = [Row(**entry) for entry in _PUBLISHED["rows"]]
"""The rows of the table."""

_QUANTITIES = ("eer_percent", "min_tdcf_2019", "min_tdcf_2021", "asv_eer_percent")


class _Store:
    """Finds the published files, and remembers what was found, missing or out of reach."""

    def __init__(self, data: Path, offline: bool) -> None:
        self.data, self.offline = data, offline
        self.found: dict[str, Path] = {}
        self.unreachable: dict[str, str] = {}

    def get(self, name: str) -> Path | None:
        """Return the local path of a file, or None if it is not to be had."""
        if name not in self.found and (path := self._find(name, FILES[name])):
            self.found[name] = path
        return self.found.get(name)

    def _find(self, name: str, file: File) -> Path | None:
        path = self.data / name
        if path.is_file():
            if file.hash and not _has_hash(path, file.hash):
                raise ScoreError(
                    f"{path}: not the published file (it should have {file.hash}). Remove it, or "
                    f"get it again: {file.source}."
                )
            return path
        if not file.can_be_fetched or self.offline or name in self.unreachable:
            return None
        import pooch

        pooch.get_logger().setLevel("WARNING")
        try:
            # Pooch writes under a temporary name, compares the hash, and only then renames.
            got = pooch.retrieve(
                file.source, file.hash, fname=Path(name).name,
                path=cache_root() / Path(name).parent, downloader=pooch.HTTPDownloader(timeout=30),
            )  # fmt: skip
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            self.unreachable[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None
        return Path(got)


def _has_hash(path: Path, expected: str) -> bool:
    kind, _, value = expected.partition(":")
    return (sha256(path) if kind == "sha256" else git_sha1(path)) == value


def reproduce(
    data: str | Path = ".", *, bootstrap: int = 1000, seed: int = 0, offline: bool = False
) -> dict[str, Any]:
    """Compute every row of the table that the files at hand allow.

    Args:
        data: Folder that may hold the files under their names in :data:`FILES`, and own
            measurements as ``scores/measured/ROW.txt``.
        bootstrap: Replicates of each interval.
        seed: Their seed.
        offline: Make no connection; so does ``HF_HUB_OFFLINE=1``.

    Returns:
        ``rows`` with ``status``, the values and ``published`` ones, whether they ``agree`` to the
        published digits, intervals, and for rows that could not be computed ``missing`` and
        ``command``; ``differences`` between systems; ``missing`` files with where to get them;
        ``unreachable`` downloads with the reason; ``provenance``.

    Raises:
        ScoreError: A file under a published name is not that file.
    """
    # As huggingface_hub reads it.
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    store = _Store(Path(data), offline or off)
    rows = [_compute(row, store, bootstrap, seed) for row in ROWS]
    differences = _differences(store, bootstrap, seed)
    needed: dict[str, list[str]] = {}
    for row in rows:
        for name in row.get("missing", ()):
            needed.setdefault(name, []).append(row["name"])
    files = {
        name: {"sha256": sha256(path), "source": FILES[name].source}
        for name, path in sorted(store.found.items())
    }
    packages = {name: version(name) for name in ("numpy", "scipy", "pandas")}
    return {
        "what": "published results, recomputed from published score files where these are at hand",
        "bootstrap": {"replicates": bootstrap, "level": 0.95, "seed": seed},
        "rows": rows,
        "differences": differences,
        "missing": [
            {"file": name, "where": FILES[name].source, "needed_for": names}
            for name, names in sorted(needed.items())
        ],
        "unreachable": store.unreachable,
        "provenance": {
            "command": "slslib reproduce",
            "files": files,
            "versions": {"slslib": __version__, "python": platform.python_version()} | packages,
        },
    }


def _compute(row: Row, store: _Store, bootstrap: int, seed: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": row.name, "corpus": row.corpus, "system": row.system, "status": "published",
        "published": row.published, "published_by": row.published_by,
    }  # fmt: skip
    if row.checkpoint:
        about["command"] = (
            f"slslib score --checkpoint {row.checkpoint} --corpus {row.spec} --data ROOT "
            f"--out ROOT/scores/measured/{row.name}.txt && slslib reproduce --data ROOT"
        )
    measured = store.data / "scores" / "measured" / f"{row.name}.txt"
    names = [row.key, *row.asv, *([row.c012] if row.c012 else [])]
    names += [] if measured.is_file() else [row.scores]
    found = {name: store.get(name) for name in names}
    paths = {name: path for name, path in found.items() if path}
    if missing := [name for name in names if name not in paths]:
        return about | {"missing": missing}
    scores = measured if measured.is_file() else paths[row.scores]
    options: dict[str, Any] = {"phase": row.phase, "bootstrap": bootstrap, "seed": seed}
    asv: dict[str, Any] = {"c012": paths[row.c012]} if row.c012 else {}
    asv |= zip(("asv_scores", "asv_key"), (paths[name] for name in row.asv), strict=False)
    about["status"] = "measured here" if measured.is_file() else "recomputed from published scores"
    result = evaluate(scores, paths[row.key], **options, **asv)
    about |= {n: result[n] for n in ("phase", "n_bonafide", "n_spoof", "eer_threshold")}
    about |= {name: result[name] for name in _QUANTITIES if name in result}
    about["agrees"] = all(
        _agrees(about[name], value) for name, value in row.published.items() if name in about
    )
    about["eer_intervals_percent"] = {"trials": result["eer_interval_percent"]}
    key = store.get(row.cluster_key) if row.cluster_key else paths[row.key]
    for cluster in row.clusters if key else ():
        again = evaluate(scores, key or "", **options, cluster=cluster)
        if again["eer_percent"] != result["eer_percent"]:
            raise ScoreError(f"{key}: its labels are not those of {row.key}. Get the corpus again.")
        about["eer_intervals_percent"][" and ".join(cluster)] = again["eer_interval_percent"]
    if not key:
        about["missing"] = [row.cluster_key]
    about["scores_sha256"] = result["sha256"]["scores"]
    return about


def _agrees(value: float, published: float) -> bool:
    """Whether a value rounds to the published one, whose last digit may be rounded either way."""
    digits = len(repr(published).partition(".")[2])
    return abs(value - published) <= 0.5001 * 10.0 ** -max(digits, 2)


def _differences(store: _Store, bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """Compare the three systems on In-the-Wild pair by pair, on the same resampled trials."""
    rows = [row for row in ROWS if row.corpus == "In-the-Wild"]
    key, speakers = store.get(rows[0].key), store.get(rows[0].cluster_key)
    differences = []
    for a, b in itertools.combinations(rows, 2):
        first, other = store.get(a.scores), store.get(b.scores)
        if not (key and first and other):
            continue
        options: dict[str, Any] = {"against": other, "bootstrap": bootstrap, "seed": seed}
        result = evaluate(first, key, **options)["against"]
        entry: dict[str, Any] = {
            "corpus": a.corpus, "first": a.system, "second": b.system,
            "difference_percent": result["difference_percent"],
            "intervals_percent": {"trials": result["difference_interval_percent"]},
        }  # fmt: skip
        if speakers:
            again = evaluate(first, speakers, **options, cluster=("speaker",))["against"]
            entry["intervals_percent"]["speaker"] = again["difference_interval_percent"]
        differences.append(entry)
    return differences


def _cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lay the rows out as text for both tables."""
    header = ["corpus", "system", "EER %", "95 % interval", "min t-DCF", "published", "label"]
    cells = []
    for row in result["rows"]:
        intervals = "; ".join(
            f"{low:.2f} to {high:.2f} ({name})"
            for name, (low, high) in row.get("eer_intervals_percent", {}).items()
        )
        forms = [
            f"{row[name]:.4f} ({name[-4:]})"
            for name in ("min_tdcf_2019", "min_tdcf_2021")
            if name in row
        ]
        published = [
            f"{v:.2f} %" if n == "eer_percent" else f"{v:.4f} ({n[-4:]})"
            for n, v in row["published"].items()
        ]
        status = row["status"] + ("" if row.get("agrees", True) else ", DIFFERS")
        eer = f"{row['eer_percent']:.4f}" if "eer_percent" in row else "-"
        cells.append([
            row["corpus"], row["system"], eer, intervals or "-", ", ".join(forms) or "-",
            ", ".join(published) or "-", status,
        ])  # fmt: skip
    return header, cells


def _difference_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for one in result["differences"]:
        ends = "; ".join(
            f"95 % over {name}: {low:+.2f} to {high:+.2f}"
            for name, (low, high) in one["intervals_percent"].items()
        )
        pair = f"{one['first']} minus {one['second']}"
        lines.append(f"{one['corpus']}, {pair}: {one['difference_percent']:+.4f} points ({ends})")
    return lines


def to_markdown(result: dict[str, Any]) -> str:
    """Write a result of :func:`reproduce` as Markdown."""
    header, cells = _cells(result)
    lines = [header, ["---"] * len(header), *cells]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    parts = [table, *(f"- {line}" for line in _difference_lines(result))]
    if result["missing"]:
        parts.append("Files that were not at hand, by their names below `ROOT`, and their source:")
        parts += [f"- `{one['file']}`: {one['where']}" for one in result["missing"]]
    commands = [row for row in result["rows"] if "command" in row]
    if commands:
        parts.append("Commands that measure a row, with the corpora and the files above in `ROOT`:")
        parts += [f"- {row['corpus']}, {row['system']}: `{row['command']}`" for row in commands]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("|\n- ", "|\n\n- ") + "\n"


def render(result: dict[str, Any]) -> RenderableType:
    """Lay a result of :func:`reproduce` out as a table for people."""
    header, cells = _cells(result)
    table = Table(title="Reproduction table", show_lines=True)
    for name in header:
        table.add_column(name, justify="right" if name == "EER %" else "left")
    for line in cells:
        table.add_row(*line, style="red" if "DIFFERS" in line[-1] else "")
    return Group(table, *map(Text, _difference_lines(result)))


def notes(result: dict[str, Any]) -> str:
    """Say what is missing and how to measure a row, in lines that can be copied whole."""
    sections = {
        "Not at hand, by the name below ROOT, and where to get it:": [
            f"{one['file']}: {one['where']}" for one in result["missing"]
        ],
        "To measure a row, with its corpus in ROOT:": [
            f"{row['corpus']}, {row['system']}:\n    {row['command']}"
            for row in result["rows"] if "command" in row
        ],
        "Could not be downloaded:": [
            f"{name}: {reason}" for name, reason in result["unreachable"].items()
        ],
    }  # fmt: skip
    return "\n".join(
        "\n".join(["", title, *(f"- {line}" for line in lines)])
        for title, lines in sections.items() if lines
    )  # fmt: skip


def succeeded(result: dict[str, Any]) -> bool:
    """Whether all that was computed agrees with what was published, and all downloads worked."""
    return not result["unreachable"] and all(row.get("agrees", True) for row in result["rows"])
