"""The whole descent on one page: the named groups, a line and a reason a step.

`fuse` ends at level 2, `lower` at level 4; `--pipeline=fuse,lower` is the way from ONNX to what is printed for a CPU,
`cuda` the one to what is printed for a GPU. A step may be left out with `without=` (or by listing the others by hand)
if it is optional; the law of the level it claims is checked after the last step that claims it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from time import perf_counter

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ArgSpec, ParameterListType, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, VerifyException

from sofie import levels
from sofie.errors import SofieError, printable
from sofie.registry import all_dialects, all_passes
from sofie.rewrite import blame


@dataclass(frozen=True)
class Step:
    """One pass of a group: why it stands here, whether it may be left out, the level it completes, and its options."""

    name: str
    reason: str
    optional: bool = True
    level: str | None = None
    options: Mapping[str, tuple[str | bool, ...]] = field(default_factory=dict)


FUSE = (
    Step("widen-floats", "before anything else, so that all that computes does so on float32", optional=False),
    Step("fuse-qdq", "weights are still integers, and each scale an op of its own"),
    Step("fuse-dequantize", "the rest of the weights that are integers, before they would be folded"),
    Step("fold-constants", "what is known now need not be computed later; shrinks what follows"),
    Step("fuse-fixed", "constants are numbers by now, and no weight has lost its quantisation to a fold"),
    Step("fold-batchnorm", "needs constant scale and offset; before lowering, while layers still have names"),
    Step("sink-gather", "while a product, its weights and what makes its rows are one op each"),
    Step("decompose", "function operators without a lowering become the ones their schema is made of", optional=False),
    Step("lower-onnx", "from operators to structured ops: everything below is one op with maps", optional=False),
    Step("dce", "weights that were folded or re-laid are no longer used"),
    Step("fold-reshape", "keepdims leaves reshapes that would keep ops apart"),
    Step("assign-layouts", "while each reader is an op of its own, and before anything is grouped by its loops"),
    Step("fuse-decode", "what runs over lanes is known, and what decodes a tensor is still an op of its own"),
    Step("fuse-elementwise", "chains become one op, so that the next two passes see one epilogue, not five"),
    Step("fuse-quantize", "the chain from a sum to its byte is one body now"),
    Step("split-reductions", "what is computed of each element of a row is in the reduction's body by now"),
    Step("winograd", "one elementwise op follows each convolution by now; its parts are grouped below"),
    Step("fuse-reduction", "rows: reductions and elementwise ops over the same rows share their outer loops"),
    Step("fuse-epilogue", "bias, activation and residual join the contraction that feeds them", level="tensor"),
    Step("fuse-windows", "groups are whole by now: two of them go together, a panel of channels at a time"),
)
LOWER = (
    Step("widen-floats", "nothing to do after `fuse`; lets `lower` stand alone", optional=False),
    Step("decompose", "nothing to do after `fuse`; lets `lower` stand alone", optional=False),
    Step("lower-onnx", "the same", optional=False, level="tensor"),
    Step("fill-borders", "before destinations: what is padded gets a buffer whose inside is written once"),
    Step("pack-words", "sums of bytes get a loop over words, before their constants are laid out for it"),
    Step("pack-weights", "constants of contractions are laid out for the loop that will run over lanes"),
    Step(
        "assign-destinations", "decides where each result lives, while values still say who reads them", optional=False
    ),
    Step("bufferize", "mechanical: tensors become buffers", optional=False),
    Step("lower-to-blas", "contractions a library does better, if asked; what stood in registers gets buffers"),
    Step("plan-memory", "all buffers share one arena", optional=False, level="buffer"),
    Step("collapse-loops", "on buffers, whose strides say which loops walk as one"),
    Step("partial-sums", "loops are as they will run; sums are still sums, of a length one can read"),
    Step("skip-padding", "on buffers, where all writes into a padded one are seen; loops are as they will run"),
    Step("lower-loops", "each group becomes one nest", optional=False),
    Step(
        "outline-kernels", "one function a kernel; equal kernels are shared, so the rest sees each once", optional=False
    ),
    Step(
        "join-bytes",
        "depthwise sums take up to four rows at a time; while kernels are nests, and weights theirs",
        options={"lanes": (True,)},
    ),
    Step("dot-words", "loops over words become one operation, before rows and lanes are chosen"),
    Step("split-threads", "if asked, large kernels become parts; before lanes, which only see the part"),
    Step("vectorize", "lanes and register tiles, for nests that still say which loops are parallel", level="loop"),
    Step(
        "widen-words", "which rows share words can be seen once they are tiles; before anything else is in their loops"
    ),
    Step("prefetch", "where rows pass over a panel can be seen once they are tiles"),
    Step("round-lanes", "which bytes are stored side by side can be seen once they are vectors"),
)
CUDA = (
    *FUSE[: [step.name for step in FUSE].index("assign-layouts")],
    Step("fuse-decode", "as for a CPU, and tensor cores multiply what is computed too", options={"values": ("all",)}),
    Step("fold-transpose", "a launch less: whoever reads it can do so in any order"),
    Step("fuse-elementwise", "as for a CPU: chains become one op"),
    Step("fuse-quantize", "the same: few cards are quick at float64"),
    Step("fuse-reduction", "rows: what belongs to a row is one kernel"),
    Step("fuse-epilogue", "bias, activation and residual join the contraction that feeds them", level="tensor"),
    Step("assign-destinations", "as for a CPU", optional=False),
    Step("bufferize", "the same", optional=False),
    Step("plan-memory", "one arena, on the device", optional=False, level="buffer"),
    Step("collapse-loops", "fewer loops are fewer divisions of a thread's number"),
    Step("partial-sums", "sums are as near to the truth as on a CPU"),
    Step("lower-loops", "each group becomes one nest", optional=False),
    Step("outline-kernels", "one function a kernel", optional=False, level="loop"),
    Step("split-launches", "a launch a nest: only between launches does every thread see all", optional=False),
    Step("fuse-layers", "rows of a batch go through dense layers in a block's memory; while layers are kernels"),
    Step("guard-padding", "a launch and a way through memory less, for a comparison a load"),
    Step("join-bytes", "products of bytes take four at a time; while kernels are nests, and weights theirs"),
    Step("transpose-weights", "rows of weights lie side by side for those who share them"),
    Step("merge-launches", "a barrier is cheaper than a launch; while small kernels are whole"),
    Step("map-tiles", "contractions with many results; while nests are whole"),
    Step("map-rows", "short of rows, a warp or a block works on each; while nests are whole"),
    Step("map-gpu", "what has no schedule yet: an iteration a thread", optional=False, level="gpu"),
)
GROUPS: dict[str, tuple[Step, ...]] = {"fuse": FUSE, "lower": LOWER, "cuda": CUDA}
DEFAULT, GPU = "fuse,lower", "cuda"
"""The pipelines of the targets."""


@dataclass(frozen=True)
class Stage:
    """A pass ready to run, and the level whose law holds after it."""

    instance: ModulePass
    level: str | None


def parse(spec: str, without: Iterable[str] = (), options: dict[str, ArgSpec] | None = None) -> list[Stage]:
    """The stages of a comma-separated list of groups and passes with options in braces.

    `without` leaves optional steps out; `options` adds options to passes by name. Raises SofieError on unknown names
    and on options that no pass of a group declares.
    """
    left_out = set(without)
    known = {s.name: s for group in GROUPS.values() for s in group}
    if bad := sorted(n for n in left_out if n not in known or not known[n].optional):
        raise SofieError(f"{printable(bad[0])!r} cannot be left out; optional are {', '.join(optional_passes())}")
    stages: list[Stage] = []
    try:
        items = list(parse_pipeline(spec))
    except ArgSpecParseError as error:
        said = " ".join(str(error).split())
        raise SofieError(f"the pipeline {printable(spec)!r} cannot be read: {printable(said)}") from error
    for item in items:
        if item.name in GROUPS:
            stages += _group(item, left_out, options or {})
        else:
            stages.append(Stage(_instantiate(item), None))
    return _claims_once(stages)


def _claims_once(stages: Sequence[Stage]) -> list[Stage]:
    """A level that an earlier stage completes is not completed again by one that then has nothing to do."""
    claimed: set[str | None] = {None}
    found = []
    for stage in stages:
        found.append(Stage(stage.instance, None if stage.level in claimed else stage.level))
        claimed.add(stage.level)
    return found


def optional_passes() -> list[str]:
    """The steps of the groups that may be left out without changing a result."""
    return list(dict.fromkeys(s.name for group in GROUPS.values() for s in group if s.optional))


def _group(item: ArgSpec, left_out: set[str], options: dict[str, ArgSpec]) -> list[Stage]:
    given = dict(item.parameters)
    stages = []
    for step in GROUPS[item.name]:
        mine = {f.name.replace("_", "-") for f in fields(_pass_class(step.name))}
        args: dict[str, ParameterListType] = {**step.options}
        args |= {k: v for k, v in given.items() if k.replace("_", "-") in mine}
        if step.name in options:
            args |= options[step.name].parameters
        if step.name not in left_out:
            stages.append(Stage(_instantiate(ArgSpec(step.name, args)), step.level))
        elif step.level is not None and stages:
            stages[-1] = Stage(stages[-1].instance, step.level)
    declared = {f.name.replace("_", "-") for s in GROUPS[item.name] for f in fields(_pass_class(s.name))}
    if unknown := [k for k in given if k.replace("_", "-") not in declared]:
        raise SofieError(f"no pass of {item.name!r} has an option {printable(unknown[0])!r}")
    return stages


def _pass_class(name: str) -> type[ModulePass]:
    factory = all_passes().get(name)
    if factory is None:
        close = ", ".join([*GROUPS, *sorted({s.name for s in (*FUSE, *LOWER)})])
        raise SofieError(f"there is no pass {printable(name)!r}; SOFIE's groups and passes are {close}")
    return factory()


def _instantiate(item: ArgSpec) -> ModulePass:
    try:
        return _pass_class(item.name).from_spec(item)
    except SofieError:
        raise
    except Exception as error:
        raise SofieError(f"pass {item.name!r}: {printable(str(error))}") from error


def context() -> Context:
    """A context that knows every dialect, each loaded when it is first met."""
    ctx = Context()
    for name, factory in all_dialects().items():
        ctx.register_dialect(name, factory)
    return ctx


Observer = Callable[[ModulePass, ModuleOp, float], None]


def run(
    module: ModuleOp,
    stages: Sequence[Stage],
    ctx: Context | None = None,
    verify_each: bool = False,
    observe: Observer | None = None,
    stop_after: str | None = None,
) -> None:
    """Runs the stages on `module`, in place.

    Checks the law of a level after the stage that completes it, and verifies there (after every stage with
    `verify_each`). `observe` is told each pass, the module and the seconds it took; `stop_after` names a level.
    """
    ctx = ctx or context()
    for stage in stages:
        start = perf_counter()
        stage.instance.apply(ctx, module)
        seconds = perf_counter() - start
        if verify_each or stage.level is not None:
            verify(module, f"after {stage.instance.name}")
        if stage.level is not None:
            levels.check(module, stage.level)
        if observe is not None:
            observe(stage.instance, module, seconds)
        if stop_after is not None and stage.level == stop_after:
            return


def verify(module: ModuleOp, when: str) -> None:
    """xDSL's verifier with its report cut down to a sentence; raises SofieError."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except (VerifyException, ValueError) as error:
            reason = str(error).splitlines()
            last = next((line for line in reversed(reason) if line.strip()), "it is malformed")
            raise SofieError(
                f"{when}: {blame(op)} ({op.name}) does not verify: {printable(last.strip(' ^|'), 200)}"
            ) from error
