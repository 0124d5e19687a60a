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
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import CheckpointError
from slslib.model.checkpoints import usable_config
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEPT, authors_name, dimensions, our_name, pretraining_parts
from slslib.model.geometry import DetectorConfig


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
            self.detector = Detector(DetectorConfig(backbone.config)).train()
            self.detector.backbone = backbone.train()
            self.detector.to(device)
        self.register_load_state_dict_pre_hook(_to_our_names)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_to_authors_names)  # type: ignore[no-untyped-call]

    def forward(self, x: Float[Tensor, "batch samples *one"]) -> Float[Tensor, "batch 2"]:
        """Return log-probabilities of [spoof, bona fide], as the original does.

        Raises:
            CheckpointError: If the model has no weights yet.
        """
        if self.detector is None:
            base = f"there is no {self.ssl_cpkt_path}" if self.ssl_cpkt_path else "no ssl_cpkt_path"
            raise CheckpointError(f"the model has no weights ({base}): call load_state_dict first")
        return self.detector(x.squeeze(-1))


def _to_our_names(model: Model, state: MutableMapping[str, Any], prefix: str, *_: object) -> None:
    """Rename what is about to be loaded, and build an empty model to its dimensions."""
    ours: dict[str, Tensor] = {}
    for name in [name for name in state if name.startswith(prefix)]:
        bare = name.removeprefix(prefix).removeprefix("module.")
        ours[our_name(bare) or bare] = state.pop(name)
    if model.detector is None:
        with usable_config("the state dict of an XLS-R + SLS model"):
            config = dimensions(ours, None)
        detector = Detector.from_config(config).to_empty(device=model.device)
        model.detector = detector.train(model.training)
    model.pretraining = {name: t.cpu() for name, t in ours.items() if name.startswith(KEPT)}
    state.update(
        {f"{prefix}detector.{k}": t for k, t in ours.items() if k not in model.pretraining}
    )


def _to_authors_names(
    model: Model, state: MutableMapping[str, Any], prefix: str, _: object
) -> None:
    """Rename what was collected, and add what only the original's strict load asks for."""
    start = f"{prefix}detector."
    own = {n.removeprefix(start): state.pop(n) for n in list(state) if n.startswith(start)}
    if own:
        made = pretraining_parts(own, model.pretraining)
        everything = own | model.pretraining | made
        state.update({prefix + authors_name(name): t for name, t in everything.items()})
