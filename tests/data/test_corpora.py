"""Corpora open as they are distributed, and every utterance's recording is found."""

import hashlib
import os
import shutil

import pytest

from slslib.data.corpora import open_corpus, open_partitions, protocol
from slslib.data.protocols import COLUMNS
from slslib.errors import AudioError, ProtocolError

KEY_2021_LA = (
    "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval\n"
    "LA_0007 LA_E_2 opus loc_tx bonafide bonafide notrim hidden\n"
)
META_CSV = 'file,speaker,label\n0.wav,"Alec Guinness",spoof\n1.wav,2Pac,bona-fide\n'


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def partitions(spec, data=None):
    return [corpus.partition for corpus in open_partitions(spec, data)]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make_2019(root):
    for part, suffix in {"train": "trn", "dev": "trl", "eval": "trl"}.items():
        name = f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{part}.{suffix}.txt"
        write(root / "LA" / name, f"LA_1 LA_{part} - - bonafide\n")
        touch(root / "LA" / f"ASVspoof2019_LA_{part}" / "flac" / f"LA_{part}.flac")
    return "asvspoof2019-la:dev", "LA_dev"


def make_2021_la(root):
    top = root / "ASVspoof2021_LA_eval"
    write(top / "ASVspoof2021.LA.cm.eval.trl.txt", "LA_E_1\nLA_E_2\n")
    write(root / "keys/LA/CM/trial_metadata.txt", KEY_2021_LA)
    touch(top / "flac" / "LA_E_1.flac")
    touch(top / "flac" / "LA_E_2.flac")
    return "asvspoof2021-la:eval", "LA_E_1"


def make_2021_df(root):
    for part in "01":
        top = root / f"ASVspoof2021_DF_eval_part0{part}" / "ASVspoof2021_DF_eval"
        touch(top / "flac" / f"DF_E_{int(part) + 1}.flac")
    first = root / "ASVspoof2021_DF_eval_part00" / "ASVspoof2021_DF_eval"
    write(first / "ASVspoof2021.DF.cm.eval.trl.txt", "DF_E_1\nDF_E_2\n")
    return "asvspoof2021-df", "DF_E_2"


def make_asvspoof5(root, protocols="", audio=""):
    for part, track in {"train": "", "dev": ".track_1", "eval": ".track_1"}.items():
        letter = part[0].upper()
        row = f"{letter}_0001 {letter}_000001 F C01 1 - AC1 A17 spoof -\n"
        write(root / protocols / f"ASVspoof5.{part}{track}.tsv", row)
    write(root / protocols / "ASVspoof5.dev.track_2.enroll.tsv", "D_0001 D_1,D_2\n")
    write(root / protocols / "ASVspoof5.dev.track_2.trial.tsv", "D_0001 D_1 F spoof\n")
    for folder in ("flac_T", "flac_D", "flac_E_eval"):
        touch(root / audio / folder / f"{folder[5]}_000001.flac")
    return "asvspoof5:eval", "E_000001"


def make_asvspoof5_in_folders(root):
    return make_asvspoof5(root, "ASVspoof5_protocols", "ASVspoof5")


def make_in_the_wild(root):
    write(root / "release_in_the_wild" / "meta.csv", META_CSV)
    touch(root / "release_in_the_wild" / "1.wav")
    return "in-the-wild", "1.wav"


def make_folder(root):
    write(root / "mine/protocols/x.cm.train.trn.txt", "S a - - bonafide\nS b - - spoof\n")
    write(root / "mine/protocols/x.cm.test.trl.txt", "S c - - spoof\n")
    touch(root / "mine/flac/a.flac")
    touch(root / "mine/wav/b.wav")
    return "mine:train", "b"


@pytest.mark.parametrize(
    "make",
    [
        make_2019,
        make_2021_la,
        make_2021_df,
        make_asvspoof5,
        make_asvspoof5_in_folders,
        make_in_the_wild,
        make_folder,
    ],
)
def test_every_layout_opens(tmp_path, make):
    spec, utterance = make(tmp_path)
    corpus = open_corpus(spec, tmp_path)
    assert len(corpus) == len(corpus.trials) > 0
    assert utterance in set(corpus.trials["utterance"])
    path = corpus.audio_path(utterance)
    assert path.is_file()
    assert path.is_relative_to(tmp_path)
    assert corpus.protocol_sha256 == hashlib.sha256(corpus.protocol.read_bytes()).hexdigest()
    with pytest.raises(AudioError, match=r"LA_missing.*Unpack"):
        corpus.audio_path("LA_missing")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("asvspoof2019-la:train", "10283/3336"),
        ("asvspoof2019-la", "LA/ASVspoof2019_LA_cm_protocols"),
        ("asvspoof2019-la:test", "no protocol"),
        ("asvspoof2021-la", "4837263"),
        ("asvspoof2021-df", "4835108"),
        ("asvspoof5:dev", "14498691"),
        ("in-the-wild", "deepfake-total"),
        ("in-the-wild:eval", "no protocol"),
        ("nothing:train", "neither a corpus"),
        ("x" * 5000, "neither a corpus"),
        ("nul\0", "neither a corpus"),
    ],
)
def test_absent_corpora_say_where_to_get_them(tmp_path, spec, expected):
    with pytest.raises(ProtocolError) as caught:
        open_corpus(spec, tmp_path)
    assert expected in str(caught.value)


def test_asvspoof5_has_three_partitions(tmp_path):
    make_asvspoof5(tmp_path)
    corpora = open_partitions("asvspoof5", tmp_path)
    assert [one.partition for one in corpora] == ["dev", "eval", "train"]
    assert [one.trials["utterance"].item()[0] for one in corpora] == ["D", "E", "T"]
    assert {(one.trials["attack"].item(), one.trials["label"].item()) for one in corpora} == {
        ("A17", 0)
    }
    names = [[folder.name for folder in one.audio_dirs] for one in corpora]
    assert names == [["flac_D"], ["flac_E_eval"], ["flac_T"]]


def test_2021_labels_are_unknown_without_the_keys(tmp_path):
    make_2021_df(tmp_path)
    corpus = open_corpus("asvspoof2021-df", tmp_path)
    assert corpus.trials["label"].tolist() == [-1, -1]
    with pytest.raises(ProtocolError, match="Phases stand in the keys"):
        open_corpus("asvspoof2021-df:eval", tmp_path)


def test_2021_phases_need_to_be_asked_for(tmp_path):
    make_2021_la(tmp_path)
    assert len(open_corpus("asvspoof2021-la", tmp_path)) == 2
    only = open_corpus("asvspoof2021-la:hidden", tmp_path)
    assert only.trials["utterance"].tolist() == ["LA_E_2"]
    assert len(open_partitions("asvspoof2021-la", tmp_path)) == 1
    with pytest.raises(ProtocolError, match="no trial of this phase"):
        open_corpus("asvspoof2021-la:progress", tmp_path)


def test_folders_name_their_partitions(tmp_path):
    make_folder(tmp_path)
    assert partitions("mine", tmp_path) == ["test", "train"]
    assert partitions(str(tmp_path / "mine")) == ["test", "train"]
    assert open_corpus(f"{tmp_path / 'mine'}:test").trials["utterance"].tolist() == ["c"]
    with pytest.raises(ProtocolError, match="mine:test, mine:train"):
        open_corpus("mine", tmp_path)
    with pytest.raises(ProtocolError, match=r"no such partition.*mine:test, mine:train"):
        open_corpus("mine:dev", tmp_path)
    (tmp_path / "mine/protocols/x.cm.test.trl.txt").unlink()
    assert open_corpus("mine", tmp_path).partition == "train"
    write(tmp_path / "mine/protocols/y.train.txt", "S a - - spoof\n")
    with pytest.raises(ProtocolError, match="second protocol for 'train'"):
        open_corpus("mine:train", tmp_path)


def test_folders_without_audio_or_protocol(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(ProtocolError, match="no protocol"):
        open_corpus("bare:train", tmp_path)
    write(tmp_path / "bare" / "train.txt", "S a - - spoof\n")
    corpus = open_corpus("bare:train", tmp_path)
    with pytest.raises(AudioError, match="no recording of this name"):
        corpus.audio_path("a")
    make_2019(tmp_path)
    shutil.rmtree(tmp_path / "LA" / "ASVspoof2019_LA_dev")
    with pytest.raises(ProtocolError, match=r"no recordings.*LA\.zip"):
        open_corpus("asvspoof2019-la:dev", tmp_path)


def test_a_folder_without_a_protocol_is_unlabelled(tmp_path):
    for name in ("x/b.wav", "a.flac", "README.txt"):
        touch(tmp_path / "bare" / name)
    corpus = open_corpus("bare", tmp_path)
    assert corpus.trials["utterance"].tolist() == ["a.flac", "x/b.wav"]
    assert corpus.trials["label"].tolist() == [-1, -1]
    assert tuple(corpus.trials) == COLUMNS
    assert set(corpus.trials["attack"]) == {"-"}
    assert corpus.audio_path("x/b.wav") == tmp_path / "bare/x/b.wav"
    touch(tmp_path / "bare/c.mp3")
    assert open_corpus("bare", tmp_path).protocol_sha256 != corpus.protocol_sha256


def test_a_protocol_that_was_left_half_written_is_none(tmp_path):
    """A killed `slslib protocol` leaves a hidden file beside the one that it writes."""
    write(tmp_path / ".own.csv.123-0a.tmp", "file,label\na.wav,bonafide\n")
    for name in "ab":
        touch(tmp_path / f"{name}.wav")
    assert (open_corpus(str(tmp_path)).trials["label"] == -1).all()
    write(tmp_path / "own.csv", "file,label\na.wav,bonafide\nb.wav,spoof\n")
    assert open_corpus(str(tmp_path)).trials["label"].tolist() == [1, 0]


def test_a_corpus_without_phases_has_no_partitions(tmp_path):
    make_in_the_wild(tmp_path)
    assert partitions("in-the-wild", tmp_path) == ["-"]
    with pytest.raises(ProtocolError, match="phase"):
        open_corpus("in-the-wild:eval", tmp_path)


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    spec, _ = make_2019(tmp_path)
    monkeypatch.setenv("SLSLIB_DATA", str(tmp_path))
    assert len(open_corpus(spec)) == 1
    assert partitions("asvspoof2019-la") == ["dev", "eval", "train"]
    with pytest.raises(ProtocolError, match="no protocol"):
        open_corpus(spec, tmp_path / "elsewhere")


def test_a_path_is_that_of_the_working_directory(tmp_path, monkeypatch):
    for folder, trial in (("data", "a"), ("data/own", "b"), ("here", "c"), ("here/own", "d")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{trial}.wav").touch()
    monkeypatch.setenv("SLSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "here")

    def found(spec):
        return sorted(open_corpus(spec).trials["utterance"])

    assert found(".") == found("./") == found("../here") == ["c.wav", "own/d.wav"]
    assert found("./own") == found("../here/own") == ["d.wav"]
    with pytest.raises(ProtocolError, match=r"own: found in .*/data and here\. Give \./own"):
        open_corpus("own")
    (tmp_path / "here" / "own" / "d.wav").unlink()
    (tmp_path / "here" / "own").rmdir()
    assert found("own") == ["b.wav"]
    (tmp_path / "here" / "own").symlink_to(tmp_path / "data" / "own")
    assert found("own") == ["b.wav"]


@pytest.mark.parametrize(
    ("utterance", "file"),
    [
        ("a", "a.flac"),
        ("a", "a.wav"),
        ("a", "a.FLAC"),
        ("a", "a.mp3"),
        ("a.wav", "a.wav"),
        ("a.wav", "a.WAV"),
        ("a.wav", "a.flac"),
        ("x.y.z", "x.y.z.opus"),
    ],
)
def test_recordings_are_found_by_their_stem(tmp_path, utterance, file):
    write(tmp_path / "c" / "train.txt", f"S {utterance} - - spoof\n")
    (tmp_path / "c" / "flac").mkdir()
    recording = touch(tmp_path / "c" / "wav" / file)
    for other in ("b.flac", "a.txt", "a.wav.json", "x.y.flac"):
        touch(tmp_path / "c" / "wav" / other)
    (tmp_path / "c" / "wav" / "a").mkdir()
    assert open_corpus("c:train", tmp_path).audio_path(utterance) == recording


def test_the_very_name_goes_before_other_endings(tmp_path):
    write(tmp_path / "c" / "train.txt", "S a.wav - - spoof\nS a - - spoof\n")
    for file in ("a.flac", "a.wav", "a.mp3"):
        touch(tmp_path / "c" / "wav" / file)
    corpus = open_corpus("c:train", tmp_path)
    assert [corpus.audio_path(name).name for name in ("a.wav", "a")] == ["a.wav", "a.flac"]


def test_the_very_name_goes_before_other_folders(tmp_path):
    write(tmp_path / "c" / "train.txt", "S a.wav - - spoof\nS B.WAV - - spoof\nS B.wav - - spoof\n")
    for file in ("flac/a.flac", "wav/a.wav", "wav/B.WAV", "wav/B.wav"):
        touch(tmp_path / "c" / file)
    corpus = open_corpus("c:train", tmp_path)
    for name in ("a.wav", "B.WAV", "B.wav"):
        assert corpus.audio_path(name) == tmp_path / "c" / "wav" / name


def test_a_folder_that_cannot_be_listed_is_an_error_of_ours(tmp_path, monkeypatch):
    write(tmp_path / "c" / "train.txt", "S a - - spoof\n")
    touch(tmp_path / "c" / "wav" / "a.flac")
    corpus = open_corpus("c:train", tmp_path)
    listed = []

    def scandir(folder):  # root may list every folder
        listed.append(folder)
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        with pytest.raises(AudioError, match="who may read"):
            corpus.audio_path("a")
    assert listed


@pytest.mark.parametrize("utterance", ["../x", "/etc/passwd", "a/../../x", "x\n"])
def test_audio_paths_stay_inside(tmp_path, utterance):
    spec, _ = make_folder(tmp_path)
    with pytest.raises(AudioError):
        open_corpus(spec, tmp_path).audio_path(utterance)


def test_folders_and_recordings_may_be_links_to_anywhere(tmp_path):
    store = tmp_path / "store"
    recording = touch(store / "blobs" / "4f2a")
    touch(store / "flac" / "b.flac")
    touch(store / "deep" / "c.flac")
    root = tmp_path / "root"
    write(root / "linked" / "train.txt", "S a - - spoof\nS b - - spoof\nS in/c - - spoof\n")
    (root / "linked" / "flac").symlink_to(store / "flac")
    (store / "flac" / "a.flac").symlink_to(recording)
    (store / "flac" / "in").symlink_to(store / "deep")
    corpus = open_corpus("linked:train", root)
    paths = [corpus.audio_path(utterance) for utterance in corpus.trials["utterance"]]
    assert [path.name for path in paths] == ["a.flac", "b.flac", "c.flac"]
    assert all(path.is_file() for path in paths)
    assert paths[0].resolve() == recording


def test_names_may_hold_folders(tmp_path):
    write(tmp_path / "c" / "train.txt", "S in/a - - spoof\n")
    touch(tmp_path / "c/wav/in/a.wav")
    assert open_corpus("c:train", tmp_path).audio_path("in/a").is_file()


@pytest.mark.parametrize("top", ["", "flac/", "wav/"])
def test_a_protocol_of_a_folder_tree_opens_it(tmp_path, top):
    names = ["x/a_real.wav", "x/b, c_fake.wav", "y/a_real.flac", "y/d.mp3", "y/e_fake.amr"]
    for name in names:
        touch(tmp_path / "mine" / top / name)
    patterns = {"bonafide": "*_real.*", "spoof": f"{top}x/*_fake.*"}
    result = protocol(tmp_path / "mine", **patterns, out=tmp_path / "mine/protocols/p.csv")
    corpus = open_corpus("mine", tmp_path)
    assert corpus.trials["utterance"].tolist() == [names[0], names[2], names[1]]
    assert corpus.trials["label"].tolist() == [1, 1, 0]
    for utterance in corpus.trials["utterance"]:
        assert corpus.audio_path(utterance) == tmp_path / "mine" / top / utterance
    assert (result["n_bonafide"], result["n_spoof"]) == (2, 1)
    assert (result["unmatched"], result["unreadable"]) == ([names[3]], [names[4]])
    result = protocol(tmp_path / "mine", bonafide="*_real*", spoof="*_fake*", out=tmp_path / "p")
    assert result["unreadable"] == [names[4]]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("*", "fake/*"), "'fake/b.wav' matches both patterns"),
        (("real/*", "fakes/*"), "one class is empty"),
        (("real/*", "*.amr"), "one class is empty"),
    ],
)
def test_patterns_that_do_not_tell_the_classes_are_refused(tmp_path, patterns, message):
    for name in ("real/a.wav", "fake/b.wav", "fake/c.amr"):
        touch(tmp_path / name)
    with pytest.raises(ProtocolError, match=message):
        protocol(tmp_path, bonafide=patterns[0], spoof=patterns[1], out=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.shared
def test_the_real_speech(shared):
    sizes = {"train": 809, "dev": 150, "test": 251}
    assert partitions("speech", shared) == sorted(sizes)
    for part, size in sizes.items():
        corpus = open_corpus(f"speech:{part}", shared)
        assert len(corpus) == size
        assert all(corpus.audio_path(name).suffix == ".flac" for name in corpus.trials["utterance"])
