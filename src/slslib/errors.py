"""The errors that slslib raises for bad input.

Each message names the file, line or utterance, the offending value and the remedy. Any other
exception that escapes from a public function is a bug.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def usable(path: str | Path, *, remedy: str = "get it again") -> Iterator[None]:
    """Turn any error raised while a file is read or interpreted into one that names the file.

    Args:
        path: The file to name in the error.
        remedy: What to do about a damaged file.

    Raises:
        CheckpointError: For any exception of Python or a library; the message names the file.
    """
    try:
        yield
    except CheckpointError:
        raise
    except ConfigError as error:  # the file can be read, and the message says what to do
        raise CheckpointError(f"{path} is not usable ({error})") from error
    except Exception as error:
        # PyTorch's message begins with a heading or with advice to load without protection. The
        # cause follows, and then advice to allow what was refused. Keep the cause.
        other = r".*weights.only.*|Error.* in loading state_dict.*| Please use .*"
        cause = re.sub(other, "", str(error), flags=re.I).strip().partition("\n")[0][:200]
        kind, why = type(error).__name__, "keep it; free memory, or see that it may be read"
        if not isinstance(error, PermissionError | MemoryError) and " memory" not in cause:
            why = f"damaged, no checkpoint, no config.json, or it asks for code (not run); {remedy}"
        raise CheckpointError(f"{path} is not usable ({kind}: {cause}): {why}") from error
