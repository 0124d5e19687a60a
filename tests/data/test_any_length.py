"""Recordings that state no length: WebM, Matroska, MP4 in fragments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from make_mp4 import write_av

from slslib.data.audio import Decoder, load
from slslib.data.isolate import blocks_isolated
from slslib.errors import AudioError

RATE = 48_000
OPUS = {"rate": RATE, "codec": "libopus"}
BROWSER = {**OPUS, "live": "1"}
FRAGMENTS = {"rate": RATE, "movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
PARTLY = {**FRAGMENTS, "movflags": "frag_keyframe"}
MP3 = {"rate": RATE, "codec": "libmp3lame", "live": "1"}
KINDS = {
    "WebM with a length": ("x.webm", OPUS, "MATROSKA", True),
    "WebM of a browser": ("x.webm", BROWSER, "MATROSKA", False),
    "Matroska with a film": ("x.mkv", {"rate": RATE, "video": True}, "MATROSKA", False),
    "Matroska of MP3, whose length FFmpeg estimates": ("x.mkv", MP3, "MATROSKA", False),
    "MP4 in fragments": ("x.mp4", FRAGMENTS, "FRAGMENTS", False),
    "MP4 in fragments behind a whole part": ("x.mp4", PARTLY, "FRAGMENTS", False),
}


def sound(seconds: float = 3) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 2_000, round(seconds * RATE))
    return np.rint(noise).astype(np.int16)


def read(path: Path) -> Decoder:
    decoder = Decoder(path, any_length=True)
    for _ in decoder.blocks():
        pass
    return decoder


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_it_is_read_and_the_doubt_is_told(tmp_path, kind):
    name, options, container, states_length = KINDS[kind]
    path = write_av(tmp_path / name, sound(), **options)
    found = read(path).recording
    assert (found.format, found.states_length) == (container, states_length)
    assert found.n_source_frames / RATE == pytest.approx(3, abs=0.05)
    with pytest.raises(AudioError, match=r"left out silently|states no length"):
        load(path)


@pytest.mark.parametrize("kind", [kind for kind, (*_, stated) in KINDS.items() if not stated])
def test_a_cut_without_a_length_passes_with_the_doubt(tmp_path, kind):
    name, options, *_ = KINDS[kind]
    path = write_av(tmp_path / name, sound(), **options)
    data = path.read_bytes()
    place = data.rindex(b"moof") - 4 if name == "x.mp4" else len(data) * 2 // 3
    path.write_bytes(data[:place])
    found = read(path).recording
    assert found.states_length is False
    assert 1 < found.n_source_frames / RATE < 2.8


def test_a_cut_is_told_by_a_stated_length(tmp_path):
    path = write_av(tmp_path / "x.webm", sound(), **OPUS)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) * 2 // 3])
    with pytest.raises(AudioError, match="truncated or damaged"):
        read(path)


def test_sound_that_begins_late_is_told(tmp_path):
    """Nothing says whether a pause or a cut precedes it."""
    path = write_av(tmp_path / "x.webm", sound(), **OPUS, start=2)
    with pytest.raises(AudioError, match=r"3\.0 s of sound that end at 5\.0 s"):
        read(path)


def test_a_cut_within_a_fragment_is_told_by_its_boxes(tmp_path):
    path = write_av(tmp_path / "x.mp4", sound(), **FRAGMENTS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AudioError, match="not those of one whole MP4 file"):
        read(path)


def test_a_hole_is_told_by_the_time_of_the_packets(tmp_path):
    """FFmpeg leaves out the damaged part, and says nothing."""
    path = write_av(tmp_path / "x.webm", sound(6), **BROWSER, cluster_time_limit="1000")
    data = path.read_bytes()
    clusters = [found.start() for found in re.finditer(rb"\x1f\x43\xb6\x75", data)]
    assert len(clusters) > 4
    path.write_bytes(data[: clusters[2]] + data[clusters[3] :])
    with pytest.raises(AudioError, match="a frame is missing"):
        read(path)


@pytest.mark.parametrize("order", [(0, 1, 4, 5), (0, 1, 3, 2, 4, 5)], ids=["lost", "swapped"])
def test_fragments_that_are_lost_or_swapped_are_told_by_their_times(tmp_path, order):
    flags = "frag_keyframe+empty_moov+default_base_moof"
    path = write_av(tmp_path / "x.mp4", sound(), **{**FRAGMENTS, "movflags": flags})
    head, *parts = re.split(rb"(?s)(?=.{4}moof)", path.read_bytes())
    assert len(parts) == 6
    path.write_bytes(head + b"".join(parts[k] for k in order))
    with pytest.raises(AudioError, match="a frame is missing"):
        read(path)


def test_frames_without_a_time_follow_each_other(tmp_path):
    """Of ALAC, FFmpeg knows no time of a frame that shares a block with the one before."""
    path = write_av(tmp_path / "x.mkv", sound(), RATE, codec="alac", live="1")
    data = path.read_bytes()
    cluster = data.index(b"\x1f\x43\xb6\x75") + 4
    begin = end = data.index(b"\xa3", cluster)
    frames = []
    for _ in range(2):  # a block: its length, its track, time and flags, the frame
        length = int.from_bytes(data[end + 1 : end + 3], "big") & 0x3FFF
        frames.append(data[end + 7 : end + 3 + length])
        end += 3 + length
    assert data[end : end + 1] == b"\xa3"
    n_255, rest = divmod(len(frames[0]), 255)
    both = b"\x81\0\0\x82\1" + b"\xff" * n_255 + bytes([rest]) + b"".join(frames)
    both = b"\xa3" + (len(both) | 1 << 21).to_bytes(3, "big") + both
    longer = int.from_bytes(data[cluster : cluster + 3], "big") + len(both) - (end - begin)
    head = data[:cluster] + longer.to_bytes(3, "big") + data[cluster + 3 : begin]
    path.write_bytes(head + both + data[end:])
    assert read(path).recording.n_source_frames == 3 * RATE


def test_another_codec_is_refused(tmp_path):
    path = write_av(tmp_path / "x.mkv", sound(), RATE, codec="ac3")
    with pytest.raises(AudioError, match="its audio is ac3"):
        read(path)


def test_another_process_reads_it_too(tmp_path):
    path = write_av(tmp_path / "x.webm", sound(), **BROWSER)
    n = sum(len(block) for block in blocks_isolated(path, any_length=True))
    assert n / 16_000 == pytest.approx(3, abs=0.05)
    with pytest.raises(AudioError, match="left out silently"):
        list(blocks_isolated(path))
