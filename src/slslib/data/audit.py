"""Audit a corpus before hours are spent on it.

Several processes decode every file of a protocol, or every audio file of a folder, to its end and
within limits (:func:`slslib.data.isolate.audit`). The report says which files are missing, damaged
or cannot be decoded. It counts the files by sample rate and number of channels (unusual ones are
converted, not refused), by MD5 state of FLAC, and by decoder. It lists the files that are
over-range, that hold the same audio, or that no protocol names. A corpus is *sound* if no file is
missing and every file can be used.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from slslib.errors import AudioError


def verify(
    corpus: str,
    *,
    data: str | Path | None = None,
    jobs: int | None = None,
    n_samples: int = 64_600,
    allow_silence: bool = False,
) -> dict[str, Any]:
    """Decode every file of a corpus and report what is missing, damaged or odd.

    Faults of single files are reported, never raised.

    Example: slslib verify asvspoof2019-la:train --data ~/corpora

    Args:
        corpus: asvspoof2019-la[:train|dev|eval], asvspoof2021-la, asvspoof2021-df,
            asvspoof5[:train|dev|eval], in-the-wild, or a folder of audio, with or without a
            protocol. Without a partition, all partitions that are there.
        data: Folder that holds the corpora; default SLSLIB_DATA.
        jobs: Processes; by default one per core, and fewer if there are few files.
        n_samples: Samples at 16 kHz, at the beginning of a file, that the model hears; they must
            not all be silence. The packaged mini hears 32,000.
        allow_silence: Accept silent and very short files.

    Returns:
        A dictionary with these entries.

        * ``sound``: whether there are trials and each has a usable file; ``errors``: one sentence
          if not.
        * ``name``; ``protocol_sha256``: hashes by partition.
        * ``heard_seconds``: length of the beginning that must not be silence.
        * ``n_trials``: number of files that should be there; ``n_usable``: number that can be used;
          ``unusable``: why the others cannot, by utterance.
        * ``sample_rates``, ``channels``, ``formats``, ``states_length`` (false: a cut copy cannot
          be told from a whole one), ``decoders``, ``md5``: number of files by value.
        * ``over_range``: peak and number of samples of each over-range file (``None`` if the
          decoder wraps them).
        * ``duplicates``: groups of utterances with equal samples.
        * ``seconds``: ``min``, ``median``, ``max`` and ``total`` duration.
        * ``missing``: utterances without a file; ``extra``: audio files that no protocol names.

    Raises:
        ProtocolError: The corpus or its protocol is absent or malformed.
        AudioError: A folder holds no audio.
    """
    import pandas as pd
    from joblib import Parallel, delayed
    from tqdm import tqdm

    from slslib.data.audio import Recording, list_recordings
    from slslib.data.corpora import open_partitions
    from slslib.data.isolate import audit

    corpora = open_partitions(corpus, data)
    paths: dict[str, Path] = {}
    missing: list[str] = []
    extra: set[Path] = set()
    for part in corpora:
        for utterance in part.trials["utterance"]:
            try:
                paths[utterance] = part.audio_path(utterance)
            except AudioError:
                missing.append(utterance)
        for folder in part.audio_dirs:
            with suppress(AudioError):  # there is no recording at all
                extra.update(list_recordings(folder))
    name = ", ".join(f"{part.name}:{part.partition}".removesuffix(":-") for part in corpora)
    # Starting a process takes as long as decoding some 80 files.
    n_processes = jobs or min(os.cpu_count() or 1, len(paths) // 100 + 1)
    # Each thread waits for a process that decodes.
    audits = Parallel(n_processes, backend="threading", return_as="generator")(
        delayed(audit)(path, n_samples, allow_silence=allow_silence) for path in paths.values()
    )
    bar = tqdm(audits, total=len(paths), unit="file", desc="verify", disable=None)
    table = pd.DataFrame(map(vars, bar), list(paths), [*vars(Recording(""))], dtype=object)
    usable = table["problem"].isna()
    names = {"source_rate": "sample_rates", "decoder": "decoders"}
    decoded = table[table["n_source_frames"] > 0].rename(columns=names)
    decoded["formats"] = decoded["format"] + "/" + decoded["subtype"]
    decoded["md5"] = decoded["md5"].where(decoded["format"] == "FLAC")
    counted = ("sample_rates", "channels", "formats", "states_length", "decoders", "md5")
    seconds = (decoded["n_source_frames"] / decoded["sample_rates"]).astype(float)
    lengths = seconds.agg(min="min", median="median", max="max", total="sum").fillna(0)
    odd = table[usable & (table["over_range"] != 0)][["peak", "over_range"]]
    same = decoded[decoded["content"] != ""].groupby("content", sort=False).groups
    report = {
        "sound": len(paths) > 0 and not missing and bool(usable.all()),
        "name": name,
        "heard_seconds": n_samples / 16_000,
        "n_trials": len(paths) + len(missing),
        "n_usable": int(usable.sum()),
        "unusable": table["problem"].dropna().to_dict(),
        **{what: decoded[what].value_counts().to_dict() for what in counted},
        "over_range": odd.rename(columns={"over_range": "samples"}).to_dict("index"),
        "duplicates": [list(group) for group in same.values() if len(group) > 1],
        "seconds": lengths.to_dict(),
        "missing": missing,
        "extra": sorted(map(str, extra - {*paths.values()})),
        "protocol_sha256": {part.partition: part.protocol_sha256 for part in corpora},
        "errors": [],
    }
    if not report["sound"]:
        count = f"{report['n_usable']:,} of {report['n_trials']:,} files can be used"
        report["errors"] = [f"{name} is not sound: {count}; replace the others."]
    return report
