"""Audio deepfake detection with XLS-R and the SLS classifier.

Conventions, everywhere in this package:

* A label is 1 for bona fide (real) speech, 0 for spoofed speech and -1 where it is unknown.
* A higher score means more bona fide. The score of a trial is the log-likelihood ratio
  ``log p(bona fide) - log p(spoof)``.
* Audio is a float32 mono array at 16 kHz whose unit is one 16-bit full scale (int16 / 32768).
"""

__version__ = "0.1.0"
