"""Losses against values worked out by hand, and where their gradients go."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainer.training import losses

LOGITS = torch.tensor([[-2.0], [0.5]])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_mse_is_the_mean_over_every_value() -> None:
    predicted, truth = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert losses.mse(predicted, truth).item() == (4 + 9) / 4


def test_losses_refuse_to_broadcast() -> None:
    """A truth of one channel against a prediction of three would train all three towards it."""
    with pytest.raises(AssertionError):
        losses.mse(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))


def test_z_gradient_sees_steps_along_z_alone() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    ramp_in_plane = truth + torch.arange(4.0)
    ramp_along_z = truth + torch.arange(3.0).view(3, 1, 1)
    floor = losses.CHARBONNIER_EPSILON
    assert losses.z_gradient(ramp_in_plane, truth).item() == pytest.approx(floor)
    assert losses.z_gradient(ramp_along_z, truth).item() == pytest.approx(math.sqrt(1 + floor**2))


def ripple(amplitude: float, *, shift: int = 0) -> Tensor:
    """(1, 8, 9, 9): slices of ±amplitude by turns, which a second difference makes 4 × amplitude of."""
    signs = torch.tensor([1.0, -1.0]).roll(shift).repeat(4)
    return amplitude * signs.view(1, 8, 1, 1).expand(1, 8, 9, 9)


def test_z_energy_asks_how_strong_the_detail_is_and_not_where() -> None:
    truth = ripple(0.5)
    assert losses.z_energy(ripple(0.5, shift=1), truth).item() == 0
    strength = 4 * 0.25
    assert losses.z_energy(ripple(0.25), truth).item() * losses.STRENGTH == pytest.approx(
        strength * (4 * 0.5 - strength) ** 2, rel=1e-4
    )
    in_plane = torch.arange(9.0).square().expand(1, 8, 9, 9)
    assert losses.z_energy(truth + in_plane, truth).item() == pytest.approx(0, abs=1e-6)


def test_z_energy_amplifies_what_is_there_and_has_a_slope_where_nothing_is() -> None:
    weak = ripple(0.25).clone().requires_grad_()
    losses.z_energy(weak, ripple(0.5)).backward()  # type: ignore[no-untyped-call]
    assert weak.grad is not None
    assert (weak.grad * weak).sum() < 0
    nothing = torch.zeros(1, 8, 9, 9, requires_grad=True)
    losses.z_energy(nothing, ripple(0.5)).backward()  # type: ignore[no-untyped-call]
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_z_energy_asks_for_less_where_less_is_known() -> None:
    """The same lack of strength, where a fifth and where half of the truth's is there."""
    slopes = []
    for ours, theirs in ((0.05, 0.25), (0.2, 0.4)):
        thin = ripple(ours).clone().requires_grad_()
        (slope,) = torch.autograd.grad(losses.z_energy(thin, ripple(theirs)), thin)
        slopes.append(slope.norm().item())
    assert slopes[1] == pytest.approx(4 * slopes[0], rel=1e-2)


def test_structure_counts_large_errors_alone() -> None:
    """A broad error keeps its height under the Gaussian; one voxel keeps 0.4³ of it."""
    truth = torch.zeros(2, 9, 16, 16)
    broad = truth.clone()
    broad[:, 2:7, 4:12, 4:12] = 0.2
    assert losses.structure_loss(0.2 * broad, truth).item() == 0  # 0.04
    voxel = truth.clone()
    voxel[0, 4, 8, 8] = 0.7  # a Gaussian leaves 0.044
    assert losses.structure_loss(voxel, truth).item() == 0
    excess = losses.structure_loss(broad, truth).item() * truth.numel() / 2
    assert 0.15**2 < excess < 5 * 8 * 8 * 0.15**2
    assert losses.structure_loss(-broad, truth).item() == pytest.approx(losses.structure_loss(broad, truth).item())


def test_consistency_compares_with_what_would_have_been_measured() -> None:
    """Two thick slices, each the mean of two thin ones; the second is off by 3."""
    profile = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    thin = torch.tensor([1.0, 3.0, 5.0, 5.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    thick = torch.tensor([2.0, 8.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert losses.consistency_loss(thin, thick, profile).item() == 4.5


def test_content_is_compared_in_activations_and_the_truth_gets_no_gradient() -> None:
    """A network that doubles: twice the difference, four times its square."""
    predicted = torch.tensor([[1.0, 2.0]], requires_grad=True)
    truth = torch.tensor([[0.0, 4.0]], requires_grad=True)
    distance = losses.content_distance(lambda images: 2 * images, predicted, truth)
    distance.backward()  # type: ignore[no-untyped-call]
    assert distance.item() == (4 + 16) / 2
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[4.0, -8.0]]  # d/dp of (2p - 2t)²/2 = 4 (p - t)
    assert truth.grad is None


def test_the_papers_losses_are_the_cross_entropy_of_its_code() -> None:
    """``binary_cross_entropy`` of the sigmoid, with the targets 1 and 0 that the code feeds."""
    real, fake = LOGITS, LOGITS.flip(0) + 1
    cross_entropy = nn.BCELoss()
    expected = cross_entropy(real.sigmoid(), torch.ones(2, 1)) + cross_entropy(fake.sigmoid(), torch.zeros(2, 1))
    torch.testing.assert_close(losses.paper_discriminator_loss(real, fake), expected)
    torch.testing.assert_close(losses.paper_generator_loss(fake), cross_entropy(fake.sigmoid(), torch.ones(2, 1)))


def test_the_papers_generator_is_pulled_hardest_where_it_is_found_out() -> None:
    """Non-saturating: d/dx of softplus(-x) is -σ(-x), near -1 where the discriminator is sure, divided by the batch."""
    fake = LOGITS.clone().requires_grad_(True)
    losses.paper_generator_loss(fake).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    assert fake.grad.flatten().tolist() == pytest.approx([-sigmoid(2.0) / 2, -sigmoid(-0.5) / 2])


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_relativistic_losses_know_differences_only(offset: float) -> None:
    real, fake = torch.tensor([3.0, 0.0]) + offset, torch.tensor([1.0, 0.0]) + offset
    found = losses.relativistic_discriminator_loss(real, fake).item()
    assert found == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2, rel=1e-4)
    found = losses.relativistic_generator_loss(real, fake).item()
    assert found == pytest.approx((math.log(1 + math.exp(2)) + math.log(2)) / 2, rel=1e-4)


def test_relativistic_gradients_of_a_pair_are_equal_and_opposite() -> None:
    real, fake = torch.tensor([1.0], requires_grad=True), torch.tensor([0.2], requires_grad=True)
    losses.relativistic_discriminator_loss(real, fake).backward()  # type: ignore[no-untyped-call]
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.item() == pytest.approx(-sigmoid(-0.8))
    assert fake.grad.item() == pytest.approx(sigmoid(-0.8))


def test_sure_logits_do_not_overflow() -> None:
    sure = torch.tensor([1e4])
    for loss in (losses.paper_discriminator_loss, losses.relativistic_generator_loss):
        assert loss(sure, -sure).isfinite()
        assert loss(-sure, sure).isfinite()


def test_the_penalty_of_a_linear_discriminator_is_half_its_squared_weights() -> None:
    """D(x) = w·x has the slope w everywhere; so d/dw of ½‖w‖² is w itself."""
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5]], requires_grad=True)
    images = torch.randn(5, 1, 2, 2)
    penalty = losses.gradient_penalty(lambda images: images.flatten(1) @ weight.T, images)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert penalty.item() == pytest.approx((1 + 4 + 9 + 0.25) / 2)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, weight.detach())


@pytest.mark.parametrize("side", [8, 16])
def test_the_penalty_does_not_grow_with_the_patch_or_the_batch(side: int) -> None:
    """A map of logits, each twice the pixel it stands on: ½ · 2² whatever the size."""
    penalty = losses.gradient_penalty(lambda images: 2 * images, torch.randn(side // 4, 1, side, side))
    assert penalty.item() == pytest.approx(2.0)


def test_the_penalty_leaves_images_and_generator_alone() -> None:
    scale = torch.tensor(2.0, requires_grad=True)  # the generator's only weight
    images = scale * torch.ones(1, 1, 2, 2)
    discriminator = nn.Conv2d(1, 1, 2)
    losses.gradient_penalty(discriminator, images).backward()  # type: ignore[no-untyped-call]
    assert scale.grad is None
    assert discriminator.weight.grad is not None
    assert discriminator.weight.grad.any()


def test_accuracy_is_the_share_of_pairs_that_were_told_apart() -> None:
    real, fake = torch.tensor([1.0, 2.0, 0.0, 5.0]), torch.tensor([0.0, 3.0, 0.0, 4.0])
    assert losses.discriminator_accuracy(real, fake) == 0.5  # a tie was not told


@pytest.mark.parametrize(
    "loss", [losses.paper_generator_loss, lambda fake: losses.relativistic_generator_loss(torch.zeros(2), fake)]
)
def test_a_generator_step_raises_what_the_discriminator_thinks_of_it(loss: losses.Network) -> None:
    fake: Tensor = torch.zeros(2, requires_grad=True)
    loss(fake).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    assert (fake.grad < 0).all()  # down the gradient is up
