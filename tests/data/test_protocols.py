"""Protocols of every form become one table; anything malformed is refused by line."""

import gzip
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slslib.data.protocols import COLUMNS, read_columns, read_protocol
from slslib.errors import ProtocolError

# name: (text, one row as (utterance, label, speaker, attack, codec, transmission, source,
# vocoder, trim, phase)); every text has the bona fide trial of that row and a spoofed one
FORMS = {
    "2019": (
        "LA_0039 LA_E_1 - A11 spoof\nLA_0040 LA_E_2 - - bonafide\n",
        ("LA_E_2", 1, "LA_0040", "-", "-", "-", "-", "-", "-", "-"),
    ),
    "in_the_wild_key": (
        "- 0.wav - - - spoof\n- 1.wav - - - bona-fide\n",
        ("1.wav", 1, "-", "-", "-", "-", "-", "-", "-", "-"),
    ),
    "in_the_wild_meta": (
        'file,speaker,label\n0.wav,"Alec Guinness",spoof\n1.wav,2Pac,bona-fide\n',
        ("1.wav", 1, "2Pac", "-", "-", "-", "-", "-", "-", "-"),
    ),
    "table": (
        "file_name,label\nLA_E_1,spoof\nLA_E_2,bonafide\n",
        ("LA_E_2", 1, *"--------"),
    ),
    "2021_la": (
        "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval\n"
        "LA_0007 LA_E_2 opus loc_tx bonafide bonafide notrim hidden\n",
        ("LA_E_2", 1, "LA_0007", "-", "opus", "loc_tx", "-", "-", "notrim", "hidden"),
    ),
    "2021_df": (
        "LA_0023 DF_E_1 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n"
        "VCC2TM2 DF_E_2 low_mp3 vcc2018 - bonafide notrim eval bonafide - - - -\n",
        ("DF_E_2", 1, "VCC2TM2", "-", "low_mp3", "-", "vcc2018", "-", "notrim", "eval"),
    ),
    "2021_df_short": (
        "- DF_E_1 - - - spoof - progress\n- DF_E_2 - - - bonafide - progress\n",
        ("DF_E_2", 1, "-", "-", "-", "-", "-", "-", "-", "progress"),
    ),
    "2021_df_bonafide_first": (
        "VCC2TM2 DF_E_1 low_mp3 vcc2018 - bonafide notrim eval bonafide - - - -\n"
        "LA_0023 DF_E_2 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n",
        (
            "DF_E_2",
            0,
            "LA_0023",
            "A14",
            "nocodec",
            "-",
            "asvspoof",
            "traditional_vocoder",
            "notrim",
            "progress",
        ),
    ),
    "asvspoof5": (
        "E_1 E_1 F C01 1 E_7 AC1 A17 spoof -\nE_2 E_2 M - - - bonafide bonafide bonafide -\n",
        ("E_2", 1, "E_2", *"------", "-"),
    ),
    "tabs": (
        "speaker_id\tfile name\tFlac_File\tkey\n\tx\ttake 1.wav\tspoof\n\t\ttake 2.wav\tbonafide\n",
        ("take 2.wav", 1, *"--------"),
    ),
    "semicolons": (
        "label;note;utterance\nspoof;;a\nbonafide;;b, c\n",
        ("b, c", 1, *"--------"),
    ),
    "attack tells the label": (
        "file,attack_label,y\na,A17,1\nb,bonafide,0\n",
        ("b", 1, *"--------"),
    ),
    "ids": ("LA_E_1\nLA_E_2\n", ("LA_E_2", -1, *"--------")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["newline", "none", "crlf", "bom"])
def test_every_form_becomes_the_same_table(tmp_path, form, ending):
    text, row = FORMS[form]
    data = {
        "newline": text.encode(),
        "none": text.rstrip("\n").encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "bom": b"\xef\xbb\xbf" + text.encode(),
    }[ending]
    path = tmp_path / "protocol.txt"
    path.write_bytes(data)
    frame = read_protocol(path)
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 2
    assert tuple(frame.iloc[1]) == row
    assert frame["label"].dtype == "int8"
    labels = {"ids": [-1, -1], "2021_df_bonafide_first": [1, 0]}
    assert frame["label"].tolist() == labels.get(form, [0, 1])
    spoof = {"2019": "A11", "2021_la": "A07", "2021_df": "A14", "asvspoof5": "A17"}
    spoof |= {"attack tells the label": "A17"}
    assert frame["attack"][0] == spoof.get(form, "-")


def test_how_a_file_was_read_is_said(tmp_path):
    said = {}
    for form, (text, _) in FORMS.items():
        (tmp_path / form).write_text(text)
        (said[form],) = read_protocol(tmp_path / form).attrs["assumed"]
    assert said["ids"] == "ids: utterance (column 1)"
    assert "transmission/source (column 4)" in said["2021_la"]
    assert "attack (column 8), label (column 9)" in said["asvspoof5"]
    assert said["tabs"] == "tabs: speaker (speaker_id), utterance (Flac_File), label (key)"
    assert "label (spoof where there is an attack like A01)" in said["attack tells the label"]


def test_vocoder_is_kept_for_spoof(tmp_path):
    path = tmp_path / "key"
    path.write_text(FORMS["2021_df"][0])
    assert read_protocol(path)["vocoder"].tolist() == ["traditional_vocoder", "-"]


OK = "S LA_E_1 - - bonafide\n"
MALFORMED = {
    "empty": (b"", "empty"),
    "blank": (b"\n\n", "empty"),
    "blank line": (OK.encode() + b"\nS b - - spoof\n", "line 2: 0 columns"),
    "nul": (OK.encode() + b"S b\0 - - spoof\n", "line 2: control character"),
    "lone return": (b"S a - - spoof\rS b - - spoof\n", "line 1: control character"),
    "latin-1": (OK.encode() + b"S Andr\xe9 - - spoof\n", "line 2: control character, or not UTF-8"),
    "gzip": (gzip.compress(OK.encode()), "line 1: control character, or not UTF-8"),
    "torn": (OK.encode() + b"S LA_E_2 - A0", "line 2: 4 columns"),
    "mixed forms": (OK.encode() + b"- 0.wav - - - spoof\n", "line 2: 6 columns"),
    "compensating rows": (b"a b - - spoof\nc d - -\ne f - - spoof x\n", "line 2: 4 columns"),
    "unknown label": (OK.encode() + b"S b - - Spoof\n", "line 2: unknown label 'Spoof'"),
    "unknown phase": (b"- LA_E_1 - - - spoof - evla\n", "line 1: unknown phase 'evla'"),
    "asv key": (b"- LA_E_1 - - - nontarget - eval\n", "line 1: unknown label 'nontarget'"),
    "score file": (b"LA_E_1 0.25\n", "line 1: 2 columns fit no known"),
    "asv scores": (b"bonafide target 7.9\n", "line 1: 3 columns fit no known"),
    "seven columns": (b"a b c d e f g\n", "7 columns fit no known form"),
    "duplicate": ((OK + "S b - - spoof\n" + OK).encode(), "line 3: 'LA_E_1' is already"),
    "csv torn": (b"file,speaker,label\n0.wav,A,spoof\n1.wav,B\n", "line 3: 2 columns"),
    "csv quote": (b'file,speaker,label\n0.wav,"A,spoof\n', "line 2: 2 columns"),
    "csv header only": (b"file,speaker,label\n", "no trials"),
    "csv label": (b"file,speaker,label\n0.wav,A,real\n", "line 2: unknown label 'real'"),
    "csv quoted newline": (b'file,speaker,label\n0.wav,"A\nB",spoof\n', "line 2: 2 columns"),
    "csv long": (b"file,speaker,label\n0.wav,A,spoof\n1.wav," + b"x" * 200_000, "torn"),
    "csv other words": (b"name,class\na,spoof\n", "2 columns fit no known form: 'name, class'"),
    "csv no label": (b"file,speaker\na,A\n", "path and one of label, key."),
    "csv one column": (b"file\na\nb\n", "line 1: 1 columns fit no known form"),
    "csv two files": (b"file,filename,label\na,a,spoof\n", "line 1: 3 columns fit no known form"),
    "csv unclear attack": (b"file,attack\na,A1\nb,-\n", "line 3: unknown label '-'"),
    "csv another word for bona fide": (
        b"file,attack\na,genuine\nb,A01\n",
        "line 2: unknown label 'genuine'",
    ),
    "attack of bona fide speech": (b"s u - A01 bonafide\n", "line 1: attack 'A01' contradicts"),
    "csv bona fide attack of a spoof": (
        b"file,attack,label\na,bonafide,spoof\n",
        "line 2: attack 'bonafide' contradicts",
    ),
    "csv phase of some": (
        b"file,label,phase\na,spoof,eval\nb,spoof,\n",
        "line 3: unknown phase '-'",
    ),
    "csv short": (b"file,note,label\na,,spoof\nb,\n", "line 3: 2 columns"),
    "no form": (b"s u c - A1 B1 C1 D1 - -\n", "10 columns fit no known form"),
    "tabs torn": (b"file\tlabel\na b\tspoof\nc d spoof\n", "line 3: 1 columns"),
    "blank at the end of a name": (b"file\tlabel\na \tspoof\n", "line 2: utterance name 'a '"),
    "csv no name": (b"file,speaker,label\n,A,spoof\n", "line 2: utterance name"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_protocols_are_refused(tmp_path, name):
    data, message = MALFORMED[name]
    path = tmp_path / "key.txt"
    path.write_bytes(data)
    with pytest.raises(ProtocolError) as caught:
        read_protocol(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "utterance",
    [
        *("../a", "a/../../b", "a/..", "/etc/passwd", "..", ".", "-", "~root/x", "a\\..\\b", "C:x"),
        *("x" * 201, "a\u202eb", "a\u200bb", "a\x85b", "a\x1bb"),
    ],
)
def test_unsafe_names_are_refused(tmp_path, utterance):
    path = tmp_path / "key"
    path.write_text(f"S ok - - spoof\nS {utterance} - - spoof\n", encoding="utf-8")
    with pytest.raises(ProtocolError, match="line 2"):
        read_protocol(path)


@pytest.mark.parametrize(
    "utterance", ["a/b/c", "名前", "a(1)+b", "x.y.z", ".hidden", "é", "so...what", "a..b"]
)
def test_unusual_but_safe_names_are_accepted(tmp_path, utterance):
    path = tmp_path / "key"
    path.write_text(f"S {utterance} - - spoof\n", encoding="utf-8")
    assert read_protocol(path)["utterance"].tolist() == [utterance]


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "none", "x" * 5000, "nul\0"):
        with pytest.raises(ProtocolError, match=r"no such file|cannot be read"):
            read_protocol(tmp_path / name)


@settings(deadline=None, max_examples=80)
@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from([*(t for t, _ in FORMS.values()), "\0", "é", " ", "\t", "x"]))
        .map("".join)
        .map(str.encode),
    )
)
def test_arbitrary_bytes_give_a_table_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "key"
    path.write_bytes(data)
    try:
        frame = read_protocol(path)
    except ProtocolError as error:
        assert str(path) in str(error)
    else:
        assert len(frame) > 0
        assert frame["utterance"].is_unique
        assert not frame.isna().any(axis=None)


@pytest.mark.shared
def test_the_real_keys(shared):
    counts = {
        "df2021/key_cm_progress.txt": (5768, 53557, {"progress"}),
        "la2021/key_cm_progress.txt": (1676, 14788, {"progress"}),
        "la2019/key_cm_eval.txt": (7355, 63882, {"-"}),
        "in_the_wild/key_in_the_wild.txt": (19963, 11816, {"-"}),
    }
    for name, (n_bonafide, n_spoof, phases) in counts.items():
        frame = read_protocol(shared / "scores" / name)
        assert (frame["label"] == 1).sum() == n_bonafide
        assert (frame["label"] == 0).sum() == n_spoof
        assert set(frame["phase"]) == phases


def test_a_form_without_labels_may_be_as_wide_as_another(tmp_path):
    path = tmp_path / "key.txt"
    forms = ("utterance label", "utterance speaker")
    header = {"utterance": "file", "label": "label", "speaker": "speaker"}
    path.write_text("a bonafide\nb spoof\n")
    assert read_columns(path, ProtocolError, forms, header)["label"].tolist() == [1, 0]
    path.write_text("a b\nc d\n")  # neither has its label here
    with pytest.raises(ProtocolError, match="known form"):
        read_columns(path, ProtocolError, forms, header)
