"""A threshold from one's own recordings: what is promised, what is written, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tiny import DETECTOR

from slsapp.threshold import add_probabilities, threshold
from slslib.errors import AudioError, ConfigError, ScoreError
from slslib.files import sha256
from slslib.model.detector import Detector
from slslib.runs import detect as scoring


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "d.safetensors"
    Detector(DETECTOR, seed=5).save(path)
    return path


DOUBT = "no length stated"


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Make files whose scores are given; ``detect`` says those, and what it was called with."""
    llrs, calls = {}, []

    def detect(files, **options):
        calls.append(options)
        rows = [{"file": str(f), "llr": llrs[f], "error": None} for f in files]
        for row in rows:
            row["error"] = f"{row['file']}: broken" if row["llr"] is None else None
        facts = {"checkpoint": options["checkpoint"], "hop_s": options["hop"]}
        digest = sha256(options["checkpoint"])
        facts |= {"allow_silence": False, "speech_only": options["speech_only"]}
        facts["warnings"] = [DOUBT] * any("unstated" in str(file) for file in files)
        return facts | {"checkpoint_sha256": digest, "pool": options["pool"], "files": rows}

    def make(name, values):
        files = tuple(tmp_path / f"{name}{k}.wav" for k in range(len(values)))
        for file, value in zip(files, values, strict=True):
            file.write_bytes(name.encode())
            llrs[file] = value
        return files

    monkeypatch.setattr(scoring, "detect", detect)
    make.calls = calls
    return make


def normal(n, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, n).tolist()


def test_the_file_says_what_was_chosen_and_on_what(checkpoint, scored):
    llrs = normal(500)
    files = scored("a", llrs)
    made = threshold(bonafide=files, checkpoint=str(checkpoint), frr=5.0)
    written = json.loads(Path(made.pop("out")).read_text())
    assert made.pop("warnings") == []
    assert written == made
    assert written["rank"] == 17
    assert "at most 5 %" in written["meaning"]
    assert "confidence of 95 %" in written["meaning"]
    assert written["threshold"] == np.nextafter(sorted(llrs)[16], -np.inf)
    assert sum(llr <= written["threshold"] for llr in llrs) == 16
    assert written["frr"]["percent"] == pytest.approx(3.2)
    assert written["frr"]["interval_percent"][0] < 3.2 < written["frr"]["interval_percent"][1]
    assert written["n_bonafide"] == 500
    assert (written["wanted_frr_percent"], written["confidence_percent"]) == (5, 95)
    assert written["checkpoint_sha256"] == sha256(checkpoint)
    assert (written["checkpoint"], written["hop_s"], written["pool"]) == (
        str(checkpoint),
        None,
        "mean",
    )
    assert written["allow_silence"] is False
    assert written["quantiles"]["50 %"] == pytest.approx(np.median(llrs))
    assert "spoof" not in json.dumps(written)


def test_the_same_call_writes_the_same_bytes_beside_the_checkpoint(checkpoint, scored):
    files = scored("a", normal(80))
    made = [threshold(bonafide=files, checkpoint=str(checkpoint), frr=5.0)]
    path = Path(f"{checkpoint}.threshold.json")
    first = path.read_bytes()
    made.append(threshold(bonafide=files, checkpoint=str(checkpoint), frr=5.0))
    assert made[0]["out"] == str(path)
    assert path.read_bytes() == first
    # Other recordings have another hash, also with the names and sizes of these.
    files[0].write_bytes(b"b")
    again = threshold(bonafide=files, checkpoint=str(checkpoint), frr=5.0)
    assert again["files_sha256"] != made[0]["files_sha256"]
    assert again["threshold"] == made[0]["threshold"]


def test_a_stale_file_beside_the_checkpoint_is_not_read(checkpoint, scored):
    """It may belong to other settings, which ``detect`` would refuse."""
    Path(f"{checkpoint}.threshold.json").write_text("of another version")
    threshold(bonafide=scored("a", normal(80)), checkpoint=str(checkpoint), frr=5.0)
    assert scored.calls[0]["threshold"] == 0.0


def test_spoofed_speech_tells_what_passes_and_what_scores_mean(checkpoint, scored):
    bonafide, spoof = scored("a", normal(4000, 2)), scored("b", normal(4000, -2, seed=1))
    call = {"bonafide": bonafide, "spoof": spoof, "checkpoint": str(checkpoint)}
    even = threshold(**call, frr=5.0)
    passed = np.mean(np.array(normal(4000, -2, seed=1)) > even["threshold"])
    assert even["n_spoof"] == 4000
    assert even["far"]["percent"] == pytest.approx(100 * passed)
    low, high = even["far"]["interval_percent"]
    assert low < even["far"]["percent"] < high
    # Two normal classes at +-2 with variance 1 have the log-likelihood ratio 4 x.
    facts = even["calibration"]
    assert facts["slope"] == pytest.approx(4, rel=0.1)
    assert facts["offset"] == pytest.approx(0, abs=0.3)
    odds = facts["slope"] * even["threshold"] + facts["offset"]
    assert facts["threshold_percent"] == pytest.approx(100 / (1 + math.exp(-odds)))
    rare = threshold(**call, frr=5.0, prior=1.0)["calibration"]
    assert rare["slope"] == facts["slope"]
    assert rare["threshold_percent"] == pytest.approx(100 / (1 + 99 * math.exp(-odds)))


def test_a_recording_counts_once(checkpoint, scored, tmp_path):
    """Whatever it is called, and in both classes together."""
    files = scored("a", normal(80))
    link = tmp_path / "link.wav"
    link.symlink_to(files[3])
    call = {"checkpoint": str(checkpoint), "frr": 5.0}
    for classes in (
        {"bonafide": files + files[:2]},
        {"bonafide": (*files, link)},
        {"bonafide": files, "spoof": (link,)},
    ):
        with pytest.raises(ConfigError, match=r"more than once.*a\d\.wav"):
            threshold(**classes, **call)
    assert scored.calls == []


def test_copies_are_warned_of(checkpoint, scored):
    llrs, call = normal(80), {"checkpoint": str(checkpoint), "frr": 5.0}
    within = threshold(bonafide=scored("a", [*llrs, *llrs[:3]]), **call)
    assert within["warnings"][0].startswith("3 of 83 recordings have exactly the score of another")
    spoof = scored("s", [*normal(9, -2, seed=1), llrs[5]])
    across = threshold(bonafide=scored("b", llrs), spoof=spoof, **call)
    assert across["warnings"][0].startswith("1 of 90")
    assert "warnings" not in json.loads(Path(across["out"]).read_text())


def test_swapped_classes_are_warned_of(checkpoint, scored):
    low, high = scored("l", normal(80, -2)), scored("h", normal(80, 2, seed=1))
    call = {"checkpoint": str(checkpoint), "frr": 5.0}
    right = threshold(bonafide=high, spoof=low, **call)
    assert right["warnings"] == []
    swapped = threshold(bonafide=low, spoof=high, **call)
    assert "swapped" in swapped["warnings"][0]
    assert "calibration" not in json.loads(Path(swapped["out"]).read_text())
    assert swapped["far"]["percent"] == 100
    # A calibration that turns the order over is none, also where the EER is below 50 %.
    bonafide, spoof = scored("x", [0.1] * 70 + [-99.0] * 30), scored("y", [0.0] * 70 + [0.2] * 30)
    turned = threshold(bonafide=bonafide, spoof=spoof, **call)
    assert "swapped" in turned["warnings"][1]
    assert "calibration" not in turned


def test_a_recording_without_a_score_is_an_error(checkpoint, scored):
    files = scored("a", [*normal(80), None])
    with pytest.raises(AudioError, match=r"1 of 81 recordings have no score: .*a80\.wav: broken"):
        threshold(bonafide=files, checkpoint=str(checkpoint), frr=5.0)
    assert not Path(f"{checkpoint}.threshold.json").exists()


def test_too_few_recordings_are_told_how_many_it_takes(checkpoint, scored):
    with pytest.raises(ScoreError, match=r"58 .* 5 % .* 95 % takes 59 .* 5.1 %"):
        threshold(bonafide=scored("a", normal(58)), checkpoint=str(checkpoint), frr=5.0)
    assert not Path(f"{checkpoint}.threshold.json").exists()


@pytest.mark.parametrize(
    "options",
    [{"prior": 0.0}, {"prior": 100.0}, {"checkpoint": "mini"}, {"checkpoint": "hub:a/b"}],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_scoring(checkpoint, scored, options):
    files = scored("a", normal(80))
    with pytest.raises(ConfigError, match=r"prior|--out"):
        threshold(**{"bonafide": files, "checkpoint": str(checkpoint), "frr": 5.0} | options)
    assert scored.calls == []


@pytest.mark.parametrize("value", [0.0, 100.0, float("nan"), float("inf"), True], ids=str)
@pytest.mark.parametrize("name", ["frr", "confidence", "prior"])
def test_rates_lie_between_0_and_100(checkpoint, scored, name, value):
    with pytest.raises(ConfigError, match=f"{name}.*between 0 and 100"):
        threshold(bonafide=scored("a", normal(80)), checkpoint=str(checkpoint), **{name: value})
    assert scored.calls == []


def test_no_file_of_another_kind_is_overwritten(checkpoint, scored):
    before = checkpoint.read_bytes()
    with pytest.raises(ConfigError, match=r"d\.safetensors.*\.json"):
        threshold(bonafide=scored("a", normal(80)), checkpoint=str(checkpoint), out=checkpoint)
    assert checkpoint.read_bytes() == before
    assert scored.calls == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"wanted_frr_percent": "5"},
        {"wanted_frr_percent": None},
        {"confidence_percent": 200},
        {"confidence_percent": float("nan")},
        {"confidence_percent": [1]},
        {"wanted_frr_percent": 10**400},
    ],
    ids=lambda wrong: f"{wrong!s:.40}",
)
def test_a_file_to_compare_with_may_be_damaged(checkpoint, scored, wrong):
    call = {"bonafide": scored("a", normal(80)), "checkpoint": str(checkpoint)}
    old = threshold(**call, frr=5.0)
    file = Path(old.pop("out"))
    file.write_text(json.dumps(old | wrong))
    with pytest.raises(ConfigError, match=rf"{file.name}: {next(iter(wrong))}"):
        threshold(**call, compare=file)


@pytest.mark.parametrize("text", ["[" * 100_000, '[["threshold", 1]]', "1", "{}"], ids=len)
def test_what_is_no_file_of_this_command_is_not_compared_with(checkpoint, tmp_path, text):
    sf.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 16_000)
    file = tmp_path / "o.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"o\.json"):
        threshold(bonafide=(tmp_path / "a.wav",), checkpoint=str(checkpoint), compare=file)


def test_a_drift_is_told(checkpoint, scored):
    """The old rate and confidence count; nothing is written; few recordings are enough."""
    call = {"checkpoint": str(checkpoint)}
    old = threshold(**call, bonafide=scored("a", normal(500)), frr=5.0, confidence=90.0)
    file = Path(old["out"])
    before = file.read_bytes()
    same = threshold(**call, bonafide=scored("b", normal(50, seed=2)), compare=file)
    lower = threshold(**call, bonafide=scored("c", normal(50, -1, seed=3)), compare=file)
    assert file.read_bytes() == before
    assert scored.calls[-1]["threshold"] == file  # which detect refuses where it does not fit
    assert same["threshold"] == lower["threshold"] == old["threshold"]
    assert (same["wanted_frr_percent"], same["confidence_percent"]) == (5, 90)
    assert same["old_quantiles"] == old["quantiles"]
    assert same["frr"]["interval_percent"][0] <= 5
    assert same["warnings"] == []
    assert lower["frr"]["interval_percent"][0] > 5
    assert "anew" in lower["warnings"][0]


def test_from_recordings_to_a_verdict(checkpoint, tmp_path):
    """Without stand-ins: the chosen threshold rejects no more of its own recordings than said."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "own"
    folder.mkdir()
    for k in range(20):
        sf.write(folder / f"{k:02d}.wav", 0.1 * rng.standard_normal(4000), 16_000)
    made = threshold(bonafide=(folder,), checkpoint=str(checkpoint), frr=20.0, confidence=90.0)
    files = scoring.detect((folder,), checkpoint=str(checkpoint), threshold=made["threshold"])
    verdicts = [row["verdict"] for row in files["files"]]
    assert verdicts.count("spoof") == made["rank"] - 1 == 1


def test_detect_takes_the_file_of_its_own_scores_only(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    files = tuple(tmp_path / f"{k}.wav" for k in range(12))
    for file in files:
        sf.write(file, 0.1 * rng.standard_normal(6000), 16_000)
    call = {"checkpoint": str(checkpoint), "pool": "min", "hop": 0.125}
    made = threshold(bonafide=files, frr=20.0, confidence=90.0, **call)
    found = scoring.detect(files, **call)
    assert (found["threshold"], found["threshold_source"]) == (made["threshold"], made["out"])
    again = threshold(bonafide=files[:3], compare=Path(made["out"]), **call)
    assert again["threshold"] == made["threshold"]
    for other in ({"pool": "mean"}, {"hop": None}):
        with pytest.raises(ConfigError, match=next(iter(other))):
            scoring.detect(files, **call | other)
        with pytest.raises(ConfigError, match=next(iter(other))):
            threshold(bonafide=files, compare=Path(made["out"]), **call | other)
        threshold(bonafide=files, frr=20.0, confidence=90.0, **call | other)  # a new one is not
        threshold(bonafide=files, frr=20.0, confidence=90.0, **call)


def test_what_cannot_succeed_is_said_before_anything_is_scored(checkpoint, scored, tmp_path):
    options = {"bonafide": scored("a", normal(298)), "checkpoint": str(checkpoint)}
    with pytest.raises(ScoreError, match="takes 299"):
        threshold(**options)
    with pytest.raises(ConfigError, match="leave out --out"):
        threshold(**options, compare=tmp_path / "old.json", out=tmp_path / "new.json")
    assert scored.calls == []


def test_a_result_of_detect_is_no_threshold_to_compare_with(checkpoint, scored, tmp_path):
    old = {"threshold": 0.0, "hop_s": None, "pool": "mean", "allow_silence": False}
    old["checkpoint_sha256"] = sha256(checkpoint)
    (tmp_path / "old.json").write_text(json.dumps(old))
    options = {"bonafide": scored("a", normal(9)), "checkpoint": str(checkpoint)}
    with pytest.raises(ConfigError, match="no file of slslib threshold"):
        threshold(**options, compare=tmp_path / "old.json")


def test_a_threshold_for_speech_alone_says_so(checkpoint, scored):
    call = {"bonafide": scored("a", normal(80)), "checkpoint": str(checkpoint), "frr": 5.0}
    assert threshold(**call, speech_only=True)["speech_only"] is True
    assert threshold(**call)["speech_only"] is False


def test_the_warnings_of_detect_are_passed_on_once(checkpoint, scored):
    """A cut recording may be among those of which a share is promised."""
    classes = {"bonafide": scored("unstated", normal(80)), "spoof": scored("unstated-s", [-4.0])}
    made = threshold(**classes, checkpoint=str(checkpoint), frr=5.0)
    assert made["warnings"] == [DOUBT]


OF_DETECT = '{"threshold": 0.5, "threshold_source": "given", "files": []}'


@pytest.mark.parametrize("content", ['{"file": "a.safetensors"}', OF_DETECT, "not JSON", "[1]"])
def test_a_file_of_something_else_is_not_overwritten(checkpoint, scored, tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    call = {"bonafide": scored("a", normal(80)), "checkpoint": str(checkpoint), "frr": 5.0}
    with pytest.raises(ConfigError, match="no file of slslib threshold"):
        threshold(**call, out=tmp_path / "best.json")
    assert (tmp_path / "best.json").read_text() == content
    assert not scored.calls
    for _ in range(2):  # its own file may be replaced
        threshold(**call, out=tmp_path / "own.json")


def decided(tmp_path, **stored):
    """Return detections by a threshold file that holds this."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"threshold": 0.0, **stored}))
    files = [{"file": f"{k}.wav", "llr": llr} for k, llr in enumerate([-1.0, 0.5, None])]
    return {"threshold": 0.0, "threshold_source": str(path), "files": files}


def test_a_calibration_gives_probabilities(tmp_path):
    scale = {"slope": 2.0, "offset": 0.5, "prior_percent": 90.0}
    made = add_probabilities(decided(tmp_path, calibration=scale))
    assert made["prior_percent"] == 90
    low, high, none = [one["bonafide_percent"] for one in made["files"]]
    assert low == pytest.approx(100 / (1 + math.exp(1.5) / 9))
    assert high == pytest.approx(100 / (1 + math.exp(-1.5) / 9))
    assert none is None


def test_without_a_calibration_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given").write_text("a file of this name is nobody's business")
    for source in (decided(tmp_path)["threshold_source"], "given", "none", "EER threshold"):
        made = add_probabilities(decided(tmp_path) | {"threshold_source": source})
        assert made["prior_percent"] is None
        assert {one["bonafide_percent"] for one in made["files"]} == {None}


@pytest.mark.parametrize(
    "changed",
    [
        *({"slope": slope} for slope in ("x", -1, math.inf, [1], 10**400)),
        *({"prior_percent": percent} for percent in (100, math.nan)),
        {"offset": math.nan},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(tmp_path, changed):
    scale = {"slope": 2.0, "offset": 0.5, "prior_percent": 90.0} | changed
    with pytest.raises(ConfigError, match=r"t\.json"):
        add_probabilities(decided(tmp_path, calibration=scale))
    with pytest.raises(ConfigError, match=r"t\.json"):
        add_probabilities(decided(tmp_path, calibration=[1, 2]))
