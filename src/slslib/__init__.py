"""Audio deepfake detection with XLS-R and the SLS classifier.

Conventions, everywhere in this package:

* A label is 1 for bona fide (real) speech, 0 for spoofed speech and -1 if it is unknown.
* A higher score means more bona fide. The score of a trial is the log-likelihood ratio
  ``log p(bona fide) - log p(spoof)``.
* Functions that need only the two classes take ``(bonafide_scores, spoof_scores)``. Functions that
  must tell trials apart take ``(scores, labels)``.
* Audio is a float32 mono array at 16 kHz. Full scale is 1: 16-bit samples are divided by 32768.
* A ``seed`` is anything that :func:`numpy.random.default_rng` takes: a number or a generator.

Most users need only the names in ``slslib.__all__``. Each is loaded when it is first used, so
``import slslib`` itself is quick and does not load PyTorch.
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
