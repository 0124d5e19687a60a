"""Write a detector as an ONNX file, which :mod:`slslib.model.onnx` scores without PyTorch.

The graph has plain linear layers. :mod:`slslib.model.products` computes them by PyTorch's own
operations, which ONNX does not know. int8 rounds the products of the backbone: the weights once,
with a scale for each output, and the inputs whenever a batch is scored. Convolutions, attention
weights and the head keep 32 bits; a score is a difference of the head's outputs.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from slslib.errors import CheckpointError, ConfigError
from slslib.files import sha256, writing

_INT8 = "int8 moves every score: measure the error rates and choose the threshold anew with it"


def export(checkpoint: str, out: Path, *, int8: bool = False) -> dict[str, Any]:
    """Write a detector as ONNX, which detect scores on a CPU without PyTorch.

    Before the file gets its name, it is compared with the detector on noise: no score may differ by
    more than 0.0001, or that share of the largest score. XLS-R 300M takes 1.4 GB. An ONNX file
    holds at most 2 GB, which is too little for a billion weights. This command needs the extra
    onnx.

    Example: slslib export runs/v1 v1.onnx

    Args:
        checkpoint: safetensors or .pth file, run folder, hub:owner/name[/file][@revision], or mini.
        out: OUT.onnx
        int8: Round the backbone's products to 8 bits: a smaller file, but other scores. Error rates
            and thresholds of the original do not hold, and its development threshold is left out.

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
    from slslib.model.onnx import OnnxDetector

    try:
        import onnx
        import onnxscript  # noqa: F401 (PyTorch asks for it)
        from onnxruntime import quantization
    except ImportError as error:
        remedy = 'install the extra: pip install -c constraints.txt -e ".[onnx]"'
        raise ConfigError(f"{error}; {remedy}") from error
    out = Path(out)
    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: write *.onnx")
    detector: Any = Detector.load(path := locate(checkpoint))
    if sum(one.numel() for one in detector.parameters()) > 525_000_000:  # protobuf holds 2 GiB
        raise CheckpointError(f"{path} is too large for ONNX, which holds 2 GB; score it as it is")
    n_samples = detector.config.n_samples
    about = {"checkpoint": path.name, "checkpoint_sha256": sha256(path), "int8": int8}
    metadata = dict(detector.metadata)
    if int8:  # its scores are others
        metadata.pop("dev_eer_threshold", None)
    about |= {"n_samples": n_samples, "metadata": metadata}
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
        node.ClearField("metadata_props")  # the file and line where it was traced
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
        drift = float(np.abs(OnnxDetector(temporary).llr(noise) - reference).max())
        if not drift <= (np.inf if int8 else 1e-4 * max(1, np.abs(reference).max())):
            raise CheckpointError(f"{path}: ONNX scores differ by {drift:.2g}; score it as it is")
    said = {"largest_drift": drift, "warnings": [_INT8] if int8 else []}
    return {"out": str(out), "bytes": out.stat().st_size, **said}
