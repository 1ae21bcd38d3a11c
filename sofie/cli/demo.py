"""`sofie demo`: the whole way, from a trained network to scores, on simulated collision events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sofie.cli.options import DEBUG_FLAG

if TYPE_CHECKING:
    from sofie.demo.run import Result


@click.command()
@click.option("--events", default=10_000, show_default=True, type=click.IntRange(20), help="How many events to score.")
@click.option(
    "-o",
    "--output",
    default="sofie-demo",
    show_default=True,
    metavar="DIR",
    help="Folder to write to.",
    type=click.Path(path_type=Path, file_okay=False),
)
@DEBUG_FLAG
def demo(events: int, output: Path) -> None:
    """Compile a trained network, score simulated events, judge it."""
    from rich.console import Console
    from rich.text import Text

    from sofie.demo.run import run

    console = Console(highlight=False, soft_wrap=True)
    console.print("A network that tells a resonance from background: 7 features, 5 layers of 200 ReLU units, 1 score\n")

    def tell(step: str, seconds: float, reason: str) -> None:
        console.print(Text.assemble(f"  {step:20}", (f"{1e3 * seconds:8.1f} ms  ", "cyan"), (reason, "dim")))

    result = run(events, output, tell)
    console.print("\n".join(("", *summary(result, events, output))), markup=False)


def summary(result: Result, events: int, folder: Path) -> list[str]:
    """What came out, where it lies and what to try next."""
    from sofie.cli.files import size

    return [
        f"{events:,} events",
        f"  worst difference from onnx.reference   {result.worst:.1e}",
        f"  area under the ROC curve               {result.auc:.6f} compiled, {result.reference_auc:.6f} reference",
        f"  time per event                         {result.microseconds:.2f} us",
        "",
        "files",
        *(f"  {path}  {size(path)}" for path in result.files),
        "",
        "next",
        f"  cd {folder} && ./{result.files[3].name}",
        "  sofie compile MODEL -o DIR",
        "  sofie check MODEL",
        "  sofie-opt MODEL --stop-after tensor",
    ]
