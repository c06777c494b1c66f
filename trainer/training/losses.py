"""The losses that networks are trained on: pure functions of tensors, each a scalar, each in units of its own.

Fidelity compares values; content compares what a classifier sees (``features.py``); adversarial losses compare
with what a discriminator has learned to tell apart. Weights between them stand in the recipe, not here.

A discriminator gives logits: large where it holds an image for real. Both adversarial games are stepped as the
seed paper's code does: the discriminator once, then the generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, conv3d, softplus

CHARBONNIER_EPSILON = 1e-3  # about the noise floor of the volumes' scale (docs/science.md#design-of-thin)
NEIGHBOURHOOD = (3, 7, 7)  # thin slices, rows, columns whose detail across the slices is compared as one
GAUSSIAN = (0.0044, 0.0540, 0.2420, 0.3991, 0.2420, 0.0540, 0.0044)  # of sigma 1 voxel
STRENGTH = 0.05  # of detail along z, of the body's scale: about what thin has in brains at ratio 4
STRUCTURE_ERROR = 0.05  # of the body's scale: a third of what counts as a blob (``judging.blobs``)

Network = Callable[[Tensor], Tensor]


def mse(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference per value (Narcomey & Gu 2018, stage 1); not their table's, see ``published``."""
    assert predicted.shape == truth.shape
    return (predicted - truth).square().mean()


def charbonnier(difference: Tensor) -> Tensor:
    """Mean of √(d² + ε²): as |d|, but smooth at zero."""
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def z_gradient(thin: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier of the steps along z (axis -3): penalises edges that are too soft across the slices."""
    assert thin.shape == truth.shape
    return charbonnier((thin - truth).diff(dim=-3))


def z_energy(thin: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of two (…, m, H, W) in the strength of detail along z, times that of ``thin``.

    The strength is the rms second difference along z of each neighbourhood. What is predicted with little certainty is
    predicted too weakly. This asks for as much of it as the truth has, and not for where: to amplify what is right
    costs less PSNR than to add detail of another kind (Freirich 2021, arXiv 2107.02555, has the bound for a given
    likeness to true pictures). The weight is our own strength in units of STRENGTH, without a slope: little is asked
    for where little is known, as where the truth has noise and no structure.
    """
    assert thin.shape == truth.shape
    ours, theirs = (
        (avg_pool3d(_volumes(images.diff(n=2, dim=-3).square()), NEIGHBOURHOOD, stride=1) + 1e-6).sqrt()
        for images in (thin, truth)
    )
    return (ours.detach() / STRENGTH * (ours - theirs).square()).mean()


def structure_loss(thin: Tensor, truth: Tensor) -> Tensor:
    """Mean squared excess over STRUCTURE_ERROR of what a Gaussian of one voxel leaves of the error (…, m, H, W).

    Errors as large as this are structures that the truth does not have, or that were lost.
    """
    assert thin.shape == truth.shape
    left = _volumes(thin - truth)
    kernel = left.new_tensor(GAUSSIAN)
    for shape in ((1, 1, -1, 1, 1), (1, 1, 1, -1, 1), (1, 1, 1, 1, -1)):
        left = conv3d(left, kernel.view(shape), padding="same")
    return (left.abs() - STRUCTURE_ERROR).relu().square().mean()


def consistency_loss(thin: Tensor, thick: Tensor, profile: Tensor) -> Tensor:
    """Mean squared difference between what was measured and what ``thin`` would have been measured as.

    ``thin`` (…, m, H, W), ``thick`` (…, n, H, W), ``profile`` (…, n, m), whose rows add up to one
    (docs/science.md#slice-profile). For networks without the projection: behind it this is zero.
    """
    return mse(torch.einsum("...ij,...jhw->...ihw", profile, thin), thick)


def content_distance(features: Network, predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of activations (Ledig 2017, eq. 5, where the sum is divided by W·H alone).

    Divided by the number of activations here, so that the weight does not depend on the layer's channels.
    """
    with torch.no_grad():
        wanted = features(truth)
    return mse(features(predicted), wanted)


def paper_generator_loss(fake: Tensor) -> Tensor:
    """-log σ(D(G)), the non-saturating cross entropy (Ledig 2017, eq. 6; Narcomey & Gu 2018): log 2 at logit 0."""
    return softplus(-fake).mean()


def paper_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Sigmoid cross entropy, real → 1 plus fake → 0 (Goodfellow 2014, eq. 1, negated): 2 log 2 at logit 0."""
    return softplus(-real).mean() + softplus(fake).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Softplus of D(real) - D(fake), pair by pair (R3GAN, Huang 2025, arXiv 2501.05441, §2).

    Log 2 where D is undecided. A pair is a prediction and its own truth: ``real`` and ``fake`` come from the same
    patches in the same order.
    """
    assert real.shape == fake.shape
    return softplus(real - fake).mean()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The generator's side of the relativistic loss: softplus of D(fake) - D(real)."""
    return relativistic_generator_loss(fake, real)


def gradient_penalty(discriminator: Network, images: Tensor) -> Tensor:
    """½ ‖∂D/∂image‖² per logit: R1 on real images, R2 on fake ones (Mescheder 2018, eq. 9; R3GAN, §2).

    Zero-centred: it asks for a flat discriminator where the data lie, which is what makes the relativistic game
    converge. ``images`` (N, C, H, W) are taken as constants; the result is differentiable in the discriminator's
    weights. Where an image has a map of logits, their summed gradient is divided by their number, so that the
    weight does not depend on the size of the patch. Do not use it across batch norm, which mixes the images.
    """
    leaves = images.detach().requires_grad_(True)
    logits = discriminator(leaves)
    (slopes,) = torch.autograd.grad(logits.sum(), leaves, create_graph=True)
    return 0.5 * slopes.square().sum() / logits.numel()


def discriminator_accuracy(real: Tensor, fake: Tensor) -> float:
    """The share of pairs in which the real one was recognised, D(real) > D(fake); healthy: 0.55 to 0.95.

    See docs/science.md#adversarial-stage.
    """
    assert real.shape == fake.shape
    return (real > fake).float().mean().item()


def _volumes(images: Tensor) -> Tensor:
    """(…, m, H, W) as volumes of one channel."""
    return images.reshape(-1, 1, *images.shape[-3:])
