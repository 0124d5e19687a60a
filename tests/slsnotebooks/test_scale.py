"""What the notebooks work on follows from the environment, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny import DETECTOR, DIMENSIONS, authors_file, told

from slslib.errors import ConfigError
from slslib.model.checkpoints import save_safetensors
from slslib.model.detector import Detector
from slsnotebooks.scale import Scale, scale

VARIABLES = (
    "SLSLIB_DATA",
    "SLSLIB_CHECKPOINT",
    "SLSLIB_BACKBONE",
    "SLSLIB_CLIPS",
    "SLSLIB_RUNS",
    "SLSLIB_RECORDING",
    "SLSLIB_LABEL",
)


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Clear the variables; return a function that sets some and reads the scale."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SLSLIB_CACHE", raising=False)

    def read(**values):
        for name, value in ({"data": tmp_path} | values).items():
            monkeypatch.setenv(f"SLSLIB_{name.upper()}", str(value))
        return scale()

    return read


def test_without_weights_it_is_the_packaged_mini(environment):
    here = environment()
    assert (here.checkpoint, here.backbone, here.clips) == ("mini", "mini", None)
    assert here.load_detector().config.backbone == here.load_backbone().config
    assert not here.load_detector().training


def test_simulated_corpora_are_marked_and_real_ones_are_not(environment, tmp_path):
    here = environment()
    assert here.label("EER (%)") == "EER (%)"
    assert "simulated speech only" in str(here), "mini never heard a human"
    (tmp_path / "minispoof.json").write_text("{}")
    here = environment()
    assert here.label("EER (%)") == "EER (%), simulated"
    assert "simulation" in str(here)
    assert str(tmp_path) not in str(here), "the same text on every machine"


def test_the_readers_name_of_the_weights_stands_in_labels(environment):
    here = environment(label="random weights", backbone="hub:owner/name")
    assert here.backbone_name == "random weights"  # nothing is read for it
    assert here.label("EER (%)") == "EER (%), random weights"


def test_the_backbone_is_that_of_the_checkpoint_unless_another_is_named(environment):
    here = environment(checkpoint="hub:owner/name/v1/epoch_2.pth")
    assert here.backbone == here.checkpoint
    assert "note" not in str(environment(backbone="hub:facebook/wav2vec2-xls-r-300m"))


def write_backbone(path: Path, about: dict, *others: str) -> Path:
    tensors = Detector(DETECTOR).backbone.state_dict(prefix="backbone.")
    others = dict.fromkeys(others, torch.zeros(2))
    save_safetensors(path, tensors | others, {"config": {"backbone": asdict(DIMENSIONS)}} | about)
    return path


def test_a_backbone_is_called_what_its_file_tells(environment, checkpoint, tmp_path):
    assert environment().backbone_name == "packaged"
    assert environment(checkpoint=checkpoint).backbone_name == "fine-tuned"
    file = tmp_path / "b.safetensors"
    for name, *written in (
        ("pre-trained", {}),
        ("pre-trained", {"card": {"hours": 4}}, "pretraining.mask_emb"),
        ("fine-tuned", {}, "pretraining.lm_head.weight"),
    ):
        here = environment(checkpoint=checkpoint, backbone=write_backbone(file, *written))
        assert here.backbone_name == name
    here = environment(checkpoint="hub:owner/name", backbone=checkpoint)
    assert here.backbone_name == "fine-tuned", "it is a detector's, however it was named"


def test_of_weights_only_what_their_file_tells_is_said(environment, tmp_path):
    here, detector = environment(), Detector(DETECTOR)
    assert here.weights(here.load_detector()) == "mini"
    authors = tmp_path / "epoch_2.pth"
    torch.save(told(authors_file(detector), DETECTOR), authors)
    own = tmp_path / "epoch_16.safetensors"
    for file, metadata, said in (
        (authors, None, "epoch_2.pth, which names no recipe"),
        (own, {}, "epoch_16.safetensors, which names no recipe"),
        (own, {"recipe": "v2", "epoch": 16}, "epoch_16.safetensors, recipe v2, epoch 16"),
        (own, {"recipe": "v2"}, "epoch_16.safetensors, recipe v2"),
    ):
        if metadata is not None:
            detector.save(file, metadata)
        assert here.weights(Detector.load(file)) == said


def test_a_local_file_is_named_for_every_working_directory(environment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").write_bytes(b"")
    assert environment(checkpoint="own.safetensors").checkpoint == f"{tmp_path}/own.safetensors"


def test_a_link_keeps_the_name_that_tells_its_format(environment, tmp_path):
    (tmp_path / "blob").touch()
    link = tmp_path / "own.safetensors"
    link.symlink_to("blob")
    here = environment(checkpoint=link, backbone=link)
    assert here.checkpoint == here.backbone == str(link)


def test_empty_variables_are_as_good_as_none(environment, tmp_path, monkeypatch):
    monkeypatch.setattr("minispoof.corpus.simulation", lambda: tmp_path)
    here = environment(**{name.removeprefix("SLSLIB_").lower(): "" for name in VARIABLES})
    assert here == Scale(
        tmp_path, False, "mini", "mini", None, Path("../runs").resolve(), here.device
    )
    assert here.environment() == {}


def test_the_environment_means_the_same_in_every_folder(environment, tmp_path, monkeypatch):
    for name in ("corpora", "runs/v1", "elsewhere", "cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "me.wav").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLSLIB_CACHE", "cache")
    given = {"checkpoint": "runs/v1", "backbone": "hub:owner/name", "runs": "runs", "clips": 4}
    here = environment(data="corpora", recording="me.wav", **given)
    assert here.environment() == {
        "SLSLIB_DATA": f"{tmp_path}/corpora",
        "SLSLIB_CHECKPOINT": f"{tmp_path}/runs/v1",
        "SLSLIB_BACKBONE": "hub:owner/name",
        "SLSLIB_RUNS": f"{tmp_path}/runs",
        "SLSLIB_RECORDING": f"{tmp_path}/me.wav",
        "SLSLIB_CACHE": f"{tmp_path}/cache",
    }
    for name, value in here.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("elsewhere")
    assert scale() == here
    monkeypatch.setenv("SLSLIB_CHECKPOINT", "mini")
    assert scale().environment()["SLSLIB_CHECKPOINT"] == "mini"


@pytest.mark.parametrize("variable", ["data", "checkpoint", "backbone", "runs", "recording"])
def test_what_is_not_there_is_named_at_once(environment, variable, tmp_path):
    with pytest.raises(ConfigError, match=f"SLSLIB_{variable.upper()} is 'runs/none'; from /"):
        environment(**{variable: "runs/none"})


@pytest.mark.parametrize(
    ("variable", "kind"), [("data", "file"), ("runs", "file"), ("recording", "folder")]
)
def test_a_file_is_no_folder(environment, variable, kind, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"SLSLIB_{variable.upper()} is the {kind} {tmp_path}"):
        environment(**{variable: tmp_path / kind})


def test_clips_limit_what_a_page_takes_but_not_below_its_need(environment):
    assert environment().few(80) == environment().few(80, streamed=True) == 80
    assert "clips  " not in str(environment())
    here = environment(clips=10)
    assert (here.few(80), here.few(5), here.few(80, least=20), here.few(8, least=20)) == (
        10,
        5,
        20,
        8,
    )
    assert "clips     about 10 clips of a class; the page may need more" in str(here)
    assert max(map(len, str(environment(clips=25_380)).split("\n"))) <= 88, "a page shows all of it"


def test_clips_are_more_than_a_page_says_where_it_keeps_none(environment):
    here = environment(clips=900)
    assert (here.few(500), here.few(500, streamed=True)) == (500, 900)
    assert environment(clips=4).few(500, least=20, streamed=True) == 20
    here = environment(clips="all")
    assert not here.clips, "notebook 06 then trains on the corpora as they are"
    assert here.few(500) == 500
    assert min(here.few(500, streamed=True), 611_829) == 611_829
    assert "clips     all clips; the page may keep fewer" in str(here)


def write_scores(path: Path, corpus: str, partition: str = "-") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    facts = {"corpus": corpus, "partition": partition, "decoders": {}}
    Path(f"{path}.json").write_text(json.dumps(facts))


def test_runs_and_their_scores_are_found_but_not_for_the_simulation(environment, tmp_path):
    runs = tmp_path / "runs"
    for name in ("v1", "begun"):
        (runs / name).mkdir(parents=True)
    (runs / "v1" / "best.json").write_text("{}")
    write_scores(runs / "v1" / "asvspoof2021-df.txt", "asvspoof2021-df")
    write_scores(runs / "v1" / "asvspoof2019-la.txt", "asvspoof2019-la", "eval")
    write_scores(runs / "v1" / "own.txt", "own")
    here = environment(runs=runs)
    assert here.trained() == {"v1": runs / "v1"}, "the other has no finished epoch"
    assert here.scored() == {
        ("v1", "asvspoof2019-la:eval"): runs / "v1" / "asvspoof2019-la.txt",
        ("v1", "asvspoof2021-df"): runs / "v1" / "asvspoof2021-df.txt",
    }
    (tmp_path / "minispoof.json").write_text("{}")
    here = environment(runs=runs)
    assert here.trained() == here.scored() == {}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "7",
        "{",
        "\udc80",
        '{"corpus": {}, "partition": "-", "decoders": {}}',
        '{"corpus": "in-the-wild", "partition": "-"}',
    ],
)
def test_other_files_of_such_a_name_are_passed_over(environment, tmp_path, text):
    runs = tmp_path / "runs"
    write_scores(runs / "v1" / "wild.txt", "in-the-wild")
    (runs / "v1" / "other.txt").touch()
    other = runs / "v1" / "other.txt.json"
    other.write_text(text, encoding="utf-8", errors="surrogateescape")
    (runs / "v1" / "folder.txt.json").mkdir()
    write_scores(runs / "v1" / "moved.txt", "asvspoof2021-la")
    (runs / "v1" / "moved.txt").unlink()  # the scores are elsewhere now
    assert environment(runs=runs).scored() == {("v1", "in-the-wild"): runs / "v1" / "wild.txt"}


def test_several_score_files_of_one_corpus_are_all_there(environment, tmp_path):
    runs = tmp_path / "runs"
    for name in ("v1/df-exact", "v1/df-bf16", "v2/df"):
        write_scores(runs / f"{name}.txt", "asvspoof2021-df")
    write_scores(runs / "v1/wild.txt", "in-the-wild")
    assert environment(runs=runs).scored() == {
        ("v1/df-bf16", "asvspoof2021-df"): runs / "v1/df-bf16.txt",
        ("v1/df-exact", "asvspoof2021-df"): runs / "v1/df-exact.txt",
        ("v1", "in-the-wild"): runs / "v1/wild.txt",
        ("v2", "asvspoof2021-df"): runs / "v2/df.txt",
    }


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_number_is_refused(environment, value):
    with pytest.raises(ConfigError, match="SLSLIB_CLIPS"):
        environment(clips=value)


def test_the_device_is_a_gpu_where_there_is_one(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment().device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert environment().device.type == "cuda"


def test_a_recording_of_the_reader_is_a_file_or_an_error(environment, tmp_path, monkeypatch):
    assert environment().recording is None
    (tmp_path / "me.m4a").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment(recording="~/me.m4a").recording == tmp_path / "me.m4a"
    with pytest.raises(ConfigError, match="SLSLIB_RECORDING"):
        environment(recording=tmp_path / "none.wav")
