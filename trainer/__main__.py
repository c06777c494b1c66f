"""``python -m trainer``: train the first model, judge a checkpoint, write a model directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from trainer import checkpoint
from trainer.evaluate import evaluate, summarise
from trainer.handoff import write_model
from trainer.loop import TrainSettings, averaged_net, train
from trainer.probes import probe, probed_case


def main(arguments: list[str] | None = None) -> int:
    """Parses, calls one function, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("first-model", help="train the thin network on the volumes of the train split")
    first.add_argument("--data", type=Path, required=True, help="folder of the source volumes")
    first.add_argument("--steps", type=int, required=True)
    first.add_argument("--out", type=Path, required=True, help="folder of checkpoint and journal")
    first.add_argument("--seed", type=int, default=1)
    first.add_argument("--strips", type=int, default=4, help="strips of three windows per step")
    first.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    first.add_argument("--resume", action="store_true")
    first.set_defaults(run=_first_model)
    judge = commands.add_parser("evaluate", help="compare a checkpoint with cubic-dc on volumes it has not seen")
    judge.add_argument("--data", type=Path, required=True, help="folder of the source volumes")
    judge.add_argument("--checkpoint", type=Path, required=True, help="last.safetensors of a run")
    judge.add_argument("--model-dir", type=Path, help="also write the model, with these figures, to this folder")
    judge.set_defaults(run=_evaluate)
    for command in (first, judge):
        command.add_argument("--threads", type=int, default=1)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    parsed.run(parsed)
    return 0


def _first_model(parsed: argparse.Namespace) -> None:
    settings = TrainSettings(steps=parsed.steps, seed=parsed.seed, strips=parsed.strips, precision=parsed.precision)
    train(settings, parsed.data, parsed.out, resume=parsed.resume, report=_print_line)


def _evaluate(parsed: argparse.Namespace) -> None:
    saved = checkpoint.load(parsed.checkpoint)
    net = averaged_net(saved)
    rows = evaluate(net, parsed.data, report=_print_line)
    for summary in summarise(rows):
        _print_line(
            f"{summary.subject} ({summary.split}): gain over cubic-dc {summary.mean_gain:+.2f} dB, "
            f"smallest of {summary.cases}: {summary.smallest_gain:+.2f} dB"
        )
    probes = probe(net, probed_case(parsed.data))
    for figure in probes:
        _print_line(f"{figure.what}: cubic-dc {figure.cubic_dc:.4f}, model {figure.model:.4f}")
    if parsed.model_dir is not None:
        _print_line(f"digest {write_model(parsed.model_dir, saved, rows, probes)}")


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
