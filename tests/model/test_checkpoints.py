"""Weights go in and out without loss, and nothing in a file is ever run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hostile import CANARY, Bomb, compress
from tiny import DETECTOR

from slslib.errors import CheckpointError
from slslib.model.checkpoints import locate, read_checkpoint, save_safetensors
from slslib.model.detector import Detector, load_backbone
from slslib.model.foreign import authors_name, our_name

ROOT = Path(__file__).resolve().parents[2]

# Ours -> the name fairseq and the SLS authors use, written independently of the package's table.
_BACKWARDS = [
    (r"^backbone\.model\.", "ssl_model.model."),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"conv_layers\.(\d+)\.layer_norm\.", r"conv_layers.\1.2.1."),
    (r"feature_projection\.layer_norm\.", "layer_norm."),
    (r"feature_projection\.projection\.", "post_extract_proj."),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
    (r"pos_conv_embed\.conv\.bias", "pos_conv.0.bias"),
    (r"layers\.(\d+)\.layer_norm\.", r"layers.\1.self_attn_layer_norm."),
    (r"\.attention\.", ".self_attn."),
    (r"feed_forward\.intermediate_dense", "fc1"),
    (r"feed_forward\.output_dense", "fc2"),
    (r"^head\.gate", "fc0"),
    (r"^head\.norm", "first_bn"),
    (r"^head\.hidden", "fc1"),
    (r"^head\.output", "fc3"),
]


def authors_name_by_hand(name: str) -> str:
    for pattern, replacement in _BACKWARDS:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(3)
    detector = Detector(DETECTOR).eval()
    with torch.no_grad():  # no parameter is left at 0 or 1, so exchanged ones show
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


@pytest.fixture(scope="module")
def waveform():
    return 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def authors_state(detector):
    state = {authors_name_by_hand(k): v.clone() for k, v in detector.state_dict().items()}
    extras = {
        "mask_emb": torch.rand(16),
        "quantizer.vars": torch.rand(1, 8, 8),
        "project_q.weight": torch.rand(4, 4),
        "final_proj.bias": torch.rand(4),
    }
    return state | {f"ssl_model.model.{k}": v for k, v in extras.items()}


def test_save_and_load_are_exact(detector, waveform, tmp_path):
    path = tmp_path / "detector.safetensors"
    detector.save(path, {"epoch": 2, "dev_eer_threshold": 0.25})
    again = Detector.load(path)
    assert again.config == detector.config
    assert again.metadata == {"epoch": 2, "dev_eer_threshold": 0.25}
    with torch.no_grad():
        assert torch.equal(again(waveform), detector(waveform))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_loading_does_not_freeze(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    assert all(p.requires_grad for p in Detector.load(tmp_path / "d.safetensors").parameters())


def test_every_name_has_its_own_translation(detector):
    ours = list(detector.state_dict())
    assert [authors_name(name) for name in ours] == [authors_name_by_hand(name) for name in ours]
    assert [our_name(authors_name(name)) for name in ours] == ours
    assert [our_name(name.removeprefix("backbone.model.")) for name in ours if "model" in name] == [
        name for name in ours if "model" in name
    ]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_authors_checkpoints(detector, waveform, authors_state, tmp_path, prefix, zipped):
    path = tmp_path / "epoch_2.pth"
    state = {prefix + k: v for k, v in authors_state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = Detector.load(path, n_heads=2)
    # The head's pooled size tells the number of frames only up to its remainder by three.
    assert loaded.config.backbone == Detector(DETECTOR).config.backbone.__class__(
        **{**DETECTOR.backbone.__dict__, "ffn_width": 64}
    )
    with torch.no_grad():
        n = loaded.config.n_samples
        fused, _ = detector.head.fuse(detector.backbone.layers(waveform))
        torch.testing.assert_close(loaded.head.classify(fused), detector.head.classify(fused))
    assert n <= 4000


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", ["dict", "namespace", "numpy"])
def test_fairseq_checkpoints(detector, waveform, authors_state, tmp_path, container, zipped):
    model = {
        k.removeprefix("ssl_model.model."): v
        for k, v in authors_state.items()
        if k.startswith("ssl_model")
    }
    content = {
        "model": model,
        "args": None,
        "cfg": {"model": {"encoder_attention_heads": 2, "layer_norm_first": True}},
    }
    if container == "namespace":
        args = argparse.Namespace(arch="wav2vec2", encoder_attention_heads=2, layer_norm_first=True)
        content |= {"args": args, "cfg": None}
    elif container == "numpy":
        content["extra_state"] = {"best": np.float64(1.5), "loss": np.float32(0.5)}
    torch.save(content, tmp_path / "xlsr.pt", _use_new_zipfile_serialization=zipped)
    backbone = load_backbone(tmp_path / "xlsr.pt")
    assert backbone.config.n_heads == 2
    with torch.no_grad():
        assert torch.equal(backbone(waveform), detector.backbone(waveform))


def test_transformers_folder(detector, waveform, tmp_path):
    detector.backbone.model.save_pretrained(tmp_path / "hf")
    backbone = load_backbone(tmp_path / "hf")  # its config.json tells the heads
    assert backbone.config.n_heads == 2
    with torch.no_grad():
        assert torch.equal(backbone(waveform), detector.backbone(waveform))
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_backbone(tmp_path / "hf")


def test_transformers_files_of_before_parametrizations(detector, waveform, tmp_path):
    """As facebook/wav2vec2-xls-r-300m is stored: pytorch_model.bin with prefix and weight_g/v."""
    state = {
        "wav2vec2."
        + re.sub(r"parametrizations\.weight\.original([01])", _weight_norm, name): tensor
        for name, tensor in detector.backbone.model.state_dict().items()
    }
    state |= {"wav2vec2.masked_spec_embed": torch.rand(16), "project_hid.weight": torch.rand(4, 16)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    backbone = load_backbone(tmp_path, n_heads=2)
    with torch.no_grad():
        assert torch.equal(backbone(waveform), detector.backbone(waveform))


def _weight_norm(found: re.Match[str]) -> str:
    return ("weight_g", "weight_v")[int(found[1])]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("forced", [False, True])
def test_code_in_a_checkpoint_is_never_run(tmp_path, zipped, forced):
    """In a process of its own, with the variable that switches PyTorch's own protection off."""
    torch.save({"model": Bomb()}, tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
    environment = os.environ | ({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if forced else {})
    code = (
        "from slslib.model.checkpoints import read_checkpoint\n"
        "from slslib.errors import CheckpointError\n"
        "try: read_checkpoint('b.pt')\n"
        "except CheckpointError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "posix.system" in done.stdout
    assert not (tmp_path / CANARY).exists()


def _compressed(path: Path, state: dict) -> None:
    torch.save(state, path)
    compress(path)


def _compressed_past_its_end(path: Path, state: dict) -> None:
    """Python's zipfile looks for the end record in the last 64 KiB; PyTorch looks further."""
    _compressed(path, state)
    with path.open("ab") as file:
        file.write(bytes(65_600))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, s: None, "no such checkpoint file"),
        (lambda p, s: p.write_bytes(b""), "no such checkpoint file, or it is empty"),
        (lambda p, s: p.write_bytes(b"RIFF" * 50), "no checkpoint"),
        (lambda p, s: p.write_bytes(b"\x10" + bytes(7) + b"{" + bytes(60)), "no checkpoint"),
        (lambda p, s: p.write_bytes(pickle.dumps({"a": 1})), "no checkpoint|no wav2vec"),
        (lambda p, s: torch.save([1, 2], p), "not usable .*'list'"),
        (lambda p, s: torch.save({"a": torch.zeros(3)}, p), "holds 'a', of another model"),
        (_compressed, "is compressed"),
        (_compressed_past_its_end, "not a zip file"),
        (
            lambda p, s: torch.save(s | {"fc0.bias": torch.tensor([float("nan")])}, p),
            "'head.gate.bias' holds NaN",
        ),
        (
            lambda p, s: torch.save({k: v for k, v in s.items() if k != "fc0.bias"}, p),
            r"another head.*head\.gate\.bias",
        ),
        (
            lambda p, s: torch.save(s | {"fc0.bias": torch.zeros(2)}, p),
            r"size mismatch for head\.gate\.bias",
        ),
    ],
)
def test_bad_files_are_refused_with_their_name(authors_state, tmp_path, make, message):
    path = tmp_path / "bad.pth"
    make(path, authors_state)
    with pytest.raises(CheckpointError, match=message) as error:
        Detector.load(path, n_heads=2)
    assert "bad.pth" in str(error.value)


def test_a_truncated_file_is_refused(detector, authors_state, tmp_path):
    for name, write in (
        ("a.safetensors", lambda p: detector.save(p)),
        ("b.pth", lambda p: torch.save(authors_state, p)),
    ):
        path = tmp_path / name
        write(path)
        whole = path.read_bytes()
        for n in (1, 7, 9, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:n])
            with pytest.raises(CheckpointError):
                Detector.load(path, n_heads=2)


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """Let nobody read a path, not even root, who may read everything."""
    user = os.geteuid()
    path.chmod(0)
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(0o755)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter; those of root's tests are root's own."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_may_not_be_read_is_not_called_damaged(detector, authors_state, public):
    (public / "run").mkdir()
    for name in ("a.safetensors", "run/epoch_0.safetensors"):
        detector.save(public / name)
    (public / "run" / "best.json").write_text('{"file": "epoch_0.safetensors"}')
    torch.save(authors_state, public / "b.pth")
    detector.backbone.model.save_pretrained(public / "parts", max_shard_size="8KB")
    parts = sorted((public / "parts").glob("*-of-*.safetensors"))
    for part in parts:
        part.chmod(0o644)  # transformers lets only their owner read them
    for name, path in {
        "a.safetensors": public / "a.safetensors",
        "b.pth": public / "b.pth",
        "run": public / "run" / "best.json",
        "run/epoch_0.safetensors": public / "run",
        "parts": parts[0],
    }.items():
        load_backbone(public / name, n_heads=2)  # all that it imports is loaded by now
        told = rf"not usable \(PermissionError: .*{path.name}.*see that it may be read$"
        with closed(path), pytest.raises(CheckpointError, match=told):
            load_backbone(public / name, n_heads=2)


def test_a_backbone_alone_cannot_score(detector, tmp_path):
    detector.backbone.model.save_pretrained(tmp_path / "hf")
    with pytest.raises(CheckpointError, match="without an SLS head"):
        Detector.load(tmp_path / "hf")


def test_a_run_folder_means_its_best_epoch(detector, tmp_path):
    detector.save(tmp_path / "epoch_4.safetensors")
    (tmp_path / "best.json").write_text(json.dumps({"file": "epoch_4.safetensors"}))
    assert locate(tmp_path) == tmp_path / "epoch_4.safetensors"
    (tmp_path / "best.json").write_text(json.dumps({"file": "../../epoch_9.safetensors"}))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        locate(tmp_path)
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match="not usable"):
        locate(tmp_path)


@pytest.mark.parametrize("name", ["hub:", "hub:owner", "hub:owner/", "hub:/name"])
def test_malformed_hub_names(name):
    with pytest.raises(CheckpointError, match=r"hub:.* no such checkpoint.* hub:owner/name"):
        locate(name)


def test_no_unsafe_loading_in_the_source():
    """Two calls open a pickle, a foreign checkpoint and our own state; each is weights_only."""
    source = "\n".join(p.read_text() for p in sorted((ROOT / "src").rglob("*.py")))
    assert sorted(re.findall(r"= torch\.load\([^)]*\)", source)) == [
        '= torch.load(path, map_location="cpu", weights_only=True)',
        '= torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)',
    ]
    assert not re.search(r"^\s*(import|from) (pickle|cloudpickle|dill)\b", source, re.M)
    assert not re.search(r"joblib\.(load|dump)", source)
    assert len(re.findall(r"torch\.load\(", source)) == 3  # the calls, and the text on them
    assert "allow_pickle" not in source


@pytest.mark.shared
def test_parity_with_the_original_code(shared):
    """The kit compares layers, gates, gradients and Adam steps with fairseq and the authors."""
    done = subprocess.run(
        [sys.executable, shared / "parity" / "verify.py", "tests/parity_adapter.py", "--controls"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("PASS")
    assert "MISSED" not in done.stdout
    assert "FAIL" not in done.stdout


@pytest.mark.shared
def test_the_reader_gives_the_dimensions(shared):
    _, about = read_checkpoint(shared / "parity" / "sls_tiny32_module.pth", n_heads=4)
    config = about["config"]
    assert (config["hidden_width"], config["n_samples"]) == (32, 64_600)
    assert (config["backbone"]["width"], config["backbone"]["n_layers"]) == (32, 24)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("tiny32", 4),
        ("micro16_args_namespace", 2),
        ("micro16_cfg_omegaconf", 2),
        ("micro16_numpy_scalars", 2),
        ("micro16_oldformat", 2),
    ],
)
def test_fairseq_settings_tell_the_heads(shared, name, heads):
    assert load_backbone(shared / "parity" / f"fairseq_{name}.pt").config.n_heads == heads


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(1 << 44), "not a plain dense tensor"),
        (torch.eye(3).to_sparse(), "not a plain dense tensor|asks for code"),
        (torch.zeros(1, dtype=torch.int32), r"not a plain dense tensor: torch.int32"),
        (torch.zeros(1).to(torch.float8_e5m2), "not a plain dense tensor|asks for code"),
        (torch.zeros(1, dtype=torch.int64), r"not a plain dense tensor: torch.int64"),
    ],
)
def test_odd_tensors_are_refused_before_they_are_read(authors_state, tmp_path, tensor, message):
    torch.save(authors_state | {"fc0.bias": tensor}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        Detector.load(tmp_path / "odd.pth", n_heads=2)


@pytest.mark.parametrize(
    "change",
    [{"strides": [0] * 7}, {"width": -64}, {"n_layers": 10**9}, {"conv_width": 0}, {"widht": 3}],
)
def test_dimensions_in_a_file_are_not_trusted(detector, tmp_path, change):
    from dataclasses import asdict

    config = asdict(detector.config)
    config["backbone"] |= change
    save_safetensors(tmp_path / "d.safetensors", detector.state_dict(), {"config": config})
    for load in (Detector.load, load_backbone):
        with pytest.raises(CheckpointError, match="not usable"):
            load(tmp_path / "d.safetensors")


def test_an_onnx_file_is_called_one(tmp_path):
    (tmp_path / "d.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is an ONNX file"):
        Detector.load(tmp_path / "d.onnx")
