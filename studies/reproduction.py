"""The reproduction table: published results, computed again from published score files.

    python studies/reproduction.py --data ROOT [--out studies/results/reproduction.json]

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
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from provenance import ROOT, provenance, write

from slslib.errors import ScoreError
from slslib.evaluation import tables
from slslib.evaluation.evaluate import evaluate
from slslib.files import cache_root, corpora_root, git_sha1, sha256


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        source: Its address at a pinned commit, or in words where to get it.
        hash: ``sha256:...``, or ``git:...`` for a git blob id; empty if it is not known.
    """

    source: str
    hash: str = ""


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
        phase: What to evaluate; by default what :func:`slslib.evaluation.evaluate.evaluate`
            chooses.
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


_PUBLISHED = tomllib.loads((ROOT / "studies" / "published.toml").read_text(encoding="utf-8"))

FILES = {name: File(**entry) for name, entry in _PUBLISHED["files"].items()}
"""The published files by their names below the data folder."""

ROWS = [Row(**entry) for entry in _PUBLISHED["rows"]]
"""The rows of the table."""

_COSTS = ("min_tdcf_2019", "min_tdcf_2021")
_QUANTITIES = (
    "phase",
    "n_bonafide",
    "n_spoof",
    "eer_threshold",
    "eer_percent",
    *_COSTS,
    "asv_eer_percent",
)


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
        can_be_fetched = file.source.startswith("http") and file.hash.startswith("sha256:")
        if not can_be_fetched or self.offline or name in self.unreachable:
            return None
        import pooch

        pooch.get_logger().setLevel("WARNING")
        try:
            # Pooch writes under a temporary name, compares the hash, and only then renames.
            got = pooch.retrieve(
                file.source,
                file.hash,
                fname=Path(name).name,
                path=cache_root() / Path(name).parent,
                downloader=pooch.HTTPDownloader(timeout=30),
            )
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            self.unreachable[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None
        return Path(got)


def _has_hash(path: Path, expected: str) -> bool:
    kind, _, value = expected.partition(":")
    return (sha256(path) if kind == "sha256" else git_sha1(path)) == value


def reproduce(
    data: str | Path | None = None, *, bootstrap: int = 1000, seed: int = 0, offline: bool = False
) -> dict[str, Any]:
    """Recompute published results from published score files.

    Files that are not below ``data`` are downloaded from pinned commits and checked.

    Args:
        data: Folder that may hold the files under their published names, and own measurements as
            ``scores/measured/ROW.txt``; default ``$SLSLIB_DATA``.
        bootstrap: Replicates of each interval.
        seed: Seed of the bootstrap.
        offline: Make no connection; so does ``HF_HUB_OFFLINE=1``.

    Returns:
        ``rows`` with ``status``, the values and ``published`` ones, whether they ``agree`` to the
        published digits, intervals, and for rows that could not be computed ``missing`` and
        ``command``; ``differences`` between systems; ``missing`` files with where to get them;
        ``unreachable`` downloads with the reason; ``files`` with their SHA-256.

    Raises:
        ScoreError: A file under a published name is not that file.
    """
    # As huggingface_hub reads it.
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    store = _Store(corpora_root(data), offline or off)
    rows = [_compute(row, store, bootstrap, seed) for row in ROWS]
    differences = _differences(store, bootstrap, seed)
    needed: dict[str, list[str]] = {}
    for row in rows:
        for name in row.get("missing", ()):
            needed.setdefault(name, []).append(row["name"])
    return {
        "bootstrap": {"replicates": bootstrap, "level": 0.95, "seed": seed},
        "rows": rows,
        "differences": differences,
        "missing": [
            {"file": name, "where": FILES[name].source, "needed_for": names}
            for name, names in sorted(needed.items())
        ],
        "unreachable": store.unreachable,
        "files": {
            name: {"sha256": sha256(path), "source": FILES[name].source}
            for name, path in sorted(store.found.items())
        },
    }


def errors(result: Mapping[str, Any]) -> list[str]:
    """Say which rows differ from the published value, and which downloads failed."""
    return [
        f"{row['name']} differs from the published value"
        for row in result["rows"]
        if not row.get("agrees", True)
    ] + [f"{name} could not be downloaded: {why}" for name, why in result["unreachable"].items()]


def _compute(row: Row, store: _Store, bootstrap: int, seed: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": row.name,
        "corpus": row.corpus,
        "system": row.system,
        "status": "published",
        "published": row.published,
        "published_by": row.published_by,
    }
    if row.checkpoint:
        about["command"] = (
            f"slslib score --checkpoint {row.checkpoint} --corpus {row.spec} --data ROOT "
            f"--out ROOT/scores/measured/{row.name}.txt "
            "&& python studies/reproduction.py --data ROOT"
        )
    measured = store.data / "scores" / "measured" / f"{row.name}.txt"
    inputs = {"key": row.key} | dict(zip(("asv_scores", "asv_key"), row.asv, strict=False))
    if row.c012:
        inputs["c012"] = row.c012
    if not measured.is_file():
        inputs["scores"] = row.scores
    paths: dict[str, Any] = {option: store.get(name) for option, name in inputs.items()}
    if missing := [name for option, name in inputs.items() if not paths[option]]:
        return about | {"missing": missing}
    about["status"] = "recomputed from published scores" if "scores" in paths else "measured here"
    options: dict[str, Any] = {"phase": row.phase, "bootstrap": bootstrap, "seed": seed}
    options["scores"] = paths.pop("scores", measured)
    result = evaluate(**options, **paths)
    about |= {name: result[name] for name in _QUANTITIES if name in result}
    about["agrees"] = all(
        _agrees(about[name], value) for name, value in row.published.items() if name in about
    )
    about["eer_intervals_percent"] = {"trials": result["eer_interval_percent"]}
    about["scores_sha256"] = result["sha256"]["scores"]
    key = store.get(row.cluster_key) if row.cluster_key else paths["key"]
    if not key:
        return about | {"missing": [row.cluster_key]}
    for cluster in row.clusters:
        again = evaluate(**options, key=key, cluster=tuple(cluster))
        if again["eer_percent"] != result["eer_percent"]:
            raise ScoreError(f"{key}: its labels are not those of {row.key}. Get the corpus again.")
        about["eer_intervals_percent"][" and ".join(cluster)] = again["eer_interval_percent"]
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
        result = evaluate((first,), key, **options)["against"]
        intervals = {"trials": result["difference_interval_percent"]}
        if speakers:
            again = evaluate((first,), speakers, **options, cluster=("speaker",))["against"]
            intervals["speaker"] = again["difference_interval_percent"]
        differences.append(
            {
                "corpus": a.corpus,
                "first": a.system,
                "second": b.system,
                "difference_percent": result["difference_percent"],
                "intervals_percent": intervals,
            }
        )
    return differences


def to_markdown(result: Mapping[str, Any]) -> str:
    """Lay rows, differences and what is missing out as Markdown, with commands to be copied."""
    rows = [
        {
            "corpus": row["corpus"],
            "system": row["system"],
            "EER %": f"{row['eer_percent']:.4f}" if "eer_percent" in row else None,
            "95 % interval": "; ".join(
                f"{low:.2f} to {high:.2f} ({name})"
                for name, (low, high) in row.get("eer_intervals_percent", {}).items()
            )
            or None,
            "min t-DCF": _values({name: row[name] for name in _COSTS if name in row}) or None,
            "published": _values(row["published"]) or None,
            "label": row["status"] + ("" if row.get("agrees", True) else ", **DIFFERS**"),
        }
        for row in result["rows"]
    ]
    lists = {
        "": [_difference(one) for one in result["differences"]],
        "Not at hand, by the name below `ROOT`, and where to get it:": [
            f"`{one['file']}`: {one['where']}" for one in result["missing"]
        ],
        "To measure a row, with its corpus and the files above in `ROOT`:": [
            f"{row['corpus']}, {row['system']}:\n\n      {row['command']}\n"
            for row in result["rows"]
            if "command" in row
        ],
        "Could not be downloaded:": [
            f"`{name}`: {reason}" for name, reason in result["unreachable"].items()
        ],
    }
    parts = [tables.table(rows, "pipe")]
    for title, lines in lists.items():
        if lines:
            parts += [title] * bool(title) + ["\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _difference(one: Mapping[str, Any]) -> str:
    ends = "; ".join(
        f"95 % over {name}: {low:+.2f} to {high:+.2f}"
        for name, (low, high) in one["intervals_percent"].items()
    )
    pair = f"{one['first']} minus {one['second']}"
    return f"{one['corpus']}, {pair}: {one['difference_percent']:+.4f} points ({ends})"


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{value:.2f} %" if name == "eer_percent" else f"{value:.4f} ({name[-4:]})"
        for name, value in values.items()
    )


def main(
    data: Path | None = None,
    out: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    offline: bool = False,
) -> None:
    """Recompute published results from published score files, and print the table.

    Files that are not below --data are downloaded from pinned commits and checked. Rows that need
    files nobody can download name them, and the command that measures the row.

    Args:
        data: Folder that may hold the files under their published names, and own measurements as
            scores/measured/ROW.txt; default SLSLIB_DATA.
        out: Write the result as JSON to this file too.
        bootstrap: Replicates of each interval.
        seed: Seed of the bootstrap.
        offline: Make no connection; so does HF_HUB_OFFLINE=1.
    """
    where = provenance("numpy", "scipy", "pandas")
    result = reproduce(data, bootstrap=bootstrap, seed=seed, offline=offline)
    print(to_markdown(result))
    if out:
        write(out, "published results, recomputed from published score files", where, result)
    sys.exit("\n".join(errors(result)) or None)


if __name__ == "__main__":
    tyro.cli(main)
