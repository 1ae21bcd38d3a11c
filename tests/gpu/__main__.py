"""`python -m tests.gpu prepare|run|import`: correctness and speed on a card; see docs/testing.md.

`run` needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    if words[:1] == ["run"]:
        from tests.gpu import run

        return run.main(words[1:])
    parser = argparse.ArgumentParser("python -m tests.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run a folder on this machine's card")
    prepare = commands.add_parser("prepare", help="build a folder for a machine with a card; needs nvcc and no card")
    prepare.add_argument("folder", type=Path)
    prepare.add_argument("models", nargs="*", metavar="MODEL", help="[default: all]")
    prepare.add_argument("--arch", default="sm_90", help="the card's architecture [default: sm_90]")
    imported = commands.add_parser("import", help="write the section `On a GPU` of performance.md")
    imported.add_argument("numbers", type=Path, metavar="gpu.json")
    imported.add_argument("--write", type=Path, default=Path("docs"), metavar="FOLDER", help="[default: docs]")
    given = parser.parse_args(words)
    if given.command == "import":
        from tests.gpu.report import write_section

        write_section(given.numbers, given.write)
        return 0
    return _prepare(parser, given)


def _prepare(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from sofie.errors import SofieError
    from tests.gpu.prepare import prepare
    from tests.gpu.workloads import WORKLOADS

    if unknown := [name for name in given.models if name not in WORKLOADS]:
        parser.error(f"there is no model {unknown[0]}; there are {', '.join(WORKLOADS)}")
    try:
        prepare(given.folder, given.arch, given.models or list(WORKLOADS))
    except SofieError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
