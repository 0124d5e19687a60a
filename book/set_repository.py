"""Give the book the address of its public repository: launch buttons, and notebooks that install.

    python book/set_repository.py https://github.com/OWNER/slslib

Run once, where the project is published, and again when the address changes. `_config.yml` then
asks for buttons to Colab, Binder (in JupyterLab) and the source of each page. The first code cell
of each notebook fetches and installs the project where `slslib` cannot be imported, which is on
Colab; Binder installs `environment.yml`. Where `slslib` is installed these lines do nothing, and
the outputs and numbers of the cells stay.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
# Written by book/set_repository.py.
repository:
  url: {address}
  branch: {branch}
  path_to_book: ""

launch_buttons:
  notebook_interface: jupyterlab
  binderhub_url: https://mybinder.org
  colab_url: https://colab.research.google.com
"""
# With the simulated corpus, which every notebook falls back to. Not editable: a running interpreter
# does not see what is added to its path.
INSTALL = """\
import importlib.util

if importlib.util.find_spec("slslib") is None:  # on Colab: fetch and install the project
    %system git clone --quiet --branch {branch} {address} slslib
    %cd -q slslib/notebooks
    %pip install --quiet ..[minispoof]

"""


def pattern(template: str) -> re.Pattern[str]:
    """Return what finds the template's text with any address."""
    return re.compile(re.sub(r"\\{\w+\\}", r"\\S+", re.escape(template)))


def set_repository(root: Path, address: str, branch: str) -> None:
    """Write the address into the configuration and into every notebook."""
    config = root / "_config.yml"
    text = pattern(CONFIG).sub("", config.read_text(encoding="utf-8"))
    config.write_text(text + CONFIG.format(address=address, branch=branch), encoding="utf-8")
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        source = pattern(INSTALL).sub("", "".join(first["source"]))
        source = INSTALL.format(address=address, branch=branch) + source
        first["source"] = source.splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="https://github.com/OWNER/NAME")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    args = parser.parse_args()
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", args.address):
        parser.error(f"not https://github.com/OWNER/NAME: {args.address}")
    if not re.fullmatch(r"[\w./-]+", args.branch):
        parser.error(f"no name of a branch: {args.branch!r}")
    set_repository(args.root, args.address.removesuffix(".git"), args.branch)


if __name__ == "__main__":
    main()
