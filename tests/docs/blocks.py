"""Runs the code blocks of a page of docs/, from top to bottom, in a folder of their own.

    ```sh                       runs; lines that install something are left out
    ```python                   runs; all of a page share their names
    ```cpp title="main.cpp"     is written to the file, in any language; where the file is there already, the block is
                                an excerpt of it, and each of its declarations must stand there
    ```toml, ```json, ```yaml   is read by a parser

A comment `<!-- sh ... -->` or `<!-- python ... -->` runs and is not shown; `<!-- needs NAME -->` says that the next
block only runs where NAME is: a module of Python, a command, or `card`. Blocks in `text` or in no language are no code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_STEP = re.compile(
    r'^(?P<indent> *)```(?P<language>[\w+]*)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<code>.*?)^(?P=indent)```$'
    r"|^<!-- (?P<unseen>sh|python)\n(?P<hidden>.*?)-->$|^<!-- needs (?P<needs>\S+) -->$",
    re.DOTALL | re.MULTILINE,
)
_INSTALLS = re.compile(r"^(pip install|python3? -m (venv|pip)|apt-get) ?[^\n]*\n", re.MULTILINE)
PROSE = ("", "text")


@dataclass(frozen=True)
class Block:
    """A block of code, or what runs unseen: its line, language, the file that it is or goes into, what it needs."""

    line: int
    language: str
    title: str
    code: str
    needs: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page in order."""
    needs = ""
    for match in _STEP.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["needs"]:
            needs = match["needs"]
        elif match["hidden"] is not None:
            yield Block(line, match["unseen"], "", match["hidden"])
        else:
            indent = len(match["indent"])
            code = "".join(row[indent:] for row in match["code"].splitlines(keepends=True))
            yield Block(line, match["language"], match["title"] or "", code, needs)
            needs = ""


def there(needs: str) -> bool:
    """Whether what a block needs is on this machine."""
    if needs == "card":
        return shutil.which("nvidia-smi") is not None
    return not needs or shutil.which(needs) is not None or importlib.util.find_spec(needs) is not None


def run(page: str, folder: Path) -> None:
    """Runs a page. Raises AssertionError with the line of the block that fails."""
    path = folder / "page.json"
    text = (DOCS / page).read_text()
    path.write_text(json.dumps([vars(block) for block in blocks(text) if there(block.needs)]))
    # the commands `sofie` and `sofie-opt` are those of this Python
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-m", "tests.docs.blocks", str(path)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a page leaves running
    assert process.returncode == 0, f"docs/{page}: {printed[-1500:]}\n{errors[-3000:]}"


def _main(path: Path) -> None:
    """Runs the blocks of a file, in the working directory."""
    names: dict[str, object] = {"__name__": "__main__"}
    for fields in json.loads(path.read_text()):
        block = Block(**fields)
        print(f"line {block.line}: {block.language} {block.title}", flush=True)
        _step(block, names)


def _step(block: Block, names: dict[str, object]) -> None:
    """Runs, writes, compares or parses one block."""
    if block.language in PROSE:
        return
    if block.title:
        _file(block, Path(block.title))
    elif block.language == "sh":
        code = _INSTALLS.sub("", block.code)
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    elif block.language == "python":
        exec(compile(block.code, f"line {block.line}", "exec"), names)
    elif block.language in ("json", "toml"):
        {"json": json.loads, "toml": tomllib.loads}[block.language](block.code)
    else:
        raise AssertionError(f"line {block.line}: a block in {block.language} needs a title, to be written to a file")


def _file(block: Block, path: Path) -> None:
    """Writes a block to a file, or finds its declarations in the one that is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)
        return
    text = _plain(path.read_text())
    for declaration in filter(None, map(str.strip, _plain(block.code).split(";"))):
        assert declaration in text, f"line {block.line}: {path} has no {declaration!r}"


def _plain(code: str) -> str:
    """C++ without comments, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"//[^\n]*", "", code)).replace("( ", "(")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
