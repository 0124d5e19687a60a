"""Measure how fast and in how much memory a full-size checkpoint is read and converted.

    python studies/checkpoints.py [--folder DIR] [--repeats 3] [--out results.json]

Writes to a temporary folder what fairseq's trainer writes for XLS-R 300M: random weights, what
pre-training alone uses, and Adam's state, 3.8 GB in all; and the authors' .pth of the same size as
theirs. Each measurement is a process of its own: seconds of the call, and the most memory that the
process ever held resident, less what it held before the call (PyTorch and slslib imported). Pages
of a memory-mapped file count as resident while they are cached. `read` times the file in the page
cache. The naive way is `torch.load` of the whole file, a model built with random weights, and
`load_state_dict`, which copies.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import provenance
import torch
from provenance import ROOT

from slslib.model.detector import Detector
from slslib.model.foreign import authors_state

OUT = ROOT / "studies" / "results" / "checkpoints.json"

_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_ZEROS = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")
# The sections that fairseq writes, and in them what says how the model was built and trained.
SETTINGS: dict[str, Any] = {
    "_name": None,
    "common": {"_name": None, "seed": 1, "fp16": True, "user_dir": None},
    "common_eval": {"_name": None, "path": None, "model_overrides": "{}"},
    "distributed_training": {"_name": None, "ddp_backend": "legacy_ddp", "device_id": 0},
    "dataset": {"_name": None, "num_workers": 6, "train_subset": "train", "valid_subset": "valid"},
    "optimization": {"_name": None, "max_update": 1_000_000, "update_freq": [1], "lr": [0.005]},
    "checkpoint": {"_name": None, "save_dir": "checkpoints", "best_checkpoint_metric": "loss"},
    "bmuf": {"_name": None, "block_lr": 1.0},
    "generation": {"_name": None, "beam": 5},
    "eval_lm": {"_name": None, "softmax_batch": 9_223_372_036_854_775_807},
    "interactive": {"_name": None, "input": "-"},
    "ema": {"_name": None, "store_ema": False},
    "model": {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm",
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "activation_fn": "gelu",
        **dict.fromkeys((*_ZEROS, "dropout_input", "dropout_features"), 0.0),
        "final_dim": 768,
        "layer_norm_first": True,
        "conv_feature_layers": _LAYERS,
        "conv_bias": True,
        "logit_temp": 0.1,
        "quantize_targets": True,
        "feature_grad_mult": 1.0,
        "latent_vars": 320,
        "latent_groups": 2,
        "latent_dim": 0,
        "latent_temp": [2.0, 0.1, 0.999995],
        "mask_length": 10,
        "mask_prob": 0.65,
        "num_negatives": 100,
        "conv_pos": 128,
        "conv_pos_groups": 16,
    },
    "task": {
        "_name": "audio_pretraining",
        "data": "data",
        "sample_rate": 16_000,
        "normalize": True,
    },
    "criterion": {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 0.0]},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "weight_decay": 0.01},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32_000},
    "scoring": None,
    "bpe": None,
    "tokenizer": None,
}

_MEASURE = """
import time
import torch
from slslib.model.convert import convert
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import our_name
from slslib.model.xlsr import XLSR, XLSRConfig

def naive(path):
    content = torch.load(path, map_location="cpu", weights_only=True)
    backbone = XLSR(XLSRConfig())
    names = {our_name(name): name for name in content["model"]}
    mine = {n: content["model"][names["backbone." + n]] for n in backbone.state_dict()}
    backbone.load_state_dict(mine)
    return backbone

def peak():
    status = open("/proc/self/status").read()  # ru_maxrss would begin with the parent's
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9

XLSR(XLSRConfig(width=16, n_layers=1, conv_width=8, pos_kernel=8, pos_groups=4))  # imports all
before, start = peak(), time.perf_counter()
result = CALL
seconds = time.perf_counter() - start
print(seconds, before, peak())
"""


def write(folder: Path) -> tuple[Path, Path]:
    """Write fairseq's and the authors' files; return their paths."""
    detector = Detector(seed=0)
    state = authors_state(detector.state_dict())
    authors = folder / "epoch_2.pth"
    torch.save({f"module.{n}": t for n, t in state.items()}, authors)
    prefix = "ssl_model.model."
    model = OrderedDict(
        (n.removeprefix(prefix), t) for n, t in state.items() if n.startswith(prefix)
    )
    moments = {
        i: {"step": 1, "exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.zeros_like(t)}
        for i, t in enumerate(model.values())
    }
    history = {"criterion_name": "Wav2vecCriterion", "optimizer_name": "FP16Optimizer"}
    content = {
        "args": None,
        "cfg": SETTINGS,
        "model": model,
        "criterion": None,
        "optimizer_history": [
            history | {"lr_scheduler_state": {"best": None}, "num_updates": 1_000_000}
        ],
        "task_state": {},
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": 1.5,
            "best": 1.5,
            "metrics": OrderedDict(),
            "previous_training_time": 0.0,
        },
        "last_optimizer_state": {"state": moments, "param_groups": []},
    }
    fairseq = folder / "xlsr2_300m.pt"
    torch.save(content, fairseq)
    return fairseq, authors


def measure(call: str, repeats: int, after: tuple[Path, ...] = ()) -> dict[str, float]:
    """Run a call in processes of its own; return median seconds and the largest peak."""
    rows = []
    for _ in range(repeats):
        for path in after:
            path.unlink(missing_ok=True)
        program = _MEASURE.replace("CALL", call)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append([float(value) for value in done.stdout.split()])
    return {
        "seconds_median": round(statistics.median(row[0] for row in rows), 3),
        "seconds_max": round(max(row[0] for row in rows), 3),
        "peak_gb": round(max(row[2] for row in rows), 3),
        "peak_above_imports_gb": round(max(row[2] - row[1] for row in rows), 3),
    }


def main() -> None:
    """Measure, print and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to put 7 GB for the while")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    where = provenance.provenance("torch", "transformers", "safetensors")
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        fairseq, authors = write(folder)
        ours, back = folder / "ours.safetensors", folder / "back.pth"
        calls = {
            "fairseq .pt, naive torch.load": (f"naive({str(fairseq)!r})", ()),
            "fairseq .pt, load_backbone": (f"load_backbone({str(fairseq)!r})", ()),
            "authors' .pth, Detector.load": (f"Detector.load({str(authors)!r})", ()),
            "authors' .pth to safetensors": (f"convert({str(authors)!r}, {str(ours)!r})", (ours,)),
            "safetensors, Detector.load": (f"Detector.load({str(ours)!r})", ()),
            "safetensors to authors' .pth": (f"convert({str(ours)!r}, {str(back)!r})", (back,)),
        }
        rows = {}
        for name, (call, after) in calls.items():
            measure(call, 1, after)  # the file into the page cache
            rows[name] = measure(call, args.repeats, after)
            print(name, rows[name], flush=True)
        sizes = {p.name: round(p.stat().st_size / 1e9, 3) for p in (fairseq, authors, ours, back)}
    what = "seconds and memory of reading and rewriting full-size checkpoints"
    results = {"repeats": args.repeats, "sizes_gb": sizes, "calls": rows}
    provenance.write(args.out, what, where, results)


if __name__ == "__main__":
    main()
