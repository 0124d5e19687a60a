"""Write rawboost.npz: outputs of the published RawBoost code after ``np.random.seed(7)``.

python tests/golden/make_rawboost.py path/to/RawBoost.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "studies"))

from rawboost import clip, load_original  # noqa: E402

if __name__ == "__main__":
    original, samples = load_original(Path(sys.argv[1])), clip(800)
    outputs = []
    for algo in range(9):
        np.random.seed(7)  # noqa: NPY002 (the published code draws from it)
        outputs.append(original(samples, algo).astype(np.float32))
    np.savez_compressed(HERE / "rawboost.npz", samples=samples, outputs=np.stack(outputs))
