"""The original's ``Model`` class, for code that was written for it.

Replace ``from model import Model`` by ``from slslib.model.compat import Model``:

>>> model = Model(device="cpu", ssl_cpkt_path="xlsr2_300m.pt")
>>> # model.load_state_dict(torch.load("epoch_2.pth", map_location="cpu"))

Names of weights, shapes and outputs are the original's; what computes is
:class:`slslib.model.detector.Detector`. New code uses that directly:
``Detector.load("epoch_2.pth")``.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import CheckpointError
from slslib.model.checkpoints import usable
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEPT, KEY, authors_state, dimensions, our_name
from slslib.model.geometry import DetectorConfig, from_json


class Model(nn.Module):
    """XLS-R with SLS under the names of the authors' ``model.py``.

    ``load_state_dict`` takes the authors' 440 names, with or without ``module.``, and
    ``state_dict`` gives them.
    """

    def __init__(
        self,
        args: object = None,
        device: str | torch.device = "cpu",
        ssl_cpkt_path: str | Path | None = None,
    ) -> None:
        """Build the model.

        Args:
            args: Not used, as in the original.
            device: Where the weights are put.
            ssl_cpkt_path: ``xlsr2_300m.pt``, to start training from. Weights that
                ``load_state_dict`` brings are complete: where the file is absent the model stays
                empty until then.

        Raises:
            CheckpointError: If the file is there and cannot be read.
        """
        super().__init__()
        self.device, self.ssl_cpkt_path = device, ssl_cpkt_path
        self.detector: Detector | None = None
        self.pretraining: dict[str, Tensor] = {}
        if ssl_cpkt_path is not None and Path(ssl_cpkt_path).exists():
            backbone = load_backbone(ssl_cpkt_path)
            self.detector = Detector(DetectorConfig(backbone.config))
            self.detector.backbone = backbone
            self.detector.train().to(device)
        self.register_load_state_dict_pre_hook(_to_our_names)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_to_authors_names)  # type: ignore[no-untyped-call]

    def forward(self, x: Float[Tensor, "batch samples *one"]) -> Float[Tensor, "batch 2"]:
        """Return log-probabilities of [spoof, bona fide], as the original does.

        Raises:
            CheckpointError: If the model has no weights yet.
        """
        if self.detector is None:
            raise CheckpointError(
                "the model has no weights: call load_state_dict, or give an ssl_cpkt_path that "
                f"exists, not {self.ssl_cpkt_path}"
            )
        return self.detector(x.squeeze(-1))


def _to_our_names(
    model: Model, state: MutableMapping[str, Any], prefix: str, told: dict[str, Any], *_: object
) -> None:
    """Rename what is about to be loaded, and build an empty model to its dimensions."""
    names = [name for name in state if name.startswith(prefix)]
    ours = {our_name(name.removeprefix(prefix)): state.pop(name) for name in names}
    if model.detector is None:
        with usable("the state dict of an XLS-R + SLS model"), torch.device("meta"):
            # What a .pth of `slslib convert` tells, else XLS-R 300M.
            config = told[KEY]["config"] if KEY in told else dimensions(ours, {}, None)
            detector = Detector(from_json(DetectorConfig, config))
        model.detector = detector.to_empty(device=model.device).train(model.training)
    elif KEY in told and from_json(DetectorConfig, told[KEY]["config"]) != model.detector.config:
        raise CheckpointError("the state dict describes another model: load it into a new Model")
    model.pretraining = {name: t.cpu() for name, t in ours.items() if name.startswith(KEPT)}
    for name in ours.keys() - model.pretraining.keys():
        state[f"{prefix}detector.{name}"] = ours[name]


def _to_authors_names(
    model: Model, state: MutableMapping[str, Any], prefix: str, told: dict[str, Any]
) -> None:
    """Rename what was collected; add what the original's strict load asks for, and the config."""
    start = f"{prefix}detector."
    own = {n.removeprefix(start): state.pop(n) for n in list(state) if n.startswith(start)}
    complete = authors_state(own | model.pretraining) if own else {}
    state.update({prefix + name: tensor for name, tensor in complete.items()})
    if model.detector is not None:  # where `slslib convert` writes it too
        facts = {"config": asdict(model.detector.config), "metadata": model.detector.metadata}
        told[KEY] = facts
