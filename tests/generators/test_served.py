"""Networks as generators: against the same arithmetic written out whole, and what they keep of the measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from dicomnode.errors import ModelError
from dicomnode.generators import infer, model_dir, served
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.kinds import Kind
from dicomnode.generators.model_dir import load_generator
from dicomnode.generators.served import REPEATED_PIXELS, paper_planes
from dicomnode.generators.srcnn import SRCNN
from dicomnode.generators.vdsr import VDSR
from dicomnode.imaging.body import body_scale
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume
from tests.support.model_folders import (
    random_srresnet,
    random_stack,
    random_thin,
    write_paper,
    write_srcnn,
    write_thin,
    write_vdsr,
)
from tests.support.shared import WEIGHTS, needs_shared

FloatArray = NDArray[np.float32]

Writer = Callable[[Path], Path]
WRITERS: dict[str, Writer] = {
    "thin": lambda folder: write_thin(folder),
    "slice": lambda folder: write_paper(folder, Kind.SLICE, net=random_srresnet(outputs=1)),
    "slab3": lambda folder: write_paper(folder, Kind.SLAB3, net=random_srresnet(outputs=3)),
    "srcnn": lambda folder: write_srcnn(folder, random_srcnn()),
    "vdsr": lambda folder: write_vdsr(folder, random_vdsr()),
}


def random_srcnn() -> SRCNN:
    torch.manual_seed(0)
    return SRCNN(channels=8, mapped=4, middle=3).eval()


def random_vdsr() -> VDSR:
    """Its residual is not small, as it would be at the start of training."""
    torch.manual_seed(0)
    net = VDSR(channels=8, layers=4)
    net.tail.weight.data.mul_(10)
    return net.eval()


def derived(folder: Path, thick: Volume, ratio: int) -> FloatArray:
    return load_generator(folder).generate(thick, thin_grid(thick, ratio), device="cpu").thin.voxels


def cubic_dc_of(thick: Volume, ratio: int) -> FloatArray:
    return CubicDc().generate(thick, thin_grid(thick, ratio), device="cpu").thin.voxels


def near(found: FloatArray, expected: FloatArray) -> bool:
    return bool(np.abs(found - expected).max() < 1e-4 * np.abs(expected).max())


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a difference is one of arithmetic and not of rounding."""
    monkeypatch.setattr(infer, "serving_dtype", lambda _device: torch.float32)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize(("slices", "window"), [(1, 3), (2, 5), (6, 5)])
def test_thin_adds_the_residual_of_each_window_to_cubic_dc(tmp_path: Path, slices: int, window: int) -> None:
    """Without the projection; windows made by hand, all in one batch, each slice larger by its repeated border."""
    net, thick, ratio = random_thin(window=window), random_stack(slices, 19, 22), 3
    scale, reach, edge = body_scale(thick.voxels), window // 2, REPEATED_PIXELS
    padded = np.pad(thick.voxels, ((reach, reach), (edge, edge), (edge, edge)), mode="edge") / scale
    windows = np.stack([padded[start : start + window] for start in range(slices)]).astype(np.float32)
    with torch.inference_mode():
        residuals = net(torch.from_numpy(windows), ratio).numpy()[..., edge : edge + 19, edge : edge + 22]
    residuals = residuals.reshape(slices * ratio, 19, 22)
    found = derived(write_thin(tmp_path, net=net, consistency=False), thick, ratio)
    assert near(found, cubic_dc_of(thick, ratio) + residuals * scale)


@pytest.mark.parametrize(
    "model",
    ["thin", *(pytest.param(WEIGHTS / name, id=name, marks=needs_shared) for name in ("thin-amx", "thin-amx-sharp"))],
)
@pytest.mark.parametrize("ratio", [3, 4, 5])
def test_a_trained_model_keeps_a_constant_and_a_ramp_up_to_the_border_of_the_picture(
    model: str | Path, ratio: int
) -> None:
    """Nothing is to be invented where there is nothing; of the ramp, the ends are left out, where cubic-dc bends it."""
    slices, generator = 12, load_generator(model)
    flat = random_stack(slices, 64, 64)
    rise = np.linspace(0.0, 1.0, slices, dtype=np.float32)[:, None, None]

    def thin(voxels: FloatArray) -> FloatArray:
        thick = replace(flat, voxels=np.broadcast_to(voxels, flat.voxels.shape).copy())
        return generator.generate(thick, thin_grid(thick, ratio), device="cpu").thin.voxels

    assert np.abs(thin(np.float32(0.5) * np.ones_like(rise)) - 0.5).max() <= 0.002
    expected = ((np.arange(slices * ratio) + 0.5) / ratio - 0.5) / (slices - 1)
    middle = slice(2 * ratio, -2 * ratio)
    assert np.abs(thin(rise)[middle] - expected[middle, None, None]).max() <= 0.005


@pytest.mark.usefixtures("in_float32")
def test_the_network_runs_around_the_body_only_and_the_body_does_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body in the corner of a large field: exact in it and its margin, cubic-dc far from it, no pixel in between."""
    body, folder = (slice(0, 41), slice(30, 93)), write_thin(tmp_path)
    voxels = np.random.default_rng(3).random((4, 180, 200), dtype=np.float32) * 10
    voxels[:, *body] += 500
    thick = replace(random_stack(4, 180, 200), voxels=voxels)
    made = load_generator(folder).generate(thick, thin_grid(thick, 3), device="cpu")
    found = made.thin.voxels
    monkeypatch.setattr(served, "body_rectangle", lambda _voxels, _scale, _margin: (slice(0, 180), slice(0, 200)))
    whole = derived(folder, thick, 3)

    grown = (slice(0, 41 + served.BODY_MARGIN), slice(30 - served.BODY_MARGIN, 93 + served.BODY_MARGIN))
    assert np.abs(found - whole)[:, *grown].max() < 1e-6 * np.abs(whole).max()
    reach = served.BODY_MARGIN + 14 + 4  # two blocks see 14 pixels far; the body is seen on squares of four
    assert made.network_share == 66 * 114 / (180 * 200)
    base = cubic_dc_of(thick, 3)
    for beyond in ((slice(None), slice(41 + reach, None)), (slice(None), slice(None), slice(93 + reach, None))):
        assert np.abs(found[beyond] - base[beyond]).max() < 0.01, "projected once more, and otherwise untouched"
        assert np.abs(whole[beyond] - base[beyond]).max() > 1.0, "a network that changes nothing proves nothing"


@pytest.mark.usefixtures("in_float32")
def test_slice_sends_each_slice_of_cubic_dc_through_the_network(tmp_path: Path) -> None:
    net, thick = random_srresnet(outputs=1), random_stack(3, 23, 18)
    scale = body_scale(thick.voxels)
    with torch.inference_mode():
        expected = net(torch.from_numpy(cubic_dc_of(thick, 4)[:, None] / scale)).numpy()[:, 0] * scale
    assert near(derived(write_paper(tmp_path, Kind.SLICE, net=net, consistency=False), thick, 4), expected)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("kind", ["srcnn", "vdsr"])
@pytest.mark.parametrize("working_bytes", [infer.WORKING_BYTES, 1])
def test_networks_to_compare_with_are_given_each_slice_of_cubic_dc(
    tmp_path: Path, kind: str, working_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and in the smallest strips: these overlap by as far as the network sees."""
    net = random_srcnn() if kind == "srcnn" else random_vdsr()
    folder = write_srcnn(tmp_path, net) if isinstance(net, SRCNN) else write_vdsr(tmp_path, net)
    thick = random_stack(2, 70, 18)
    scale = body_scale(thick.voxels)
    with torch.inference_mode():
        expected = net(torch.from_numpy(cubic_dc_of(thick, 4)[:, None] / scale)).numpy()[:, 0] * scale
    monkeypatch.setattr(infer, "WORKING_BYTES", working_bytes)
    assert near(derived(_without_consistency(folder), thick, 4), expected)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("planes_at_once", [1, 2, 3, 100])
def test_slab3_averages_what_neighbours_say_of_a_slice(
    tmp_path: Path, planes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over a dictionary of all predictions of a slice; across the borders of batches as within them."""
    net, thick = random_srresnet(outputs=3), random_stack(4, 16, 16)
    monkeypatch.setattr(infer, "BATCH_BYTES", planes_at_once * 16 * 16 * paper_planes(net).live_values * 4)
    scale, base = body_scale(thick.voxels), cubic_dc_of(thick, 2)
    said: dict[int, list[FloatArray]] = {index: [] for index in range(len(base))}
    with torch.inference_mode():
        for index, plane in enumerate(base):
            predicted = net(torch.from_numpy(plane[None, None] / scale))[0].numpy() * scale
            for neighbour, image in zip((index - 1, index, index + 1), predicted, strict=True):
                if neighbour in said:
                    said[neighbour].append(image)
    expected = np.stack([np.mean(images, axis=0) for images in said.values()])
    found = derived(write_paper(tmp_path, Kind.SLAB3, net=net, consistency=False), thick, 2)
    assert near(found, expected)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("ratio", "shape"), [(2, (5, 33, 17)), (5, (3, 16, 31)), (6, (2, 1, 5))])
def test_the_mean_of_each_slab_is_what_was_measured(
    tmp_path: Path, kind: str, ratio: int, shape: tuple[int, int, int]
) -> None:
    """In the precision that serves here; a contiguous box profile is a plain mean over ``ratio`` slices."""
    thick = random_stack(*shape)
    thin = derived(WRITERS[kind](tmp_path), thick, ratio)
    means = thin.reshape(shape[0], ratio, *shape[1:]).mean(axis=1)
    unprojected = derived(_without_consistency(tmp_path), thick, ratio)
    missed = np.abs(unprojected.reshape(means.shape[0], ratio, *shape[1:]).mean(axis=1) - thick.voxels).max()
    assert np.abs(means - thick.voxels).max() <= 2e-3 * missed + 1e-3
    assert missed > 1.0, "a network that changes nothing proves nothing"


@pytest.mark.parametrize("kind", WRITERS)
def test_the_result_lies_on_the_grid_and_the_stack_is_untouched(tmp_path: Path, kind: str) -> None:
    thick = random_stack(3, 20, 11)
    before, grid = thick.voxels.copy(), thin_grid(thick, 4)
    shares: list[float] = []
    thin = load_generator(WRITERS[kind](tmp_path)).generate(thick, grid, device="cpu", progress=shares.append).thin
    assert thin.voxels.shape == (12, 20, 11)
    assert thin.voxels.dtype == np.float32
    assert thin.slice_spacing_mm == pytest.approx(1.25)
    assert np.array_equal(thin.origin_mm, grid.origin_mm)
    assert np.array_equal(thick.voxels, before)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("kind", WRITERS)
def test_a_gain_of_the_scanner_is_a_gain_of_the_result(tmp_path: Path, kind: str) -> None:
    """The network sees every series at its own scale; 8 is a power of two, so that rounding is the same."""
    folder, thick = WRITERS[kind](tmp_path), random_stack(3, 16, 16)
    louder = Volume(**{name: getattr(thick, name) for name in Volume.__slots__} | {"voxels": thick.voxels * 8})
    np.testing.assert_allclose(derived(folder, louder, 3), derived(folder, thick, 3) * 8, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("ratio", [2, 5])
def test_a_ratio_that_the_model_was_not_made_for_is_refused(tmp_path: Path, ratio: int) -> None:
    folder, thick = write_thin(tmp_path, ratios=(3, 4)), random_stack(3, 8, 8)
    with pytest.raises(ModelError, match=f"derives 3 to 4 slices from each; {ratio} were asked for"):
        derived(folder, thick, ratio)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = write_thin(tmp_path)
    (folder / model_dir.WEIGHTS_FILE).write_bytes(save(random_thin(channels=16).state_dict()))
    model_dir.seal(folder)
    with pytest.raises(ModelError, match="not those of the network that its card describes"):
        load_generator(folder)


def test_a_file_that_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    folder = write_thin(tmp_path)
    (folder / model_dir.WEIGHTS_FILE).write_bytes(b"\x80\x04cos\nsystem\n")  # as a pickle begins
    model_dir.seal(folder)
    with pytest.raises(ModelError, match="not those of the network"):
        load_generator(folder)


def test_a_weight_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    net = random_thin()
    net.join.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="is not a number"):
        load_generator(write_thin(tmp_path, net=net))


@pytest.mark.usefixtures("in_float32")
def test_sharpness_interpolates_each_weight_between_the_two_sets(tmp_path: Path) -> None:
    fidelity, adversarial, middle = random_thin(), random_thin(seed=1), random_thin()
    for weight, sharp in zip(middle.parameters(), adversarial.parameters(), strict=True):
        weight.data = 0.75 * weight.data + 0.25 * sharp.data
    both = load_generator(write_thin(tmp_path / "both", net=fidelity, adversarial=adversarial, sharpness=0.25))
    thick = random_stack(6, 12, 10)
    ends = [(both.at(0.0), fidelity), (both.at(1.0), adversarial), (both, middle), (both.at(1.0).at(0.25), middle)]
    for number, (generator, net) in enumerate(ends):
        expected = derived(write_thin(tmp_path / str(number), net=net), thick, 3)
        found = generator.generate(thick, thin_grid(thick, 3), device="cpu").thin.voxels
        assert near(found, expected)
    assert [generator.sharpness for generator, _ in ends] == [0.0, 1.0, 0.25, 0.25]
    assert {generator.digest for generator, _ in ends} == {both.digest}


def test_there_is_no_sharpness_to_choose_where_there_is_one_set_of_weights(tmp_path: Path) -> None:
    for generator in (load_generator(write_thin(tmp_path)), CubicDc()):
        assert generator.sharpness is None
        with pytest.raises(ModelError, match=f"^Model {generator.name} does not have two sets of weights"):
            generator.at(0.5)


def test_a_generator_says_what_it_is(tmp_path: Path) -> None:
    folder = write_paper(tmp_path, Kind.SLAB3, net=random_srresnet(outputs=3))
    generator = load_generator(folder)
    assert (generator.name, generator.digest) == ("small", model_dir.verify(folder))


def _without_consistency(folder: Path) -> Path:
    card = model_dir.read_card(folder)
    model_dir.write_card(folder, card.model_copy(update={"consistency": False}))
    model_dir.seal(folder)
    return folder
