"""Discriminators: the size they are said to have, what they see, and that each of them learns."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from trainer.training.discriminators import build, reformats
from trainer.training.losses import discriminator_accuracy, gradient_penalty, paper_discriminator_loss
from trainer.training.recipe_tables import MIN_SIDE_PIXELS, DiscriminatorKind


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("channels", "parameters"), [(1, 48_166_209), (3, 48_166_209 + 2 * 64 * 4 * 4)])
def test_the_codes_discriminator_has_as_many_parameters_as_it_had(channels: int, parameters: int) -> None:
    """Flattened 8 × 8 × 512 at 512²; the count was taken from the published TensorFlow code.

    See docs/paper.md#paper-code-recipes.
    """
    with torch.device("meta"):
        net = build(DiscriminatorKind.CODE, channels=channels)
        assert net.get_submodule("trunk")(torch.zeros(2, channels, 512, 512)).shape == (2, 512, 8, 8)
    assert count_parameters(net) == parameters


def test_the_papers_discriminator_has_srgans_layers() -> None:
    """By hand: 3·3·in·out for each convolution, a gain and a bias for each normalisation, two dense layers."""
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    convolutions = 9 * 64 + 64 + sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    dense = 6 * 6 * 512 * 1024 + 1024 + 1024 + 1
    with torch.device("meta"):
        net = build(DiscriminatorKind.PAPER, channels=1)
        assert net.get_submodule("trunk")(torch.zeros(2, 1, 96, 96)).shape == (2, 512, 6, 6)
    assert count_parameters(net) == convolutions + dense
    assert round(6 * 6 * 512 * 1024 / 1e6, 1) == 18.9


@pytest.mark.parametrize("kind", [DiscriminatorKind.PAPER, DiscriminatorKind.CODE])
@pytest.mark.parametrize("shape", [(512, 512), (384, 348)])
def test_a_whole_slice_of_any_size_gives_one_logit(kind: DiscriminatorKind, shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        assert build(kind, channels=1)(torch.zeros(2, 1, *shape)).shape == (2, 1)


@pytest.mark.parametrize("kind", [DiscriminatorKind.PAPER, DiscriminatorKind.PATCH])
def test_the_smallest_image_alone_can_be_judged_and_learned_from(kind: DiscriminatorKind) -> None:
    net = build(kind, channels=2)
    side = MIN_SIDE_PIXELS[kind]
    net(torch.randn(1, 2, side, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_no_discriminator_has_state_beside_its_weights() -> None:
    """A checkpoint of parameters is then enough to go on bit for bit."""
    with torch.device("meta"):
        assert not [name for kind in DiscriminatorKind for name, _ in build(kind, channels=2).named_buffers()]


def test_patch_has_no_norm_so_that_penalties_hold_per_image() -> None:
    """The penalty of two images together is the mean of each alone."""
    torch.manual_seed(0)
    net, images = build(DiscriminatorKind.PATCH, channels=2), torch.randn(2, 2, 12, 16)
    alone = [gradient_penalty(net, image[None]) for image in images]
    torch.testing.assert_close(gradient_penalty(net, images), torch.stack(alone).mean())


def test_patch_judges_places_by_what_is_near_them() -> None:
    """A map of half the depth and a quarter of the width; 17 × 21 pixels decide each logit."""
    net = build(DiscriminatorKind.PATCH, channels=2)
    images = torch.zeros(1, 2, 40, 64, requires_grad=True)
    logits = net(images)
    assert logits.shape == (1, 1, 20, 16)
    logits[0, 0, 10, 8].backward()
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=(0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [17, 21]


def test_reformats_are_rows_and_columns_with_the_slices_standing_up() -> None:
    """Each voxel of a (1, 3, 4, 4) strip is found where its coordinates say."""
    z, y, x = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), torch.arange(4.0), indexing="ij")
    base = (100 * z + 10 * y + x)[None]
    seen = reformats(base + 0.5, base)
    assert seen.shape == (8, 2, 3, 4)
    assert (seen[:, 0] == 8 * 0.5).all()
    assert (seen[2, 1] == 2 * base[0, :, 2, :]).all()  # row y = 2
    assert (seen[4 + 1, 1] == 2 * base[0, :, :, 1]).all()  # column x = 1


def test_reformats_of_two_strips_may_be_thinned_out() -> None:
    base = torch.randn(2, 3, 4, 4)
    seen = reformats(base, base, every=2, first=1)
    expected = [2 * base[b, :, y, :] for b in (0, 1) for y in (1, 3)] + [
        2 * base[b, :, :, x] for b in (0, 1) for x in (1, 3)
    ]
    assert torch.equal(seen[:, 1], torch.stack(expected))


@pytest.mark.parametrize(("kind", "steps"), [(DiscriminatorKind.PAPER, 2), (DiscriminatorKind.PATCH, 8)])
def test_it_learns_to_tell_loud_noise_from_quiet(kind: DiscriminatorKind, steps: int) -> None:
    torch.manual_seed(0)
    side = MIN_SIDE_PIXELS[DiscriminatorKind.PAPER]
    net = build(kind, channels=2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    real, fake = 0.1 * torch.randn(4, 2, side, side), torch.randn(4, 2, side, side)
    for _ in range(steps):
        loss = paper_discriminator_loss(net(real), net(fake))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert discriminator_accuracy(net(real), net(fake)) > 0.95
