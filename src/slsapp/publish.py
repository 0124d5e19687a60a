"""Publish a detector: a folder, or a repository of the Hugging Face hub, that others load by name.

=====================  ====================================================================
``model.safetensors``  the weights, as :meth:`slslib.model.detector.Detector.save` writes them
``config.json``        dimensions, what the checkpoint says of itself, training, results
``README.md``          the model card: the template ``slslib/model/card.md``, filled in
=====================  ====================================================================

``huggingface_hub`` fills in and reads the card, has the hub check its metadata, and uploads. Its
``PyTorchModelHubMixin`` is not used. It keeps the dimensions outside the file of weights, so
``--checkpoint`` could not read them, and it does not compare downloads with the stated hash.

The card says only what was measured or given. It shows a result only if three hashes agree: that of
the weights, that of the checkpoint in the record of a scoring (``scores.txt.json``), and that of
the score file in the output of ``slslib evaluate --json``. It shows the training only if the run's
log has the checkpoint's epoch with the same loss. From those files, only what is listed here is
published, and only the last part of a path.
"""

import csv
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from slslib.errors import ConfigError
from slslib.files import sha256

_WRONG = (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
_TEXT, _NUMBER, _OWN_FILES = (str,), (int, float), ("best.json", "state.pt")
_RESULT = {
    **dict.fromkeys(("corpus", "partition", "phase", "precision", "eer_rule"), _TEXT),
    **dict.fromkeys(("n_bonafide", "n_spoof", "eer_percent"), _NUMBER),
}
_RUN = dict.fromkeys(("slslib", "torch", "device"), _TEXT)
_DATA = {
    **dict.fromkeys(("corpus", "partition", "protocol_sha256"), _TEXT),
    "n_trials": _NUMBER,
}


def publish(
    checkpoint: str, name: str, *, license: str | None = None, folder: Path | None = None
) -> str:
    """Publish a detector with its model card on the Hugging Face hub, or write it into a folder.

    With --folder nothing is uploaded: look at the card, README.md, there first. An upload asks for
    a token (`hf auth login`, or HF_TOKEN). If there is no such repository, it makes a public one.
    Otherwise it replaces the files of the same names; the hub keeps the old versions.

    The card shows the training of a run. It also shows the results in the checkpoint's folder that
    are its own: what `slslib evaluate --json` printed for score files of this very checkpoint.

    To publish a detector with a head of its own, call its ``push_to_hub`` from Python.

    Example: slslib publish runs/v1 owner/name --license mit --folder published

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        name: OWNER/NAME of the model on the hub, which the examples of the card use.
        license: Licence of the weights, such as mit or cc-by-4.0; nobody else can choose it. The
            hub lists its words: https://huggingface.co/docs/hub/repositories-licenses. Only an
            upload checks the word.
        folder: Write into this folder, which may hold no README.md, and upload nothing.

    Returns:
        The folder, or the address of the commit.

    Raises:
        ConfigError: The licence or the owner is missing, or the folder is that of a run or of the
            checkpoint, or holds a README.md.
        CheckpointError: The checkpoint cannot be read.
        FileError: The folder cannot be written, or the hub does not take the upload.
    """
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{name}: name the model OWNER/NAME, with --folder too")
    if not license:
        raise ConfigError(f"{name} has no licence: choose one by --license, such as cc-by-4.0")
    path = locate(checkpoint)
    if folder:
        has_run = any((folder / file).exists() for file in _OWN_FILES)
        if has_run or folder.resolve() == path.parent.resolve():
            raise ConfigError(
                f"{folder} holds a run or the checkpoint: write into another --folder"
            )
        if (folder / "README.md").exists():
            raise ConfigError(
                f"{folder} holds a README.md, whose text would be lost: name a new --folder"
            )
    detector = Detector.load(path)
    about = _beside(path, detector)
    if not folder:
        return detector.push_to_hub(name, license=license, about=about)
    detector.save_pretrained(folder, name=name, license=license, about=about)
    return str(folder)


def _beside(path: Path, detector: Any) -> dict[str, Any]:
    """Return what the folder of a checkpoint says about its training and its own scores."""
    made: list[dict[str, Any]] = []
    for file in sorted(path.parent.glob("*.json")):
        with suppress(*_WRONG, RecursionError):
            made.append(dict(json.loads(file.read_text(encoding="utf-8"))))
    digest, results, training = sha256(path), [], None
    own = {
        str(one.get("scores_sha256")): one for one in made if one.get("checkpoint_sha256") == digest
    }
    for one in made:
        with suppress(*_WRONG):
            results.append(_result(own[one["sha256"]["scores"]] | one))
    with suppress(*_WRONG, RecursionError):
        run = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        if _is_of(detector, run, path.with_name("log.csv")):
            training = _training(run)
    return {"training": training, "results": results}


def _is_of(detector: Any, run: dict[str, Any], log: Path) -> bool:
    """Tell whether a run made a detector, by dimensions, recipe, seed, and the epoch's loss."""
    said, config = detector.metadata, run["config"]
    if any(said[key] != config[key] for key in ("recipe", "seed")):
        return False
    if json.loads(json.dumps(asdict(detector.config))) != run["detector"]:
        return False
    rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines()))
    epochs = [row for row in rows if row["epoch"] == str(said["epoch"])]
    return any(float(row["train_loss"]) == said["train_loss"] for row in epochs)


def _result(one: dict[str, Any]) -> dict[str, Any]:
    """Keep what the card shows of a result.

    Raises:
        Exception: One of ``_WRONG``, if it is not a result of ``slslib evaluate``.
    """
    kept = _typed(one, _RESULT)
    if not 0 <= kept["eer_percent"] <= 100:
        raise ValueError("no percentage")
    kept |= {"eer_interval_percent": None, "bootstrap": None}
    if one.get("eer_interval_percent"):
        low, high = map(float, one["eer_interval_percent"])
        if not 0 <= low <= high <= 100:
            raise ValueError("no interval")
        drawn: dict[str, Any] = {key: int(one["bootstrap"][key]) for key in ("replicates", "seed")}
        drawn |= {"level": float(one["bootstrap"]["level"])}
        drawn |= {"cluster": [*map(str, one["bootstrap"]["cluster"])]}
        kept |= {"eer_interval_percent": [low, high], "bootstrap": drawn}
    # Warnings that name a file concern another file.
    return kept | {"warnings": [w for w in map(str, one["warnings"]) if not re.search(r"[/\\]", w)]}


def _training(run: dict[str, Any]) -> dict[str, Any]:
    """Keep what the card shows of a run, as :func:`_result` does."""
    from slslib.runs.recipes import TrainConfig

    names = {field.name for field in fields(TrainConfig)} - {"dimensions"}
    config = {key: _public(value) for key, value in run["config"].items() if key in names}
    for key in ("dev", "backbone", "init"):
        if not isinstance(config[key], str | None):
            raise TypeError(f"{key} {config[key]!r}")
    data = [_typed(one, _DATA) for one in run["data"]]
    initial = run["initial_sha256"] and str(run["initial_sha256"])
    return {"config": config, "initial_sha256": initial, "data": data, **_typed(run, _RUN)}


def _typed(one: dict[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    for key, kind in kinds.items():
        if type(one[key]) not in kind:
            raise TypeError(f"{key} {one[key]!r}")
    return {key: _public(one[key]) for key in kinds}


def _public(value: Any) -> Any:
    """Cut a path to its last part, because the other parts are private."""
    if isinstance(value, list | tuple):
        return [_public(one) for one in value]
    if not isinstance(value, str) or value.startswith("hub:"):
        return value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
