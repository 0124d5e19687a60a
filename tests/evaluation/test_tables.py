"""Tables of the commands' results."""

from slslib.evaluation import tables

EVALUATION = {
    "phase": "eval",
    "n_bonafide": 1000,
    "n_spoof": 2000,
    "eer_percent": 1.25,
    "eer_threshold": 0.5,
    "warnings": ["scores look swapped"],
    "groups": {
        "attack": {
            "A07": {"n_bonafide": 1000, "n_spoof": 9, "eer_percent": 2.0},
            "Pooled": {"n_bonafide": 1000, "n_spoof": 2000, "eer_percent": 1.25},
        },
        "attack:codec": {
            "A07": {"alaw": {}, "Pooled": {"eer_percent": 2.0}},
            "Pooled": {"alaw": {"eer_percent": 3.0}, "Pooled": {"eer_percent": 1.25}},
        },
    },
}


def test_table_fills_gaps_and_keeps_digits():
    text = tables.table([{"a": "x", "b": "1.500"}, {"a": "y"}])
    assert "1.500" in text
    assert text.splitlines()[-1].split() == ["y", "-"]
    assert tables.table([]) == ""


def test_table_escapes_cells():
    assert r"a\|b" in tables.table([{"n": "a|b"}], "pipe")
    assert "&lt;b&gt;" in tables.table([{"n": "<b>"}], "html")


def test_evaluate_shows_breakdowns_and_warnings():
    text = tables.evaluate(EVALUATION)
    for part in ("1,000 bona fide", "1.2500 %", "By attack", "EER % by attack and codec"):
        assert part in text
    assert "WARNING: scores look swapped" in text


def test_verify_shortens_long_lists():
    result = {
        "sound": False,
        "name": "corpus",
        "n_trials": 7,
        "n_sound": 1,
        "missing": list("abcdef"),
        "unusable": {"g": "g.flac: damaged"},
        "seconds": {},
        "over_range": {"h": {"peak": None}},
        "duplicates": [["i", "j"]],
        **{key: {} for key in ("formats", "decoders", "md5", "rates", "channels")},
        **{key: [] for key in ("other_rate", "multichannel", "extra")},
    }
    text = tables.verify(result)
    for part in ("NOT SOUND", "6 (a, b, c, d, e, ...)", "g.flac: damaged", "i = j"):
        assert part in text


def test_detect_bench_and_score():
    window = {"start_s": 0.0, "llr": -1.5}
    files = [
        {"file": "a.wav", "error": None, "llr": -1.5, "windows": [window], "verdict": "spoof"},
        {"file": "b.wav", "error": "b.wav: damaged", "llr": None, "windows": [], "verdict": None},
    ]
    result = {"checkpoint": "c", "threshold": 0.0, "threshold_source": "given", "window_s": 4.0}
    text = tables.detect(result | {"files": files})
    lines = [line.split() for line in text.splitlines()]
    assert ["a.wav", "-1.5", "-1.5", "1", "spoof"] in lines
    assert "not scored" in text

    row = {"work": "score", "batch_size": 4, "precision": "fp32"}
    good = {"clips_per_second": 1234.0, "real_time_factor": 0.01, "peak_memory_bytes": 2e9}
    rows = [row | good | {"hours": {"eval": 2.0}}, row | {"error": "memory"}]
    head = {"checkpoint": "c", "parameters": 1e6, "clip_seconds": 4.0, "attention": "sdpa"}
    text = tables.bench(head | {"device": "cpu", "threads": 1, "recipe": "r", "rows": rows})
    assert "1,234" in text
    assert "failed" in text

    made = {
        "n_trials": 5,
        "n_scores": 4,
        "decoders": {"soundfile": 4},
        "n_over_range": 0,
        "n_converted": 0,
        "n_failures": 1,
    }
    assert "4 of 5 trials scored (4 by soundfile" in tables.score(made)
