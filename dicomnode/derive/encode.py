"""A thin ``Volume`` and the thick series it came from → the derived series, encoded once (docs/derived-objects.md).

Each instance is encoded once to Explicit VR Little Endian; the caller keeps those bytes and sends them, the same for
ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.derive import explicit_vr
from dicomnode.derive.attributes import (
    INSTANCE_ATTRIBUTES,
    PIXEL_DATA,
    SLAB_ATTRIBUTES,
    instance_number,
    series_dataset,
)
from dicomnode.derive.explicit_vr import tag_of
from dicomnode.derive.facts import DerivationPlan, Facts, SeriesKind, facts_of
from dicomnode.derive.stored import clipped_above, largest_deviation
from dicomnode.ids import digest
from dicomnode.imaging.headers import MR_IMAGE_STORAGE
from dicomnode.imaging.stack import PixelFormat, Stack
from dicomnode.imaging.volume import Volume
from dicomnode.part10 import element, file_meta

ENCODERS = 2  # threads; numpy and hashlib let others run meanwhile, and on two cores more than two bring nothing
SOURCE_WINDOW = 2  # thick slices on each side that are named as sources; all would be quadratic in the file count
# of the voxels; more than that at the top of the format is worth a sentence (docs/derived-objects.md#pixel-values)
CLIPPED_SHARE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedFile:
    """One derived instance, encoded: a whole Part 10 file."""

    instance_number: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes
    sha256: str  # of the dataset, without preamble and file meta
    size_bytes: int  # of the dataset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Derivation:
    """A derived series, ready to be encoded instance by instance."""

    series_uid: str
    count: int
    clipped: int  # thin voxels brighter than the pixel format holds, beyond what was at its top already
    notes: tuple[str, ...]  # sentences for ``series explain``
    facts: Facts
    shared: Shared

    def files(self) -> Iterator[DerivedFile]:
        """The instances in order of Instance Number; each call encodes anew, and to the same bytes.

        A few threads encode the thin slices of the next thick ones while the caller keeps those that came before. No
        more than ``ENCODERS + 1`` thick slices' files wait for the caller.
        """
        owners = iter(_in_order(len(self.facts.stack.headers), self.facts))
        with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as encoders:
            waiting = deque(encoders.submit(self._slab_files, owner) for owner in islice(owners, ENCODERS + 1))
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(encoders.submit(self._slab_files, owner) for owner in islice(owners, 1))

    def _slab_files(self, owner: int) -> list[DerivedFile]:
        """The thin slices of one thick one."""
        facts = self.facts
        slab = facts.storage.slab(facts.stack, facts.thin, owner)
        return [
            _encode(self.shared, facts, owner * facts.ratio + place, slab[place])
            for place in _in_order(facts.ratio, facts)
        ]


def derive(stack: Stack, thin: Volume, plan: DerivationPlan, *, consistency: bool) -> Derivation:
    """Prepare the derived series of ``thin``, which must lie on the block-aligned grid of ``stack``.

    See docs/derived-objects.md#grid.

    With ``consistency``, which all generators but a few promise, the stored values of the thin slices average to the
    measured ones to half a step; a generator that does not promise it keeps the averages that it made, to the same.
    """
    facts = facts_of(stack, thin, plan, consistency=consistency)
    clipped = clipped_above(facts.storage, stack, thin)
    notes = []
    if clipped > CLIPPED_SHARE * thin.voxels.size:
        share = 100.0 * clipped / thin.voxels.size
        notes.append(
            f"{clipped} voxels ({share:.2g} %) were brighter than the pixel format holds and were clipped; "
            "the averages over the thick slices are kept."
        )
    if not stack.format.has_uniform_rescale:
        notes.append("Rescale Slope or Intercept varies between the source slices; the result has one for all.")
    series = series_dataset(facts)
    notes += facts.copies.notes(series)
    if plan.patient is not None:
        notes.append(
            "The patient is the one under whom the peer had the study; what the source says is kept beside it."
        )
    if not consistency:
        notes.append(
            f"Model {plan.parameters.model} does not put back what was measured: the averages over the thick slices "
            f"are off by up to {largest_deviation(facts.storage, stack, thin):.3g}, "
            f"of values up to {stack.maximum:.4g}."
        )
    return Derivation(
        series_uid=facts.series_uid,
        count=len(thin.voxels),
        clipped=clipped,
        notes=tuple(notes),
        facts=facts,
        shared=Shared.of(facts, series),
    )


def derive_spread(stack: Stack, deviation: Volume, plan: DerivationPlan) -> Derivation:
    """Prepare the series of the spread: the standard deviation of each thin voxel, on the grid of the thin slices.

    It has a scale of its own, from zero to the largest value. It shows no anatomy and says so.
    """
    facts = facts_of(stack, deviation, plan, consistency=False, kind=SeriesKind.SPREAD)
    return Derivation(
        series_uid=facts.series_uid,
        count=len(deviation.voxels),
        clipped=0,
        notes=(),
        facts=facts,
        shared=Shared.of(facts, series_dataset(facts)),
    )


def _in_order(count: int, facts: Facts) -> range:
    """Count along the normal or against it, in the direction in which the source's Instance Numbers rise."""
    return range(count) if facts.stack.number_direction > 0 else range(count - 1, -1, -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shared:
    """Elements that more than one instance holds, by tag, encoded once: that is most of an instance's header."""

    series: Mapping[int, bytes]
    slabs: tuple[Mapping[int, bytes], ...]  # one for each thick slice

    @classmethod
    def of(cls, facts: Facts, series: Dataset) -> Shared:
        """Encode what ``series_dataset`` made, and the sequences of each slab."""
        count = len(facts.stack.headers)
        with explicit_vr.without_warnings():  # a damaged UID is named as it is
            items = {
                keyword: [explicit_vr.item(value(facts, index)) for index in range(count)]
                for keyword, value in SLAB_ATTRIBUTES.items()
            }
        slabs = []
        for owner in range(count):
            around = slice(max(owner - SOURCE_WINDOW, 0), owner + SOURCE_WINDOW + 1)
            slabs.append({tag_of(key): element(tag_of(key), "SQ", *of[around]) for key, of in items.items()})
        return cls(series=explicit_vr.elements(explicit_vr.written(series)), slabs=tuple(slabs))


def _encode(shared: Shared, facts: Facts, index: int, stored: NDArray[np.int32]) -> DerivedFile:
    """Write what is the instance's own and lay it, tag by tag, between what it shares."""
    own = {keyword: value(facts, index) for keyword, value in INSTANCE_ATTRIBUTES.items()}
    elements = {**shared.series, **shared.slabs[index // facts.ratio]}
    elements |= {tag_of(keyword): explicit_vr.text_element(keyword, value) for keyword, value in own.items()}
    pixels_vr = "OB" if facts.stack.format.bits_allocated == 8 else "OW"
    elements[tag_of(PIXEL_DATA)] = element(tag_of(PIXEL_DATA), pixels_vr, _words(facts.stack.format, stored))
    dataset = b"".join(elements[tag] for tag in sorted(elements))
    sop_instance_uid = own["SOPInstanceUID"]
    assert isinstance(sop_instance_uid, str)
    meta = file_meta(
        sop_class_uid=MR_IMAGE_STORAGE,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return DerivedFile(
        instance_number=instance_number(facts, index),
        sop_class_uid=MR_IMAGE_STORAGE,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        content=meta + dataset,
        sha256=digest(dataset),
        size_bytes=len(dataset),
    )


def _words(form: PixelFormat, stored: NDArray[np.int32]) -> bytes:
    """Stored values of one slice as they stand in Pixel Data, which has an even length."""
    kind = f"{'i' if form.is_signed else 'u'}{form.bits_allocated // 8}"
    words = stored.astype(f"<{kind}").tobytes()
    return words + b"\0" * (len(words) % 2)
