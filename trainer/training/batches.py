"""Decode what a run learns from, and draw batches from it; ``loader`` does both in processes of their own.

Sample ``k`` of the batch of step ``n`` depends on the plan, ``n`` and ``k`` alone: a resumed run sees exactly the
samples that it missed, and several processes that share a batch see together what one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dicomnode.errors import InputError
from trainer.data.pairs import SlicePairs, load_pairs
from trainer.data.sources import Split
from trainer.data.volumes import volume_of
from trainer.training import fit, slices, strips
from trainer.training.plan import PairKind, Plan, Use
from trainer.training.simulate import GreyVolume, grey_volume, in_plane_volume

Batch = strips.StripBatch | slices.SliceBatch
OnRead = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShare:
    """The part of each batch that this process works on."""

    rank: int = 0
    world: int = 1

    def numbers(self, batch: int) -> range:
        """The samples of a batch that are this process's."""
        assert batch % self.world == 0
        own = batch // self.world
        return range(self.rank * own, (self.rank + 1) * own)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """The decoded material that samples are drawn from; one of the two is empty."""

    volumes: tuple[GreyVolume, ...] = ()
    pairs: tuple[SlicePairs, ...] = ()


def load_material(plan: Plan, split: Split, *, on_read: OnRead = lambda: None) -> Material:
    """Decode the sources of one split; InputError where none of them can be used for this recipe.

    ``on_read`` is called after each of them: reading and pairing many takes minutes.
    """
    if plan.recipe.samples.design == "strips":
        return Material(volumes=tuple(_volumes(plan, split, on_read)))
    return Material(pairs=tuple(_pairs(plan, split, on_read)))


def draw_batch(material: Material, plan: Plan, step: int, share: BatchShare) -> Batch:
    """This process's part of the batch of one step."""
    recipe = plan.recipe
    numbers = share.numbers(recipe.samples.batch)
    if recipe.samples.design == "slices":
        return slices.draw_batch(material.pairs, recipe, numbers, plan.seed, step)
    of_all = np.random.default_rng((plan.seed, step))  # what the strips of a batch have in common
    ratio, is_turned = int(of_all.choice(recipe.samples.ratios)), bool(of_all.random() < 0.5)
    return strips.stacked(
        [
            strips.draw_strip(
                material.volumes,
                ratio,
                recipe,
                np.random.default_rng((plan.seed, step, number)),
                is_turned=is_turned,
            )
            for number in numbers
        ],
        ratio,
    )


def _volumes(plan: Plan, split: Split, on_read: OnRead) -> Iterator[GreyVolume]:
    depth, width = strips.smallest_extent(plan.recipe)
    slices, is_native = strips.smallest_slices(plan.recipe), not plan.recipe.samples.is_square
    for planned in plan.of_split(split):
        if planned.use is Use.THICK:
            continue
        volume = volume_of(planned.source())
        if planned.use is Use.IN_PLANE:
            grey = in_plane_volume(volume, slices, is_native=is_native)
        else:
            grey = grey_volume(volume.voxels)
        if min(grey.levels.shape[int(grey.is_native) :]) < max(depth, width):
            raise InputError(
                f"{planned.label} is too small to be trained on: its body measures "
                f"{' × '.join(map(str, grey.levels.shape))} voxels, and a strip needs {max(depth, width)}.",
                hint="Leave it out, or take a smaller patch or smaller ratios in the recipe.",
            )
        on_read()
        yield grey


def _pairs(plan: Plan, split: Split, on_read: OnRead) -> Iterator[SlicePairs]:
    """Real ones first, in the order of the sources; a simulated stack's parameters depend on the seed and its place."""
    side = fit.smallest_side(plan.recipe)
    found = []
    if plan.pairs is not PairKind.SIMULATED:
        for pairs in _real_pairs(plan, split):
            found.append(pairs)
            on_read()
    if plan.pairs is not PairKind.REAL:
        for number, planned in enumerate(plan.of_split(split)):
            if planned.use is Use.THICK:
                continue
            rng = np.random.default_rng((plan.seed, number))
            voxels = volume_of(planned.source()).voxels
            axes = (1, 2) if planned.use is Use.IN_PLANE else (0, 1, 2)
            found += slices.simulated(voxels, planned.subject, plan.recipe, rng, axes=axes)
            on_read()
    large = [pair for pair in found if min(pair.thick.shape[1:]) >= side and len(pair.thin) >= 3]
    if not large and split is Split.TRAIN:
        raise InputError(
            f"No pair of slices of at least {side} × {side} pixels was found to train on.",
            hint="See --dry-run for what there is; take a smaller patch, or a smaller discriminator, in the recipe.",
        )
    return iter(large)


def _real_pairs(plan: Plan, split: Split) -> Iterator[SlicePairs]:
    """The real pairs as they were found when the run was planned."""
    known = {planned.label: planned.source() for planned in plan.of_split(split)}
    for pair in plan.real:
        if pair.thick in known:
            yield load_pairs(known[pair.thick], known[pair.thin], matches=pair.matches, registration=pair.registration)
