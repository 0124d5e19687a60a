"""Publish a detector: a folder, or a repository of the Hugging Face hub, that others load by name.

=====================  ====================================================================
``model.safetensors``  the weights, as :meth:`slslib.model.detector.Detector.save` writes them
``config.json``        dimensions, what the checkpoint says of itself, training, results
``README.md``          the model card: the template ``slslib/model/card.md``, filled in
=====================  ====================================================================

``huggingface_hub`` fills in and reads the card, has the hub check its metadata, and uploads. Its
``PyTorchModelHubMixin`` is not used: it keeps the dimensions outside the file of weights, which
``--checkpoint`` could then not read, and does not compare what it downloads with the stated hash.

The card says nothing that was not measured or given. A result is shown where three hashes agree:
that of the weights, that of the checkpoint in the record of a scoring (``scores.txt.json``), and
that of the score file in what ``slslib evaluate --json`` printed.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from slslib.errors import ConfigError
from slslib.files import sha256


def publish(
    checkpoint: str, name: str, *, license: str | None = None, folder: Path | None = None
) -> str:
    """Publish a detector with its model card on the Hugging Face hub, or write it into a folder.

    With --folder nothing is uploaded: look at the card, README.md, there first. An upload asks for
    a token (`hf auth login`, or HF_TOKEN). It makes the repository, public, if there is none, and
    else replaces the files of the same names; the hub keeps the old versions.

    The card shows the training of a run, and the results in the folder of the checkpoint that are
    its own: what `slslib evaluate --json` printed for score files of this very checkpoint.

    A detector with a head of its own is published from Python, by its ``push_to_hub``.

    Example: slslib publish runs/v1 owner/name --license mit --folder published

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        name: OWNER/NAME of the model on the hub, which the examples of the card use.
        license: Licence of the weights, as mit or cc-by-4.0; nobody else can choose it. The hub's
            words: https://huggingface.co/docs/hub/repositories-licenses.
        folder: Write into this folder, and upload nothing.

    Returns:
        The folder, or the address of the commit.

    Raises:
        ConfigError: The licence or the owner is missing.
        CheckpointError: The checkpoint cannot be read.
        FileError: The folder cannot be written, or the hub does not take the upload.
    """
    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector

    if not license or name.count("/") != 1:
        raise ConfigError(f"{name}: name it OWNER/NAME, with --folder too, and give its --license")
    path = locate(checkpoint)
    detector, about = Detector.load(path), _beside(path)
    if not folder:
        return detector.push_to_hub(name, license=license, about=about)
    detector.save_pretrained(folder, name=name, license=license, about=about)
    return str(folder)


def _beside(path: Path) -> dict[str, Any]:
    """Return what the folder of a checkpoint says of its training and of its own scores.

    Absolute paths are cut to their last part: the others are nobody else's business.
    """
    made: list[dict[str, Any]] = []
    for file in sorted(path.parent.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            text = re.sub(r'"/[^"]*/', '"', file.read_text(encoding="utf-8"))
            made.append(dict(json.loads(text)))
    digest = sha256(path)
    own = {one.get("scores_sha256"): one for one in made if one.get("checkpoint_sha256") == digest}
    results = [own.get(one["sha256"]["scores"], {}) | one for one in made if "eer_rule" in one]
    runs = [one for one in made if "initial_sha256" in one and path.name.startswith("epoch_")]
    return {"training": [*runs, None][0], "results": [one for one in results if "corpus" in one]}
