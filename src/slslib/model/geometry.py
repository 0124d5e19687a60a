"""The dimensions of a model: of the XLS-R backbone, and of the detector around it.

These are plain numbers, so code that only describes a model (recipes, the command line's help)
needs no PyTorch. The networks are in :mod:`slslib.model.xlsr` and :mod:`slslib.model.detector`.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from slslib.errors import ConfigError

Freeze = Literal["none", "conv", "backbone"]


@dataclass(frozen=True)
class XLSRConfig:
    """Dimensions and architecture of a backbone; the defaults are XLS-R 300M.

    Raises:
        ConfigError: If a value is not a size.
    """

    width: int = 1024  # width of the residual stream
    n_layers: int = 24
    n_heads: int | None = None  # None: one for each 64 of width, as in XLS-R 300M; 1B has 16
    ffn_width: int | None = None  # None: 4 x width
    conv_width: int = 512  # channels of the convolutional feature extractor
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)  # in samples or frames of the layer below
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)  # their product is 320 samples = 20 ms
    pos_kernel: int = 128  # frames seen by the convolutional position embedding
    pos_groups: int = 16
    pre_norm: bool = True  # LayerNorms before the parts of a layer; wav2vec2-base has them after
    group_norm: bool = False  # one group norm, instead of a LayerNorm after each convolution
    conv_bias: bool = True
    wavlm: bool = False  # WavLM's gated relative positions in every attention

    def __post_init__(self) -> None:
        """Refuse values that are not sizes, and numbers of layers that would cost time and memory.

        A width that heads or groups do not divide is refused when the network is built.
        """
        for one in fields(self):
            value = getattr(self, one.name)
            kind = bool if isinstance(one.default, bool) else int
            sizes = value if isinstance(value, tuple) else (value,)
            sound = {type(size) for size in sizes} == {kind} and (kind is bool or min(sizes) > 0)
            if not sound and value is not one.default:
                what = "true or false" if kind is bool else "whole numbers of at least 1"
                raise ConfigError(f"{one.name} is {value!r}; it must be {what}")
        if self.n_layers > 1000:
            raise ConfigError(f"n_layers is {self.n_layers}; it must be at most 1000")
        if len(self.kernels) != len(self.strides):
            raise ConfigError(f"{len(self.kernels)} kernels but {len(self.strides)} strides")

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_heads or max(1, self.width // 64)

    @property
    def receptive_field(self) -> int:
        """Number of samples that one frame of the feature extractor sees: 400 (25 ms)."""
        n_samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            n_samples = (n_samples - 1) * stride + kernel
        return n_samples

    def n_frames(self, n_samples: int) -> int:
        """Count the frames that ``n_samples`` samples at 16 kHz give.

        >>> XLSRConfig().n_frames(64_600)
        201
        """
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_samples = (n_samples - kernel) // stride + 1
        return max(n_samples, 0)


@dataclass(frozen=True)
class DetectorConfig:
    """Dimensions of a detector; the defaults are the paper's."""

    backbone: XLSRConfig = field(default_factory=XLSRConfig)
    hidden_width: int = 1024  # width of the head's hidden linear layer
    n_samples: int = 64_600  # samples at 16 kHz from which one score is computed (4.04 s)


def from_json(kind: type[Any], facts: Any) -> Any:
    """Build a config from a checkpoint's JSON object, which must hold every field.

    A default in place of a lost field might fit the weights and still be wrong. Only files from the
    time when all backbones were XLS-R's may lack the four fields that tell architectures apart.

    Raises:
        ConfigError: If a field is missing, unknown or impossible.
    """
    differing = {one.name for one in fields(kind)} ^ facts.keys()
    if differing and differing != {"pre_norm", "group_norm", "conv_bias", "wavlm"}:
        raise ConfigError(f"its {kind.__name__} lacks or adds {sorted(differing)}; get it again")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
    if kind is DetectorConfig:
        values["backbone"] = from_json(XLSRConfig, facts["backbone"])
    return kind(**values)
