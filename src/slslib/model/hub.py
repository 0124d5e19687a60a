"""Files from the Hugging Face hub, checked against the hashes that the hub and the caller state.

``huggingface_hub`` downloads: it shows progress, goes on where a broken connection left off,
keeps files in its cache (``HF_HOME``), makes no connection with ``HF_HUB_OFFLINE=1``, and writes
a file under its final name only when all of it is there. It does not compare the bytes with their
hash; :func:`check` does. What goes wrong is told as a :class:`~slslib.errors.CheckpointError`
with a remedy.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from slslib.errors import CheckpointError
from slslib.files import git_sha1, sha256


def fetch(repository: str, file: str, revision: str | None = None) -> Path:
    """Return the local path of a file on the hub, downloading it where it is not cached.

    Args:
        repository: ``owner/name``.
        file: Path of the file in the repository.
        revision: Branch, tag or commit; a full commit hash that is cached needs no connection.

    Raises:
        CheckpointError: With the cause and the remedy; no partial file is left.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:
        name = f"{file} of {repository}" + (f" at {revision}" if revision else "")
        raise CheckpointError(f"cannot get {name} from the hub: {_explain(error)}") from error


def claimed_sha256(path: Path) -> str | None:
    """Return the SHA-256 that the hub states for a file in its cache: the name of its blob."""
    return name if re.fullmatch("[0-9a-f]{64}", name := path.resolve().name) else None


def check(path: Path, pinned: str | None = None) -> str:
    """Compare a downloaded file with the hash that the hub states, and with a pinned one.

    Large files are named by their SHA-256 in the hub's cache, small ones by git's SHA-1.

    Returns:
        The SHA-256 of the file.

    Raises:
        CheckpointError: If they differ; the file is removed from the cache.
    """
    digest, blob = sha256(path), path.resolve()
    wanted = {claimed_sha256(path) or digest, pinned or digest} - {digest}
    if re.fullmatch("[0-9a-f]{40}", blob.name):
        wanted |= {blob.name} - {git_sha1(blob)}
    if wanted:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} from the hub has the SHA-256 {digest}, not {wanted.pop()} as it should: "
            "it was removed; try again, and correct the pinned sha256 if there is one"
        )
    return digest


def _explain(error: Exception) -> str:
    """Say why a download failed and what to do."""
    from huggingface_hub import constants, errors

    def behind(kind: type[Exception]) -> bool:
        return isinstance(error, kind) or isinstance(error.__cause__, kind)

    own = "or get the file in another way and give its path"
    if isinstance(error, errors.GatedRepoError):
        return "its owner asks you to accept terms: do so on its page, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision: name a branch, a tag or a full commit hash"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "there is no such file in it: look at the repository's list of files"
    if behind(errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} lacks it: go online once, {own}"
    if isinstance(error, errors.HFValidationError | errors.FileMetadataError):
        return f"{_first_line(error)}: check the name and HF_ENDPOINT"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = _first_line(error.__cause__ or error)
        return f"no answer ({cause}) and it is not cached: check network and proxy, {own}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk of {constants.HF_HUB_CACHE} is full: free some space, or set HF_HOME"
    if "Consistency check failed" in str(error):
        return f"it came incomplete or too long and was removed: try again, {own}"
    return f"{_first_line(error)}: try again, {own}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
