"""How nvcc is found, what it is asked, and when it is asked again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import sofie
from sofie import cuda_jit
from sofie.compiler import Options, lower
from sofie.emit.cuda import CudaProgram
from tests import models


def program(**options: Any) -> CudaProgram:
    lowered = lower(models.mlp("n"), "m", Options(target="cuda", dims={"n": (1, 3)}, **options))
    assert isinstance(lowered, CudaProgram)
    return lowered


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, a cache of its own, and neither NVCC nor CUDA_HOME."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SOFIE_CACHE", str(tmp_path / "cache"))
    for name in ("NVCC", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def tool(path: Path, version: str, log: Path | None = None) -> None:
    """A program that tells its version; asked otherwise, it logs the words and makes the file behind -o."""
    path.parent.mkdir(parents=True, exist_ok=True)
    act = f'echo "$@" >> {log}; touch "$2"' if log else "exit 1"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "nvcc"; echo "{version}"; else {act}; fi\n')
    path.chmod(0o755)


def test_where_nvcc_is(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolkit that the user has named, passed over for another."""
    with pytest.raises(sofie.SofieError, match="there is no nvcc to compile CUDA: install the CUDA toolkit"):
        cuda_jit.nvcc()
    tool(tools / "nvcc", "1")
    assert cuda_jit.nvcc().command == (str(tools / "nvcc"),)
    home = tmp_path / "toolkit"
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert cuda_jit.nvcc().command == (str(tools / "nvcc"),)
    tool(home / "bin" / "nvcc", "2")
    assert cuda_jit.nvcc().command == (str(home / "bin" / "nvcc"),)
    monkeypatch.setenv("NVCC", "/opt/nvcc -ccbin g++-12")
    assert cuda_jit.nvcc().command == ("/opt/nvcc", "-ccbin", "g++-12")
    with pytest.raises(sofie.SofieError, match="nvcc '/opt/nvcc' does not run: .*; set NVCC to one"):
        cuda_jit.build(program(), "sm_90")


def test_what_is_compiled_once(tools: Path, tmp_path: Path) -> None:
    """Seconds of nvcc for each process; a library of another card, or of another toolkit."""
    log = tmp_path / "log"
    tool(tools / "nvcc", "release 13.0", log)
    made = program()
    first = cuda_jit.build(made, "sm_90")
    assert cuda_jit.build(program(), "sm_90") == first
    assert len(log.read_text().splitlines()) == 1
    assert cuda_jit.build(made, "sm_80") != first
    (tools / "other").mkdir()
    tool(tools / "other" / "nvcc", "release 13.1", log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVCC", str(tools / "other" / "nvcc"))
        assert cuda_jit.build(made, "sm_90") != first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_jit, "FLAGS", ("-O1",))
        assert cuda_jit.build(made, "sm_90") != first
    words = log.read_text().splitlines()
    assert [line.split()[-1] for line in words] == [f"-arch=sm_{k}" for k in (90, 80, 90, 90)]


def test_a_card_of_this_machine_or_one_that_is_named(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a card that nobody has; the code of another machine's card from a cache that both use."""
    log = tmp_path / "log"
    tool(tools / "nvcc", "1", log)
    monkeypatch.setattr(cuda_jit, "cards", lambda: "")
    with pytest.raises(sofie.SofieError, match="there is no GPU on this machine to compile for: name .*arch='sm_90'"):
        cuda_jit.build(program(), "")
    found = []
    for card in ("NVIDIA H200, 9.0", "NVIDIA T4, 7.5"):
        monkeypatch.setattr(cuda_jit, "cards", lambda card=card: card)
        found.append(cuda_jit.build(program(), ""))
    assert len(set(found)) == 2
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["-arch=native"] * 2


def test_cards_are_those_of_nvidia_smi(tools: Path) -> None:
    """A card that is not found."""
    smi = tools / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "NVIDIA H200, 9.0"\necho "NVIDIA T4, 7.5"\n')
    smi.chmod(0o755)
    assert cuda_jit.cards() == "NVIDIA H200, 9.0; NVIDIA T4, 7.5"


@pytest.mark.parametrize("arch", ["90", "sm_9", "sm_90 --run", "sm_90ab"])
def test_an_architecture_has_a_form(arch: str) -> None:
    """Words of the caller that become words of nvcc."""
    with pytest.raises(sofie.SofieError, match=r"write the architecture of a GPU as in --arch sm_90 or sm_90a"):
        sofie.compile(models.mlp(), target="cuda", arch=arch)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_takes_the_unit() -> None:
    """A unit that only g++ compiles: what a launch computes by a function of the device, names of C's own functions."""
    library = cuda_jit.build(program(), "sm_90")
    assert cuda_jit.Unit(library)._error() == b""
    if cuda_jit.cards():
        return
    with pytest.raises(sofie.SofieError, match=r"^the device: (?!unknown)"):
        sofie.compile(models.mlp("n"), dims={"n": (1, 3)}, target="cuda", arch="sm_90")
