"""From two files to numbers: real published values, breakdowns, and every caveat said aloud."""

import csv
import json

import numpy as np
import pytest

from slslib.data.scorefiles import read_scores
from slslib.errors import ConfigError, ProtocolError, ScoreError
from slslib.evaluation import metrics
from slslib.evaluation.evaluate import evaluate

REQUIRED = {
    "n_bonafide", "n_spoof", "n_missing", "n_extra", "phase", "assumed", "eer_percent",
    "eer_threshold", "eer_rule", "min_dcf", "act_dcf", "cllr", "min_cllr", "llr_note", "sha256",
    "warnings",
}  # fmt: skip


class Set:
    """A small 2021-form set on disk: key, scores, speaker verification scores and key."""

    def __init__(self, folder, n=400, seed=0):
        r = np.random.default_rng(seed)
        self.folder, self.names = folder, [f"LA_E_{k}" for k in range(n)]
        self.labels = (np.arange(n) % 4 == 0).astype(int)
        self.phases = np.array(["eval", "eval", "eval", "progress", "hidden"])[
            r.integers(5, size=n)
        ]
        self.speakers = np.array([f"LA_{k:04d}" for k in range(8)])[r.integers(8, size=n)]
        self.codecs = np.array(["alaw", "none", "opus"])[r.integers(3, size=n)]
        self.attacks = np.array(["A07", "A08", "A19"])[r.integers(3, size=n)]
        self.scores = r.normal(size=n) + 2 * self.labels
        self.key = folder / "trial_metadata.txt"
        self.score = folder / "scores.txt"
        self.write_key()
        self.write_scores(self.scores)
        self.asv, self.asv_key = folder / "asv.txt", folder / "asv_key.txt"
        kinds, lines, rows = ("target", "nontarget", "spoof"), [], []
        for k in range(3000):
            kind, phase = kinds[k % 3], ("eval", "eval", "progress")[r.integers(3)]
            attack = ("A07", "A08", "A19")[r.integers(3)] if kind == "spoof" else "bonafide"
            codec = ("alaw", "none", "opus")[r.integers(3)]
            mean = {"target": 4, "nontarget": -4, "spoof": 3}[kind]
            lines.append(f"LA_1 u{k} {r.normal(mean, 2):.6f}")
            rows.append(f"LA_1 u{k} {codec} - {attack} {kind} notrim {phase}")
        self.asv.write_text("\n".join(lines) + "\n")
        self.asv_key.write_text("\n".join(rows) + "\n")

    def write_key(self):
        rows = zip(self.speakers, self.names, self.codecs, self.attacks, self.labels, self.phases,
                   strict=True)  # fmt: skip
        self.key.write_text("".join(
            f"{s} {u} {c} ita_tx {'bonafide bonafide' if y else a + ' spoof'} notrim {p}\n"
            for s, u, c, a, y, p in rows
        ))  # fmt: skip

    def write_scores(self, values, keep=None):
        keep = range(len(self.names)) if keep is None else keep
        self.score.write_text("".join(f"{self.names[k]} {float(values[k])!r}\n" for k in keep))

    def classes(self, mask):
        return self.scores[mask & (self.labels == 1)], self.scores[mask & (self.labels == 0)]


@pytest.fixture
def data(tmp_path):
    return Set(tmp_path)


def test_the_phase_evaluated_is_eval_and_is_said(data):
    result = evaluate(data.score, data.key)
    mask = data.phases == "eval"
    assert set(result) >= REQUIRED
    assert result["phase"] == "eval"
    assert result["n_bonafide"] == (mask & (data.labels == 1)).sum()
    assert result["n_extra"] == (~mask).sum()
    assert result["eer_percent"] == 100 * metrics.eer(*data.classes(mask)).value
    assert result["cllr"] == metrics.cllr(*data.classes(mask))
    assert set(result["sha256"]) == {"scores", "key"}
    assert any("outside phase eval" in text for text in result["warnings"])


def test_pooling_phases_is_possible_and_loud(data):
    result = evaluate(data.score, data.key, phase="all")
    assert result["n_bonafide"] + result["n_spoof"] == 400
    assert any("eval, hidden, progress are POOLED" in text for text in result["warnings"])


def test_json_holds_plain_finite_values(data):
    result = evaluate(
        data.score, data.key, asv_scores=data.asv, asv_key=data.asv_key, bootstrap=50,
        cluster=("speaker", "attack"), by=("attack", "codec"),
    )  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_missing_trials_are_refused_unless_allowed(data):
    data.write_scores(data.scores, [k for k in range(400) if k % 50 or data.phases[k] != "eval"])
    with pytest.raises(ScoreError, match="have no score"):
        evaluate(data.score, data.key)
    result = evaluate(data.score, data.key, allow_missing=True)
    assert result["n_missing"] > 0
    assert any("coverage 9" in text for text in result["warnings"])


def test_duplicates_that_flatter_are_refused(data):
    # The hard trials replaced by copies of easy ones: same length, same number of trials.
    easy, hard = np.argmax(data.scores), np.flatnonzero(data.labels)[:20]
    lines = data.score.read_text().splitlines()
    for k in hard:
        lines[k] = lines[easy]
    data.score.write_text("\n".join(lines) + "\n")
    with pytest.raises(ScoreError, match="repetitions"):
        evaluate(data.score, data.key)


def test_swapped_signs_are_said_and_never_flipped(data):
    straight = evaluate(data.score, data.key)["eer_percent"]
    data.write_scores(-data.scores)
    result = evaluate(data.score, data.key)
    assert result["eer_percent"] > 50 > straight
    assert any("labels or sign look swapped" in text for text in result["warnings"])


def test_an_interval_that_holds_50_percent_is_told_with_the_warning(data):
    random = np.random.default_rng(0).normal(size=len(data.scores))
    for scores, may_be_chance in ((-data.scores, False), (random, True)):
        data.write_scores(scores)
        result = evaluate(data.score, data.key, bootstrap=200)
        (low, _), eer = result["eer_interval_percent"], result["eer_percent"]
        assert eer > 50
        assert (low <= 50) == may_be_chance
        (text,) = [text for text in result["warnings"] if "look swapped" in text]
        assert (f"chance: the interval begins at {low:.2f} %" in text) == may_be_chance


@pytest.mark.parametrize("where", ["scores", "against", "dev_scores"])
def test_a_swapped_sign_is_said_wherever_the_system_stands(data, tmp_path, where):
    other, noise = tmp_path / "other.txt", tmp_path / "noise.txt"
    table = read_scores(data.score)
    random = np.random.default_rng(0).normal(size=len(table))
    for file, scores in {
        other: -table["score"],
        noise: 0.1 * random + 1e-2 * table["score"],
    }.items():
        table.assign(score=scores).to_csv(file, sep=" ", header=False, index=False)
    files = {"scores": data.score, "against": noise, "dev_scores": noise, "dev_key": data.key}
    result = evaluate(key=data.key, **files | {where: other})
    swapped = [text for text in result["warnings"] if "swapped" in text]
    assert len(swapped) == 1
    assert ("other.txt" in swapped[0]) == (where != "scores")


def test_constant_scores_are_said(data):
    data.write_scores(np.full(400, -0.5))
    result = evaluate(data.score, data.key)
    assert result["eer_percent"] == 100
    assert result["eer_tie_aware_percent"] == 50
    assert any("scores equal to another one" in text for text in result["warnings"])


def test_ties_are_said_where_they_matter(data):
    data.write_scores(np.round(data.scores))
    result = evaluate(data.score, data.key)
    values = [np.round(part) for part in data.classes(data.phases == "eval")]
    assert (
        result["eer_tie_aware_percent"] == 100 * metrics.det_curve(*values).tie_aware().eer().value
    )
    assert any("with ties grouped" in text for text in result["warnings"])


def test_the_scores_of_a_set_are_sorted_into_one_curve(data, monkeypatch):
    calls, real = [], metrics.det_curve

    def spy(*args):
        calls.append(args[2:])
        return real(*args)

    monkeypatch.setattr("slslib.evaluation.metrics.det_curve", spy)
    evaluate(data.score, data.key, bootstrap=20, c012="0.07,0.87,0.35")
    assert calls == [()]


def test_words_may_hold_commas(data):
    factors, clusters = ("attack", "codec"), ("speaker", "attack")
    apart = evaluate(data.score, data.key, by=factors, cluster=clusters, bootstrap=20)
    by, cluster = ("attack, codec",), ("speaker,attack",)
    assert evaluate(str(data.score), data.key, by=by, cluster=cluster, bootstrap=20) == apart


@pytest.mark.parametrize("cluster", [(), ("speaker",), ("speaker", "attack")])
def test_intervals_hold_the_point_and_name_their_clusters(data, cluster):
    result = evaluate(data.score, data.key, bootstrap=200, cluster=cluster, seed=1)
    low, high = result["eer_interval_percent"]
    assert low < result["eer_percent"] < high
    assert result["bootstrap"] == {
        "replicates": 200, "cluster": list(cluster), "level": 0.95, "seed": 1
    }  # fmt: skip
    again = evaluate(data.score, data.key, bootstrap=200, cluster=cluster, seed=1)
    assert again["eer_interval_percent"] == [low, high]


def test_breakdowns_set_spoof_against_the_right_bona_fide(data):
    groups = evaluate(data.score, data.key, by=("attack", "codec", "speaker"))["groups"]
    mask, b = data.phases == "eval", data.labels == 1
    assert list(groups["attack"]) == ["A07", "A08", "A19", "Pooled"]
    for value in ("A07", "A08", "A19"):
        expected = metrics.eer(*data.classes(mask & (b | (data.attacks == value))))
        assert groups["attack"][value]["eer_percent"] == 100 * expected.value
    for value in ("alaw", "none", "opus"):
        expected = metrics.eer(*data.classes(mask & (data.codecs == value)))
        assert groups["codec"][value]["eer_percent"] == 100 * expected.value
    pooled = 100 * metrics.eer(*data.classes(mask)).value
    assert all(rows["Pooled"]["eer_percent"] == pooled for rows in groups.values())
    assert len(groups["speaker"]) == 9


def test_breakdowns_sort_the_trials_once(data, monkeypatch):
    calls, real = [], metrics.det_curve

    def spy(*classes):
        calls.append(all((np.diff(scores) >= 0).all() for scores in classes))
        return real(*classes)

    monkeypatch.setattr("slslib.evaluation.metrics.det_curve", spy)
    evaluate(data.score, data.key, by=("attack", "codec:attack"))
    assert calls == [False] + 4 * [True] + 16 * [True]


def test_the_tdcf_from_scores_is_that_from_their_weights(data):
    result = evaluate(data.score, data.key, asv_scores=data.asv, asv_key=data.asv_key)
    weights = result["tdcf_weights"]
    given = evaluate(data.score, data.key, c012=",".join(map(repr, weights)))
    for name in ("min_tdcf_2019", "min_tdcf_2021"):
        assert given[name] == result[name]
    assert "asv_eer_percent" not in given
    c0, m = weights[0], min(weights[1:])
    assert result["min_tdcf_2021"] == pytest.approx((c0 + m * result["min_tdcf_2019"]) / (c0 + m))
    progress = evaluate(
        data.score, data.key, phase="progress", asv_scores=data.asv, asv_key=data.asv_key
    )
    assert progress["tdcf_weights"] != weights
    names = np.array(data.names)[data.phases == "eval"]
    labels = np.where(data.labels[data.phases == "eval"], "bonafide", "spoof")
    table = data.folder / "labels.csv"  # a key without phases is that of the evaluation
    rows = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    table.write_text("file_name,label\n" + "".join(rows))
    plain = evaluate(data.score, table, asv_scores=data.asv, asv_key=data.asv_key, allow_extra=True)
    assert plain["tdcf_weights"] == weights
    assert plain["asv_phases"] == result["asv_phases"] == ["eval"]


def test_a_verification_system_that_accepts_no_spoof_has_no_2019_form(data):
    result = evaluate(data.score, data.key, c012="0.1,0.9,0")
    assert "min_tdcf_2019" not in result
    assert result["min_tdcf_2021"] == 1


def test_the_tdcf_is_of_the_whole_set_only(data):
    options = {"asv_scores": data.asv, "asv_key": data.asv_key, "by": ("attack", "attack:codec")}
    result = evaluate(data.score, data.key, **options)
    assert {"min_tdcf_2019", "min_tdcf_2021", "tdcf_weights", "asv_eer_percent"} <= set(result)
    assert "tdcf" not in json.dumps(result["groups"])


def test_conditions_of_one_class_are_counted_without_a_rate(tmp_path):
    key, scores = tmp_path / "key", tmp_path / "scores"
    key.write_text("s1 a - - bonafide\ns1 b - A1 spoof\ns2 c - - bonafide\n")
    scores.write_text("a 2\nb 0\nc 1\n")
    result = evaluate(scores, key, by=("speaker",))
    assert result["groups"]["speaker"]["s2"] == {"n_bonafide": 1, "n_spoof": 0}


def test_cross_tables_hold_each_pair_of_conditions(data):
    groups = evaluate(data.score, data.key, by=("attack:codec",))["groups"]["attack:codec"]
    assert list(groups) == ["A07", "A08", "A19", "Pooled"]
    assert all(list(row) == ["alaw", "none", "opus", "Pooled"] for row in groups.values())
    mask, b = data.phases == "eval", data.labels == 1
    for attack, row in groups.items():
        for codec, cell in row.items():
            chosen = mask & ((data.codecs == codec) | (codec == "Pooled"))
            chosen &= b | (data.attacks == attack) | (attack == "Pooled")
            expected = metrics.eer(*data.classes(chosen))
            assert cell["eer_percent"] == 100 * expected.value


@pytest.mark.parametrize("c012", ["1,2,x", "1,2", "table.csv"])
def test_weights_are_three_numbers(data, c012):
    with pytest.raises(ConfigError, match=c012):
        evaluate(data.score, data.key, c012=c012)


def other_scores(data, name="other.txt", seed=5, noise=1.0):
    path = data.folder / name
    values = data.scores + np.random.default_rng(seed).normal(0, noise, data.scores.size)
    path.write_text("".join(f"{u} {float(v)!r}\n" for u, v in zip(data.names, values, strict=True)))
    return path


def test_another_system_is_compared_on_the_same_trials(data):
    worse = other_scores(data)
    one, two = evaluate(data.score, data.key), evaluate(worse, data.key)
    result = evaluate(data.score, data.key, against=worse, bootstrap=200, cluster=("speaker",))
    other = result["against"]
    assert other["eer_percent"] == two["eer_percent"]
    assert other["difference_percent"] == one["eer_percent"] - two["eer_percent"]
    low, high = other["difference_interval_percent"]
    assert low < other["difference_percent"] < high
    assert (
        "difference_interval_percent"
        not in evaluate(data.score, data.key, against=worse)["against"]
    )


def test_systems_of_other_trials_are_not_compared(data):
    worse = other_scores(data)
    lines = worse.read_text().splitlines(keepends=True)
    at = next(k for k in range(400) if data.phases[k] == "eval")
    worse.write_text("".join(lines[:at] + lines[at + 1 :]))
    with pytest.raises(ScoreError, match="covers other trials"):
        evaluate(data.score, data.key, against=worse, allow_missing=True)


def test_thresholds_and_calibration_come_from_the_development_set(data, tmp_path):
    (tmp_path / "dev").mkdir()
    dev = Set(tmp_path / "dev", seed=9)
    dev.write_scores(3 * dev.scores + 1)
    data.write_scores(3 * data.scores + 1)
    result = evaluate(data.score, data.key, dev_scores=dev.score, dev_key=dev.key)
    point = metrics.eer(*(3 * part + 1 for part in dev.classes(dev.phases == "eval")))
    row = result["transfer"][0]
    assert (row["rule"], row["threshold"]) == ("EER", point.threshold)
    mask = data.phases == "eval"
    b, s = (3 * part + 1 for part in data.classes(mask))
    assert row["frr_percent"] == pytest.approx(100 * np.mean(b <= point.threshold))
    assert row["far_percent"] == pytest.approx(100 * np.mean(s > point.threshold))
    about = result["calibration"]
    assert about["slope"] > 0
    assert result["min_cllr"] <= about["cllr"] < result["cllr"]
    assert result["eer_percent"] == evaluate(data.score, data.key)["eer_percent"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c012": "0.1,0.5,0.5", "asv_scores": "x"}, "give one"),
        ({"asv_key": "x"}, "give --asv-scores too"),
        ({"cluster": ("speaker",)}, "number of replicates"),
        ({"bootstrap": -1}, "replicates"),
        ({"by": ("label",)}, "label: choose one or two"),
        ({"by": ("attack:codec:speaker",)}, "one or two"),
        ({"by": ("attack:attack",)}, "one or two"),
        ({"dev_scores": "x"}, "both --dev-scores and --dev-key"),
        ({"dev_key": "x"}, "both --dev-scores and --dev-key"),
        ({"bootstrap": 9, "cluster": ("speaker", "attack", "codec")}, "one or two"),
    ],
)
def test_contradicting_options_are_refused(data, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(**{"scores": data.score, "key": data.key} | options)


def test_keys_without_what_is_asked_are_refused(tmp_path, data):
    key = tmp_path / "wild"
    key.write_text("- a.wav - - - bona-fide\n- b.wav - - - spoof\n")
    data.score.write_text("a.wav 1\nb.wav 0\n")
    assert evaluate(data.score, key)["phase"] == "all"
    with pytest.raises(ScoreError, match="no attack to break down by"):
        evaluate(data.score, key, by=("attack",))
    with pytest.raises(ScoreError, match="clusters"):
        evaluate(data.score, key, bootstrap=9, cluster=("speaker",))
    with pytest.raises(ScoreError, match="no phase 'eval'"):
        evaluate(data.score, key, phase="eval")
    key.write_text("- a.wav - - - bona-fide\n- b.wav - - - bona-fide\n")
    with pytest.raises(ScoreError, match="no spoof scores"):
        evaluate(data.score, key)
    with pytest.raises(ProtocolError, match="no such file"):
        evaluate(data.score, tmp_path / "none")


def test_a_table_is_scores_and_key_at_once(tmp_path, data):
    path = tmp_path / "table.csv"
    rows = zip(data.names, data.scores.tolist(), data.labels, strict=True)
    lines = [f"{name}.wav,{score!r},{'bonafide' if y else 'spoof'}" for name, score, y in rows]
    path.write_text("\n".join(["filename,cm-score,key", *lines]) + "\n")
    result = evaluate(path, path)
    want = metrics.eer(*data.classes(np.ones(400, bool)))
    assert result["eer_percent"] == 100 * want.value
    assert result["assumed"] == [
        "table.csv: utterance (filename), label (key)",
        "table.csv: utterance (filename), score (cm-score), label (key)",
    ]
    by_stem = evaluate(path, data.key, phase="all")
    assert by_stem["eer_percent"] == result["eer_percent"]
    assert by_stem["assumed"][-1] == "400 names of scores agree with the key by their stem"


def test_two_logits_are_asked_for_by_name(data):
    pairs = zip(data.names, data.scores.tolist(), strict=True)
    table = [f"{u} {-s / 2!r} {s / 2!r}" for u, s in pairs]
    want = evaluate(data.score, data.key)["eer_percent"]
    data.score.write_text("\n".join(table) + "\n")
    with pytest.raises(ScoreError, match="utterance,spoof,bonafide or utterance,bonafide,spoof"):
        evaluate(data.score, data.key)
    result = evaluate(data.score, data.key, format="utterance,spoof,bonafide")
    assert result["eer_percent"] == want
    turned = evaluate(data.score, data.key, format="utterance,bonafide,spoof")
    assert turned["eer_percent"] > 50


def test_scores_outside_the_key_are_refused_unless_allowed(data):
    want = evaluate(data.score, data.key)
    data.score.write_text(data.score.read_text() + "other 1.5\n")
    with pytest.raises(ScoreError, match="not in the key"):
        evaluate(data.score, data.key)
    result = evaluate(data.score, data.key, allow_extra=True)
    assert result["eer_percent"] == want["eer_percent"]
    assert result["n_extra"] == want["n_extra"] + 1


# Published score files and keys ------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("system", "expected"),
    [("sls_authors", 7.464131511), ("sls_repro_v1", 7.835662614), ("sls_repro_v2", 12.668849313)],
)
def test_in_the_wild(shared, system, expected):
    folder = shared / "scores" / "in_the_wild"
    result = evaluate(folder / f"{system}.txt", folder / "key_in_the_wild.txt", bootstrap=200)
    assert result["eer_percent"] == pytest.approx(expected, abs=1e-6)
    assert (result["n_bonafide"], result["n_spoof"], result["phase"]) == (19963, 11816, "all")
    low, high = result["eer_interval_percent"]
    assert low < expected < high


@pytest.mark.shared
@pytest.mark.parametrize(("system", "eer"), [("LFCC-GMM", 19.2967), ("LFCC-LCNN", 9.2601)])
def test_la_2021_eval_by_a_table_of_labels(shared, system, eer):
    folder = shared / "scores" / "la2021"
    files = folder / f"baseline_{system}.txt", folder / "key_cm_eval_labels.csv"
    result = evaluate(*files, allow_extra=True)
    assert result["eer_percent"] == pytest.approx(eer, abs=5e-5)
    assert (result["n_bonafide"], result["n_spoof"], result["n_extra"]) == (14816, 133360, 33390)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("system", "official", "tie_aware"),
    [("w2v2_dann_v2", 19.600, 18.260), ("w2v2_erm", 15.192, 15.164)],
)
def test_asvspoof5_by_a_table_of_scores_and_labels(shared, system, official, tie_aware):
    table = shared / "scores" / "asvspoof5" / f"{system}.tsv"
    result = evaluate(table, table, by=("attack", "codec"))
    assert result["eer_percent"] == pytest.approx(official, abs=6e-4)
    assert result["eer_tie_aware_percent"] == pytest.approx(tie_aware, abs=6e-4)
    assert list(result["groups"]["attack"]) == [*(f"A{k}" for k in range(17, 33)), "Pooled"]


@pytest.mark.shared
def test_la_2019_with_speaker_verification_scores(shared):
    folder = shared / "scores" / "la2019"
    result = evaluate(
        folder / "rawgat_st_mul.txt", folder / "key_cm_eval.txt",
        asv_scores=folder / "asv_eval_scores.txt", by=("attack",),
    )  # fmt: skip
    assert result["eer_percent"] == pytest.approx(1.060135, abs=1e-6)
    assert result["min_tdcf_2019"] == pytest.approx(0.033539, abs=1e-6)
    assert result["min_tdcf_2021"] == pytest.approx(0.094168, abs=1e-6)
    assert result["asv_eer_percent"] == pytest.approx(2.457784, abs=1e-6)
    assert list(result["groups"]["attack"]) == [*(f"A{k:02d}" for k in range(7, 20)), "Pooled"]


@pytest.mark.shared
def test_la_2021_progress_with_official_weights(shared):
    folder = shared / "scores" / "la2021"
    with (folder / "c012_official.csv").open() as file:
        rows = list(csv.DictReader(file))
    pooled = next(
        row for row in rows
        if (row["subset"], row["attack"], row["codec"]) == ("prog", "Pooled", "Pooled")
    )  # fmt: skip
    result = evaluate(
        folder / "baseline_LFCC-GMM.txt", folder / "key_cm_progress.txt",
        c012=",".join(pooled[name] for name in ("C0", "C1", "C2")),
    )  # fmt: skip
    assert result["phase"] == "progress"
    assert result["eer_percent"] == pytest.approx(21.126859, abs=1e-6)
    assert result["min_tdcf_2021"] == pytest.approx(0.583554, abs=1e-6)
    assert (result["n_bonafide"], result["n_spoof"]) == (1676, 14788)
    assert result["n_extra"] == 181566 - 16464
