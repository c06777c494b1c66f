"""``python -m trainer RUN``: go on with a planned run; what ``torch.distributed.run`` starts in several processes.

dicomnode train … --out RUN --plan-only
python -m torch.distributed.run --nproc-per-node 2 -m trainer RUN
dicomnode train --resume --out RUN        # writes the models
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dicomnode.errors import NodeError
from dicomnode.visible import LINE_END, visible

if TYPE_CHECKING:
    from trainer.training.loop import Line

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Parses, goes on, returns the exit code."""
    # Here, not above: the loader process, which is spawned, imports this file again and needs no torch.
    import torch

    from dicomnode.generators.device import choose_device
    from trainer.training.loop import local_device, train

    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder that `dicomnode train --plan-only` made")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="of a CPU, for each process")
    parser.add_argument("--loaders", type=int, help="processes that make batches, for each process that trains")
    parsed = parser.parse_args(arguments)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    try:
        device = local_device(choose_device(parsed.device))
        is_done = train(parsed.run, report=_print_line, stop=lambda: bool(asked), device=device, loaders=parsed.loaders)
    except NodeError as exc:
        sys.stderr.write(visible(f"{exc.sentence} {exc.hint}") + LINE_END)
        return exc.exit_code
    return 0 if is_done else INTERRUPTED


def _print_line(line: Line) -> None:
    sys.stdout.write(json.dumps(asdict(line)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
