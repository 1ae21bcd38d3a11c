"""`sofie-opt`: xDSL's optimiser with ONNX models as input, SOFIE's groups of passes, and weights beside the text.

A module printed with `-o x.mlir` leaves its large weights in `x.mlir.weights`, and reading `x.mlir` finds them there.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import IO, ClassVar, NoReturn

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.utils.arg_spec import ArgSpec, parse_spec
from xdsl.utils.exceptions import DiagnosticException, ParseError
from xdsl.utils.target import Target
from xdsl.xdsl_opt_main import xDSLOptMain

import sofie
from sofie import levels, pipeline, registry
from sofie.cli import options
from sofie.cli.failure import MISUSED, report, sentence
from sofie.errors import SofieError, printable
from sofie.files import write
from sofie.frontends.formats import READERS
from sofie.naming import identifier
from sofie.passes.vectorize import Vectorize
from sofie.weights import Array, Blob, WeightStore

PROGRAM = "sofie-opt"
SUFFIX = ".weights"
_DIGEST = re.compile(r'<"([0-9a-f]{64})">')


class SofieOptMain(xDSLOptMain):
    """xDSL's driver: the same options and passes, and what the module's docstring names."""

    version_format: ClassVar[str] = f"{PROGRAM} {sofie.__version__} (xDSL {{xdsl_version}})"
    stages: list[pipeline.Stage]

    # -- what there is -------------------------------------------------------------------------------------------------

    def register_all_dialects(self) -> None:
        """All of `sofie.registry`."""
        self.ctx = pipeline.context()

    def register_all_passes(self) -> None:
        """All of `sofie.registry`."""
        self.available_passes |= registry.all_passes()

    def register_all_targets(self) -> None:
        """xDSL's, `cpp`, `cuda`, `onnx` and `upstream-mlir`."""
        super().register_all_targets()  # type: ignore[no-untyped-call]
        self.available_targets |= {CppTarget.name: lambda: CppTarget, CudaTarget.name: lambda: CudaTarget}
        self.available_targets |= {OnnxTarget.name: lambda: OnnxTarget, UpstreamTarget.name: lambda: UpstreamTarget}

    def register_all_frontends(self) -> None:
        """`.mlir` with its weights, `.onnx`, and the other formats of models."""
        super().register_all_frontends()  # type: ignore[no-untyped-call]
        for ending in (".onnx", *READERS):
            self.available_frontends[ending.removeprefix(".")] = self._read_onnx

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        """xDSL's, `--pipeline` as the long name of `-p`, and what ONNX models and levels need."""
        super().register_all_arguments(arg_parser)
        arg_parser.error = _misused  # type: ignore[method-assign]  # one line, without the usage
        add = arg_parser.add_argument
        add(
            "--pipeline", dest="passes", metavar="SPEC", help="groups (fuse, lower, cuda) and passes, options in braces"
        )
        add("--stop-after", choices=list(levels.LEVELS), metavar="LEVEL", help="onnx, tensor, buffer, loop or gpu")
        add("--verify-each", action="store_true", help="verify after every pass, not only where a level is complete")
        add("--dim", action="append", default=[], metavar="NAME=N", help="size of a free dimension of an ONNX model")
        add("--set", action="append", default=[], metavar="INPUT=VALUE", help="turn an input into a constant")
        add("--weights", type=Path, metavar="FILE", help="weights of the input, if not beside it")
        add("--debug", action="store_true", help="show the traceback of an error")

    # -- what runs -----------------------------------------------------------------------------------------------------

    def setup_pipeline(self) -> None:
        """The stages to run."""
        try:
            self.dims, self.values = options.dims(self.args.dim), options.values(self.args.set)
        except ValueError as error:
            _misused(str(error))
        default = pipeline.GPU if self.args.stop_after == "gpu" else pipeline.DEFAULT
        spec = self.args.passes or (default if self.args.stop_after else "")
        self.stages = pipeline.parse(spec) if spec else []
        self.args.target = self._completed_target()
        level = self.args.stop_after
        if level not in (None, "onnx") and level not in {stage.level for stage in self.stages}:
            raise SofieError(f"--stop-after {level}: no pass of {printable(spec)!r} completes that level")

    def _completed_target(self) -> str:
        """The target; `cpp` learns the model's name from the file and the CPU from the pipeline."""
        spec = parse_spec(self.args.target)
        name = identifier(Path(self.args.input_file or "-").stem, "model")
        if spec.name == CudaTarget.name and not spec.parameters:
            return str(ArgSpec(spec.name, {"model": (name,)}))
        if spec.name != CppTarget.name:
            return str(self.args.target)
        cpus = [stage.instance.cpu for stage in self.stages if isinstance(stage.instance, Vectorize)]
        known = {"model": (name,), "cpu": (*cpus[-1:],)}
        completed = ArgSpec(spec.name, {k: v for k, v in {**known, **spec.parameters}.items() if v})
        try:
            CppTarget.from_spec(completed)
        except ValueError as error:
            raise SofieError(f"-t {printable(self.args.target)}: {printable(str(error))}") from error
        return str(completed)

    def run(self) -> None:
        """Reads, transforms and prints each chunk; a file is written when all is well."""
        chunks, extension = self.prepare_input()
        texts = []
        self.blobs: dict[str, Blob] = {}
        for chunk, offset in chunks:
            with chunk, self._diagnostics(offset):
                module = self.parse_chunk(chunk, extension, offset)
                assert module is not None
                self.apply_passes(module)
                texts.append(self.output_resulting_program(module))
                self.blobs |= {blob.digest: blob for blob in blobs_of(module)}
        if parse_spec(self.args.target).name == OnnxTarget.name:
            self._write_model(texts)
        else:
            self._write("// -----\n".join(texts))

    def apply_passes(self, prog: ModuleOp) -> None:
        """Runs the stages, with the reports that were asked for."""
        times: list[tuple[str, float]] = []
        last = self.stages[-1].instance if self.stages else None

        def observe(done: ModulePass, module: ModuleOp, seconds: float) -> None:
            times.append((done.name, seconds))
            if self.args.print_between_passes and done is not last:
                print(f"IR after {done.name}:\n{printed(module)}\n\n\n")

        if not self.args.disable_verify:
            pipeline.verify(prog, "as read")
        if self.args.stop_after != "onnx":
            pipeline.run(prog, self.stages, self.ctx, self.args.verify_each, observe, self.args.stop_after)
        if not self.args.disable_verify:
            pipeline.verify(prog, "at the end")
        if self.args.time_passes:
            _show_times(times)

    @contextmanager
    def _diagnostics(self, offset: int) -> Iterator[None]:
        """Errors that are the expected output of a test are printed."""
        try:
            yield
        except ParseError as error:
            error.span = dataclasses.replace(error.span, line_offset=offset)
            if not self.args.parsing_diagnostics:
                raise
            print(error)
        except (DiagnosticException, SofieError) as error:
            if not self.args.verify_diagnostics:
                raise
            print(error)

    # -- files ---------------------------------------------------------------------------------------------------------

    def prepare_input(self) -> tuple[list[tuple[IO[bytes], int]], str]:
        """The chunks of the input and what reads them. Raises SofieError where its ending does not say."""
        if self.args.frontend is None and self.args.input_file not in (None, "-"):
            ending = Path(self.args.input_file).suffix.removeprefix(".")
            if ending not in self.available_frontends and Path(self.args.input_file).is_file():
                name = printable(self.args.input_file)
                raise SofieError(f"{name!r} ends in neither .mlir nor .onnx: say with -f mlir or -f onnx what it is")
        return super().prepare_input()

    def get_input_stream(self) -> tuple[IO[bytes], str]:
        """The input; `-` is standard input."""
        if self.args.input_file == "-":
            self.args.input_file = None
        return super().get_input_stream()

    def parse_chunk(self, chunk: IO[bytes], file_extension: str, start_offset: int = 0) -> ModuleOp | None:
        """The module of a chunk, with the weights that lie beside the file."""
        from sofie.dialects.sofie import active_weights

        token = active_weights.set(self._weights())
        try:
            return super().parse_chunk(chunk, file_extension, start_offset)
        except DiagnosticException as error:  # an attribute's own verifier does not know where it stands
            raise SofieError(f"{printable(self.args.input_file or 'stdin')}: {sentence(error)}") from error
        finally:
            active_weights.reset(token)

    def _read_onnx(self, stream: IO[bytes]) -> ModuleOp:
        from sofie.frontends.onnx import load

        source = self.args.input_file  # by its path, since a model may have data files beside it
        return load(source if source is not None else stream.read(), self.dims, self.values)

    def _weights(self) -> WeightStore | None:
        from sofie import weight_file

        path: Path | None = self.args.weights
        if path is None and self.args.input_file is not None:
            beside = Path(self.args.input_file + SUFFIX)
            path = beside if beside.exists() else None
        try:
            return None if path is None else WeightStore.from_arrays(weight_file.read(path))
        except weight_file.WeightFileError as error:
            raise SofieError(f"{printable(str(error), 300)}: write the pair again") from error

    def _write(self, text: str) -> None:
        if self.args.output_file is None:
            sys.stdout.write(text)
            return
        target = Path(self.args.output_file)
        digests = dict.fromkeys(_DIGEST.findall(text))
        blobs = [self.blobs[digest] for digest in digests if digest in self.blobs]
        if arrays := [(blob.digest, blob.array) for blob in blobs if blob.array is not None]:
            self._write_weights(Path(f"{target}{SUFFIX}"), arrays)
        write(target, text.encode())

    def _write_model(self, models: Sequence[str]) -> None:
        if len(models) != 1:
            raise SofieError(f"-t {OnnxTarget.name} writes one model, and the input has {len(models)} modules")
        content = models[0].encode(OnnxTarget.encoding)
        if self.args.output_file is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
        else:
            write(Path(self.args.output_file), content)

    def _write_weights(self, target: Path, arrays: Sequence[tuple[str, Array]]) -> None:
        """Before the text, which never stands there without them."""
        from sofie import weight_file

        layout = hashlib.sha256("".join(sorted(digest for digest, _ in arrays)).encode()).hexdigest()
        try:
            write(target, weight_file.encode(arrays, layout))
        except weight_file.WeightFileError as error:
            raise SofieError(f"{printable(str(target))!r} cannot be written: {error}") from error


def blobs_of(module: ModuleOp) -> list[Blob]:
    """The blobs of all weights of a module, in order."""
    from sofie.dialects.sofie import WeightOp

    return [op.blob for op in module.walk() if isinstance(op, WeightOp)]


def printed(module: ModuleOp) -> str:
    """The text of a module."""
    text = StringIO()
    Printer(stream=text).print_op(module)
    return text.getvalue()


def _show_times(times: Sequence[tuple[str, float]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    total = sum(seconds for _, seconds in times)
    table = Table("pass", box=SIMPLE_HEAD, show_footer=True)
    table.columns[0].footer = "all"
    table.add_column("ms", f"{1e3 * total:.1f}", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in times:
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{100 * seconds / (total or 1):.0f} %")
    Console(stderr=True).print(table)


# -- targets -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CppTarget(Target):
    """The C++ header of a module at the loop level; `cpu` is the one that `vectorize` was run for."""

    name: ClassVar[str] = "cpp"

    model: str = "model"
    cpu: str = "portable"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Writes the header, weights excluded. Raises SofieError above the loop level."""
        from sofie.emit.cpp import Program
        from sofie.emit.variant import Variant
        from sofie.target import cpu

        try:
            levels.check(module, "loop")
        except SofieError as error:
            raise SofieError(f"-t cpp prints the loop level, made by --pipeline=fuse,lower: {error}") from error
        output.write(Program(module, self.model, [Variant(module, cpu(self.cpu))]).header())


@dataclasses.dataclass(frozen=True)
class CudaTarget(Target):
    """The .cuh of a module at the gpu level."""

    name: ClassVar[str] = "cuda"

    model: str = "model"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Writes the text, weights excluded. Raises SofieError at other levels."""
        from sofie.emit.cuda import CudaProgram, as_variant

        try:
            levels.check(module, "gpu")
        except SofieError as error:
            raise SofieError(f"-t cuda prints the gpu level, made by --pipeline=cuda: {error}") from error
        output.write(CudaProgram(module, self.model, [as_variant(module)]).header())


@dataclasses.dataclass(frozen=True)
class OnnxTarget(Target):
    """A module at the onnx level as an ONNX model, a character for each of its bytes."""

    name: ClassVar[str] = "onnx"

    encoding: ClassVar[str] = "latin-1"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Writes the model, weights included. Raises SofieError at other levels."""
        from sofie.emit.onnx import model_proto, serialized

        output.write(serialized(model_proto(module)).decode(self.encoding))


@dataclasses.dataclass(frozen=True)
class UpstreamTarget(Target):
    """A module at the tensor level as text for upstream MLIR's tools."""

    name: ClassVar[str] = "upstream-mlir"

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Writes the text. Raises SofieError at other levels."""
        from sofie.emit.upstream import text

        output.write(text(module))


# -- the command -------------------------------------------------------------------------------------------------------


def _misused(message: str) -> NoReturn:
    print(f"{PROGRAM}: {' '.join(message.split())}; see {PROGRAM} --help", file=sys.stderr)
    sys.exit(MISUSED)


def main(args: Sequence[str] | None = None) -> None:
    """The command; exits with status 1 and one sentence on stderr where something is wrong."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        SofieOptMain("Runs passes on ONNX models and MLIR modules.", given).run()
    except (SystemExit, BrokenPipeError):
        raise
    except BaseException as error:  # xDSL's on a malformed pipeline is no Exception
        sys.exit(report(PROGRAM, error, "--debug" in given))
