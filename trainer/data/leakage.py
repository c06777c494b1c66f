"""Does anything that a network is trained on come back where it is judged?

Two ways to ask: is it the same person, by the headers; is it the same picture, whatever the headers say. A picture is
known again by its slices (the same pixels in the same order of brightness, turned or mirrored in their plane) and by
a coarse thumbnail of the body, compared in all 48 orientations of its axes.

What is found: the same series under another name, a part of it, a re-export with other grey values, another slice
order or along other axes, resampled or cropped to the body. What is not: one person in another contrast or another
session without a word in the headers (two heads in T1 are more alike than T1 and T2 of one), a crop that
takes off part of the body, a rotation by other than right angles. For those the inventory's subjects must be right.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import InputError
from dicomnode.imaging.body import BODY_LEVEL, body_scale
from dicomnode.imaging.volume import Volume
from trainer.data.series import describe
from trainer.data.sources import Source, Split
from trainer.data.volumes import volume_of

FloatArray = NDArray[np.float32]

THUMBNAIL = 24  # voxels along each side: an adult head at 8 mm
SAME_CONTENT = 0.97  # correlation: of seven heads two people's reach 0.89, T1 and FLAIR of one 0.952, copies 0.99
REACH = 2.0  # standard deviations to each side; a filled box ends at 1.7, a ball at 2.2
COARSE = 96  # voxels along each side that a thumbnail is made from; more add seconds and nothing else
LEAST_LEVELS = 16  # grey values of a slice that is looked at: emptier ones are alike by chance
HINT = "Give all volumes of one person one subject and one split, or leave one of them out."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Content:
    """The features by which a picture is known again, a few kilobytes."""

    slices: frozenset[str]  # digests
    thumbnail: FloatArray  # (24, 24, 24), mean 0, length 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A source with what gives it away."""

    source: Source
    person: str = field(default="", repr=False)  # digest of the headers' identity; "" where there is none
    content: Content


def check_leakage(sources: Sequence[Source]) -> None:
    """Raises InputError where something of the training split stands in another. Decodes every source once."""
    people = {source.label: describe(source).person for source in sources}
    refuse_shared_people([(source, people[source.label]) for source in sources])  # before anything is decoded
    check_entries(
        [Entry(source=source, person=people[source.label], content=content_of(volume_of(source))) for source in sources]
    )


def check_entries(entries: Sequence[Entry]) -> None:
    """Look for leaks as ``check_leakage`` does, in what is known already."""
    refuse_shared_people([(entry.source, entry.person) for entry in entries])
    for trained, judged in _across(entries):
        if trained.content.slices & judged.content.slices:
            _refuse(trained.source, judged.source, "share slices with the same image content")
        if likeness(trained.content, judged.content) > SAME_CONTENT:
            _refuse(trained.source, judged.source, "show the same image content")


def refuse_shared_people(people: Sequence[tuple[Source, str]]) -> None:
    """Refuse shared people by headers and by our own words, without decoding anything."""
    trained = [(source, person) for source, person in people if source.split is Split.TRAIN]
    judged = [(source, person) for source, person in people if source.split is not Split.TRAIN]
    for (one, person), (other, other_person) in product(trained, judged):
        if one.subject == other.subject or (person and person == other_person):
            _refuse(one, other, "are of one patient")


def content_of(volume: Volume) -> Content:
    """Digests of the slices and the thumbnail of a volume."""
    return Content(slices=frozenset(_slice_digests(volume.voxels)), thumbnail=_thumbnail(volume.voxels))


def likeness(one: Content, other: Content) -> float:
    """Highest correlation of the two thumbnails over the 48 orientations of a box, −1…1."""
    return max(float(np.vdot(turned, other.thumbnail)) for turned in _orientations(one.thumbnail))


def _across(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    trained = [entry for entry in entries if entry.source.split is Split.TRAIN]
    judged = [entry for entry in entries if entry.source.split is not Split.TRAIN]
    return product(trained, judged)


def _refuse(trained: Source, judged: Source, what: str) -> None:
    raise InputError(
        f"The split leaks: {trained.label} ({trained.split}) and {judged.label} ({judged.split}) {what}; "
        "nothing was trained.",
        hint=HINT,
    )


def _slice_digests(voxels: FloatArray) -> Iterator[str]:
    """Digest each slice: the least digest over its eight orientations of the ranks of its grey values.

    Ranks forget slope, intercept and any other rising change of the grey values.
    """
    for pixels in voxels:
        levels, ranks = np.unique(pixels, return_inverse=True)
        if len(levels) < LEAST_LEVELS:
            continue
        ranked = ranks.reshape(pixels.shape).astype("<u2")  # as many levels as a scanner stores
        yield min(_digest(np.rot90(image, turns)) for image in (ranked, ranked.T) for turns in range(4))


def _digest(image: NDArray[np.uint16]) -> str:
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()


def _thumbnail(voxels: FloatArray) -> FloatArray:
    """The body averaged into 24³ cells, placed by the body's middle and spread along each axis, and normalised.

    Middle and spread, unlike a box around it, hardly notice slice thickness, a threshold or some air more or less.
    """
    coarse = voxels[tuple(slice(None, None, max(1, extent // COARSE)) for extent in voxels.shape)]
    coarse = coarse - coarse.min()
    scaled = np.clip(coarse / np.float32(body_scale(coarse)), 0.0, 1.0)
    body = scaled > BODY_LEVEL
    sigmas, places = [], []
    for axis in range(3):
        counts = body.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) + np.finfo(np.float64).tiny
        index = np.arange(len(counts))
        middle = float(np.average(index, weights=counts))
        spread = math.sqrt(float(np.average((index - middle) ** 2, weights=counts)))
        sigmas.append(REACH * spread / THUMBNAIL)  # half a cell
        places.append(middle + spread * np.linspace(-REACH, REACH, THUMBNAIL))
    smooth = ndimage.gaussian_filter(scaled, sigmas, mode="nearest")
    small = ndimage.map_coordinates(smooth, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    small = small - small.mean()
    normalised: FloatArray = (small / max(float(np.linalg.norm(small)), np.finfo(np.float32).tiny)).astype(np.float32)
    return normalised


def _orientations(thumbnail: FloatArray) -> Iterator[FloatArray]:
    """All orders and directions of the axes, mirror images included: a re-export may have made one."""
    for axes in permutations(range(3)):
        turned = thumbnail.transpose(axes)
        for steps in product((1, -1), repeat=3):
            yield turned[tuple(slice(None, None, step) for step in steps)]
