"""Checkpoints from a hub: a real server on localhost, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import File, Hub, serve
from tiny import told

from slslib.errors import CheckpointError
from slslib.model.detector import Detector, DetectorConfig, load_backbone
from slslib.model.foreign import authors_name
from slslib.model.xlsr import XLSRConfig

CONFIG = DetectorConfig(
    XLSRConfig(width=16, n_layers=2, conv_width=8, pos_kernel=8, pos_groups=4), 8, n_samples=4000
)
COMMIT, OLD = "a" * 40, "b" * 40

# huggingface_hub reads its environment when it is imported.
_PROGRAM = """
import json, sys, time
import huggingface_hub.constants
from slslib.model.checkpoints import download, locate
from slslib.errors import CheckpointError
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096
time.sleep = lambda seconds: None  # between one attempt and the next
for line in sys.stdin:
    job = json.loads(line)
    try:
        got = locate(job) if isinstance(job, str) else download(**job)
        print(json.dumps({"path": str(got)}), flush=True)
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


def run(home: Path, endpoint: str, *jobs: object, **variables: str) -> list[dict[str, str]]:
    """Locate each job in a process of its own kind of environment; return path or error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    } | variables
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def pth(seed: int, prefix: str = "") -> bytes:
    """Return the bytes of an authors' file."""
    state = Detector(CONFIG, seed=seed).state_dict()
    buffer = io.BytesIO()
    torch.save(told({authors_name(k): v for k, v in state.items()}, CONFIG, prefix), buffer)
    return buffer.getvalue()


def weights(path: str) -> torch.Tensor:
    return Detector.load(path).head.hidden.weight


def left_over(home: Path) -> list[str]:
    """Return the names of files that should not be there after a failure."""
    blobs = [p for p in home.rglob("*") if p.is_file() and p.parent.name in ("blobs", "v1")]
    partial = [p for p in home.rglob("*") if "incomplete" in p.name or p.name.endswith(".tmp")]
    return [p.name for p in blobs + partial]


@pytest.fixture(scope="module")
def hub():
    """A hub with sound and unsound repositories."""
    with serve() as hub:
        new, old = pth(1, "module."), pth(2)
        hub.put("owner/good", "v1/epoch_2.pth", File(new))
        hub.files["owner/good", OLD, "v1/epoch_2.pth"] = File(old, OLD)
        hub.put("owner/breaks", "epoch_2.pth", File(pth(3), break_at=len(pth(3)) // 2))
        hub.put("owner/small", "epoch_2.pth", File(pth(4), large=False))
        flipped = bytearray(new)
        flipped[-2000] ^= 1
        hub.put("owner/flipped", "epoch_2.pth", File(new, sent=bytes(flipped)))
        hub.put("owner/flipped-small", "e.pth", File(new, sent=bytes(flipped), large=False))
        hub.put("owner/short", "epoch_2.pth", File(new, sent=new[:-100]))
        hub.put("owner/long", "epoch_2.pth", File(new, sent=new + bytes(100)))
        hub.put("owner/text", "epoch_2.pth", File(b"<html>not weights</html>"))
        hub.refused["owner/private"] = (401, "RepoNotFound")
        hub.refused["owner/gated"] = (403, "GatedRepo")
        yield hub


def test_download_once_and_then_without_network(hub: Hub, tmp_path: Path) -> None:
    name, pin = "hub:owner/good/v1/epoch_2.pth", hashlib.sha256(pth(1, "module.")).hexdigest()
    whole = {"repository": "owner/good", "filename": "v1/epoch_2.pth"}
    asked = len(hub.requests)
    first, again, pinned, old, pinned_hash = run(
        tmp_path, hub.url, name, name, f"{name}@{COMMIT}", f"{name}@{OLD}", whole | {"sha256": pin}
    )
    assert first == again == pinned == pinned_hash
    assert Path(first["path"]).read_bytes() == pth(1, "module.")
    assert torch.equal(weights(first["path"]), Detector(CONFIG, seed=1).head.hidden.weight)
    assert torch.equal(weights(old["path"]), Detector(CONFIG, seed=2).head.hidden.weight)
    gets = [r for r in hub.requests[asked:] if r[0] == "GET" and r[1].startswith("/storage/")]
    assert len(gets) == 2, "each of the two files is downloaded once"

    asked = len(hub.requests)
    offline = run(
        tmp_path, hub.url, name, f"{name}@{OLD}", f"{name}@{'c' * 40}", HF_HUB_OFFLINE="1"
    )
    assert offline[:2] == [first, old]
    assert "HF_HUB_OFFLINE" in offline[2]["error"]
    # Without a network, as without the server: what is there is used.
    down = run(tmp_path, "http://127.0.0.1:9", name, f"{name}@{OLD}", "hub:owner/good/v2.pth")
    assert down[:2] == [first, old]
    assert "the network" in down[2]["error"]
    assert len(hub.requests) == asked


def test_bytes_that_change_in_the_cache_are_noticed(hub: Hub, tmp_path: Path) -> None:
    (first,) = run(tmp_path, hub.url, "hub:owner/good/v1/epoch_2.pth")
    with Path(first["path"]).open("r+b") as file:
        file.seek(-2000, io.SEEK_END)
        file.write(b"\0" * 10)
    (wrong,) = run(tmp_path, hub.url, "hub:owner/good/v1/epoch_2.pth", HF_HUB_OFFLINE="1")
    assert re.search(_WRONG, wrong["error"])
    assert left_over(tmp_path) == []


def test_a_cache_without_links_is_compared_with_what_the_hub_states(
    hub: Hub, tmp_path: Path
) -> None:
    name = "hub:owner/good/v1/epoch_2.pth"
    (first,) = run(tmp_path, hub.url, name)
    file = Path(first["path"])
    content = file.read_bytes()
    file.resolve().unlink()
    file.unlink()
    file.write_bytes(content)
    assert run(tmp_path, hub.url, name) == [first]
    (offline,) = run(tmp_path, hub.url, name, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline["error"]  # what cannot be checked is not used
    file.write_bytes(content[:-1] + b"x")
    (wrong,) = run(tmp_path, hub.url, name)
    assert re.search(_WRONG, wrong["error"])
    assert not file.exists()


def test_nothing_outside_the_cache_is_written_or_removed(hub: Hub, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for depth in range(3, 8):
        stated = "../" * depth + "victim"
        hub.put(f"owner/hostile{depth}", "epoch_2.pth", File(pth(1), stated=stated))
        (wrong,) = run(tmp_path, hub.url, f"hub:owner/hostile{depth}/epoch_2.pth")
        assert "error" in wrong
        assert victim.read_text() == "precious"
    (wrong,) = run(tmp_path, hub.url, "hub:owner/good/v1/epoch_2.pth@../../../../../victim")
    assert "no branch, tag or commit" in wrong["error"]
    assert victim.read_text() == "precious"


def test_a_broken_transfer_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """And small files, which the hub names by another hash, are found again."""
    small = "hub:owner/small/epoch_2.pth"
    done, *files = run(tmp_path, hub.url, "hub:owner/breaks/epoch_2.pth", small, small)
    assert torch.equal(weights(done["path"]), Detector(CONFIG, seed=3).head.hidden.weight)
    ranges = [r for _, path, r in hub.requests if "owner/breaks" in path and r]
    assert ranges == [f"bytes={len(pth(3)) // 2 // 4096 * 4096}-"]
    assert files[0] == files[1]
    assert Path(files[0]["path"]).read_bytes() == pth(4)


_WRONG = "as it should: it was removed; try again"
_REFUSALS = [
    ("hub:owner/flipped/epoch_2.pth", _WRONG),
    ("hub:owner/flipped/epoch_2.pth", _WRONG),  # not taken from a cache either
    ("hub:owner/flipped-small/e.pth", _WRONG),
    ("hub:owner/short/epoch_2.pth", "OSError|Consistency"),
    ("hub:owner/long/epoch_2.pth", "OSError|Consistency|as it should"),
    ("hub:owner/good/v9/epoch_2.pth", "EntryNotFound"),
    ("hub:owner/good", "model.safetensors of owner/good .*EntryNotFound"),
    ("hub:owner/good/v1/epoch_2.pth@nope", "epoch_2.pth of owner/good at nope .*RevisionNotFound"),
    ("hub:owner/none/epoch_2.pth", "RepositoryNotFound"),
    ("hub:owner/private/epoch_2.pth", "RepositoryNotFound.* `hf auth login`"),
    ("hub:owner/gated/epoch_2.pth", "GatedRepo.*`hf auth login`"),
    ("hub:owner/bad name/epoch_2.pth", "check the name"),
    (
        {"repository": "owner/good", "filename": "v1/epoch_2.pth", "sha256": "0" * 64},
        "not 0{64} as it should: it was removed",
    ),
]


@pytest.fixture(scope="module")
def refusals(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, Path]:
    home = tmp_path_factory.mktemp("home")
    return run(home, hub.url, *(job for job, _ in _REFUSALS)), home


@pytest.mark.parametrize("i", range(len(_REFUSALS)))
def test_refusals_say_why_and_what_to_do(refusals: tuple[list, Path], i: int) -> None:
    assert re.search(_REFUSALS[i][1], refusals[0][i]["error"].replace("\n", " "))
    assert "Traceback" not in refusals[0][i]["error"]
    assert left_over(refusals[1]) == []


def test_a_transformers_repository_tells_its_heads(hub: Hub, tmp_path: Path) -> None:
    config = XLSRConfig(width=16, n_layers=2, n_heads=4, conv_width=8, pos_kernel=8, pos_groups=4)
    Detector(DetectorConfig(config, 8, 4000), seed=1).backbone.model.save_pretrained(tmp_path / "x")
    for name in ("model.safetensors", "config.json"):
        content = (tmp_path / "x" / name).read_bytes()
        hub.put("owner/xls-r", name, File(content, large=name.startswith("model")))
    text, done = run(tmp_path, hub.url, "hub:owner/text/epoch_2.pth", "hub:owner/xls-r")
    assert load_backbone(done["path"]).config.n_heads == 4
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_backbone(text["path"])


@pytest.mark.parametrize("status", [404, 503])
def test_heads_that_a_repository_does_not_tell_are_not_guessed(
    hub: Hub, tmp_path: Path, status: int
) -> None:
    Detector(CONFIG, seed=1).backbone.model.save_pretrained(tmp_path / "x")
    repo, config = f"owner/without-{status}", (tmp_path / "x" / "config.json").read_bytes()
    hub.put(repo, "model.safetensors", File((tmp_path / "x" / "model.safetensors").read_bytes()))
    if status == 503:
        hub.put(repo, "config.json", File(config, large=False))
        hub.down.add((repo, "config.json"))
    (first,) = run(tmp_path, hub.url, f"hub:{repo}")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_backbone(first["path"])
    hub.down.clear()
    hub.put(repo, "config.json", File(config, large=False))
    run(tmp_path, hub.url, f"hub:{repo}")  # once the hub answers, nothing else is needed
    assert load_backbone(first["path"]).config.n_heads == 1


def test_from_pretrained(hub: Hub, tmp_path: Path) -> None:
    program = (
        "import sys; from slslib.model.detector import Detector\n"
        "d = Detector.from_pretrained('owner/good', filename='v1/epoch_2.pth',"
        " revision=sys.argv[1], sha256=sys.argv[2])\n"
        "print(d.config.n_samples, d.training)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, OLD, hashlib.sha256(pth(2)).hexdigest()],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.split()[1:] == ["False"], done.stderr[-2000:]
