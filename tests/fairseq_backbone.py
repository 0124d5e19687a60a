"""The backbone in fairseq, the framework of the original, to compare with.

An optional extra, built from source: ``pip install --no-build-isolation -c constraints.txt
fairseq-fixed==0.12.3.1``, and then ``pip uninstall torchaudio``, which it brings along, does not
need, and which does not load beside this PyTorch. Nothing else in slslib needs fairseq. Weights
reach it from an :class:`~slslib.model.xlsr.XLSR`, never through its own loader, which runs what a
file asks for: ``FairseqXLSR.of(load_backbone(path))``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slslib.errors import ConfigError
from slslib.model.foreign import authors_name
from slslib.model.geometry import XLSRConfig
from slslib.model.xlsr import XLSR


class FairseqXLSR(nn.Module):
    """A ``Wav2Vec2Model`` of fairseq with the interface of :class:`slslib.model.xlsr.XLSR`.

    Attributes:
        config: Dimensions.
        model: The fairseq module, without the parts that only pre-training uses.
    """

    def __init__(self, config: XLSRConfig) -> None:
        """Build a backbone with random weights.

        Raises:
            ConfigError: If fairseq is not installed.
        """
        super().__init__()
        try:
            from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
        except ImportError as error:
            raise ConfigError(
                f"fairseq does not import ({error}); install it by `pip install "
                "--no-build-isolation -c constraints.txt fairseq-fixed==0.12.3.1` and `pip "
                "uninstall torchaudio`"
            ) from error
        self.config = config
        shapes = zip(config.kernels, config.strides, strict=True)
        settings = Wav2Vec2Config(
            # Nothing stochastic, as in the XLS-R checkpoint; fairseq's own defaults are not 0.
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            encoder_layerdrop=0.0,
            dropout_input=0.0,
            dropout_features=0.0,
            extractor_mode="layer_norm",
            layer_norm_first=True,
            conv_bias=True,
            conv_feature_layers=str([(config.conv_width, k, s) for k, s in shapes]),
            encoder_layers=config.n_layers,
            encoder_embed_dim=config.width,
            encoder_ffn_embed_dim=config.ffn_width or 4 * config.width,
            encoder_attention_heads=config.heads,
            conv_pos=config.pos_kernel,
            conv_pos_groups=config.pos_groups,
        )
        self.model: Any = Wav2Vec2Model(settings)
        self.model.remove_pretraining_modules()
        self.model.mask_emb = None

    @classmethod
    def of(cls, backbone: XLSR) -> Self:
        """Return a backbone with the same dimensions and weights, in evaluation mode.

        Raises:
            ConfigError: If fairseq is not installed.
        """
        original = cls(backbone.config)
        tensors = backbone.state_dict()
        prefix = "ssl_model.model."
        original.model.load_state_dict(
            {authors_name(f"backbone.{n}").removeprefix(prefix): t for n, t in tensors.items()}
        )
        return original.eval()

    def layers(self, waveform: Float[Tensor, "batch samples"]) -> Iterator[Tensor]:
        """Yield what :meth:`slslib.model.xlsr.XLSR.layers` yields, computed by fairseq.

        fairseq computes all layers before the first is returned.
        """
        found = self.model(waveform, mask=False, features_only=True)["layer_results"]
        assert len(found) == self.config.n_layers, f"{len(found)} layers"
        for layer, *_ in found:
            yield layer.transpose(0, 1)  # fairseq puts time first

    def forward(
        self, waveform: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch layers frames width"]:
        """Stack the outputs of all layers."""
        return torch.stack(list(self.layers(waveform)), dim=1)
