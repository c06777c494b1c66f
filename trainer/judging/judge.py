"""Measure how near methods come to the truth on volumes that nothing was trained on.

Thick slices are made from a thin truth and thinned again by every method, as the node would do it: a case's rows
differ by the method alone. Ranges, masks and definitions: docs/science.md#metrics and ``dicomnode.imaging.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging import metrics
from dicomnode.imaging.profile import ProfileKind, assumed_thickness_over_spacing, consistency
from dicomnode.imaging.volume import Volume
from trainer.data.sources import Split
from trainer.features import Features
from trainer.judging.blobs import count_blobs
from trainer.judging.cases import Case
from trainer.judging.methods import BASELINE, Method, thinned
from trainer.judging.perception import Distance, feature_distance, mean_over_reformats
from trainer.judging.perceptual import DISTS, LPIPS
from trainer.published import table_mse

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One method's scores on one case. Range 1 and inside the body mask unless said otherwise."""

    psnr: float  # dB
    worst_phase_psnr: float  # dB, of the worst slice position inside the slab
    ssim: float
    haarpsi: float  # mean of both reformats
    feature_distance: float | None  # None: no features were given
    lpips: float | None  # None: its weights were not given
    dists: float | None
    mse: float  # raw units squared
    mse_table: float  # as the paper's Table 1 counts: Σ over a slice ÷ its rows, raw units squared; no mask
    gradient_error: float  # rms error of the step from slice to slice
    z_detail: float  # rms second z-difference, as a share of the truth's
    edge_width: float  # 10–90 %, in thin slices; nan where the truth has no edges to measure
    phase_noise: tuple[float, ...]  # σ at each position inside the slab, in flat regions
    noise_spread: float  # the largest of them over their mean, minus 1
    residual: float  # rms of (average over each thick slice − measured), in σ of the thick noise
    blobs: int  # structures that are not in the truth (``blobs``)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """The facts of a case, the same for all methods."""

    label: str
    subject: str
    split: Split
    licence: str
    plane: int
    ratio: int
    profile: ProfileKind  # the true one; every method assumes a box
    thickness_over_spacing: float
    is_rethickened: bool
    thick_slices: int
    noise_sigma: float  # of the truth, range 1
    ceiling_psnr: float  # dB, of a perfect generator that is projected onto the noisy thick slices
    truth_edge_width: float
    truth_phase_noise: tuple[float, ...]

    @property
    def is_nominal(self) -> bool:
        """Is this one of the cases that models are compared on?"""
        return (self.profile, self.thickness_over_spacing) == (ProfileKind.BOX, 1.0)

    @property
    def group(self) -> str:
        """Cases of different groups are never averaged with each other."""
        return "re-thickened" if self.is_rethickened else "thin truth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one case."""

    case: CaseFacts
    method: str
    digest: str
    gain: float  # dB of PSNR over cubic-dc
    ceiling_share: float  # gain ÷ (ceiling − cubic-dc)
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A case, its rows, and the stacks for whoever shows them; let go of it before the next one."""

    case: Case
    thick: Volume
    rows: tuple[Row, ...]
    results: dict[str, FloatArray]  # method → (n·ratio, H, W), of the methods that were to be kept


def judge(
    case: Case,
    methods: Sequence[Method],
    *,
    device: str = "cpu",
    features: Features | None = None,
    perceptual: Mapping[str, Distance] | None = None,
    keep_results: bool = False,
) -> Judged:
    """Thick slices from the truth, thinned by each method; all assume a box, as they must for a real series."""
    thick = case.thick_volume()
    thick.voxels.setflags(write=False)  # a method that wrote to it would spoil the next one's
    flat = metrics.flat_regions(case.truth, case.mask)
    sigma = metrics.noise_sigma(case.truth, case.mask)
    facts = case_facts(case, sigma, flat)
    results, scored = {}, {}
    for method, image in thinned(methods, thick, case.ratio, device=device):
        assert image.shape == case.truth.shape, method.name
        scored[method] = scores(
            image, case, thick, sigma=sigma, flat=flat, features=features, perceptual=perceptual or {}
        )
        if keep_results:
            results[method.name] = image
    base = next(found.psnr for method, found in scored.items() if method.name == BASELINE)
    room = facts.ceiling_psnr - base
    rows = tuple(
        Row(
            case=facts,
            method=method.name,
            digest=method.digest,
            gain=found.psnr - base,
            ceiling_share=(found.psnr - base) / room if room > 0 and math.isfinite(room) else math.nan,
            scores=found,
        )
        for method, found in scored.items()
    )
    return Judged(case=case, thick=thick, rows=rows, results=results)


def case_facts(case: Case, sigma: float, flat: metrics.Mask) -> CaseFacts:
    """The facts of a case, which its truth alone decides."""
    return CaseFacts(
        label=case.label,
        subject=case.subject,
        split=case.split,
        licence=case.licence,
        plane=case.plane,
        ratio=case.ratio,
        profile=case.profile,
        thickness_over_spacing=case.thickness_over_spacing,
        is_rethickened=case.is_rethickened,
        thick_slices=len(case.truth) // case.ratio,
        noise_sigma=sigma,
        ceiling_psnr=metrics.psnr_ceiling(sigma, case.ratio, consistent=True),
        truth_edge_width=metrics.edge_width(case.truth, case.truth, case.mask, edge_reach(case.ratio)),
        truth_phase_noise=metrics.phase_noise(case.truth, flat, case.ratio),
    )


def scores(
    image: FloatArray,
    case: Case,
    thick: Volume,
    *,
    sigma: float,
    flat: metrics.Mask,
    features: Features | None,
    perceptual: Mapping[str, Distance],
) -> Scores:
    """All metrics of one result."""
    perceived = {name: mean_over_reformats(one, image, case.truth, case.mask) for name, one in perceptual.items()}
    assumed = consistency(len(thick.voxels), case.ratio, assumed_thickness_over_spacing(thick)).profile
    residual = metrics.consistency_residual(image, thick.voxels, assumed)
    thick_sigma = sigma / math.sqrt(case.ratio)  # a thick slice averages ``ratio`` thin ones
    noise = metrics.phase_noise(image, flat, case.ratio)
    mean_noise = sum(noise) / len(noise)
    return Scores(
        psnr=metrics.psnr(image, case.truth, case.mask),
        worst_phase_psnr=metrics.worst_phase_psnr(image, case.truth, case.mask, case.ratio),
        ssim=metrics.ssim(image, case.truth, case.mask),
        haarpsi=metrics.reformat_haarpsi(image, case.truth, case.mask),
        feature_distance=None if features is None else feature_distance(features, image, case.truth, case.mask),
        lpips=perceived.get(LPIPS),
        dists=perceived.get(DISTS),
        mse=metrics.mse(image, case.truth, case.mask) * case.scale**2,
        mse_table=sum(map(table_mse, image, case.truth)) / len(image) * case.scale**2,
        gradient_error=metrics.gradient_error(image, case.truth, case.mask),
        z_detail=metrics.z_detail(image, case.truth, case.mask),
        edge_width=metrics.edge_width(image, case.truth, case.mask, edge_reach(case.ratio)),
        phase_noise=noise,
        noise_spread=max(noise) / mean_noise - 1.0 if mean_noise > 0 else math.nan,
        residual=residual / thick_sigma if thick_sigma > 0 else math.nan,
        blobs=count_blobs(image, case.truth, case.mask, case.ratio),
    )


def edge_reach(ratio: int) -> int:
    """Thin slices to each side of an edge: two thick slices hold all that interpolation makes of it."""
    return 2 * ratio + 2


def progress_line(case: Case, row: Row) -> str:
    """One line that says how one method did on one case."""
    found = row.scores
    gain = "" if row.method == BASELINE else f" ({row.gain:+.2f})"
    return f"{case.name}: {row.method} {found.psnr:.2f} dB{gain}, SSIM {found.ssim:.4f}, HaarPSI {found.haarpsi:.4f}"
