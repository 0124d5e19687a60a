"""Detectors as ONNX files, which onnxruntime scores on a CPU without PyTorch.

ONNX (https://onnx.ai) describes a network as a graph of standard operations. The graph here has one
input, ``samples`` ``[batch, n_samples]`` in float32, and one output, ``llr`` ``[batch]`` in
float64. The batch may have any size. The length is fixed, because the head's first linear layer
has a weight for each frame. A JSON object in the file's metadata, under ``slslib``, names the
checkpoint and its SHA-256, and holds what the training run recorded about itself.
:mod:`slsapp.export` writes such a file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from slslib.errors import ConfigError, usable

_REMEDY = "write it again by slslib export"
_OTHER_FILES = ("session.model_external_initializers_file_folder_path", "/dev/null")


class OnnxDetector:
    """Score waveforms by a file that ``slslib export`` wrote, without PyTorch.

    Attributes:
        n_samples: Number of samples at 16 kHz from which one score is computed.
        metadata: What the training run recorded about itself, as in ``Detector.metadata``.
    """

    def __init__(self, path: str | Path) -> None:
        """Read a file that ``slslib export`` wrote, with as many threads as the process may use.

        The file is not trusted. Here onnxruntime has only its own operations, loads no library, and
        reads no other file, so the hash of this file covers all of its weights. Like any network, a
        graph can still ask for much memory and time.

        Args:
            path: The file.

        Raises:
            CheckpointError: If it is missing, damaged or something else.
            ConfigError: If onnxruntime is not installed.
        """
        from joblib import cpu_count

        try:
            import onnxruntime
        except ImportError as error:
            remedy = 'install the extra: pip install -c constraints.txt -e ".[onnx]"'
            raise ConfigError(f"{error}; {remedy}") from error
        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()  # what affinity and container allow
        options.log_severity_level = 4  # errors are raised
        options.add_session_config_entry(*_OTHER_FILES)  # a "folder" that can hold none
        with usable(path, remedy=_REMEDY):
            only = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}  # it would print
            session = onnxruntime.InferenceSession(path, options, **only)
            about = json.loads(session.get_modelmeta().custom_metadata_map["slslib"])
            ends = (*session.get_inputs(), *session.get_outputs())
            shapes = [(end.name, end.type, *end.shape) for end in ends]
            self.n_samples, self.metadata = int(about["n_samples"]), dict(about["metadata"])
            samples = ("samples", "tensor(float)", "batch", self.n_samples)
            if shapes != [samples, ("llr", "tensor(double)", "batch")] or self.n_samples < 1:
                raise ValueError(f"from {shapes[:1]} it computes {shapes[1:]}")
        self._session = session

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
