"""From a checkpoint to a model directory that the node can serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from safetensors.torch import save as safetensors_bytes

from dicomnode import durable
from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.card import DataRow, MetricRow, ThinCard, ThinParameters
from dicomnode.generators.thin import RATIOS
from trainer import sources
from trainer.checkpoint import Checkpoint
from trainer.evaluate import Row, summarise
from trainer.loop import averaged_net
from trainer.probes import PROBED_SUBJECT, Probe
from trainer.sources import Split

SIZE_LIMIT_BYTES = 5 * 1024 * 1024  # of the whole directory: it ships in the wheel

INTENDED_USE = (
    "Research and education: thinner slices of structural MR series that were taken in thick ones, for viewing "
    "reformats and for testing software. Not for diagnosis."
)
FAILURE_MODES = (
    "What lies within a thick slice is a guess from its neighbours; only the mean over each thick slice is measured.",
    "Small findings lose contrast, by any method: the metrics below say how much of a lesion's contrast comes back.",
    "Trained on seven volumes of five heads (T1; of one person T2 and FLAIR too); other anatomy gains less.",
    "With few slices, say ten or fewer, the gain over cubic-dc is small.",
    "Where the true slice profile is not the box of the header's thickness, the gain is smaller.",
    "Noise of the thick slices is kept: all thin slices of one thick slice carry the same noise.",
    "Slices that moved between excitations show steps at slab borders, as cubic-dc does.",
)

_CARD_SPLITS: Mapping[Split, Literal["train", "validation"]] = {Split.TRAIN: "train", Split.VALIDATION: "validation"}


def write_model(folder: Path, saved: Checkpoint, rows: list[Row], probes: list[Probe]) -> str:
    """Writes and seals the directory; returns the model's digest. Replaces the files of an earlier model there."""
    net = averaged_net(saved)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    durable.write_file(folder / model_dir.WEIGHTS_FILE, [safetensors_bytes(weights)])
    durable.write_file(folder / model_dir.METRICS_FILE, [metrics_json(saved, rows, probes).encode()])
    model_dir.write_card(folder, card(saved, rows, probes))
    digest = model_dir.seal(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > SIZE_LIMIT_BYTES:
        raise InputError(f"{folder} is {size} bytes large.", hint=f"The limit is {SIZE_LIMIT_BYTES} bytes.")
    return digest


def card(saved: Checkpoint, rows: list[Row], probes: list[Probe]) -> ThinCard:
    """What the model is and where it fails; the summary of ``rows`` says how well it does."""
    settings = saved.settings
    return ThinCard(
        name=model_dir.LEARNED_DEFAULT,
        ratios=(min(RATIOS), max(RATIOS)),
        licence="MIT",
        intended_use=INTENDED_USE,
        failure_modes=FAILURE_MODES,
        parameters=ThinParameters(
            window=int(settings["window"]), channels=int(settings["channels"]), blocks=int(settings["blocks"])
        ),
        data=tuple(
            DataRow(volume=name, subject=source.subject, split=split, licence=source.licence)
            for name, source in sources.SOURCES.items()
            if (split := _CARD_SPLITS.get(source.split)) is not None
        ),
        metrics=tuple(
            metric for summary in summarise(rows) for metric in _metric_rows(summary.subject, summary.split, rows)
        )
        + tuple(_probe_row(probe) for probe in probes),
    )


def _metric_rows(subject: str, split: Split, rows: list[Row]) -> list[MetricRow]:
    def metric(measure: str, value: float) -> MetricRow:
        return MetricRow(volume=subject, measure=measure, value=round(value, 4))

    own = [row for row in rows if row.subject == subject and row.is_contiguous_box]
    gains = [row.model_gain for row in own]
    if split is Split.UNSEEN:
        return [metric("PSNR gain over cubic-dc, dB, own slices re-thickened by 2 (never trained on)", gains[0])]
    haarpsi_gain = sum(row.model.haarpsi - row.cubic_dc.haarpsi for row in own) / len(own)
    metrics = [
        metric("PSNR gain over cubic-dc, dB, mean of ratios 3 to 5, three planes", sum(gains) / len(gains)),
        metric("PSNR gain over cubic-dc, dB, smallest of ratios 3 to 5, three planes", min(gains)),
        metric("HaarPSI gain over cubic-dc, mean of ratios 3 to 5, three planes", haarpsi_gain),
    ]
    for row in rows:
        if row.subject == subject and not row.is_contiguous_box:
            profile = f"{row.profile} of {row.thickness_over_spacing:g} × spacing"
            measure = f"PSNR gain over cubic-dc, dB, ratio {row.ratio}, one plane, true profile {profile}, box assumed"
            metrics.append(metric(measure, row.model_gain))
    return metrics


def _probe_row(probe: Probe) -> MetricRow:
    measure = f"{probe.what} (cubic-dc: {probe.cubic_dc:.3f})"
    return MetricRow(volume=PROBED_SUBJECT, measure=measure, value=round(probe.model, 4))


def metrics_json(saved: Checkpoint, rows: list[Row], probes: list[Probe]) -> str:
    """Every row, and what it was measured with."""
    content = {
        "range": "1.0 = 99.5th percentile of the truth's body voxels",
        "thick": "averaged from the truth with the profile and thickness / spacing of the row",
        "training": {"steps_done": saved.step, "schedule": saved.schedule, **saved.settings},
        "rows": [asdict(row) for row in rows],
        "probes": [asdict(probe) for probe in probes],
    }
    return json.dumps(content, indent=1) + "\n"
