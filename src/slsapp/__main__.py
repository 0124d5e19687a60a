"""Serve the page on this machine: ``python -m slsapp [CHECKPOINT ...]``."""

import os
import signal
import sys
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from slslib.errors import ConfigError, SlslibError

_OPEN = "WARNING: {} is open to others, who may send recordings: no password and no encryption."
_QUIET = {"share": False, "ssr_mode": False, "quiet": True, "footer_links": []}


def serve(
    checkpoints: tyro.conf.Positional[tuple[str, ...]] = ("mini",),
    *,
    threshold: tuple[float | Path, ...] = (),
    references: tuple[Path, ...] = (),
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve a page that scores recordings, with one checkpoint or several side by side.

    Args:
        checkpoints: safetensors or .pth file, run folder, hub:owner/name[/file][@revision] or mini.
        threshold: Scores above it are called bona fide; one for each checkpoint, in their order. It
            is a number, or a file that slslib threshold wrote; default as for slslib detect.
        references: Gates of a reference set for each checkpoint, in their order: CSV files of the
            table that slsapp.explain.gate_quantiles returned.
        host: Address to listen at. Any but this machine's own opens the page to others.
        port: Port to listen at.
    """
    import numpy as np
    import pandas as pd
    import soundfile
    from starlette.middleware import Middleware

    from slsapp import page
    from slslib.model.detector import Detector
    from slslib.runs import processes

    if len({*checkpoints}) < len(checkpoints):
        raise ConfigError("a checkpoint is named twice; a page has one column for each")
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: it must lie between 1 and 65535")
    host = "127.0.0.1" if host == "localhost" else host
    if not ip_address(host).is_loopback:
        print(_OPEN.format(host), file=sys.stderr)
    detectors = {name: Detector.load(name).to(processes.start().device) for name in checkpoints}
    if len(threshold) > len(checkpoints):
        raise ConfigError(f"{len(threshold)} thresholds for {len(checkpoints)} checkpoints")
    if len(references) > len(checkpoints):
        raise ConfigError(f"{len(references)} tables of gates for {len(checkpoints)} checkpoints")
    tables = dict(zip(checkpoints, map(pd.read_csv, references), strict=False))
    for file, table in zip(references, tables.values(), strict=True):
        if lacking := {"group", "layer", "count", "5%", "50%", "95%"} - {*table}:
            raise ConfigError(f"{file} lacks the columns {sorted(lacking)} of gate_quantiles")
    with TemporaryDirectory(prefix="slsapp-") as os.environ["GRADIO_TEMP_DIR"]:
        thresholds = dict(zip(checkpoints, threshold, strict=False))
        noise = Path(os.environ["GRADIO_TEMP_DIR"], "noise.wav")
        soundfile.write(noise, np.random.default_rng(0).uniform(-0.1, 0.1, 8_000), 16_000)
        for name, given in thresholds.items():  # refuse now a threshold that does not fit
            page.decide((noise,), detectors[name], given)
        blocks, limit = page.build(detectors, tables, thresholds), page.MEGABYTES << 20
        options = {"server_name": host, "server_port": port, "max_file_size": limit}
        options["app_kwargs"] = {"middleware": [Middleware(page.Guard)]}
        os.environ["no_proxy"] = "*"  # Gradio asks its own page whether it is there
        try:
            blocks.launch(prevent_thread_lock=True, state_session_capacity=20, **options, **_QUIET)
        except OSError as error:
            raise ConfigError(f"cannot listen at {host}:{port}; choose another --port") from error
        print(f"slsapp: {blocks.local_url} (Ctrl-C ends it)", flush=True)
        signal.pause()


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
try:
    tyro.cli(serve, prog="python -m slsapp")
except ImportError as error:
    sys.exit(f'slsapp: {error}; install the extra: pip install -c constraints.txt -e ".[app]"')
except (SlslibError, OSError, ValueError) as error:
    sys.exit(f"slsapp: {error}")
