"""The command that writes :mod:`slslib.evaluation.page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slslib.errors import ConfigError
from slslib.files import write_text


def report(
    items: tuple[Path, ...],
    *,
    out: Path = Path("report.html"),
    key: Path | None = None,
    phase: str | None = None,
    asv_scores: Path | None = None,
    asv_key: Path | None = None,
    c012: str | None = None,
    bootstrap: int = 1000,
    cluster: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    """Write one page about score files and training runs: tables, figures, provenance.

    Example: slslib report scores.txt runs/v1 --key key.txt --by attack --out report.html

    Args:
        items: Score files of the same trials, and folders of training runs.
        out: Page to write: .html, which needs no other file, or .md.
        key: Key of the score files.
        phase: As for `slslib evaluate`, like all that follow.
        asv_scores: ASV scores, for min t-DCF.
        asv_key: Key of the ASV trials.
        c012: C0,C1,C2 of the t-DCF, or a CSV file of them, instead of ASV scores.
        bootstrap: Replicates of the intervals; 0 for none.
        cluster: Resample these instead of trials.
        by: Breakdowns.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: There is nothing to report, or an item is neither of the two.
        ProtocolError: The key is malformed.
        ScoreError: The scores are malformed, or do not fit the key.
        FileError: The page cannot be written.
    """
    if Path(out).suffix not in (".html", ".md"):
        raise ConfigError(f"--out {out}: the page is .html or .md.")
    from slslib.evaluation.page import to_html, to_markdown

    options: dict[str, Any] = {
        "phase": phase,
        "asv_scores": asv_scores,
        "asv_key": asv_key,
        "c012": c012,
    }
    options |= {"bootstrap": bootstrap, "cluster": cluster, "by": by, "seed": seed}
    text = to_markdown(items, key, **options)
    write_text(out, to_html(text) if Path(out).suffix == ".html" else text)
    return Path(out)
