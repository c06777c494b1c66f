"""Did the patient move between two series, and by how much? A rigid registration, the same on every run.

Mutual information, since thick and thin differ in contrast; the thin volume is first blurred to the thick slices, so
that both show the same detail. What comes out is a number of millimetres and degrees and how well edges agree before
and after: a pair whose edges do not agree is not one (``implausible``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging.body import BODY_LEVEL, body_scale
from dicomnode.imaging.volume import Volume

ITK: Any = SimpleITK  # it has no types
FloatArray = NDArray[np.float32]

GRID_MM = 2.0  # in-plane grid of the search: motion is found far below a pixel, and a search takes a second
BINS = 32  # of the joint histogram
SAMPLED = 0.25  # share of the grid's points that each step looks at
SEED = 20240
FWHM_PER_SIGMA = 2.3548
STEPS = 100
FIRST_STEP_MM, LAST_STEP_MM = 1.0, 0.005
LEAST_VOXELS = 100  # that both show; fewer correlate by chance
DECIMALS = 5  # of what is kept: 1e-5 mm moves no voxel, and a plan stays readable

MAX_SHIFT_MM = 10.0  # more than that between two series of one session is another position, or a wrong minimum
MAX_ANGLE_DEG = 5.0
MIN_AGREEMENT = 0.4  # correlation of edges afterwards: the one real pair reaches 0.60, its mirror image 0.35
WORSE = 0.02  # of that correlation: less than before by more than this, and the search went astray


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The position of the thin volume against the thick one, and how sure that is.

    The point p of the thick series shows what the thin one shows at R(p − c) + c + shift.
    """

    shift_mm: tuple[float, float, float]  # LPS, at the centre c
    rotation_deg: tuple[float, float, float]  # about x, y, z (ITK's Euler3D: Rz · Rx · Ry)
    centre_mm: tuple[float, float, float]  # c, the middle of the thick stack
    across_mm: float  # part of the shift along the slice normal
    edges_before: float  # correlation of in-plane gradients inside the body, −1…1
    edges_after: float
    information_before: float  # mutual information, nats
    information_after: float

    @property
    def distance_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift_mm))

    @property
    def angle_deg(self) -> float:
        """Angle of the whole rotation."""
        trace = float(np.trace(np.reshape(_transform(self).GetMatrix(), (3, 3))))
        return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def register(thick: Volume, thin: Volume) -> Registration:
    """Rigid motion from the thick series to the thin one; deterministic on one machine."""
    fixed = _search_image(thick)
    moving = _search_image(thin, blurred_to_mm=thick.slice_thickness_mm)
    start = ITK.Euler3DTransform()
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    method = _method()
    found = ITK.Euler3DTransform(start)
    method.SetInitialTransform(found, inPlace=True)
    method.Execute(fixed, moving)
    information = [_information(fixed, moving, transform) for transform in (start, found)]
    if information[1] <= information[0]:  # the search went astray, or nothing had moved
        found, information = start, [information[0]] * 2
    edges = [_edge_agreement(fixed, moving, transform) for transform in (start, found)]
    shift = np.array(found.GetTranslation())
    return Registration(
        shift_mm=_three(shift),
        rotation_deg=_three(np.degrees([found.GetAngleX(), found.GetAngleY(), found.GetAngleZ()])),
        centre_mm=_three(start.GetCenter()),
        across_mm=round(float(shift @ thick.normal), 4),
        edges_before=round(edges[0], 4),
        edges_after=round(edges[1], 4),
        information_before=round(information[0], 4),
        information_after=round(information[1], 4),
    )


def implausible(registration: Registration) -> str | None:
    """Say what speaks against this pair, to complete "… the registration does not agree: …"; None when nothing does."""
    moved, angle = registration.distance_mm, registration.angle_deg
    before, after = registration.edges_before, registration.edges_after
    if moved > MAX_SHIFT_MM or angle > MAX_ANGLE_DEG:
        return f"it moves by {moved:.1f} mm and {angle:.1f}°, more than {MAX_SHIFT_MM:g} mm or {MAX_ANGLE_DEG:g}°"
    if after < MIN_AGREEMENT:
        return f"edges correlate by {after:.2f} only, at least {MIN_AGREEMENT:g} is expected of one anatomy"
    if after < before - WORSE:
        return f"edges correlate less after it ({after:.2f}) than before ({before:.2f})"
    return None


def resample(thin: Volume, registration: Registration | None, *, onto: Volume) -> FloatArray:
    """The thin slices (m, H, W) on the rows and columns of ``onto``, in their order along the normal of ``onto``.

    Cubic B-spline; where nothing moved the slices stay what they are across the plane. Zero outside the thin volume.
    """
    ends_mm = [
        float((thin.origin_mm + k * thin.slice_step_mm - onto.origin_mm) @ onto.normal)
        for k in (0, len(thin.voxels) - 1)
    ]
    first_mm = min(ends_mm)  # the two normals may point against each other
    resampler = ITK.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetInterpolator(ITK.sitkBSpline)
    resampler.SetOutputPixelType(ITK.sitkFloat32)
    resampler.SetOutputDirection(_directions(onto))
    resampler.SetOutputSpacing([onto.column_spacing_mm, onto.row_spacing_mm, thin.slice_spacing_mm])
    resampler.SetOutputOrigin((onto.origin_mm + first_mm * onto.normal).tolist())
    resampler.SetSize([onto.voxels.shape[2], onto.voxels.shape[1], len(thin.voxels)])
    if registration is not None:
        resampler.SetTransform(_transform(registration))
    moved: FloatArray = ITK.GetArrayFromImage(resampler.Execute(_image(thin, thin.voxels)))
    return moved


def _search_image(volume: Volume, *, blurred_to_mm: float | None = None) -> Any:
    """Scaled to the body and clipped, smoothed and thinned out to about GRID_MM in plane, blurred across if asked."""
    pixels_mm = (volume.row_spacing_mm, volume.column_spacing_mm)
    across_mm = math.sqrt(max((blurred_to_mm or 0.0) ** 2 - volume.slice_spacing_mm**2, 0.0)) / FWHM_PER_SIGMA
    sigmas = (across_mm / volume.slice_spacing_mm, *(GRID_MM / FWHM_PER_SIGMA / pixel for pixel in pixels_mm))
    steps = [max(1, round(GRID_MM / pixel)) for pixel in pixels_mm]
    scaled = np.clip(volume.voxels / np.float32(body_scale(volume.voxels)), 0.0, 1.0)
    smooth = ndimage.gaussian_filter(scaled, sigmas)[:, :: steps[0], :: steps[1]]
    return _image(volume, smooth, row_step=steps[0], column_step=steps[1])


def _image(volume: Volume, voxels: FloatArray, *, row_step: int = 1, column_step: int = 1) -> Any:
    """The voxels as an ITK image; of ``volume`` every so many rows and columns, from the first on."""
    image = ITK.GetImageFromArray(np.ascontiguousarray(voxels))
    image.SetOrigin(volume.origin_mm.tolist())
    image.SetSpacing(
        [volume.column_spacing_mm * column_step, volume.row_spacing_mm * row_step, volume.slice_spacing_mm]
    )
    image.SetDirection(_directions(volume))
    return image


def _directions(volume: Volume) -> list[float]:
    """ITK's direction matrix, row by row; its columns are those of (column, row, slice) index."""
    matrix = np.stack([volume.row_direction, volume.column_direction, volume.normal], axis=1)
    return [float(cosine) for cosine in matrix.ravel()]


def _method() -> Any:
    method = ITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in one order, so the same bits on every run
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, SEED)
    method.SetInterpolator(ITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP_MM,
        minStep=LAST_STEP_MM,
        numberOfIterations=STEPS,
        relaxationFactor=0.5,
        gradientMagnitudeTolerance=1e-6,
    )
    method.SetOptimizerScalesFromPhysicalShift()  # a step is so many mm at the rim, turned or shifted
    return method


def _transform(registration: Registration) -> Any:
    transform = ITK.Euler3DTransform()
    transform.SetCenter(registration.centre_mm)
    transform.SetRotation(*np.radians(registration.rotation_deg).tolist())
    transform.SetTranslation(registration.shift_mm)
    return transform


def _information(fixed: Any, moving: Any, transform: Any) -> float:
    method = _method()
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(fixed, moving))


def _edge_agreement(fixed: Any, moving: Any, transform: Any) -> float:
    """Correlation of in-plane gradient magnitudes where both volumes show the body."""
    there = ITK.GetArrayFromImage(ITK.Resample(moving, fixed, transform, ITK.sitkLinear, -1.0, ITK.sitkFloat32))
    here = ITK.GetArrayFromImage(fixed)
    inside = ndimage.binary_erosion(there >= 0) & ((here > BODY_LEVEL) | (there > BODY_LEVEL))
    if np.count_nonzero(inside) < LEAST_VOXELS:
        return 0.0
    edges = [np.hypot(*np.gradient(image, axis=(1, 2)))[inside] for image in (here, there)]
    return float(np.corrcoef(*edges)[0, 1]) if min(map(np.std, edges)) > 0 else 0.0


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (round(float(value), DECIMALS) for value in values)
    return x, y, z
