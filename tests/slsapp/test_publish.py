"""Publishing: the folder, the card and its proofs, and the way to a hub and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from hub_server import NEW, TOKEN, File, Hub, faults_of_card, serve
from huggingface_hub import ModelCard
from tiny import DETECTOR, recipe

from slsapp.publish import publish
from slslib.data.scorefiles import read_scores
from slslib.errors import ConfigError
from slslib.evaluation.evaluate import evaluate
from slslib.files import sha256, write_json
from slslib.model.checkpoints import locate
from slslib.model.detector import Detector
from slslib.runs.score import score
from slslib.runs.train import train

KEY = "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"


class Mean(torch.nn.Module):
    """A head that reads the mean over time of the last layer."""

    def __init__(self, width):
        super().__init__()
        self.output = torch.nn.Linear(width, 2)

    def forward(self, layers):
        *_, last = layers
        return self.output(last.mean(dim=1))


@pytest.fixture(scope="module")
def run(corpora, tmp_path_factory):
    """A finished run with a score file, its evaluation, and an evaluation of other scores."""
    out = tmp_path_factory.mktemp("runs") / "own"
    train(recipe(), out, data=corpora, progress=False)
    for folder, checkpoint in ((out, out), (out / "other", "mini")):
        name = folder / "eval.txt"
        score(str(checkpoint), "asvspoof2019-la:eval", name, data=corpora, progress=False)
        result = evaluate(name, corpora / KEY, bootstrap=100, cluster=("speaker",))
        write_json(f"{name}.eval.json", result)
    for file in (out / "other").glob("*.json"):
        shutil.copy(file, out / f"mini-{file.name}")
    return out


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "model"
    assert publish(str(run), "owner/own", license="mit", folder=folder) == str(folder)
    return folder


@pytest.fixture
def waveform():
    return 0.1 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def hub():
    with serve() as hub:
        yield hub


def online(hub: Hub, home: Path, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    """Run Python where the hub is the local one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    own |= {"NO_PROXY": "127.0.0.1,localhost", "HF_TOKEN": token}
    command = [sys.executable, *words]
    return subprocess.run(command, env=kept | own, cwd=home, capture_output=True, text=True)


def test_a_folder_loads_with_the_same_scores(run, published, waveform, tmp_path):
    assert {file.name for file in published.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    before, after = Detector.load(run), Detector.from_pretrained(published)
    assert after.metadata == before.metadata
    assert locate(published) == published / "model.safetensors"
    with torch.inference_mode():
        assert torch.equal(before.llr(waveform), after.llr(waveform))
    facts = json.loads((published / "config.json").read_text())
    assert facts["detector"]["n_samples"] == 4000
    assert facts["training"]["config"]["recipe"] == "v1"


def test_the_card_shows_what_was_measured_on_these_weights_only(run, published):
    card = ModelCard.load(published / "README.md")
    (result,) = card.data.eval_results
    evaluation = json.loads((run / "eval.txt.eval.json").read_text())
    assert result.metric_value == evaluation["eer_percent"]
    assert result.metric_args["interval"] == evaluation["eer_interval_percent"]
    assert result.metric_args["cluster"] == ["speaker"]
    assert (result.dataset_name, result.dataset_split) == ("asvspoof2019-la", "eval")
    low, high = evaluation["eer_interval_percent"]
    eer = evaluation["eer_percent"]
    row = f"| 5 | 5 | {eer:.2f} % | {low:.2f} to {high:.2f} % | speaker | exact |"
    assert row in card.text
    assert card.text.count("| asvspoof2019-la:eval |") == 1, "mini's scores are not its own"
    dev = Detector.load(run).metadata["dev_eer_percent"]
    assert f"On the development set, `asvspoof2019-la:dev`, the EER was {dev:.2f} %" in card.text


def test_metadata_are_what_the_hub_asks_for(published):
    text = (published / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name) == ("mit", "slslib")
    assert card.data.pipeline_tag == "audio-classification"
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert faults_of_card(text) == []
    assert "undefined" not in text.lower()
    assert "None" not in text


def test_what_is_not_known_is_not_in_the_card(tmp_path):
    Detector(DETECTOR, seed=1).save_pretrained(tmp_path / "bare")
    text = (tmp_path / "bare" / "README.md").read_text()
    assert ModelCard(text).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    for said in (
        "stated no licence",
        "training configuration was not published",
        "No evaluation was published",
    ):
        assert said in text
    assert "development set" not in text


def test_a_head_of_its_own_is_not_called_sls(tmp_path, waveform):
    class Mine(Detector):
        def build_head(self, config):
            return Mean(config.backbone.width)

    before = Mine(DETECTOR, seed=1).eval()
    before.save_pretrained(tmp_path, name="owner/mine")
    text = (tmp_path / "README.md").read_text()
    assert 'detector = Mine.from_pretrained("owner/mine")' in text
    assert "An SLS classifier" not in text
    assert "slslib detect call.wav" not in text
    assert torch.equal(Mine.from_pretrained(tmp_path).llr(waveform), before.llr(waveform))


def test_the_initial_weights_on_the_hub_are_the_base_model(tmp_path):
    detector = Detector(DETECTOR, seed=1)
    config = {"backbone": "hub:facebook/wav2vec2-xls-r-300m/pytorch_model.bin@abc", "init": None}
    about = {"training": {"config": config, "data": []}}
    detector.save_pretrained(tmp_path, name="owner/x", about=about)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "facebook/wav2vec2-xls-r-300m"


def test_paths_of_this_machine_stay_here(run, corpora, tmp_path):
    copy = tmp_path / "runs" / "own"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["config"]["backbone"] = str(tmp_path / "weights" / "xlsr2_300m.pt")
    config["data"][0]["corpus"] = str(corpora / "secret" / "own")
    write_json(copy / "config.json", config)
    publish(str(copy), "owner/own", license="mit", folder=tmp_path / "out")
    for name in ("README.md", "config.json"):
        text = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in text
        assert "secret" not in text
        assert "xlsr2_300m.pt" in text
    assert "Training: `own:train`, 12 trials" in (tmp_path / "out" / "README.md").read_text()


def test_only_what_is_listed_is_published(run, tmp_path):
    """Whatever shape a path of this machine has, and whatever else the files say."""
    shutil.copytree(run, tmp_path / "own")
    secrets = ["file:///srv/alice/x", "~/alice/x", "C:\\Users\\alice\\x", "../alice/x"]
    config = json.loads((tmp_path / "own/config.json").read_text())
    config["config"] |= {"train": secrets[0], "dev": secrets[1], "backbone": secrets[2]}
    config["data"][0]["corpus"] = secrets[3]
    write_json(tmp_path / "own/config.json", config | {"note": "alice", "own": {"alice": 1}})
    evaluation = json.loads((tmp_path / "own/eval.txt.eval.json").read_text())
    evaluation |= {"note": "alice", "warnings": ["/srv/alice/dev.txt: EER", "all good"]}
    write_json(tmp_path / "own/eval.txt.eval.json", evaluation)
    publish(str(tmp_path / "own"), "a/b", license="mit", folder=tmp_path / "out")
    facts = json.loads((tmp_path / "out/config.json").read_text())
    assert facts["training"]["config"]["backbone"] == "x"
    assert facts["results"][0]["warnings"] == ["all good"]
    for name in ("README.md", "config.json"):
        assert "alice" not in (tmp_path / "out" / name).read_text()


def test_a_card_that_is_there_is_not_replaced(published, tmp_path):
    (tmp_path / "README.md").write_text("edited")
    with pytest.raises(ConfigError, match=r"README\.md.*new --folder"):
        publish(str(published), "a/b", license="mit", folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("where", ["run", "folder"])
def test_the_folder_of_a_run_or_of_the_checkpoint_is_not_written(run, published, tmp_path, where):
    folder = tmp_path / "own"
    shutil.copytree(run if where == "run" else published, folder)
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    source = published if where == "run" else folder
    with pytest.raises(ConfigError, match="another --folder"):
        publish(str(source), "a/b", license="mit", folder=folder)
    assert {file: file.read_bytes() for file in before} == before


def test_a_run_that_is_not_the_checkpoints_is_not_its_training(run, tmp_path):
    """Whether the file is called an epoch or not, and has the run's recipe and seed or not."""
    shutil.copytree(run, tmp_path / "own")
    metadata = Detector.load(run).metadata
    for name, said in (("foreign", {}), ("epoch_9", metadata | {"train_loss": 0.5})):
        Detector(DETECTOR, seed=3).save(tmp_path / f"own/{name}.safetensors", said)
        out = tmp_path / name
        publish(str(tmp_path / f"own/{name}.safetensors"), "a/b", license="mit", folder=out)
        facts = json.loads((out / "config.json").read_text())
        assert (facts["training"], facts["results"]) == (None, [])


HOSTILE: dict[str, Any] = {
    "damaged": "{",
    "list": [1],
    "deep": "[" * 100_000,
    "without scores": {"eer_rule": "official"},
    "text for hashes": {"eer_rule": "official", "sha256": "abc"},
    "list for a hash": {"scores_sha256": [1], "checkpoint_sha256": "own"},
    "number": {"corpus": 3, "checkpoint_sha256": "own", "sha256": {"scores": "None"}},
    "bare run": {"initial_sha256": "0"},
    "run of text": {"initial_sha256": "0", "config": {"init": 3, "backbone": "x"}, "data": []},
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("name", ["config.json", "x.json"])
def test_odd_files_beside_the_checkpoint_are_left_out(tmp_path, case, name):
    path, given = tmp_path / "in/epoch_0.safetensors", HOSTILE[case]
    Detector(DETECTOR, seed=3).save(path, {"recipe": "v1", "seed": 1, "epoch": 0})
    text = given if isinstance(given, str) else json.dumps(given)
    (tmp_path / "in" / name).write_text(text.replace('"own"', f'"{sha256(path)}"'))
    publish(str(path), "a/b", license="mit", folder=tmp_path / "out")
    facts = json.loads((tmp_path / "out/config.json").read_text())
    assert (facts["training"], facts["results"]) == (None, [])


@pytest.mark.parametrize("eer", ["1\n    - type: x", {}, float("nan"), 101, True, 10**400])
def test_a_result_that_is_no_error_rate_is_not_shown(run, tmp_path, eer):
    shutil.copytree(run, tmp_path / "own")
    evaluation = json.loads((tmp_path / "own/eval.txt.eval.json").read_text())
    write_json(tmp_path / "own/eval.txt.eval.json", evaluation | {"eer_percent": eer})
    publish(str(tmp_path / "own"), "a/b", license="mit", folder=tmp_path / "out")
    assert "No evaluation was published" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "said",
    [{"dev_eer_percent": odd} for odd in ({}, "1", 10**400, float("nan"), [1])]
    + [{"dev_eer_percent": 5.0, "dev_eer_threshold": odd} for odd in (10**400, "1", None)]
    + [{"dev_eer_percent": 5.0}],
)
def test_a_checkpoint_may_say_anything_of_itself(tmp_path, said):
    Detector(DETECTOR, seed=3).save_pretrained(tmp_path)
    detector = Detector.load(tmp_path)
    detector.metadata = said
    detector.save_pretrained(tmp_path / "out", name="a/b")
    text = (tmp_path / "out/README.md").read_text()
    assert ("the EER was 5.00 %. The epoch" in text) == (said["dev_eer_percent"] == 5.0)
    assert faults_of_card(text) == []


def test_what_a_checkpoint_says_of_itself_is_text(tmp_path):
    """No line, heading, picture, link, table or code of its own; and not at length."""
    odd = "1 |\n\n<img src=http://e/x>\n# Results\n| EER | 0 % |\n[a](javascript:x)`\x1b[31m\u202e-"
    detector = Detector(DETECTOR, seed=3)
    detector.metadata = {"recipe": odd, odd: 1, "long": "A" * 5000, "many": [1, 2]}
    detector.save_pretrained(tmp_path, name="a/b")
    text = (tmp_path / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("recipe")]
    assert "img src=http://e/x" in line
    assert not set("<>[]|`\x1b\u202e") & set(line)
    assert line.endswith(f"long {'A' * 80}.")
    assert text.count("# Results") - line.count("# Results") == 1


@pytest.mark.parametrize(
    ("name", "license", "asked"),
    [
        ("owner/own", None, "--license"),
        ("own", "mit", "OWNER/NAME"),
        ("./a/b", "mit", "OWNER/NAME"),
        ("own", None, "OWNER/NAME"),
        ("a/b\nx", "mit", "OWNER/NAME"),
    ],
)
def test_name_and_licence_are_asked_for(run, tmp_path, name, license, asked):
    with pytest.raises(ConfigError, match=asked):
        publish(str(run), name, license=license, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_to_the_hub_and_back(hub, run, published, corpora, tmp_path):
    """Upload by the command; score and load by name; the card's examples run; publish again."""
    command = ("-m", "slslib", "publish", str(run), "owner/own", "--license", "mit")
    first = online(hub, tmp_path, *command)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == f"{hub.url}/owner/own/commit/{NEW}"
    asked = [path for method, path, _ in hub.requests if method in ("POST", "PUT")]
    assert asked[:2] == ["/api/validate-yaml", "/api/repos/create"], "the card is checked first"
    for name in ("README.md", "config.json", "model.safetensors"):
        assert hub.files["owner/own", "main", name].content == (published / name).read_bytes()

    audio = corpora / "LA/ASVspoof2019_LA_eval/flac/LA_E_0000001.flac"
    samples, rate = soundfile.read(audio)
    soundfile.write(tmp_path / "call.wav", samples, rate)
    text = (published / "README.md").read_text()
    (shown,) = re.findall(r"```console\n\$ slslib (.*)\n```", text)
    found = online(hub, tmp_path, "-m", "slslib", *shown.split(), "--json")
    assert found.returncode == 0, found.stderr
    (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = online(hub, tmp_path, "-c", program + "print(detector.config.n_samples)")
    assert done.returncode == 0, done.stderr
    llr, n_samples = done.stdout.split()
    assert (float(llr), n_samples) == (json.loads(found.stdout)["files"][0]["llr"], "4000")

    corpus = ("--corpus", "asvspoof2019-la:eval", "--data", str(corpora), "--out", "scores.txt")
    scored = online(
        hub, tmp_path, "-m", "slslib", "score", "--checkpoint", "hub:owner/own", *corpus
    )
    assert scored.returncode == 0, scored.stderr
    assert read_scores(tmp_path / "scores.txt").equals(read_scores(run / "eval.txt"))

    again = online(hub, tmp_path, *command)
    assert again.returncode == 0, again.stderr
    assert sum(method == "PUT" for method, _, _ in hub.requests) == 1, "the weights are there"


@pytest.mark.parametrize(
    ("license", "token", "says"),
    [("mti", TOKEN, "license.*must be one of"), ("mit", "hf_wrong", "401.*hf auth login")],
)
def test_a_refusal_says_why(hub, published, tmp_path, license, token, says):
    command = ("-m", "slslib", "publish", str(published), "owner/refused", "--license", license)
    done = online(hub, tmp_path, *command, token=token)
    assert done.returncode == 1
    assert re.search(says, " ".join(done.stderr.split()))
    assert "Traceback" not in done.stderr
    assert "owner/refused" not in hub.repositories


def test_no_connection_without_an_upload(hub, run, tmp_path):
    before = len(hub.requests)
    command = ("-m", "slslib", "publish", str(run), "owner/own", "--license", "mit")
    done = online(hub, tmp_path, *command, "--folder", "out")
    assert (done.returncode, done.stdout.strip()) == (0, "out")
    assert len(hub.requests) == before
    offline = ("import os; os.environ['HF_HUB_OFFLINE'] = '1'; from slslib import Detector\n",)
    refused = online(
        hub,
        tmp_path,
        "-c",
        offline[0] + "Detector.from_pretrained('out').push_to_hub('a/b', license='mit')",
    )
    assert "FileError: cannot publish a/b" in refused.stderr
    assert len(hub.requests) == before


def test_a_folder_is_taken_before_the_hub_but_not_where_a_revision_is_asked_for(
    hub, published, tmp_path
):
    shutil.copytree(published, tmp_path / "owner" / "local")
    hub.put("owner/local", "model.safetensors", File(b"not weights"))
    Detector(DETECTOR, seed=5).save_pretrained(tmp_path / "owner" / "pinned")
    hub.put(
        "owner/pinned", "model.safetensors", File((published / "model.safetensors").read_bytes())
    )
    program = (
        "from slslib import Detector\n"
        "one = Detector.from_pretrained('owner/local')\n"
        "two = Detector.from_pretrained('owner/pinned', revision='main')\n"
        "print(one.metadata == two.metadata != {})"
    )
    done = online(hub, tmp_path, "-c", program)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("file", ["best.json", "state.pt"])
def test_from_python_too_a_run_keeps_its_config(tmp_path, file):
    (tmp_path / file).write_text("{}")
    (tmp_path / "config.json").write_text("the run's")
    with pytest.raises(ConfigError, match="holds a run"):
        Detector(DETECTOR).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "the run's"
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("percent", "told"), [(62.5, True), (37.5, False)])
def test_the_card_warns_of_a_development_error_rate_above_one_half(tmp_path, percent, told):
    detector = Detector(DETECTOR)
    detector.metadata = {"dev_eer_percent": percent}
    detector.save_pretrained(tmp_path)
    assert ("above 50 %" in (tmp_path / "README.md").read_text()) == told
