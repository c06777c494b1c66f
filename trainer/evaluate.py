"""What a network gains over cubic-dc, on volumes that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dicomnode.generators.cubic_dc import cubic_dc
from dicomnode.generators.thin import ThinNet, consistency_tensors, project, thick_windows
from dicomnode.imaging import metrics
from dicomnode.imaging.profile import ProfileKind, consistency, profile_matrix, spline_matrix
from trainer.cases import Case, cases
from trainer.simulate import FloatArray
from trainer.sources import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of one method on one case, against the truth (range 1, inside the body mask)."""

    psnr: float  # dB
    worst_phase_psnr: float  # dB, of the worst slice position inside the slab
    ssim: float
    haarpsi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case: a subject, the axis its slices were taken along, a ratio, and the true slice profile."""

    subject: str
    split: Split
    plane: int
    ratio: int
    profile: ProfileKind
    thickness_over_spacing: float
    cubic: Scores
    cubic_dc: Scores
    model: Scores
    model_gain: float  # dB of PSNR over cubic-dc
    residual: float  # largest |thick − A thin| of the model's result: what consistency leaves

    @property
    def is_contiguous_box(self) -> bool:
        """Is this one of the cases that models are compared on?"""
        return (self.profile, self.thickness_over_spacing) == (ProfileKind.BOX, 1.0)


def evaluate(net: ThinNet, data: Path, *, report: Callable[[str], None]) -> list[Row]:
    """Every case of both judging splits."""
    rows = []
    for case in cases(data):
        row = judge(net, case)
        report(
            f"{row.subject}, plane {row.plane}, ratio {row.ratio}, {row.profile} {row.thickness_over_spacing:g}: "
            f"cubic-dc {row.cubic_dc.psnr:.2f} dB, model {row.model_gain:+.2f} dB, "
            f"HaarPSI {row.cubic_dc.haarpsi:.4f} → {row.model.haarpsi:.4f}"
        )
        rows.append(row)
    return rows


def judge(net: ThinNet, case: Case) -> Row:
    """Thick slices from the truth, thinned by each method; all assume a box, as they must for a real series."""
    slices = len(case.truth) // case.ratio
    true_profile = profile_matrix(
        slices, case.ratio, kind=case.profile, thickness_over_spacing=case.thickness_over_spacing
    )
    thick = np.tensordot(true_profile.astype(np.float32), case.truth, axes=1)
    cubic = np.tensordot(spline_matrix(slices, case.ratio).astype(np.float32), thick, axes=1)
    base = cubic_dc(thick, case.ratio, case.thickness_over_spacing)
    model = thin_stack(net, thick, base, case.ratio, case.thickness_over_spacing)
    assumed_profile = consistency(slices, case.ratio, case.thickness_over_spacing).profile
    residual = float(np.abs(np.tensordot(assumed_profile.astype(np.float32), model, axes=1) - thick).max())
    cubic_scores, base_scores, model_scores = (scores(image, case) for image in (cubic, base, model))
    return Row(
        subject=case.subject,
        split=case.split,
        plane=case.plane,
        ratio=case.ratio,
        profile=case.profile,
        thickness_over_spacing=case.thickness_over_spacing,
        cubic=cubic_scores,
        cubic_dc=base_scores,
        model=model_scores,
        model_gain=model_scores.psnr - base_scores.psnr,
        residual=residual,
    )


def thin_stack(
    net: ThinNet, thick: FloatArray, base: FloatArray, ratio: int, thickness_over_spacing: float = 1.0
) -> FloatArray:
    """The network's thin stack in float32: one window at a time, then the projection."""
    measured = torch.from_numpy(thick)
    profile, operator = consistency_tensors(consistency(len(thick), ratio, thickness_over_spacing), "cpu")
    with torch.inference_mode():
        residuals = [net(thick_windows(measured, net.window, i, i + 1), ratio)[0] for i in range(len(thick))]
        thin: FloatArray = project(torch.from_numpy(base) + torch.cat(residuals), measured, profile, operator).numpy()
    return thin


def scores(image: FloatArray, case: Case) -> Scores:
    """All metrics of one result."""
    return Scores(
        psnr=metrics.psnr(image, case.truth, case.mask),
        worst_phase_psnr=metrics.worst_phase_psnr(image, case.truth, case.mask, case.ratio),
        ssim=metrics.ssim(image, case.truth, case.mask),
        haarpsi=metrics.reformat_haarpsi(image, case.truth, case.mask),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The gains of one subject over its contiguous box cases, dB."""

    subject: str
    split: Split
    cases: int
    mean_gain: float
    smallest_gain: float


def summarise(rows: list[Row]) -> list[Summary]:
    """One line a subject, in the order of the rows."""
    summaries = []
    for subject in dict.fromkeys(row.subject for row in rows):
        own = [row for row in rows if row.subject == subject and row.is_contiguous_box]
        gains = [row.model_gain for row in own]
        summaries.append(
            Summary(
                subject=subject,
                split=own[0].split,
                cases=len(own),
                mean_gain=sum(gains) / len(gains),
                smallest_gain=min(gains),
            )
        )
    return summaries
