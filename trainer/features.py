"""Features that a classifier sees in an image: VGG19's activations φ, for content losses and perceptual distances.

In: images of 1.0 = full scale, a layer by name, weights from a file or from torchvision. Out: activations.
The only file that touches torchvision, whose definition of VGG19 this is. Nothing of a file is unpickled.

    vgg19:relu3_4       after the ReLU of the fourth convolution before the third pooling: φ3,4 of Ledig (2017)
    vgg19:conv5_4       the same of the fifth, before its ReLU, as ESRGAN has it; φ5,4 of Ledig is relu5_4
    vgg19:pool4@224     after the fourth pooling, of images resized to 224 × 224: what Narcomey and Gu (2018) ran

Weights differ in scale by who trained them (those of Oxford stand on pixels of 0 to 255: activations some ten times
as large as torchvision's). ``Features.energy`` measures that; a distance divided by it can share a weight. Measured
with Oxford's at relu3_4, slices of cubic-dc at ratio 4 against the truth, three subjects, two planes each: the mean
squared distance ÷ energy is 27 to 44 times the mean squared difference of values. A weight of 0.03 makes both equal.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path
from urllib.error import URLError

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from dicomnode import ids
from dicomnode.errors import InputError
from trainer.feature_names import SPEC, SPEC_HINT

# Mean and σ of the RGB images, 0 to 1, that every VGG19 in circulation expects (torchvision's documentation of its
# weights).
MEAN, SIGMA = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE_HINT = "Name a safetensors file with torchvision's names of layers (--features-file) and its sha256."
REFERENCE_SIDE_PIXELS = 96
# Operators of the compiled extension that torchvision 0.28 registers shapes for while it is imported.
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class Features(nn.Module):
    """Images (N, C, H, W) → activations of one layer (N·C, channels, h, w); every channel is a grey image."""

    mean: Tensor
    sigma: Tensor

    def __init__(self, spec: str, layers: nn.Sequential, side: int | None) -> None:
        super().__init__()
        self.spec = spec
        self.side = side  # of the square that images are resized to, in pixels; None: as they come
        self.layers = layers
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sigma", torch.tensor(SIGMA).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        with torch.inference_mode():
            # Mean squared activation of a reference picture: what a squared distance of activations is relative to.
            # Rounded, so that a loss divided by it is the same whatever order a machine adds up in.
            self.energy = float(f"{self(reference_picture()).square().mean().item():.3g}")

    def forward(self, images: Tensor) -> Tensor:
        """Differentiable in the images alone."""
        grey = images.flatten(0, 1).unsqueeze(1)
        if self.side is not None:
            # No antialiasing: the published code's resize had none (docs/paper.md#paper-code-recipes).
            grey = functional.interpolate(grey, size=(self.side, self.side), mode="bilinear", align_corners=False)
        activations: Tensor = self.layers((grey - self.mean) / self.sigma)
        return activations


def load(spec: str, *, file: Path | None = None, sha256: str | None = None) -> Features:
    """The features that ``spec`` names; InputError says what is wrong with the name, the file or the download.

    With ``file``, a safetensors file with torchvision's names of layers, its sha256 must be given and is compared
    before anything is read from it. Without, torchvision downloads its own weights once (575 MB).
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise InputError(f"{spec!r} names no features.", hint=SPEC_HINT)
    if file is None and sha256 is not None:
        raise InputError("The sha256 of a features file was given, but no file.", hint=FILE_HINT)
    layers = _build_layers(match["layer"])
    tensors = _download_tensors() if file is None else _read_tensors(file, sha256, FILE_HINT)
    _fill(layers, tensors, spec)
    return Features(spec, layers, int(match["side"]) if match["side"] else None)


def load_vgg16(file: Path, sha256: str | None, *, end: int, hint: str) -> tuple[nn.Sequential, Mapping[str, Tensor]]:
    """The first ``end`` layers of VGG16, frozen, and all that the file holds; InputError as of ``load``."""
    _prepare_torchvision()
    from torchvision.models.vgg import cfgs, make_layers  # type: ignore[import-untyped]

    tensors = _read_tensors(file, sha256, hint)
    with torch.device("meta"):
        layers = make_layers(cfgs["D"])[:end]
    _fill(layers, tensors, "VGG16")
    frozen: nn.Sequential = layers.eval().requires_grad_(False)
    return frozen, tensors


def reference_picture() -> Tensor:
    """(1, 1, 96, 96): noise with the 1/f spectrum of natural images, mean 0.4, standard deviation 0.2, in 0 … 1."""
    side = REFERENCE_SIDE_PIXELS
    noise = np.random.default_rng(0).standard_normal((side, side))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf  # no mean
    picture = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(side, side))
    picture = np.clip(0.4 + 0.2 * picture / picture.std(), 0.0, 1.0)
    return torch.from_numpy(picture.astype(np.float32))[None, None]


def _build_layers(layer: str) -> nn.Sequential:
    """VGG19 up to and with ``layer``, on no device yet: 20 million weights must not be drawn to be thrown away."""
    _prepare_torchvision()
    from torchvision.models.vgg import cfgs, make_layers

    stage, convolution = 1, 0
    for count, entry in enumerate(cfgs["E"], 1):
        convolution += 1
        if entry == "M":
            names: tuple[str, ...] = (f"pool{stage}",)
            stage, convolution = stage + 1, 0
        else:
            names = (f"relu{stage}_{convolution}", f"conv{stage}_{convolution}")
        if layer in names:
            with torch.device("meta"):
                layers = list(make_layers(cfgs["E"][:count]))
            return nn.Sequential(*(layers[:-1] if layer.startswith("conv") else layers))
    raise InputError(f"VGG19 has no layer {layer}.", hint=SPEC_HINT)


def _fill(layers: nn.Sequential, tensors: Mapping[str, Tensor], spec: str) -> None:
    needed = {name: tensors.get(f"features.{name}") for name in layers.state_dict()}
    found = {name: tensor.float() for name, tensor in needed.items() if tensor is not None}
    if len(found) < len(needed):
        missing = next(name for name in needed if name not in found)
        raise InputError(
            f"The features file does not reach as far as {spec}: it has no features.{missing}.",
            hint="Use a file with more layers, or name a layer that it has.",
        )
    try:
        layers.load_state_dict(found, assign=True)
    except RuntimeError as exc:
        raise InputError("The features file does not hold the layers of VGG.", hint=FILE_HINT) from exc


def _read_tensors(file: Path, sha256: str | None, hint: str) -> Mapping[str, Tensor]:
    if sha256 is None:
        raise InputError(f"The sha256 that {file} must have was not given; it was not read.", hint=hint)
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise InputError(f"The features file {file} cannot be read: {exc.strerror}.", hint=hint) from exc
    found = ids.digest(content)
    if found != sha256.lower():
        raise InputError(
            f"{file} is not the features file that was asked for: expected sha256 {sha256}, found {found}. "
            "Nothing was loaded from it.",
            hint="Get the file again, or correct the sha256.",
        )
    try:
        tensors: Mapping[str, Tensor] = safetensors.torch.load(content)
    except SafetensorError as exc:
        raise InputError(f"{file} is not a safetensors file.", hint=hint) from exc
    return tensors


def _download_tensors() -> Mapping[str, Tensor]:
    """Torchvision's own; kept in torch's cache, checked against the digest in their name."""
    from torchvision.models import VGG19_Weights  # type: ignore[import-untyped]

    try:
        tensors: Mapping[str, Tensor] = VGG19_Weights.IMAGENET1K_V1.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as exc:
        reason = getattr(exc, "reason", exc)
        raise InputError(f"The weights of VGG19 could not be downloaded: {reason}.", hint=FILE_HINT) from exc
    return tensors


def _prepare_torchvision() -> None:
    """Let torchvision be imported beside a torch that its compiled extension was not built for.

    Torchvision of a package index is built for CUDA; beside a torch without, its extension cannot be loaded, and
    the import then fails half-way, for good in this process, over operators that nobody has declared. So this is
    decided before: where the extension does load, nothing is done.
    """
    if "torchvision" in sys.modules:
        return
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        raise InputError("Content losses need torchvision, which is not installed.", hint="Install dicomnode[train].")
    finder = FileFinder(package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    extension = finder.find_spec("_C")
    try:
        if extension is not None and extension.origin is not None:
            torch.ops.load_library(extension.origin)  # type: ignore[no-untyped-call]
            return
    except OSError:
        pass
    for name, schema in OPERATORS.items():
        torch.library.define(f"torchvision::{name}", schema)
