"""The XLS-R backbone: the outputs of all transformer layers in one pass.

XLS-R (Babu et al., Interspeech 2022, doi:10.21437/Interspeech.2022-143) is a wav2vec 2.0 model
(Baevski et al., NeurIPS 2020). Seven convolutions turn 16 kHz samples into a frame every 20 ms,
and 24 pre-norm transformer layers of width 1024 contextualise the frames. The modules are those
of :class:`transformers.Wav2Vec2Model`. The loop over the layers is ours, because SLS needs the
*residual stream after each layer, before the encoder's final LayerNorm*. transformers does not
promise that for ``hidden_states`` (up to release 5.15 the last entry is after the LayerNorm).
For speed, three things are computed in another way than there. The convolutions keep the channels
last in memory, where LayerNorm wants them; attention is PyTorch's fused kernel; and
:mod:`slslib.model.products` multiplies matrices. All layers stay within 1e-5 of fairseq's.

Conventions: the waveform is fed as it is, float32 in units of int16 / 32768, without the
zero-mean unit-variance normalisation that Hugging Face's feature extractor would apply.
Everything stochastic (dropout, LayerDrop, SpecAugment) is off, in training too. The fairseq
checkpoint carries the same configuration, and the SLS authors fine-tune with it.

The same loop computes relatives of XLS-R: wav2vec 2.0 of other sizes, HuBERT (the same network
under another name) and WavLM (Chen et al., IEEE JSTSP 2022, doi:10.1109/JSTSP.2022.3188113), whose
first layer computes a position bias that all later layers use. In post-norm models, wav2vec2-base
among them, one LayerNorm precedes the layers, and one ends each layer.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from slslib.model.geometry import Freeze, XLSRConfig
from slslib.model.products import Linear

__all__ = ["XLSR", "XLSRConfig", "hugging_face"]

# Parity: XLS-R's own configuration has all of these at 0; transformers' defaults are 0.1 for the
# dropouts and for LayerDrop, with SpecAugment on.
_DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout")
_STOCHASTIC = (*_DROPOUTS, "final_dropout", "layerdrop", "mask_time_prob", "mask_feature_prob")


class XLSR(nn.Module):
    """XLS-R, or a relative of it, that gives the output of every transformer layer.

    Attributes:
        config: Dimensions.
        model: The transformers module that holds the parameters. It keeps a pre-norm model's final
            encoder LayerNorm, for faithful checkpoints, but :meth:`layers` does not use it.
        checkpointing: Recompute each layer in the backward pass instead of storing its
            activations: about a third more time for a fraction of the memory.
        card: Where the weights come from, if their file says so.
    """

    def __init__(self, config: XLSRConfig | None = None) -> None:
        """Build a backbone with random weights.

        Args:
            config: Dimensions; by default those of XLS-R 300M.
        """
        super().__init__()
        self.config = config or XLSRConfig()
        self.checkpointing = False
        self.card: dict[str, Any] = {}
        # transformers would log hints about modules that are not used here.
        logging.getLogger("transformers").setLevel(logging.ERROR)
        model: Any = WavLMModel if self.config.wavlm else Wav2Vec2Model
        self.model = model(hugging_face(self.config))
        for module in self.model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
        # SpecAugment's embedding exists only where masking is on; nothing here ever uses it.
        self.model.register_parameter("masked_spec_embed", None)

    def layers(self, waveform: Float[Tensor, "batch samples"]) -> Iterator[Tensor]:
        """Yield the output of each transformer layer, first to last.

        Args:
            waveform: Mono audio at 16 kHz in units of int16 / 32768, not normalised; at least
                :attr:`~slslib.model.geometry.XLSRConfig.receptive_field` samples.

        Yields:
            ``config.n_layers`` tensors of shape ``(batch, frames, width)``: the residual stream
            before the encoder's final LayerNorm; in a post-norm model, the output of each layer's
            last LayerNorm.

        Raises:
            ValueError: If the waveform is not a batch, or shorter than one frame.
        """
        if waveform.ndim != 2:
            raise ValueError(f"a batch has the shape (batch, samples), not {(*waveform.shape,)}")
        if waveform.shape[-1] < (least := self.config.receptive_field):
            raise ValueError(f"{waveform.shape[-1]} samples are less than one frame ({least})")
        encoder, projection = self.model.encoder, self.model.feature_projection
        # A CPU needs less memory and less time if it scores clip by clip.
        one_by_one = waveform.is_cpu and torch.is_inference_mode_enabled()
        parts = torch.split(waveform, 1) if one_by_one else [waveform]
        hidden, _ = projection(torch.cat([self._frames(part) for part in parts]))
        # The residual stream keeps all its bits, even if products are rounded.
        hidden = hidden.to(waveform.dtype)
        hidden = hidden + encoder.pos_conv_embed(hidden.to(encoder.pos_conv_embed.conv.bias.dtype))
        if not self.config.pre_norm:
            hidden = encoder.layer_norm(hidden)
        carried: Any = {}
        for layer in encoder.layers:
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, use_reentrant=False, **carried)
            else:
                hidden = layer(hidden, **carried)
            if self.config.wavlm:
                hidden, carried["position_bias"] = hidden
            yield hidden

    def _frames(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames _"]:
        """Run the convolutional feature extractor."""
        frames = waveform[:, :, None]
        for layer in self.model.feature_extractor.conv_layers:
            # Two dimensions, the first of size 1: PyTorch lays out only these channels last.
            weight = layer.conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)
            planes = frames.to(weight.dtype).transpose(1, 2)[:, :, None]
            planes = F.conv2d(planes, weight, layer.conv.bias, (1, layer.conv.stride[0]))
            frames = planes[:, :, 0].transpose(1, 2).to(waveform.dtype)
            if self.config.group_norm and hasattr(layer, "layer_norm"):  # a norm over time
                frames = layer.layer_norm(frames.transpose(1, 2)).transpose(1, 2)
            elif hasattr(layer, "layer_norm"):
                frames = layer.layer_norm(frames)
            frames = layer.activation(frames)
        return frames

    def forward(
        self, waveform: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch layers frames width"]:
        """Stack the outputs of all layers; :meth:`layers` yields the same without the stack."""
        return torch.stack(list(self.layers(waveform)), dim=1)

    def to_bf16(self) -> None:
        """Keep the weights of convolutions and linear layers in bfloat16, for scoring only.

        The residual stream, every LayerNorm and what follows stay in 32 bits. So does WavLM's
        attention, because it is one function of transformers that takes a single type.
        """
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Conv1d):
                module.bfloat16()
            elif isinstance(module, Linear) and not (self.config.wavlm and ".attention." in name):
                module.to_bf16()
        if next(self.parameters()).device.type == "cpu":  # its fused kernel is slower in bfloat16
            self.model.set_attn_implementation("eager")

    def freeze(self, what: Freeze) -> None:
        """Exclude a part from training.

        Args:
            what: ``"none"`` trains everything, as the SLS authors do; ``"conv"`` freezes the
                convolutional feature extractor; ``"backbone"`` freezes all of it.
        """
        self.requires_grad_(what != "backbone")
        if what == "conv":
            self.model.feature_extractor.requires_grad_(False)
        # DDP demands a gradient for each parameter that requires one, and in a pre-norm model the
        # last LayerNorm takes no part in the layers.
        if self.config.pre_norm:
            self.model.encoder.layer_norm.requires_grad_(False)


def hugging_face(config: XLSRConfig) -> Any:
    """Return the transformers configuration of a backbone, with everything stochastic off."""
    kind: Any = WavLMConfig if config.wavlm else Wav2Vec2Config
    return kind(
        hidden_size=config.width,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.heads,
        intermediate_size=config.ffn_width or 4 * config.width,
        conv_dim=(config.conv_width,) * len(config.kernels),
        conv_kernel=config.kernels,
        conv_stride=config.strides,
        conv_bias=config.conv_bias,
        feat_extract_norm="group" if config.group_norm else "layer",
        do_stable_layer_norm=config.pre_norm,
        num_conv_pos_embeddings=config.pos_kernel,
        num_conv_pos_embedding_groups=config.pos_groups,
        **dict.fromkeys(_STOCHASTIC, 0.0),
        apply_spec_augment=False,
        attn_implementation="eager" if config.wavlm else "sdpa",
    )
