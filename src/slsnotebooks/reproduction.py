"""The reproduction table: published results, computed again from published score files.

``slslib reproduce --data ROOT`` prints the table. Each row is one system on one corpus, with one of
four labels:

* *Recomputed from published scores*: the authors' score file and the key were evaluated here.
* *Measured here*: the trials were scored on this machine, with the row's command.
* *Published*: the number is from a paper or a model card. The table names the files or the command
  that would turn it into one of the other labels.
* *Recomputed elsewhere*: nobody printed a number, but somebody else computed one from the same
  score file.

A file is looked for below the data folder, under the name in :data:`FILES`. Otherwise pooch
downloads it from a pinned commit of its public repository. Either way it must have the size and the
hashes that ``published.toml`` states. Any other file is refused and named.
"""

import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pandas as pd
from huggingface_hub.utils.sha import git_hash

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.errors import ConfigError, ScoreError
from slslib.evaluation.evaluate import evaluate
from slslib.files import cache_root, corpora_root, sha256


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        source: Its address at a pinned commit, or in words where to get it.
        hash: ``sha256:...``, or ``git:...`` for a git blob id; several are separated by blanks;
            empty if none is known.
        bytes: Its size; 0 if it is not known.
        also: Another name below the data folder: that of the file in an unpacked archive.
        stated_by: Who states size and SHA-256, if we have not seen the file's content.
    """

    source: str
    hash: str = ""
    bytes: int = 0
    also: str = ""
    stated_by: str = ""

    @property
    def is_public(self) -> bool:
        """Whether it can be downloaded, and what arrives can be checked."""
        return self.source.startswith("http") and bool(self.hash)

    @property
    def known(self) -> str:
        """Size and hashes in words, as far as they are known."""
        parts = [f"{self.bytes:,} bytes"] * bool(self.bytes) + self.hash.split()
        parts += [f"size and SHA-256 stated by {self.stated_by}"] * bool(self.stated_by)
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One system on one corpus.

    Attributes:
        name: Name of the row, and of the score file that a measurement here writes.
        corpus: The corpus in words, with the phase.
        system: The system.
        scores: Name of its published score file in :data:`FILES`.
        key: Name of the key.
        published: The published values.
        published_by: Where the values were published.
        elsewhere: Values that somebody else computed from the same score file.
        elsewhere_by: Who computed them.
        trials: Number of trials in the phase; 0 if it is not known.
        asv: Names of the ASV scores and, for 2021, their key.
        c012: Name of a table of t-DCF weights, used if it is at hand.
        phase: Phase to evaluate; by default the choice of
            :func:`slslib.evaluation.evaluate.evaluate`.
        spec: The corpus as ``slslib score`` calls it.
        checkpoint: The checkpoint to measure with; empty for a system that slslib does not have.
        clusters: What to resample, besides single trials.
        cluster_key: Name of another key that knows the speakers; it also serves if it is the only
            key.
    """

    name: str
    corpus: str
    system: str
    scores: str
    key: str
    published: dict[str, float] = field(default_factory=dict)
    published_by: str = ""
    elsewhere: dict[str, float] = field(default_factory=dict)
    elsewhere_by: str = ""
    trials: int = 0
    asv: Sequence[str] = ()
    c012: str = ""
    phase: str | None = None
    spec: str = ""
    checkpoint: str = ""
    clusters: Sequence[Sequence[str]] = ()
    cluster_key: str = ""

    @property
    def stated(self) -> list[tuple[str, float]]:
        """The values with which the result must agree."""
        return [*self.published.items(), *self.elsewhere.items()]


@dataclass(frozen=True)
class Pair:
    """Two systems that are compared on the same trials.

    Attributes:
        first: Name of a row.
        second: Name of the row that is subtracted.
        published: The published difference in points.
        bands: Published bands of the difference, by what was resampled. They are simultaneous over
            several pairs, and so wider than our intervals, each of which is for one pair.
        intervals: Published 95 % intervals of this pair alone, to be compared with ours.
        published_by: Where they were published.
    """

    first: str
    second: str
    published: float | None = None
    bands: dict[str, Sequence[float]] = field(default_factory=dict)
    intervals: dict[str, Sequence[float]] = field(default_factory=dict)
    published_by: str = ""


_PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))

FILES = {name: File(**entry) for name, entry in _PUBLISHED["files"].items()}
"""The published files by their names below the data folder.

:meta hide-value:
"""

ROWS = [Row(**entry) for entry in _PUBLISHED["rows"]]
"""The rows of the table.

:meta hide-value:
"""

PAIRS = [Pair(**entry) for entry in _PUBLISHED["differences"]]
"""The pairs of systems to be compared.

:meta hide-value:
"""

MAX_BYTES = 2**26
"""Size limit for the download of a file whose size is not known."""

_LABELS = ("spoof", "bonafide")
_COSTS = ("min_tdcf_2019", "min_tdcf_2021")
_QUANTITIES = (
    "phase",
    "n_bonafide",
    "n_spoof",
    "eer_threshold",
    "eer_percent",
    "eer_tie_aware_percent",
    *_COSTS,
    "asv_eer_percent",
)


class _Store:
    """Find the published files, and remember which were found, refused or out of reach."""

    def __init__(self, data: Path, scratch: Path, offline: bool) -> None:
        self.data, self.scratch, self.offline = data, scratch, offline
        self.found: dict[str, Path] = {}
        self.refused: dict[str, str] = {}
        self.unreachable: dict[str, str] = {}

    def get(self, name: str) -> Path | None:
        """Return the local path of a file, or None if it cannot be obtained."""
        is_new = name and name not in self.found | self.refused | self.unreachable
        if is_new and (path := self._find(name, FILES[name])):
            self.found[name] = path
        return self.found.get(name)

    def key(self, row: Row) -> Path | None:
        """Return the first key of a row that is at hand; a table of labels gets its phase."""
        path = self.get(row.key) or self.get(row.cluster_key)
        if not (path and row.phase and path.suffix == ".csv"):
            return path
        copy = self.scratch / f"{path.stem}.txt"
        if not copy.exists():
            trials = read_protocol(path)[["utterance", "label"]].itertuples(index=False)
            lines = (f"- {name} - - - {_LABELS[label]} - {row.phase}\n" for name, label in trials)
            copy.write_text("".join(lines))
        return copy

    def _find(self, name: str, file: File) -> Path | None:
        for path in (self.data / place for place in (name, file.also) if place):
            if path.is_file():
                if wrong := _wrong(path, file):
                    self.refused[name] = f"{wrong}; remove it, or get it again: {file.source}"
                    return None
                return path
        if self.offline or not file.is_public:
            return None
        try:
            return _download(name, file)
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            self.unreachable[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None


@dataclass
class _Limited:
    """A file to write to, up to a limit."""

    stream: IO[bytes]
    limit: int
    n_bytes: int = 0

    def write(self, block: bytes) -> None:
        self.n_bytes += len(block)
        if self.n_bytes > self.limit:
            raise ValueError(f"it has more than {self.limit:,} bytes")
        self.stream.write(block)

    def flush(self) -> None:
        self.stream.flush()


def _download(name: str, file: File) -> Path:
    """Return a published file from the cache, downloading it first if it is not there."""
    try:
        import pooch
    except ImportError as error:
        remedy = "pip install -c constraints.txt pooch; or reproduce what is at hand by --offline"
        raise ConfigError(f"{error}: {remedy}") from error

    def fetch(url: str, path: str, pup: Any) -> None:
        # Pooch gives a temporary name, and renames the file if nothing is raised here.
        with Path(path).open("wb") as stream:
            limited = _Limited(stream, file.bytes or MAX_BYTES)
            pooch.HTTPDownloader(timeout=30)(url, limited, pup)
        if wrong := _wrong(Path(path), file):
            raise ValueError(wrong)

    path = cache_root() / name
    if path.is_file() and _wrong(path, file):
        path.unlink()
    pooch.get_logger().setLevel("WARNING")
    pooch.retrieve(file.source, None, fname=path.name, path=path.parent, downloader=fetch)
    return path


def _wrong(path: Path, file: File) -> str:
    """Say why a file is not the published one; nothing, if all that is known of that one holds."""
    if file.bytes and (size := path.stat().st_size) != file.bytes:
        return f"it has {size:,} bytes, not {file.bytes:,}"
    for stated in file.hash.split():
        kind, _, value = stated.partition(":")
        found = sha256(path) if kind == "sha256" else git_hash(path.read_bytes())
        if found != value:
            return f"its hash is {kind}:{found}, not {stated}"
    return ""


def reproduce(
    data: str | Path | None = None, *, bootstrap: int = 1000, seed: int = 0, offline: bool = False
) -> dict[str, Any]:
    """Recompute published results from published score files.

    Files that are not below --data are downloaded from pinned commits and checked. A row that needs
    files nobody can download names them, and the command that measures the row.

    Example: slslib reproduce --data ~/corpora

    Args:
        data: Folder that may hold the files under their published names, and own measurements as
            scores/measured/ROW.txt; default SLSLIB_DATA.
        bootstrap: Number of replicates for each interval.
        seed: Seed of the bootstrap.
        offline: Make no connection; HF_HUB_OFFLINE=1 has the same effect.

    Returns:
        A dictionary with these entries.

        * ``rows``: for each its ``status``, the values and the ``published`` ones, whether they
          ``agree`` to the published digits, and intervals; a row that could not be computed has
          ``missing`` and ``command``.
        * ``differences`` between systems.
        * ``missing``: files, with where to get them; ``refused``: files that lie under a published
          name but are others; ``unreachable``: downloads that failed, each with the reason;
          ``files`` that were used, with their SHA-256.
        * ``errors``: what differs from a published value, and what was refused or not reached.
        * ``table``: all of it as Markdown.

    Raises:
        ConfigError: There is no such folder.
        ScoreError: Two keys of a row have different labels, or a file cannot be evaluated.
    """
    if bootstrap < 1:
        raise ConfigError(f"--bootstrap {bootstrap}: the table has intervals; give 1 or more")
    if not (folder := corpora_root(data)).is_dir():
        raise ConfigError(f"{folder} is no folder; check --data and SLSLIB_DATA")
    # As huggingface_hub reads it.
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    with tempfile.TemporaryDirectory() as scratch:
        store = _Store(folder, Path(scratch), offline or off)
        rows = [_compute(row, store, bootstrap, seed) for row in ROWS]
        differences = [_difference(pair, store, bootstrap, seed) for pair in PAIRS]
    needed: dict[str, list[str]] = {}
    for row in rows:
        for name in row.get("missing", ()):
            needed.setdefault(name, []).append(row["name"])
    result = {
        "bootstrap": {"replicates": bootstrap, "level": 0.95, "seed": seed},
        "rows": rows,
        "differences": differences,
        "missing": [
            {
                "file": name,
                "where": FILES[name].source,
                "known": FILES[name].known,
                "needed_for": names,
            }
            for name, names in sorted(needed.items())
        ],
        "refused": store.refused,
        "unreachable": store.unreachable,
        "files": {
            name: {"sha256": sha256(path), "source": FILES[name].source}
            for name, path in sorted(store.found.items())
        },
    }
    return result | {"errors": errors(result), "table": to_markdown(result)}


def errors(result: Mapping[str, Any]) -> list[str]:
    """Say what differs from the published value, and which files were refused or not reached."""
    lines = [
        f"{one.get('name') or _pair(one)} differs from the published value"
        for one in (*result["rows"], *result["differences"])
        if not one.get("agrees", True)
    ]
    lines += [f"{name} is not the published file: {why}" for name, why in result["refused"].items()]
    lost = result["unreachable"].items()
    return lines + [f"{name} could not be downloaded: {why}" for name, why in lost]


def _compute(row: Row, store: _Store, bootstrap: int, seed: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": row.name,
        "corpus": row.corpus,
        "system": row.system,
        "status": "recomputed elsewhere" if row.elsewhere and not row.published else "published",
        "published": row.published,
        "published_by": row.published_by,
    }
    if row.elsewhere:
        about |= {"elsewhere": row.elsewhere, "elsewhere_by": row.elsewhere_by}
    if row.checkpoint:
        about["command"] = (
            f"slslib score --checkpoint {row.checkpoint} --corpus {row.spec} --data ROOT "
            f"--out ROOT/scores/measured/{row.name}.txt "
            "&& slslib reproduce --data ROOT"
        )
    measured = store.data / "scores" / "measured" / f"{row.name}.txt"
    scores = measured if measured.is_file() else store.get(row.scores)
    key, weights, missing = store.key(row), _weights(row, store), []
    if not key:  # the corpus's own key serves too, and everybody can get only that one
        missing.append(row.key if FILES[row.key].is_public else row.cluster_key or row.key)
    if not scores:
        missing.append(row.scores)
    if not weights:
        missing += row.asv or ([row.c012] if row.c012 else [])
    if not (scores and key):
        return about | {"missing": missing}
    is_own = scores == measured
    about["status"] = "measured here" if is_own else "recomputed from published scores"
    options: dict[str, Any] = {"phase": row.phase, "bootstrap": bootstrap, "seed": seed}
    options["scores"] = scores
    try:
        result = evaluate(**options, key=key, **weights)
    except ScoreError as error:
        raise ScoreError(f"{scores}: {error}") from error
    about |= {name: result[name] for name in _QUANTITIES if name in result}
    if "eer_tie_aware_percent" in result:
        trials = match(read_scores(scores), read_protocol(key), row.phase)
        real = trials["score"][trials["label"] == 1]
        about["bonafide_at_highest_percent"] = 100 * float((real == trials["score"].max()).mean())
    about["agrees"] = all(
        _agrees(about[name], value) for name, value in row.stated if name in about
    ) and row.trials in (0, about["n_bonafide"] + about["n_spoof"])
    about["eer_intervals_percent"] = {"trials": result["eer_interval_percent"]}
    about["scores_sha256"] = result["sha256"]["scores"]
    clustered = store.get(row.cluster_key) if row.cluster_key else key
    if not clustered:
        missing.append(row.cluster_key)
    for cluster in row.clusters if clustered else ():
        again = evaluate(**options, key=clustered or key, cluster=tuple(cluster))
        if again["eer_percent"] != result["eer_percent"]:
            raise ScoreError(
                f"{clustered}: its labels are not those of {row.key}. Get the corpus again."
            )
        about["eer_intervals_percent"][" and ".join(cluster)] = again["eer_interval_percent"]
    return about | ({"missing": missing} if missing else {})


def _weights(row: Row, store: _Store) -> dict[str, Any]:
    """Return the options of the t-DCF: weights from a table if it is at hand, else ASV scores."""
    if row.c012 and (table := store.get(row.c012)):
        weights = pd.read_csv(table, dtype=str).set_index(["subset", "attack", "codec"])
        subset = {"progress": "prog"}.get(str(row.phase), row.phase)
        pooled = weights.xs((subset, "Pooled", "Pooled"))
        return {"c012": ",".join(str(pooled[name]) for name in ("C0", "C1", "C2"))}
    paths = {
        option: store.get(name)
        for option, name in zip(("asv_scores", "asv_key"), row.asv, strict=False)
    }
    return paths if all(paths.values()) else {}


def _agrees(value: float, published: float) -> bool:
    """Whether a value rounds to the published one; its last digit may be rounded either way."""
    return abs(value - published) <= 0.5001 * 10.0 ** -_digits(published)


def _digits(published: float) -> int:
    """Return how many digits a published value has after the point, at least two."""
    return max(2, len(repr(published).partition(".")[2]))


def _difference(pair: Pair, store: _Store, bootstrap: int, seed: int) -> dict[str, Any]:
    """Compare two systems on the same resampled trials."""
    by_name = {row.name: row for row in ROWS}
    a, b = by_name[pair.first], by_name[pair.second]
    about: dict[str, Any] = {"corpus": a.corpus, "first": a.system, "second": b.system}
    if pair.published is not None:
        about |= {"published": pair.published, "published_bands": pair.bands}
        about["published_intervals_percent"] = pair.intervals
        about["published_by"] = pair.published_by
    key, first, other = store.key(a), store.get(a.scores), store.get(b.scores)
    if not (key and first and other):
        names = {a.key: key, a.scores: first, b.scores: other}
        return about | {"missing": [name for name, path in names.items() if not path]}
    options: dict[str, Any] = {"scores": first, "against": other, "phase": a.phase}
    options |= {"bootstrap": bootstrap, "seed": seed}
    result = evaluate(key=key, **options)["against"]
    intervals = {"trials": result["difference_interval_percent"]}
    clustered = store.get(a.cluster_key) if a.cluster_key else key
    for cluster in a.clusters if clustered else ():
        again = evaluate(key=clustered or key, **options, cluster=tuple(cluster))["against"]
        intervals[" and ".join(cluster)] = again["difference_interval_percent"]
    about |= {"difference_percent": result["difference_percent"], "intervals_percent": intervals}
    if pair.published is not None:
        about["agrees"] = _agrees(result["difference_percent"], pair.published)
        about["inside_the_band"] = {
            name: low <= intervals[name][0] and intervals[name][1] <= high
            for name, (low, high) in pair.bands.items()
            if name in intervals
        }
    return about


def to_markdown(result: Mapping[str, Any]) -> str:
    """Lay out rows, differences and missing files as Markdown, with commands to be copied."""
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
            "published": "; ".join(
                text + _values(values)
                for text, values in (("", row["published"]), ("elsewhere ", row.get("elsewhere")))
                if values
            )
            or None,
            "label": row["status"] + ("" if row.get("agrees", True) else ", **DIFFERS**"),
        }
        for row in result["rows"]
    ]
    lists = {
        "Differences between systems, and ties:": [
            _difference_line(one) for one in result["differences"]
        ]
        + [_tie_line(row) for row in result["rows"] if "eer_tie_aware_percent" in row],
        "Files not at hand: name below `ROOT`, where to get it, what to check:": [
            f"`{one['file']}`: {one['where']}" + f" ({one['known']})" * bool(one["known"])
            for one in result["missing"]
        ],
        "Commands that measure a row, with its corpus and the files above in `ROOT`:": [
            f"{row['corpus']}, {row['system']}:\n\n      {_in_lines(row['command'])}\n"
            for row in result["rows"]
            if "command" in row
        ],
        "Refused, because it is not the published file:": [
            f"`{name}`: {reason}" for name, reason in result["refused"].items()
        ],
        "Could not be downloaded:": [
            f"`{name}`: {reason}" for name, reason in result["unreachable"].items()
        ],
    }
    parts = [pd.DataFrame(rows).fillna("-").to_markdown(index=False, disable_numparse=True)]
    for title, lines in lists.items():
        if lines:
            parts += [title, "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _in_lines(command: str) -> str:
    for part in (" --checkpoint", " --corpus", " --out", " &&"):
        command = command.replace(part, f" \\\n         {part}")
    return command


def _pair(one: Mapping[str, Any]) -> str:
    return f"{one['corpus']}, {one['first']} minus {one['second']}"


def _difference_line(one: Mapping[str, Any]) -> str:
    inside = one.get("inside_the_band", {})
    verdicts = {True: ", ours lies inside", False: ", **ours reaches beyond**", None: ""}

    def ends(of: Mapping[str, Sequence[float]], what: str) -> str:
        each = (
            f"{what} over {name}: {low:+.2f} to {high:+.2f}"
            + verdicts[inside.get(name) if what == "band" else None]
            for name, (low, high) in of.items()
        )
        return "; ".join(each)

    if "difference_percent" in one:
        value, intervals = one["difference_percent"], ends(one["intervals_percent"], "95 %")
        text = f"{value:+.4f} points ({intervals})"
    else:
        text = "not computed, without " + ", ".join(f"`{name}`" for name in one["missing"])
    if "published" in one:
        alone, bands = ends(one["published_intervals_percent"], "95 %"), one["published_bands"]
        stated = "; ".join((alone, ends(bands, "band"), one["published_by"]))
        text += f"; published {one['published']:+.2f} ({stated})"
    return f"{_pair(one)}: {text}" + ("" if one.get("agrees", True) else ", **DIFFERS**")


def _tie_line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['corpus']}, {row['system']}: {row['bonafide_at_highest_percent']:.1f} % of the bona "
        f"fide scores are equal, and the highest of all. Officially the EER is "
        f"{row['eer_percent']:.3f} %; with ties grouped it is {row['eer_tie_aware_percent']:.3f} %."
    )


def _values(values: Mapping[str, float]) -> str:
    words = {"eer_percent": " %", "eer_tie_aware_percent": " % (ties grouped)"}
    return ", ".join(
        f"{value:.{_digits(value)}f}{words[name]}"
        if name in words
        else f"{value:.4f} ({name[-4:]})"
        for name, value in values.items()
    )
