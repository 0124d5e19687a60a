"""Score files are read exactly or refused by line, and matched trial by trial."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slslib.data.protocols import read_protocol, separator
from slslib.data.scorefiles import (
    format_score,
    match,
    read_asv_scores,
    read_scores,
    select_phase,
)
from slslib.errors import ScoreError


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def key(tmp_path):
    text = "S a - - bonafide\nS b - A07 spoof\nS c - A08 spoof\n"
    return read_protocol(write(tmp_path / "key.txt", text))


@pytest.fixture
def phases(tmp_path):
    text = "- a - - - bonafide - eval\n- b - - - spoof - eval\n- c - - - spoof - progress\n"
    return read_protocol(write(tmp_path / "phases.txt", text))


def scores_of(**values):
    return pd.DataFrame({"utterance": list(values), "score": list(map(float, values.values()))})


def test_two_columns(tmp_path):
    path = write(tmp_path / "s", b"0.wav -1.5e-3\r\n1.wav\t7\r\n2.wav  +.5\r\n")
    frame = read_scores(path)
    assert frame.to_dict("list") == {
        "utterance": ["0.wav", "1.wav", "2.wav"],
        "score": [-0.0015, 7.0, 0.5],
    }


def test_four_columns(tmp_path):
    path = write(tmp_path / "s", "a - bonafide 1\nb A07 spoof -2\nc bonafide bona-fide 0\n")
    frame = read_scores(path)
    assert frame["attack"].tolist() == ["-", "A07", "-"]
    assert frame["label"].tolist() == [1, 0, 1]
    with pytest.raises(ScoreError, match="4 columns fit no known form"):
        read_scores(path, "utterance,score")
    with pytest.raises(ScoreError, match="--format"):
        read_scores(path, "csv")
    with pytest.raises(ScoreError, match="names no utterance or no score"):
        read_scores(path, "utterance,a,b,c")


# name: (text, format, scores of a and b)
FORMS = {
    "label behind": ("a 1.5 bonafide\nb -2 spoof\n", "auto", [1.5, -2]),
    "label before": ("a bonafide 1.5\nb spoof -2\n", "auto", [1.5, -2]),
    "logits": ("a -0.5 1\nb 1 -1\n", "utterance,spoof,bonafide", [1.5, -2]),
    "logits the other way": ("a -0.5 1\nb 1 -1\n", "utterance,bonafide,spoof", [-1.5, 2]),
    "named columns": ("x 1.5 a\nx -2 b\n", "-,score,utterance", [1.5, -2]),
    "csv": ("filename,cm-score\na,1.5\nb,-2\n", "auto", [1.5, -2]),
    "tsv": ("flac_file\tnote\tLLR\na\t\t1.5\nb\tx y\t-2\n", "auto", [1.5, -2]),
    "blanks and a header": ("filename cm-score\na 1.5\nb -2\n", "auto", [1.5, -2]),
    "own name": ("file,score,p_real\na,7,1.5\nb,7,-2\n", "P_real", [1.5, -2]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_score_files(tmp_path, form):
    text, format, expected = FORMS[form]
    table = read_scores(write(tmp_path / "s.txt", text), format)
    assert table["utterance"].tolist() == ["a", "b"]
    assert table["score"].tolist() == expected
    if "label" in form:
        assert table["label"].tolist() == [1, 0]
    assert table.attrs["assumed"][0].startswith("s.txt: ")


def test_names_with_separators_are_read_as_they_are_written(tmp_path):
    names = ["take 1.wav", "a,b;c|d.wav", "in/so...what.wav", "interview [2].wav"]
    lines = [f"{name}{separator(names)}{k}.5\n" for k, name in enumerate(names)]
    table = read_scores(write(tmp_path / "s", "".join(lines)))
    assert table["utterance"].tolist() == names
    assert table["score"].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert separator(["a", "b"]) == " "


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_scores_are_written_exactly(value):
    assert math.copysign(1, float(format_score(value))) == math.copysign(1, value)
    assert float(format_score(value)) == value
    assert float(format_score(np.float32(value) if abs(value) < 3e38 else value)) is not None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_written_file_reads_back_exactly(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("scores") / "s"
    path.write_text("".join(f"u{k} {format_score(v)}\n" for k, v in enumerate(values)))
    assert read_scores(path)["score"].tolist() == values


MALFORMED = {
    "empty": (b"", "the file is empty"),
    "no last newline": (b"a 1.5\nb 2.2", "line 2: the last line does not end with a newline"),
    "nan": (b"a 1.5\nb nan\n", "line 2: score 'nan' is not a finite number"),
    "infinity": (b"a -Infinity\n", "line 1: score '-Infinity'"),
    "overflow": (b"a 1e999\n", "line 1: score '1e999'"),
    "word": (b"a 1\nb high\n", "line 2: score 'high'"),
    "underscore": (b"a 1_000\n", "line 1: score '1_000'"),
    "comma": (b"a 1,5\n", "line 1: score '1,5'"),
    "other digits": ("a １\n".encode(), "line 1: score"),
    "hexadecimal": (b"a 0x1\n", "line 1: score '0x1'"),
    "one column": (b"a\n", "line 1: 1 columns"),
    "three columns": (b"a b 1\n", "line 1: 3 columns"),
    "two logits": (b"a -0.5 1\n", "--format utterance,score or, of two logits"),
    "two score columns": (b"file,score,llr\na,1,2\n", "line 1: 3 columns fit no known form"),
    "no score column": (b"file,p\na,1\n", "of a table with a header, the column of scores"),
    "empty cell": (b"file,score\na,\n", "line 2: score '-' is not a finite number"),
    "columns change": (b"a 1\nb A07 spoof 1\n", "line 2: 4 columns where line 1 has 2"),
    "other space": ("a\u2003b 1\n".encode(), "line 1: utterance name"),
    "other space below": ("a 1\nb\u20032 1\n".encode(), "line 2: utterance name"),
    "other space at the first score": ("a\u20031\n".encode(), "line 1: 1 columns"),
    "blank line": (b"a 1\n\nb 1\n", "line 2: 0 columns"),
    "nul": (b"a 1\nb\0 1\n", "line 2: control character"),
    "control character among others": ("é 1\nb\x1c 1\n".encode(), "line 2: control character"),
    "not text": (b"a 1\n\xff\xfe 1\n", "line 2: control character, or not UTF-8"),
    "duplicate": (b"a 1\nb 1\na 1\n", "line 3: 'a' is already on line 1 (repetitions: 1"),
    "unsafe": (b"../ 1\n", "line 1: utterance name '../'"),
    "key column": (b"a - real 1\n", "line 1: unknown label 'real'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_score_files_are_refused(tmp_path, name):
    data, message = MALFORMED[name]
    path = write(tmp_path / "s", data)
    with pytest.raises(ScoreError) as caught:
        read_scores(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_cut_of_a_score_file_is_refused(tmp_path):
    whole = b"a -1.25\nb 2.75\n"
    for n in range(len(whole)):
        if whole[:n].endswith(b"\n"):
            continue  # whole lines: the missing trial is found when matching
        with pytest.raises(ScoreError):
            read_scores(write(tmp_path / "s", whole[:n]))


def test_matching_keeps_the_order_of_the_key(key):
    matched = match(scores_of(c=3, a=1, b=2), key)
    assert matched["utterance"].tolist() == ["a", "b", "c"]
    assert matched["score"].tolist() == [1, 2, 3]


def test_matching_goes_by_names_and_not_by_the_index(key):
    for names in ("cab", ["c.wav", "a.wav", "b.wav"]):
        scores = scores_of(**dict(zip(names, (3, 1, 2), strict=True))).set_axis([7, 7, 0])
        assert match(scores, key)["score"].tolist() == [1, 2, 3]
    with pytest.raises(ScoreError, match=r"1 of 4 scored trials are not in the key \(x\)"):
        match(scores_of(a=1, x=2, b=3, c=4).set_axis([9, 8, 7, 6]), key)


def test_missing_and_unknown_trials_are_counted_and_named(key):
    with pytest.raises(ScoreError) as caught:
        match(scores_of(a=1, x=2, y=3, z=4, w=5), key)
    message = str(caught.value)
    assert "2 of 3 trials (phase all) have no score (b, c)" in message
    assert "4 of 5 scored trials are not in the key (x, y, z, ...)" in message


@pytest.mark.parametrize("names", [("0", "1"), ("/x/0.FLAC", "/y/1.wav"), ("..\\0.mp3", "1")])
def test_names_match_by_their_stems_where_these_are_unique(tmp_path, names):
    key = read_protocol(write(tmp_path / "k", "- 0.wav - - - spoof\n- 1.wav - - - bona-fide\n"))
    scores = read_scores(write(tmp_path / "s", "{} 1\n{} 2\n".format(*names)))
    matched = match(scores, key)
    assert matched["score"].tolist() == [1, 2]
    assert matched["utterance"].tolist() == ["0.wav", "1.wav"]
    assert "agree with the key by their stem" in matched.attrs["assumed"][-1]


def test_folders_of_a_key_are_not_taken_off(tmp_path):
    key = read_protocol(write(tmp_path / "k", "- r/0 - - - bona-fide\n- f/1 - - - spoof\n"))
    other = read_scores(write(tmp_path / "s", "/x/f/0.wav 1\n/x/r/1.wav 2\n"))
    with pytest.raises(ScoreError, match="names agree"):
        match(other, key)
    same = read_scores(write(tmp_path / "s", "r/0.wav 1\nf/1.wav 2\n"))
    assert match(same, key)["score"].tolist() == [1, 2]


def test_names_whose_stems_are_not_unique_do_not_match(tmp_path):
    key = read_protocol(write(tmp_path / "k", "- a/0 - - - spoof\n- b/0 - - - bona-fide\n"))
    with pytest.raises(ScoreError, match="names agree"):
        match(scores_of(**{"0.wav": 1}), key)
    key = read_protocol(write(tmp_path / "k", "- 0 - - - spoof\n- 1 - - - bona-fide\n"))
    with pytest.raises(ScoreError, match="names agree"):
        match(scores_of(**{"a/0": 1, "b/0": 2, "1": 3}), key)
    assert match(scores_of(**{"0": 1, "1": 3}), key).attrs["assumed"] == []


def test_scores_of_other_trials_may_be_allowed(key):
    matched = match(scores_of(a=1, b=2, c=3, x=4), key, allow_extra=True)
    assert matched["score"].tolist() == [1, 2, 3]
    with pytest.raises(ScoreError, match="1 of 3 trials"):
        match(scores_of(a=1, b=2, x=4), key, allow_extra=True)


def test_missing_trials_may_be_allowed_but_not_all(key):
    assert len(match(scores_of(a=1, b=2), key, allow_missing=True)) == 2
    with pytest.raises(ScoreError, match="not in the key"):
        match(scores_of(a=1, b=2, x=3), key, allow_missing=True)
    with pytest.raises(ScoreError, match="3 of 3 trials"):
        match(scores_of(x=3), key, allow_missing=True)


def test_phases_are_never_pooled_unless_asked(phases):
    everything = scores_of(a=1, b=2, c=3)
    assert match(everything, phases)["utterance"].tolist() == ["a", "b"]
    assert match(everything, phases, "progress")["utterance"].tolist() == ["c"]
    assert len(match(everything, phases, "all")) == 3
    assert match(scores_of(a=1, b=2), phases)["score"].tolist() == [1, 2]
    with pytest.raises(ScoreError, match="no phase 'hidden'; it has progress, eval"):
        match(everything, phases, "hidden")
    with pytest.raises(ScoreError, match=r"not in the key \(x\)"):
        match(scores_of(a=1, b=2, x=3), phases)


def test_several_phases_without_eval_must_be_chosen(phases):
    other = phases.assign(phase=["hidden", "hidden", "progress"])
    with pytest.raises(ScoreError, match="it has progress, hidden"):
        select_phase(other)


def test_a_key_of_one_phase_is_a_part_of_the_scores(phases):
    part = phases[phases["phase"] == "eval"].reset_index(drop=True)
    assert len(match(scores_of(a=1, b=2, c=3, d=4), part)) == 2


def test_a_list_of_ids_is_no_key(tmp_path):
    ids = read_protocol(write(tmp_path / "ids", "a\nb\n"))
    with pytest.raises(ScoreError, match="without labels"):
        match(scores_of(a=1, b=2), ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 0, 0]}, r"differ in the label of trials \(1 in all\)"),
        ({"attack": ["-", "A07", "A09"]}, "c has A09 there and A08 in the key"),
    ],
)
def test_columns_of_the_score_file_must_agree_with_the_key(key, change, message):
    table = scores_of(a=1, b=2, c=3).assign(label=[1, 0, 0], attack=["-", "A07", "A08"])
    assert len(match(table, key)) == 3
    with pytest.raises(ScoreError, match=message):
        match(table.assign(**change), key)


ASV_KEY = (
    "LA_1 u1 alaw ita_tx bonafide target notrim eval\n"
    "LA_1 u2 alaw ita_tx bonafide nontarget notrim eval\n"
    "LA_1 u3 none - A07 spoof notrim progress\n"
)


def test_asv_scores_of_2019(tmp_path):
    path = write(tmp_path / "asv", "bonafide target 7.9\nbonafide nontarget -3\nA07 spoof 1\n")
    frame = read_asv_scores(path)
    assert frame["kind"].tolist() == ["target", "nontarget", "spoof"]
    assert frame["phase"].tolist() == ["-", "-", "-"]
    assert frame["score"].tolist() == [7.9, -3, 1]
    with pytest.raises(ScoreError, match="without a key"):
        read_asv_scores(path, write(tmp_path / "key", ASV_KEY))


def test_asv_scores_of_2021_go_line_by_line_with_their_key(tmp_path):
    key = write(tmp_path / "key", ASV_KEY)
    path = write(tmp_path / "asv", "LA_1 u1 3\nLA_1 u2 -3\nLA_1 u3 0.5\n")
    frame = read_asv_scores(path, key)
    assert frame["phase"].tolist() == ["eval", "eval", "progress"]
    assert frame["score"].tolist() == [3, -3, 0.5]
    assert frame.attrs["assumed"] == ["key: trial (column 2), kind (column 6), phase (column 8)"]
    with pytest.raises(ScoreError, match="need their key"):
        read_asv_scores(path)
    with pytest.raises(ScoreError, match="line 1: 8 columns"):  # and no warning of pandas
        read_asv_scores(key, key)
    with pytest.raises(ScoreError, match="line 2: does not fit the key"):
        read_asv_scores(write(path, "LA_1 u1 3\nLA_1 u3 -3\nLA_1 u2 0.5\n"), key)
    with pytest.raises(ScoreError, match="line 3: does not fit the key"):
        read_asv_scores(write(path, "LA_1 u1 3\nLA_1 u2 -3\n"), key)
    with pytest.raises(ScoreError, match=r"key, line 1: unknown kind 'bonafide'"):
        read_asv_scores(
            write(path, "LA_1 u1 3\nLA_1 u2 -3\nLA_1 u3 0.5\n"),
            write(tmp_path / "key", ASV_KEY.replace(" target", " bonafide")),
        )


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(["a 1\n", "b -2\n", "a", " ", "1", "\n", "nan\n", "\0", "é"])))
def test_arbitrary_text_gives_a_table_or_our_error(tmp_path_factory, pieces):
    path = write(tmp_path_factory.mktemp("fuzz") / "s", "".join(pieces))
    try:
        frame = read_scores(path)
    except ScoreError as error:
        assert str(path) in str(error)
    else:
        assert frame["utterance"].is_unique
        assert np.isfinite(frame["score"]).all()


@pytest.mark.shared
def test_real_score_files(shared):
    for name, n in {
        "in_the_wild/sls_authors.txt": 31779,
        "la2019/rawgat_st_mul.txt": 71237,
        "la2021/baseline_LFCC-GMM.txt": 181566,
    }.items():
        assert len(read_scores(shared / "scores" / name)) == n
