"""Damaged Enhanced MR objects: each is kept with a reason, derived, set aside or refused, and the node goes on."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomnode.errors import InputError
from dicomnode.ids import SeriesId
from dicomnode.settle.judging import NOT_JUDGED
from dicomnode.wire import Answer
from tests.support.derived import made_from
from tests.support.enhanced import EnhancedPhantom
from tests.support.phantom import Phantom
from tests.support.quiet_node import offer_of, quiet_node
from tests.support.stored import archived_files
from tests.support.thorough import times

PHANTOM = EnhancedPhantom(phantom=Phantom(slices=6, rows=16, columns=16, spacing_mm=4.0), seed=1)
OBJECTS = times(60, 1_000)


def _without_an_element(dataset: Dataset, random: np.random.Generator) -> None:
    """Take an element away, at the top or below it."""
    place = _somewhere(dataset, random)
    tags = [tag for tag in place.keys() if tag.group > 0x0020 or place is not dataset]  # noqa: SIM118
    if tags:
        del place[tags[random.integers(len(tags))]]


def _with_another_value(dataset: Dataset, random: np.random.Generator) -> None:
    """Give one element the items, or the text, of another kind."""
    place = _somewhere(dataset, random)
    for element in list(place):
        if random.random() < 0.3 and element.VR in ("DS", "CS", "SH", "IS") and element.tag.group > 0x0010:
            values = ("", "1e400", "NaN", "-1", "X" * 16, "1\\2\\3\\4\\5\\6\\7")
            element._value = str(random.choice(values))


def _with_items_moved(dataset: Dataset, random: np.random.Generator) -> None:
    """Lose, double or exchange frame items."""
    items = list(dataset.PerFrameFunctionalGroupsSequence)
    chosen = random.integers(len(items), size=random.integers(1, 9))
    dataset.PerFrameFunctionalGroupsSequence = [copy.deepcopy(items[k]) for k in chosen]
    if random.random() < 0.5:
        dataset.NumberOfFrames = len(chosen)


def _somewhere(dataset: Dataset, random: np.random.Generator) -> Dataset:
    """The data set, or an item at any depth in it."""
    place = dataset
    while random.random() < 0.8:
        below = [item for element in place if element.VR == "SQ" for item in element.value]
        if not below:
            break
        place = below[random.integers(len(below))]
    return place


def _damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Other bytes in one place, or the end missing."""
    place = int(random.integers(len(content)))
    noise = random.bytes(int(random.integers(1, 12)))
    if random.random() < 0.2:
        return content[: place + place % 2]
    return (content[:place] + noise + content[place + len(noise) :])[: len(content)]


@pytest.mark.faults
@pytest.mark.timeout(times(900, 3600))
def test_no_damaged_object_stops_the_node(tmp_path: Path) -> None:
    random = np.random.default_rng(18)
    (original,) = PHANTOM.datasets()
    changes = (_without_an_element, _with_another_value, _with_items_moved)
    answers: Counter[int] = Counter()
    with quiet_node(tmp_path) as node:
        for number in range(OBJECTS):
            dataset = copy.deepcopy(original)
            dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
            if number % 2:
                changes[random.integers(len(changes))](dataset, random)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the values that it is to write
                offer = offer_of(dataset)
            if not number % 2:
                offer = replace(offer, dataset=memoryview(_damaged(bytes(offer.dataset), random)))
            answers[node.intake.store(offer, {})] += 1
        node.settle()
        found = node.reader.series_list()
        assert {line.state for line in found} <= {"kept", "planned"}
        reasons = Counter(line.reason for line in found)
        assert NOT_JUDGED not in reasons
        assert {"process", "unusable"} <= reasons.keys()
        for line in found:
            with suppress(InputError):  # pixels are decoded by the job, which is held with this sentence
                if line.state == "planned":
                    made_from(archived_files(node.archive, SeriesId(line.id)), 2)
        assert answers.keys() <= {Answer.STORED, Answer.MISMATCH, Answer.NOT_UNDERSTOOD}
        node.send(PHANTOM.datasets())
        node.settle()
        assert node.explain(max(line.id for line in node.reader.series_list())).state == "planned"
