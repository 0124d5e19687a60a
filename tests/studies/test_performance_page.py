"""The numbers that the page on speed states in its text are those of the files."""

from __future__ import annotations

from provenance import ROOT, read

from slslib.model.geometry import XLSRConfig

PAGE = " ".join((ROOT / "book" / "performance.md").read_text(encoding="utf-8").split())
WINDOW_SECONDS = 64_600 / 16_000


def test_one_long_recording() -> None:
    found = read("long_file")
    hour, minute = found["mini, 60 min"], found["mini, 1 min"]
    assert abs(hour["peak_gb"] - minute["peak_gb"]) < 0.01, "memory does not grow"
    assert f"{hour['n_windows']:,} windows, took {hour['seconds']:.0f} s" in PAGE
    assert f"held {hour['peak_gb']:.2f} GB" in PAGE
    assert f"process that decodes held {hour['decoder_peak_gb']:.2f} GB" in PAGE
    large, minute = found["XLS-R 300M, 60 min"], found["XLS-R 300M, 1 min"]
    assert large["audio_s"] == 3600 and large["peak_gb"] - minute["peak_gb"] < 0.2
    assert f"{large['n_windows']} windows, took {large['seconds'] / 60:.0f} minutes" in PAGE
    assert f"held {large['peak_gb']:.1f} GB" in PAGE
    plot = found["plot of 36,000 windows"]["seconds"]
    assert f"`--plot` of 36,000 windows takes {plot:.1f} s" in PAGE


def test_a_gpu_by_arithmetic() -> None:
    flop = 1e9 * read("speed-parts")["products"]["gflop_per_clip"]
    exact, bf16 = 67e12 / flop, 990e12 / flop  # clips per second at the peaks of a data sheet
    minutes = [611_829 / rate / 60 for rate in (exact, bf16)]
    assert f"at least {minutes[0]:.0f} minutes in 32 bits and {minutes[1]:.1f} minutes" in PAGE
    assert abs(exact - 450) < 5 and abs(bf16 - 6700) < 50
    hours = 1e6 / WINDOW_SECONDS / bf16
    assert f"one H100 at least {hours:.0f} hours" in PAGE
    assert f"{6700 * 2 * 64_600 / 1e6:.0f}"[:2] == "86" and "870 MB/s" in PAGE
    assert 12.5 < 6700 / read("speed-decoding")["decoding_flac"]["load_per_core"]["median"] < 13.5


def test_what_a_gpu_moves_by_arithmetic() -> None:
    """Values read and written: six times in a convolution's layer, 40 in a transformer's."""
    config, frames, convolved = XLSRConfig(), 64_600, 0
    for kernel, stride in zip(config.kernels, config.strides, strict=True):
        frames = (frames - kernel) // stride + 1
        convolved += 6 * frames * config.conv_width
    layer = frames * config.width
    values = convolved + config.n_layers * (40 + 5) * layer  # 5: the head's mean and weighted sum
    assert f"a clip moves {values / 1e8:.0f}00 million values" in PAGE
    assert f"which are {4 * values / 1e9:.1f} GB" in PAGE
    assert f"at most {3.35e12 / (4 * values) / 100:.0f}00 clips".replace("2800", "2,800") in PAGE


def test_rawboost_keeps_up_on_the_cores() -> None:
    rates = {
        row["rawboost"]: row["items_per_core"]["median"]
        for row in read("speed-decoding")["dataset"]
    }
    assert f"one core prepares {rates['ssi']:.0f} clips per second" in PAGE
    assert f"of 25,380 clips takes it {25_380 / rates['ssi'] / 60:.0f} minutes" in PAGE
    assert f"Algorithm 4 takes {rates['ssi'] / rates[4]:.1f} times as long" in PAGE
    assert 25_380 / rates[4] / 60 < 2 * 3, "two cores, three minutes"


def test_one_process_feeds_the_goal_of_a_gpu() -> None:
    assert read("speed-decoding")["load_batches"]["main_process_per_core"]["least"] > 3500


def test_where_the_time_goes() -> None:
    parts = {
        name: one["matrix products"] for name, one in read("speed-parts")["parts_seconds"].items()
    }
    assert 0.2 < parts["exact"] / parts["original"] < 0.3, "a quarter"
    assert 0.4 < parts["bf16"] / parts["exact"] < 0.6, "a half"
    for found in read("speed-parts")["parts_seconds"].values():
        assert max(found, key=found.get) == "matrix products"


def test_near_the_hardware() -> None:
    products = read("speed-parts")["products"]
    gflop, best = products["gflop_per_clip"], products["best_gflop_per_second"]
    assert f"PyTorch counts {gflop:.0f} GFLOP for a clip" in PAGE
    assert f"at {best['exact']:.0f} GFLOP/s in 32 bits and {best['bf16']:.0f} in bfloat16" in PAGE
    rows = {row["setting"]: row for row in read("speed-parts")["batches"] if row["clips"] == 4}
    rates = {name: 4 * gflop / row["seconds"]["median"] for name, row in rows.items()}
    exact, bf16 = [100 * rates[name] / best[name] for name in ("exact", "bf16")]
    assert f"runs at {exact:.0f} % and {bf16:.0f} % of that" in PAGE
    theirs = 2 * 4 * gflop / rows["exact"]["reference_seconds"]["median"]
    assert f"runs at {100 * theirs / best['exact']:.0f} % of the 32-bit rate" in PAGE


def test_a_state_and_kept_layers() -> None:
    assert f"{read('storage')['saving']['gb']:.2f} GB at full size" in PAGE
    assert f"takes {read('frozen_layers')['mb_per_clip']:.1f} MB" in PAGE
    assert f"take {25_380 * read('frozen_layers')['mb_per_clip'] / 1e3:.0f} GB" in PAGE
    first, *others = read("storage")["reading"]
    assert {row["scores"] for row in others} == {first["scores"]}, "the same bytes"
    assert {row["provenance"] for row in others} == {first["provenance"]}
