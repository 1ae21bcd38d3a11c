"""Runs a prepared folder on a machine with a card: needs its driver and Python's standard library, nothing else.

`python3 FOLDER/run.py`, or `python -m tests.gpu run FOLDER`. Its last words are a table; `gpu.json` goes to the folder
$OUT, or stays here. It ends with 1 where a number is wrong or a model did not run.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

PEERS = ("torch", "torch-graph", "onnxruntime", "torch-compile")
"""What `peers.py` knows, the slowest to build last."""

Content = dict[str, Any]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("run.py", description=__doc__.split("\n")[0] if __doc__ else None)
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here, help="what `prepare` made [default: this one]")
    parser.add_argument("--models", help="comma-separated [default: all]")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"comma-separated, of {','.join(PEERS)}; or none")
    parser.add_argument("--seconds", type=float, default=450, help="when all ends [default: 450]")
    parser.add_argument("--model-seconds", type=float, default=30, help="the most for a model [default: 30]")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Runs all, writes gpu.json after each part, prints the table."""
    given, start = parse(words), time.monotonic()
    folder = given.folder.resolve()
    into = Path(os.environ.get("OUT") or folder)
    content: Content = json.loads((folder / "models.json").read_text())
    known, wanted = content["models"], given.models.split(",") if given.models else list(content["models"])
    if unknown := [name for name in wanted if name not in known]:
        print(f"there is no model {unknown[0]}; the folder has {', '.join(known)}", file=sys.stderr)
        return 2
    content["models"] = {name: known[name] for name in wanted}
    content["date"], content["driver"] = time.strftime("%Y-%m-%d"), driver()
    content["ceilings"] = ceilings(folder)
    ours(folder, content["models"], given.model_seconds, start + given.seconds)
    content["floor"] = {name: floor(about, content["ceilings"]) for name, about in content["models"].items()}
    write(content, into)
    print(table(content), flush=True)
    content["peers"], content["absent"] = {}, {}
    if cublas := content["ceilings"].get("cublas"):
        content["peers"]["cublas"] = {name: {"us": us} for name, us in cublas.items()}
    else:
        content["absent"]["cublas"] = content["ceilings"].get("cublas_absent", "not measured")
    for peer in [name for name in given.peers.split(",") if name in PEERS]:
        left = given.seconds - (time.monotonic() - start)
        content["peers"][peer], why = times_of(folder, peer, wanted, left)
        if why:
            content["absent"][peer] = why
        write(content, into)
    print(table(content))
    print("\n".join(notes(content)))
    return 0 if all(about.get("right") for about in content["models"].values()) else 1


def write(content: Mapping[str, Any], into: Path) -> None:
    """Writes gpu.json: what is known so far."""
    (into / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(folder: Path, models: Mapping[str, Content], limit: float, end: float) -> None:
    """Checks and times every model until the end, and adds what its program tells, or `failed` with the reason."""
    program = runnable(folder / "models")
    with tempfile.TemporaryDirectory() as scratch:
        for name, about in models.items():
            data = Path(scratch, f"{name}.dat")
            data.write_bytes(lzma.decompress((folder / f"{name}.dat.xz").read_bytes()))
            shutil.copy(folder / f"{name}.expected", scratch)
            left = min(limit, end - time.monotonic())
            about |= told([str(program), scratch, name], left) if left > 0 else {"failed": "no time was left"}
            data.unlink()
            print(f"{name}: {about.get('failed') or about.get('us')}", file=sys.stderr, flush=True)


def told(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Content:
    """The line of JSON that a program prints, or `failed` with what it says instead."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.3g} s"}
    except OSError as error:
        return {"failed": str(error)}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode not in (0, 1) or not lines:
        said = done.stderr.strip().splitlines()
        return {"failed": said[-1] if said else f"ended with {done.returncode}"}
    found: Content = json.loads(lines[-1])
    return found


def runnable(program: Path) -> Path:
    """A program that may be run: a copy of a folder may have lost the mark."""
    program.chmod(0o755)
    return program


# -- the card ----------------------------------------------------------------------------------------------------------


def driver() -> str:
    """The version of the card's driver; empty where nothing tells."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip().split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def ceilings(folder: Path) -> Content:
    """What the card can do at most; `failed` where it cannot be measured."""
    places = [Path(entry) for entry in sys.path if entry]
    found = [str(path) for place in places for path in place.glob("nvidia/*/lib/libcublas.so.*")]
    beside = {"LD_LIBRARY_PATH": ":".join([*{str(Path(path).parent) for path in found}, *_library_paths()])}
    return told([str(runnable(folder / "ceilings")), *found[:1]], 60, beside)


def _library_paths() -> list[str]:
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]


def floor(about: Mapping[str, Any], limits: Mapping[str, Any]) -> Content:
    """The least time of a call in us, and what binds: operations, each byte once, or launches one behind the other."""
    if "gigaflops" not in limits:
        return {}
    sizes, rates = zip(*limits["gigabytes_per_second"], strict=True)
    rate = rates[min(bisect_left(sizes, about["moved"]), len(sizes) - 1)]
    launches = max(about["launches"], 1)
    graph = limits["graph_us"] + (launches - 1) * limits["node_us"]
    times = {
        "flops": about["flops"] / limits["gigaflops"] * 1e-3,
        "memory": about["moved"] / rate * 1e-3,
        "launches": graph if about["graph"] else launches * limits["launch_us"],
    }
    bound = max(times, key=lambda name: times[name])
    return {"us": times[bound], "bound": bound}


# -- peers -------------------------------------------------------------------------------------------------------------


def times_of(folder: Path, peer: str, models: Sequence[str], limit: float) -> tuple[dict[str, Content], str]:
    """What a peer tells of each model before its time is over, and why it is not there or not done."""
    if limit < 5:
        return {}, "no time was left"
    command = [sys.executable, str(folder / "peers.py"), str(folder), peer, ",".join(models)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        said, errors = process.communicate(timeout=limit)
        why = (
            "" if process.returncode == 0 else (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        )
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a compiler has processes of its own
        said, why = process.communicate()[0], "the time was over"
    found: dict[str, Content] = {}
    for line in _objects(said):
        if "absent" in line:
            return {}, str(line["absent"])
        found[line.pop("model")] = line
    return found, why


def _objects(text: str) -> Iterator[Content]:
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


# -- the table ---------------------------------------------------------------------------------------------------------


def table(content: Mapping[str, Any]) -> str:
    """A line a model: right or wrong, microseconds, and ours over the floor and over each peer that ran."""
    peers = [name for name, times in content.get("peers", {}).items() if any("us" in t for t in times.values())]
    rows = [["model", "", "error", "us", "waited", "floor", "bound by", "/floor", *(f"/{name}" for name in peers)]]
    ratios: dict[str, list[float]] = {name: [] for name in ("floor", *peers)}
    for name, about in content["models"].items():
        least, us = content["floor"].get(name, {}), about.get("us")
        state = "right" if about.get("right") else "FAILED" if "failed" in about else "WRONG"
        row = [name, state, _error(about), _us(us), _us(about.get("wait_us")), _us(least.get("us"))]
        row.append(least.get("bound", "-"))
        for other, times in [("floor", least), *((peer, content["peers"][peer].get(name, {})) for peer in peers)]:
            ratio = us / times["us"] if us and times.get("us") else None
            ratios[other] += [ratio] if ratio else []
            row.append("-" if ratio is None else f"{ratio:.2f}")
        rows.append(row)
    means = [f"{geometric_mean(found):.2f}" if found else "-" for found in ratios.values()]
    rows.append(["geometric mean", *[""] * 6, *means])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def notes(content: Mapping[str, Any]) -> list[str]:
    """What did not run, and why."""
    found = [f"{name}: {about['failed']}" for name, about in content["models"].items() if "failed" in about]
    found += [f"ceilings: {content['ceilings']['failed']}"] if "failed" in content["ceilings"] else []
    found += [f"{peer}: {why}" for peer, why in content["absent"].items()]
    for peer, times in content["peers"].items():
        found += [f"{peer}: {name}: {about['failed']}" for name, about in times.items() if "failed" in about]
    return [line[:200] for line in found]


def _error(about: Mapping[str, Any]) -> str:
    if "right" not in about:
        return "-"
    return "no number" if about["error"] is None else f"{about['error']:.1e}"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
