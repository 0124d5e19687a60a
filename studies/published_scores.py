"""How the published scores of SLS on In-the-Wild are distributed: counts at fine thresholds.

    python studies/published_scores.py SCORES [--out studies/results/in_the_wild_scores.json]

SCORES is a folder with the authors' scores and the key, ``in_the_wild/sls_authors.txt`` and
``in_the_wild/key_in_the_wild.txt``. Both must be the files that ``published.toml`` names. The
scores themselves are not kept. Thresholds are 0.05 apart. Each count is of the trials that score
above the threshold before and not above this one, so the sums give both error rates exactly.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance, write

from slslib.data.protocols import read_protocol
from slslib.data.scorefiles import match, read_scores
from slslib.evaluation import metrics
from slslib.files import sha256
from slsnotebooks.reproduction import FILES, ROWS
from slsnotebooks.threshold import count_rejected

OUT = ROOT / "studies" / "results" / "in_the_wild_scores.json"
STEP = 0.05


def count(folder: Path) -> dict[str, Any]:
    """Count the published scores of a folder."""
    row = next(row for row in ROWS if row.name == "in_the_wild_authors")
    paths = {name: folder / Path(name).relative_to("scores") for name in (row.scores, row.key)}
    for name, path in paths.items():
        if f"sha256:{sha256(path)}" != FILES[name].hash:
            raise SystemExit(f"{path} is not the published file: {FILES[name].source}")
    trials = match(read_scores(paths[row.scores]), read_protocol(paths[row.key]))
    bonafide, spoof = metrics.split(trials.score, trials.label)
    rejected = count_rejected(bonafide, spoof, STEP)
    own = rejected.diff().fillna(0).astype(int)
    eer = metrics.eer(bonafide, spoof)
    return {
        "system": row.system,
        "corpus": row.corpus,
        "published": row.published,
        "published_by": row.published_by,
        "files": {name: {"source": FILES[name].source, "hash": FILES[name].hash} for name in paths},
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
        "eer_percent": 100 * eer.value,
        "eer_threshold": eer.threshold,
        "first_threshold": rejected.index[0],
        "step": STEP,
        "bonafide": own["bonafide"].to_list(),
        "spoof": own["spoof"].to_list(),
    }


def main() -> None:
    """Count and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scores", type=Path, help="folder of published score files")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    where = provenance("numpy", "pandas")
    what = (
        "the published scores of SLS on In-the-Wild (recomputed from published scores): trials of "
        "each class between thresholds"
    )
    write(args.out, what, where, count(args.scores))


if __name__ == "__main__":
    main()
