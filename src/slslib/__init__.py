"""Audio deepfake detection with XLS-R and the SLS classifier.

Conventions, everywhere in this package:

* A label is 1 for bona fide (real) speech, 0 for spoofed speech and -1 where it is unknown.
* A higher score means more bona fide. The score of a trial is the log-likelihood ratio
  ``log p(bona fide) - log p(spoof)``.
* Whole classes are given as ``(bonafide_scores, spoof_scores)``. Where trials must be told apart,
  they are given as ``(scores, labels)``.
* Audio is a float32 mono array at 16 kHz whose unit is one 16-bit full scale (int16 / 32768).
* A ``seed`` is whatever :func:`numpy.random.default_rng` takes: a number or a generator.

The names below are all that most users need. Each is loaded when it is first used, so that
``import slslib`` alone is quick and loads no PyTorch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Detector": "model.detector:Detector",
    "XLSR": "model.xlsr:XLSR",
    "SLSHead": "model.sls:SLSHead",
    "load_backbone": "model.detector:load_backbone",
    "load_audio": "data.audio:load",
    "open_corpus": "data.corpora:open_corpus",
    "rawboost": "data.rawboost:rawboost",
    "eer": "evaluation.metrics:eer",
    "evaluate": "evaluation.evaluate:evaluate",
    "detect": "runs.detect:detect",
    "score": "runs.score:score",
    "train": "runs.train:train",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'slslib' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f"slslib.{module}"), attribute)
