"""The errors that slslib raises for bad input.

Each message names the file, line or utterance, the offending value and the remedy. Anything else
that escapes from a public function is a bug.
"""


class SlslibError(Exception):
    """Base class of every error about input, files or settings."""


class FileError(SlslibError):
    """A file cannot be written."""


class AudioError(SlslibError):
    """A recording is missing, unreadable, damaged, silent or out of bounds."""


class ProtocolError(SlslibError):
    """A protocol, key or corpus folder is malformed or incomplete."""


class ScoreError(SlslibError):
    """A score file is malformed, does not match its key, or cannot be evaluated."""


class CheckpointError(SlslibError):
    """A checkpoint is missing, damaged, unsafe or does not fit the model."""


class TrainingError(SlslibError):
    """Training met a non-finite loss or cannot resume."""


class ConfigError(SlslibError):
    """An option has a value that makes no sense."""
