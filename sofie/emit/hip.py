"""Writes a program for HIP, AMD's dialect of CUDA: the same text with other names.

Kernels that reduce between lanes say between how many, 32, so that they are right where a wavefront has 64:
`__shfl_xor` with a width of 32 stays in its half.
"""

from __future__ import annotations

import re
from typing import ClassVar

from sofie.emit.cuda import CudaProgram
from sofie.errors import SofieError

_SAME = """
DeviceSynchronize ErrorNotReady Error_t Event EventCreateWithFlags EventDestroy EventDisableTiming EventQuery
EventRecord Event_t Free FuncAttributeMaxDynamicSharedMemorySize FuncSetAttribute GetDevice GetErrorString
GetLastError GraphDestroy GraphExecDestroy GraphExec_t GraphInstantiateWithFlags GraphLaunch Graph_t Malloc
Memcpy MemcpyAsync MemcpyDeviceToDevice MemcpyDeviceToHost MemcpyHostToDevice MemsetAsync SetDevice
StreamBeginCapture StreamCaptureModeThreadLocal StreamCaptureStatus StreamCaptureStatusActive
StreamCaptureStatusNone StreamCreateWithFlags StreamDestroy StreamEndCapture StreamIsCapturing
StreamNonBlocking StreamSynchronize StreamWaitEvent Stream_t Success
"""
NAMES = {f"cuda{name}": f"hip{name}" for name in _SAME.split()} | {
    "CUDA": "HIP",
    "__CUDACC__": "__HIPCC__",
    "__CUDA_ARCH__": "__HIP_DEVICE_COMPILE__",
    "cuda_runtime": "hip/hip_runtime",
}
"""HIP's words for CUDA's."""
_SHUFFLES = {f"__shfl{kind}_sync": f"__shfl{kind}" for kind in ("", "_xor", "_down", "_up")}
"""Between all lanes: HIP has no mask, and a wavefront of 32 or 64 lanes unless the width is told."""
WARP = 32

_ALIGNED = re.compile(r"\b__align__\((\d+)\)")
_WORD = re.compile(r'"(?:[^"\\\n]|\\.)*"|\w+')


def in_hip(text: str) -> str:
    """A text for CUDA with HIP's names; what stands in string literals is the model's.

    Raises SofieError where a kernel holds PTX, the instructions of NVIDIA's GPUs.
    """
    if re.search(r"\basm volatile\(", text):
        raise SofieError("kernels of this model hold PTX, instructions of NVIDIA's GPUs: compile it with --target cuda")

    def renamed(match: re.Match[str]) -> str:
        return NAMES.get(match[0], match[0])

    return _ALIGNED.sub(r"__attribute__((aligned(\1)))", _WORD.sub(renamed, _shuffled(text)))


def _shuffled(text: str) -> str:
    """`__shfl_xor_sync(mask, x, lane)` becomes `__shfl_xor(x, lane, 32)`."""
    found = re.search(rf"\b({'|'.join(_SHUFFLES)})\(", text)
    if found is None:
        return text
    arguments, end = _arguments(text, found.end())
    _, *rest = arguments
    rest = [_shuffled(part) for part in (rest if len(rest) == 3 else [*rest, str(WARP)])]
    return f"{text[: found.start()]}{_SHUFFLES[found[1]]}({', '.join(rest)}){_shuffled(text[end:])}"


def _arguments(text: str, start: int) -> tuple[list[str], int]:
    """The arguments of a call that begin at `start`, and the place behind its bracket."""
    parts, depth, begin = [], 0, start
    for place in range(start, len(text)):
        letter = text[place]
        if depth == 0 and letter in ",)":
            parts.append(text[begin:place].strip())
            begin = place + 1
            if letter == ")":
                return parts, begin
        depth += (letter in "([{") - (letter in ")]}")
    raise AssertionError("a call is not closed")


class HipProgram(CudaProgram):
    """The same module as a header for hipcc."""

    suffix: ClassVar[str] = ".hip.hxx"
    target: ClassVar[str] = "hip"
    command: ClassVar[str] = "hipcc -std=c++17 -O3 --offload-arch={arch}"

    def header(self, embed: bool = False, profile: bool = False) -> str:
        """The .hip.hxx, which holds what a .cuh does."""
        return in_hip(super().header(embed, profile))
