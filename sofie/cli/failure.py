"""Every failure is one sentence on stderr; the traceback comes with `--debug`."""

from __future__ import annotations

import sys
import traceback

from sofie.errors import SofieError, printable

FAILED = 1
MISUSED = 2


def sentence(error: BaseException) -> str:
    """`error` in one line: its own words where they are meant for users, else that it is a bug."""
    return " ".join(_words(error).split())


def _words(error: BaseException) -> str:
    match error:
        case SofieError():
            return str(error)
        case OSError():
            return f"{printable(str(error.filename))!r}: {error.strerror}" if error.filename else str(error)
        case UnicodeDecodeError():
            return f"the input is no text: byte {error.start} is not UTF-8"
        case KeyboardInterrupt():
            return "interrupted"
        case RecursionError():
            return "the input is nested too deeply"
        case MemoryError():
            return "there is not enough memory"
    detail = f"{type(error).__name__}: {printable(str(error), 300)}"
    return _words_of_xdsl(error) or f"internal error ({detail}): please report it with the output of --debug"


def _words_of_xdsl(error: BaseException) -> str | None:
    """What xDSL says about a text, a pipeline or a module, without the excerpt it draws; None for other errors."""
    if not type(error).__module__.startswith("xdsl."):
        return None
    from xdsl.utils.exceptions import ArgSpecParseError, ParseError

    if isinstance(error, ParseError):
        return f"{error.span.get_location()}: {printable(error.msg, 300)}"
    lines = [line.strip(" ^|") for line in str(error).splitlines() if line.strip(" ^|")]
    message = printable(lines[-1], 300) if lines else type(error).__name__
    return f"a pipeline or target cannot be read: {message}" if isinstance(error, ArgSpecParseError) else message


def report(program: str, error: BaseException, debug: bool, status: int = FAILED) -> int:
    """Prints the sentence, after the traceback with `debug`, and returns the exit status."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    print(f"{program}: {sentence(error)}", file=sys.stderr)
    return status
