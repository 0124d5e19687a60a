"""MiniSpoof: layouts, reproducibility, repair, and that only resynthesis tells the classes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from filelock import FileLock
from make_flac import write_flac

from minispoof import attacks as resynthesis
from minispoof import channel, voices
from minispoof import corpus as minispoof
from minispoof.corpus import Trial, plan, write
from slslib.data import audio, isolate
from slslib.data.corpora import open_corpus
from slslib.data.scorefiles import format_score, read_asv_scores
from slslib.errors import ConfigError, FileError
from slslib.evaluation.evaluate import evaluate
from slsnotebooks import baseline as lfcc

STUDIES = Path(__file__).resolve().parents[2] / "studies"
SMALL = {"scale": 0.01, "progress": False}  # eight clips in each of the six sets
SETS = ["asvspoof2019-la:train", "asvspoof2019-la:dev", "asvspoof2019-la:eval", "asvspoof2021-la",
        "asvspoof2021-df", "in-the-wild"]  # fmt: skip
LA_ASV = "keys/LA/ASV"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("minispoof") / "m", jobs=1, **SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# ----------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("spec", SETS)
def test_every_corpus_is_read_by_its_own_name(root: Path, spec: str) -> None:
    corpus = open_corpus(spec, root)
    assert (len(corpus), corpus.trials.label.sum()) == (8, 4)
    for utterance in corpus.trials.utterance:
        found = isolate.audit(corpus.audio_path(utterance))
        assert found.problem is None
        assert (found.source_rate, found.channels, found.subtype) == (16_000, 1, "PCM_16")
        assert found.format == ("WAV" if spec == "in-the-wild" else "FLAC")
        assert 0.8 <= found.n_source_frames / found.source_rate <= 5.6
    if spec != "in-the-wild":  # whose meta.csv does not tell the attack
        assert (corpus.trials.attack == "-").equals(corpus.trials.label == 1)


def test_what_lies_where(root: Path) -> None:
    about = (root / "README.txt").read_text()
    assert "SIMULATION" in about and f"computed by {minispoof.__package__}\n" in about
    for track in ("LA", "DF"):
        ids = (root / f"ASVspoof2021.{track}.cm.eval.trl.txt").read_text().split()
        corpus = open_corpus(f"asvspoof2021-{track.lower()}", root)
        assert corpus.protocol == root / "keys" / track / "CM" / "trial_metadata.txt"
        assert ids == list(corpus.trials.utterance)
        columns = {len(line.split()) for line in corpus.protocol.read_text().splitlines()}
        assert columns == {8 if track == "LA" else 13}
        assert {"progress", "eval", "hidden"} == set(corpus.trials.phase)


def test_over_range_recordings_of_both_classes_are_counted(root: Path) -> None:
    for spec in SETS:
        corpus = open_corpus(spec, root)
        found = [
            label
            for utterance, label in zip(corpus.trials.utterance, corpus.trials.label, strict=True)
            if audio.load(corpus.audio_path(utterance)).over_range
        ]
        assert sorted(found) == ([0, 1] if "2021" in spec else [])


def test_over_range_encoding_is_that_of_the_reference_encoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pcm = np.round(rng.normal(size=9000) * 12_000).astype(int)
    assert np.abs(pcm).max() > 32_768
    (tmp_path / "a.flac").write_bytes(channel.over_range_flac(pcm))
    write_flac(tmp_path / "b.flac", pcm)
    a, b = (audio.load(tmp_path / name) for name in ("a.flac", "b.flac"))
    np.testing.assert_array_equal(a.samples, b.samples)
    assert a.over_range == b.over_range
    quiet = channel.over_range_flac(pcm // 8)
    (tmp_path / "c.flac").write_bytes(quiet)
    np.testing.assert_array_equal(sf.read(tmp_path / "c.flac", dtype="int16")[0], pcm // 8)


def test_the_simulated_asv_scores_give_a_t_dcf(root: Path, tmp_path: Path) -> None:
    table = read_asv_scores(
        root / LA_ASV / "ASVTorch_Kaldi/score.txt", root / LA_ASV / "trial_metadata.txt"
    )
    assert set(table.kind) == {"target", "nontarget", "spoof"}
    means = table.groupby("kind").score.mean()
    assert means["target"] > 2 > -2 > means["nontarget"]
    key = root / "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"
    corpus = open_corpus("asvspoof2019-la:eval", root)
    asv = root / "LA/ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"
    for sign, want in ((1, 0), (-1, 1)):  # a perfect system, and one that is always wrong
        lines = zip(corpus.trials.utterance, sign * corpus.trials.label, strict=True)
        (tmp_path / "s.txt").write_text("".join(f"{u} {format_score(s)}\n" for u, s in lines))
        result = evaluate(tmp_path / "s.txt", key, asv_scores=asv)
        assert result["min_tdcf_2019"] == pytest.approx(want)


# -------------------------------------------------------------------------------------------- plan


def clips_of(content: dict[str, Trial | str], prefix: str) -> list[Trial]:
    return [
        clip
        for path, clip in content.items()
        if path.startswith(prefix) and isinstance(clip, Trial)
    ]


def test_the_plan_has_the_sizes_voices_and_attacks_it_should() -> None:
    content = plan()
    sets = {
        name: clips_of(content, prefix)
        for name, prefix in {
            "train": "LA/ASVspoof2019_LA_train", "dev": "LA/ASVspoof2019_LA_dev",
            "eval": "LA/ASVspoof2019_LA_eval", "LA": "ASVspoof2021_LA",
            "DF": "ASVspoof2021_DF", "wild": "release",
        }.items()
    }  # fmt: skip
    sizes = {name: len(clips) for name, clips in sets.items()}
    assert sizes == {"train": 480, "dev": 160, "eval": 160, "LA": 480, "DF": 480, "wild": 240}
    speakers = {name: {clip.speaker for clip in clips} for name, clips in sets.items()}
    assert len(set.union(*speakers.values())) >= 40
    assert speakers["LA"] <= speakers["DF"]  # as in reality, LA and DF share speakers
    for one, other in (("train", "dev"), ("train", "DF"), ("dev", "DF"), ("train", "wild"),
                       ("dev", "wild"), ("DF", "wild")):  # fmt: skip
        assert not speakers[one] & speakers[other]
    languages = {name: {clip.voice.language for clip in clips} for name, clips in sets.items()}
    assert len(set.union(*languages.values())) >= 8
    assert not languages["wild"] & languages["train"]
    attacks = {name: {clip.attack for clip in clips} - {"-"} for name, clips in sets.items()}
    assert attacks["train"] == attacks["dev"] == set(resynthesis.KNOWN)
    assert attacks["LA"] == attacks["DF"] == {*resynthesis.KNOWN, *resynthesis.UNKNOWN[:-1]}
    assert attacks["eval"] & set(resynthesis.KNOWN)
    assert attacks["eval"] & set(resynthesis.UNKNOWN)
    assert attacks["wild"] == set(resynthesis.UNKNOWN)
    assert len(resynthesis.KNOWN) == 4
    assert len(resynthesis.UNKNOWN) == 6


def test_both_classes_get_the_same_channels() -> None:
    content = plan()
    for prefix in ("LA/ASVspoof2019_LA_train", "ASVspoof2021_LA", "ASVspoof2021_DF", "release"):
        counts = [
            Counter(
                (clip.codec, clip.wild) for clip in clips_of(content, prefix)
                if (clip.attack == "-") == real
            )
            for real in (True, False)
        ]  # fmt: skip
        assert counts[0] == counts[1]
        for what in ("phase", "over_range"):
            halves = [
                Counter(getattr(clip, what) for clip in clips_of(content, prefix)
                        if (clip.attack == "-") == real)
                for real in (True, False)
            ]  # fmt: skip
            assert halves[0] == halves[1]
    phases = Counter(clip.phase for clip in clips_of(content, "ASVspoof2021_LA"))
    assert phases == {"eval": 384, "progress": 48, "hidden": 48}
    assert sum(clip.over_range for clip in clips_of(content, "ASVspoof2021_DF")) == 6


def test_scale_changes_the_number_of_clips() -> None:
    assert len(clips_of(plan(scale=0.25), "LA/ASVspoof2019_LA_train")) == 120
    assert len(clips_of(plan(scale=2), "LA/ASVspoof2019_LA_train")) == 960


# ------------------------------------------------------------------------- reproduction and repair


def test_damaged_files_are_made_again_in_other_processes_byte_by_byte(
    root: Path, tmp_path: Path
) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    want = digests(root)
    victims = [
        "LA/ASVspoof2019_LA_train/flac/LA_T_1000003.flac",
        "ASVspoof2021_DF_eval/flac/DF_E_5000001.flac",
        "release_in_the_wild/6.wav",
        "keys/LA/CM/trial_metadata.txt",
    ]
    (root / victims[0]).unlink()
    (root / victims[1]).write_bytes(b"fLaC")
    data = bytearray((root / victims[2]).read_bytes())
    data[5000] ^= 1
    (root / victims[2]).write_bytes(data)
    (root / victims[3]).unlink()
    times = {path: (root / path).stat().st_mtime_ns for path in want if path not in victims}
    assert write(root, jobs=2, **SMALL) == root
    assert digests(root) == want
    assert {path: (root / path).stat().st_mtime_ns for path in times} == times
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_another_seed_gives_other_recordings(root: Path) -> None:
    one, other = (
        next(c for c in plan(seed, 0.01).values() if isinstance(c, Trial)) for seed in (1234, 1)
    )
    assert one.utterance == other.utterance
    assert (
        one.encode(".flac")
        == (root / f"LA/ASVspoof2019_LA_train/flac/{one.utterance}.flac").read_bytes()
    )
    assert one.encode(".flac") != other.encode(".flac")


def test_a_complete_corpus_is_used_again_and_anything_else_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minispoof, "_make_all", lambda *_: pytest.fail("written again"))
    assert write(root, **SMALL) == root
    monkeypatch.chdir(root)
    assert write(".", **SMALL) == root
    with pytest.raises(ConfigError, match="remove it"):
        write(root, seed=5, **SMALL)
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ConfigError, match="remove it"):
        write(tmp_path, **SMALL)
    marker = json.loads((root / "minispoof.json").read_text())
    for content in ([], marker | {"sha256": []}, marker | {"sha256": {"../x": "0"}}):
        (tmp_path / "minispoof.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="remove it"):
            write(tmp_path, **SMALL)
    for wrong in ({"scale": 0}, {"jobs": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="not above 0"):
            write(tmp_path / "n", **wrong)


def test_files_of_other_versions_are_not_mixed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"corpus": "minispoof", "version": minispoof.VERSION, "seed": 1, "scale": 0.01}
    old = tmp_path / "old"
    old.mkdir()
    paths = plan(1, 0.01)
    for path, content in paths.items():
        (old / path).parent.mkdir(parents=True, exist_ok=True)
        (old / path).write_text(content if isinstance(content, str) else "")
    marker = {path: minispoof.sha256(old / path) for path in paths} | {"README.txt": "0" * 64}
    (old / "minispoof.json").write_text(json.dumps(settings | {"sha256": marker}))
    with pytest.raises(ConfigError, match="other versions"):
        write(old, seed=1, **SMALL)


def test_other_words_about_the_corpus_leave_it_as_it_is(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "m")
    (tmp_path / "m" / "README.txt").write_text("computed by slslib.minispoof")
    marker = json.loads((root / "minispoof.json").read_text())
    marker["sha256"]["README.txt"] = minispoof.sha256(tmp_path / "m" / "README.txt")
    (tmp_path / "m" / "minispoof.json").write_text(json.dumps(marker))
    before = digests(tmp_path / "m")
    assert write(tmp_path / "m", **SMALL) == tmp_path / "m" and digests(tmp_path / "m") == before


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minispoof, "_make", full)
    with pytest.raises(FileError, match="No space"):
        write(tmp_path / "m", jobs=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]


def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, sys\nimport minispoof.corpus as m\nwhole = m._make\n"
        "def make(path, content):\n"
        "    whole(path, content) if path.suffix == '.txt' else os.kill(os.getpid(), 9)\n"
        f"m._make = make\nm.write({str(tmp_path / 'm')!r}, scale=0.01, jobs=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    (left,) = tmp_path.glob(".m.*.tmp")
    assert (left / "README.txt").is_file()
    test_failure_leaves_nothing_behind(tmp_path, monkeypatch)


def test_a_second_process_waits_and_uses_what_the_first_wrote(root: Path, tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".m.lock")
    with ThreadPoolExecutor() as pool:
        with lock:
            other = pool.submit(write, tmp_path / "m", jobs=1, **SMALL)
            beside = write(root, **SMALL)  # needs no lock, nor does a corpus beside it wait
            time.sleep(0.5)
            assert not other.done()
            shutil.copytree(root, tmp_path / "m")
        assert other.result() == tmp_path / "m"
    assert digests(tmp_path / "m") == digests(beside)


def test_the_simulation_lies_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLSLIB_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(minispoof, "write", lambda path: asked.append(path) or path)
    assert minispoof.simulation().parent == tmp_path / "cache"
    monkeypatch.delenv("SLSLIB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert minispoof.simulation().parent == tmp_path / ".cache" / "slslib"
    assert len(asked) == 2


def test_the_gpl_part_is_optional(tmp_path: Path) -> None:
    program = (
        "import sys\nimport minispoof.corpus as m\nassert 'parselmouth' not in sys.modules\n"
        "sys.modules['parselmouth'] = None\n"
        f"m.write({str(tmp_path / 'x')!r}, scale=0.01, jobs=1)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert "'.[minispoof]'" in run.stderr
    assert not (tmp_path / "x").exists()


# ------------------------------------------------------------------------------ voices and attacks


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    rng = np.random.default_rng(3)
    voice = voices.Voice.draw(rng, "Italian")
    return channel.record(voices.speak(voice, 2.0, rng), rng)


def test_a_voice_says_the_same_in_any_order() -> None:
    drawn = [voices.Voice.draw(np.random.default_rng(k)) for k in range(3)]

    def say(k: int) -> bytes:
        return voices.speak(drawn[k], 0.6, np.random.default_rng(k)).tobytes()

    first = {k: say(k) for k in (0, 1, 2)}
    assert {k: say(k) for k in (2, 1, 0)} == first


def test_numbers_that_other_libraries_drew_change_no_voice() -> None:
    """ONNX Runtime, for one, calls the C library's ``rand``, from which the synthesizer draws."""
    libc = ctypes.CDLL(None)
    drawn = [voices.Voice.draw(k) for k in range(12)]
    said = []
    for seed in (1, 2):
        libc.srand(seed)
        said.append([voices.speak(voice, 1.0, 0).tobytes() for voice in drawn])
    assert said[0] == said[1]


def test_the_control_attack_changes_nothing(recording: np.ndarray) -> None:
    again = resynthesis.resynthesize(recording, resynthesis.CONTROL, np.random.default_rng(0))
    np.testing.assert_allclose(again, recording, atol=1e-9)
    with pytest.raises(ConfigError, match="no attack 'M99'; known are M01"):
        resynthesis.resynthesize(recording, "M99", np.random.default_rng(0))


@pytest.mark.parametrize("attack", [*resynthesis.KNOWN, *resynthesis.UNKNOWN])
def test_every_attack_changes_the_sound_and_nothing_else(
    recording: np.ndarray, attack: str
) -> None:
    spoof, again = (
        resynthesis.resynthesize(recording, attack, np.random.default_rng(0)) for _ in range(2)
    )
    np.testing.assert_array_equal(spoof, again)
    assert len(spoof) == len(recording)
    assert np.isfinite(spoof).all()
    assert abs(20 * np.log10(spoof.std() / recording.std())) < 1
    edges = np.linspace(0, len(recording) // 2, 9).astype(int)
    bands = [
        10 * np.log10(np.add.reduceat(np.abs(np.fft.rfft(x)) ** 2, edges[:-1]))
        for x in (recording, spoof)
    ]
    assert np.abs(bands[0] - bands[1]).max() < 3  # long-term spectrum, 1 kHz
    assert np.abs(lfcc.lfcc(recording) - lfcc.lfcc(spoof)).mean() > 0.1
    if attack == "M06":  # which changes the rhythm
        return
    frames = [x[: len(x) // 800 * 800].reshape(-1, 800).std(axis=1) for x in (recording, spoof)]
    assert np.corrcoef(np.log(frames[0] + 1e-4), np.log(frames[1] + 1e-4))[0, 1] > 0.5


def test_upsampler_adds_images_and_tones_but_nothing_in_pauses() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)
    added = resynthesis._upsampler(tone, np.random.default_rng(0)) - tone
    assert -30 < 10 * np.log10(np.mean(added**2) / np.mean(tone**2)) < -14
    power = np.abs(np.fft.rfft(added * np.hanning(16_000))) ** 2  # 1 Hz per bin
    peaks = np.flatnonzero(power > 1e-3 * power.max())
    expected = [abs(2000 * k + shift) for k in range(1, 5) for shift in (-500, 0, 500)]
    assert np.abs(peaks[:, None] - expected).min(axis=1).max() <= 2
    tone[8000:] = 0
    added = resynthesis._upsampler(tone, np.random.default_rng(0)) - tone
    assert np.abs(added[8400:]).max() < 1e-6


@pytest.mark.parametrize("codec", [*channel.PHONE, *channel.MEDIA])
def test_codecs_keep_length_place_and_speech(recording: np.ndarray, codec: str) -> None:
    settings = (channel.PHONE | channel.MEDIA)[codec]
    if settings is None:
        return
    sent = channel.apply_codec(recording, settings)
    assert len(sent) == len(recording)
    a, b = (np.abs(np.fft.rfft(x)) for x in (recording, sent))
    low = slice(len(recording) * 300 // 16_000, len(recording) * 3000 // 16_000)
    assert np.corrcoef(a[low], b[low])[0, 1] > 0.8
    lag = np.argmax(np.fft.irfft(np.fft.rfft(sent) * np.conj(np.fft.rfft(recording))))
    assert min(lag, len(sent) - lag) <= 16  # 1 ms
    assert not np.array_equal(sent, recording)


def test_an_unknown_codec_is_refused_with_the_known_ones(recording: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"no codec 'mp4'; the codecs are none, .*high_ogg"):
        channel.transmit(recording, np.random.default_rng(0), "mp4")


# --------------------------------------------------------------------------------------- shortcuts


@pytest.mark.slow
def test_nothing_but_the_resynthesis_tells_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    from minispoof_shortcuts import measure

    found = measure(seed=99, scale=0.35, jobs=1)
    for kind in ("channel", "asymmetry", "control"):
        assert 40 <= np.mean(list(found[kind].values())) <= 60
        assert min(found[kind].values()) > 25  # of 56 to 168 clips
    assert 5 <= found["lfcc"]["dev"]["known"] <= 35
    for track in ("LA", "DF"):
        assert found["lfcc"][track]["known"] < found["lfcc"][track]["unknown"]
    assert found["lfcc"]["dev"]["all"] < found["lfcc"]["LA"]["all"]


def test_the_measured_shortcuts_are_within_bounds() -> None:
    """The committed numbers, of three corpora."""
    report = json.loads((STUDIES / "results/minispoof_shortcuts.json").read_text())["results"]
    found = report["mean"]
    assert len(report["seeds"]) == 3
    for kind in ("channel", "asymmetry", "control"):
        assert min(found[kind].values()) >= 38
        assert max(found[kind].values()) <= 60
    assert 10 <= found["lfcc"]["dev"]["known"] <= 35
    for track in ("LA", "DF"):
        assert found["lfcc"][track]["known"] + 5 < found["lfcc"][track]["unknown"]
