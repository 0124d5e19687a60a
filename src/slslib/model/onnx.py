"""Detectors as ONNX files, which onnxruntime scores on a CPU without PyTorch.

ONNX (https://onnx.ai) describes a network as a graph of standard operations. The graph here has one
input, ``samples`` ``[batch, n_samples]`` in float32, and one output, ``llr`` ``[batch]`` in
float64. The batch may have any size. The length is fixed, because the head's first linear layer
has a weight for each frame. A JSON object in the file's metadata, under ``slslib``, names the
checkpoint and its SHA-256, and holds what the training says about itself.

The graph has linear layers as they are: :mod:`slslib.model.products` computes them by operations of
PyTorch's own, which ONNX does not know. In int8 the products of the backbone are rounded: the
weights once, with a scale for each output, the inputs whenever a batch is scored. Convolutions,
attention weights and the head keep 32 bits; a score is a difference of the head's outputs.
"""

from __future__ import annotations

import json
import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from slslib.errors import CheckpointError, ConfigError, usable
from slslib.files import sha256, writing

_REMEDY = "write it again by slslib export"
_INT8 = "int8 moves every score: measure the error rates and choose the threshold anew with it"


def export(checkpoint: str, out: Path, *, int8: bool = False) -> dict[str, Any]:
    """Write a detector as ONNX, which detect scores on a CPU without PyTorch.

    The file is compared with the detector on noise before it gets its name: no score may differ by
    more than 0.0001, or that share of the largest. XLS-R 300M takes 1.4 GB. An ONNX file holds
    2 GB, which is too little for a billion weights. Needs pip install "slslib[onnx]".

    Example: slslib export runs/v1 v1.onnx

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        out: OUT.onnx
        int8: Round the backbone's products to 8 bits: a third of the size and up to twice as fast,
            but other scores. Error rates and thresholds of the original do not hold.

    Returns:
        ``out``, ``bytes``, ``largest_drift`` (of an LLR, on noise) and ``warnings``.

    Raises:
        CheckpointError: The checkpoint cannot be read or is too large, or ONNX scores differ.
        ConfigError: The output's name has another ending, or a package is missing.
        FileError: The output cannot be written; nothing half-written is left.
    """
    import torch

    from slslib.model.checkpoints import locate
    from slslib.model.detector import Detector

    onnx, quantization, _ = map(_need, ("onnx", "onnxruntime.quantization", "onnxscript"))
    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: write *.onnx")
    detector: Any = Detector.load(path := locate(checkpoint))
    if sum(one.numel() for one in detector.parameters()) > 525_000_000:  # protobuf holds 2 GiB
        raise CheckpointError(f"{path} is too large for ONNX, which holds 2 GB; score it as it is")
    n_samples = detector.config.n_samples
    about = {"checkpoint": path.name, "checkpoint_sha256": sha256(path), "int8": int8}
    about |= {"n_samples": n_samples, "metadata": detector.metadata}
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, n_samples), np.float32)
    batch = ({0: torch.export.Dim("batch")},)
    options: Any = {"input_names": ["samples"], "output_names": ["llr"], "dynamic_shapes": batch}
    for speaker in ("torch.onnx", "onnxscript"):  # of packages that they would use
        logging.getLogger(speaker).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        reference = detector.llr(torch.from_numpy(noise)).numpy()
        detector.forward = detector.llr
        traced = (torch.from_numpy(noise[:2]),)
        program: Any = torch.onnx.export(detector, traced, verbose=False, **options)
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where in which file it was traced
    model.graph.ClearField("value_info")
    onnx.helper.set_model_props(model, {"slslib": json.dumps(about)})
    with writing(out) as temporary:
        onnx.save(model, temporary)
        if int8:
            quantization.quant_utils.add_pre_process_metadata(model)  # there is nothing to do
            # The quantizer turns the head's Gemm into MatMul of this name.
            head = [f"{node.name}_MatMul" for node in model.graph.node if node.op_type == "Gemm"]
            kept = {"per_channel": True, "nodes_to_exclude": head}
            quantization.quantize_dynamic(model, temporary, ["MatMul"], **kept)
        onnx.checker.check_model(temporary)
        drift = float(np.abs(OnnxDetector.load(temporary).llr(noise) - reference).max())
        if not drift <= (np.inf if int8 else 1e-4 * max(1, np.abs(reference).max())):
            raise CheckpointError(f"{path}: ONNX scores differ by {drift:.2g}; score it as it is")
    said = {"largest_drift": drift, "warnings": [_INT8] if int8 else []}
    return {"out": str(out), "bytes": out.stat().st_size, **said}


class OnnxDetector:
    """Score waveforms by a file that :func:`export` wrote, without PyTorch.

    Attributes:
        n_samples: Audio that one score is computed from, at 16 kHz.
        metadata: What the training says about itself, as ``Detector.metadata``.
    """

    def __init__(self, path: str | Path) -> None:
        """Read a file that :func:`export` wrote, with as many threads as the process may use.

        The file is not trusted. onnxruntime has no operations here but its own, loads no library,
        and reads weights from the file or its folder only. As any network, a graph can still ask
        for much memory and time.

        Args:
            path: The file.

        Raises:
            CheckpointError: If it is missing, damaged or something else.
            ConfigError: If onnxruntime is not installed.
        """
        from joblib import cpu_count

        onnxruntime, self._path = _need("onnxruntime"), path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()  # what affinity and container allow
        options.log_severity_level = 4  # errors are raised
        with usable(path, remedy=_REMEDY):
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            about = json.loads(session.get_modelmeta().custom_metadata_map["slslib"])
            ends = (*session.get_inputs(), *session.get_outputs())
            shapes = [(end.name, end.type, *end.shape) for end in ends]
            self.n_samples, self.metadata = int(about["n_samples"]), dict(about["metadata"])
            samples = ("samples", "tensor(float)", "batch", self.n_samples)
            if shapes != [samples, ("llr", "tensor(double)", "batch")] or self.n_samples < 1:
                raise ValueError(f"from {shapes[:1]} it computes {shapes[1:]}")
        self._session = session

    @classmethod
    def load(cls, path: str | Path) -> OnnxDetector:
        """Return ``OnnxDetector(path)``, by the name that :class:`Detector` has for it."""
        return cls(path)

    def llr(self, samples: np.ndarray) -> np.ndarray:
        """Return ``log p(bona fide) - log p(spoof)`` in natural logarithms.

        Args:
            samples: ``[batch, n_samples]``, float32 mono at 16 kHz.

        Returns:
            ``[batch]``, float64.

        Raises:
            CheckpointError: If the graph cannot be computed.
        """
        with usable(self._path, remedy=_REMEDY):
            return self._session.run(None, {"samples": samples})[0]


def _need(name: str) -> Any:
    """Import a module of the extra ``onnx``."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f'{error}; install it: pip install "slslib[onnx]"') from error
