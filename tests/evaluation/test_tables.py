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


def test_evaluate_shows_breakdowns_and_warnings():
    lines = tables.evaluate(EVALUATION).splitlines()
    assert lines[0].startswith("EER 1.2500 %, phase eval: 1,000 bona fide, 2,000 spoof")
    cells = [line.split() for line in lines]
    assert ["eer", "threshold", "0.5"] in cells
    by_attack, crossed = map(lines.index, ("by attack", "eer percent by attack and codec"))
    assert cells[by_attack + 4] == ["A07", "1,000", "9", "2"]
    assert cells[crossed + 2] == ["attack", "alaw", "Pooled"]
    assert cells[crossed + 4 : crossed + 6] == [["A07", "-", "2"], ["Pooled", "3", "1.25"]]
    assert lines[-1] == "WARNING: scores look swapped"


def test_names_give_no_orders_to_the_terminal():
    name = "\x1b[31mré d\n\u202e\udcff.wav"
    for text in (
        tables.show({name: name, "rows": [{name: name}], "warnings": [name]}),
        tables.show({"several": [name], "of": {name: 1}}),
    ):
        assert text.count(r"\x1b[31mré d\n\u202e\udcff.wav") >= 2
        assert all(one == "\n" or one.isprintable() for one in text)


def test_a_long_text_has_several_lines():
    shown = tables.show({"sound": False, "meaning": "many words " * 20})
    assert [line.count("many words") for line in shown.splitlines()] == [0, 0, 0, 7, 7, 6]
    assert "\\n" not in shown
    assert "False" in shown


def test_any_result_is_facts_then_rows_then_warnings():
    window = {"start_s": 0.0, "llr": -1.5}
    result = {
        "n_trials": 1234,
        "sound": False,
        "missing": list("abcdef"),
        "sample_rates": {"16000": 1210, "8000": 24},
        "over_range": {"h": {"peak": 5.61}},
        "duplicates": [["i", "j"]],
        "seconds": {},
        "files": [
            {"file": "a.wav", "llr": -1.5, "windows": [window] * 3, "error": None},
            {"file": "b.wav", "llr": None, "windows": [], "error": "b.wav: damaged"},
        ],
        "errors": ["b.wav: damaged"],
        "warnings": ["it is odd"],
    }
    lines = [line.split(maxsplit=1) for line in tables.show(result).splitlines() if line]
    for line in (
        ["n trials", "1,234"],
        ["missing", "6 (a, b, c, d, e, ...)"],
        ["sample rates", "16000 (1,210), 8000 (24)"],
        ["over range", "h (peak (5.61))"],
        ["duplicates", "(i, j)"],
        ["seconds", "-"],
        ["a.wav", "-1.5 3 -"],
        ["b.wav", "- - b.wav: damaged"],
    ):
        assert " ".join(line).split() in [" ".join(one).split() for one in lines]
    assert lines[-1] == ["WARNING:", "it is odd"]
