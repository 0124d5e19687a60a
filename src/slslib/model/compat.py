"""The original's ``Model`` class, for code that was written for it.

Replace ``from model import Model`` by ``from slslib.model.compat import Model``:

>>> model = Model(device="cpu", ssl_cpkt_path="xlsr2_300m.pt")
>>> # model.load_state_dict(torch.load("epoch_2.pth", map_location="cpu"))

Names of weights, shapes and outputs are the original's; what computes is
:class:`slslib.model.detector.Detector`. New code uses that directly:
``Detector.load("epoch_2.pth")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import CheckpointError
from slslib.model.checkpoints import usable
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import KEPT, KEY, authors_name, dimensions, our_name
from slslib.model.geometry import DetectorConfig, from_json


class Model(nn.Module):
    """XLS-R with SLS under the names of the authors' ``model.py``."""

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
        if ssl_cpkt_path is not None and Path(ssl_cpkt_path).exists():
            backbone = load_backbone(ssl_cpkt_path)
            self.detector = Detector(DetectorConfig(backbone.config))
            self.detector.backbone = backbone
            self.detector.train().to(device)

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

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights under the authors' 440 names, with or without ``module.``.

        Raises:
            CheckpointError: If the model is empty and these are not the weights of one.
            RuntimeError: PyTorch's, if they do not fit a model that has weights.
        """
        named = {our_name(name): tensor for name, tensor in state_dict.items()}
        ours = {name: tensor for name, tensor in named.items() if not name.startswith(KEPT)}
        if self.detector is None:
            with usable("the state dict of an XLS-R + SLS model"):
                # What a .pth of `slslib convert` tells, else XLS-R 300M.
                told = getattr(state_dict, "_metadata", {}).get("", {}).get(KEY)
                config = told["config"] if told else dimensions(ours, {}, None)
                detector = Detector(from_json(DetectorConfig, config))
            self.detector = detector.train(self.training).to(self.device)
        return self.detector.load_state_dict(ours, strict, assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights under the authors' names; ``slslib convert`` adds the unused ones."""
        state = super().state_dict(*args, **kwargs)
        return {authors_name(name.removeprefix("detector.")): t for name, t in state.items()}
