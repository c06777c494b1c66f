"""The loop: schedule, losses, and a resume that nobody can tell from an uninterrupted run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.errors import InputError
from tests.support.phantom_sources import phantom
from trainer import checkpoint
from trainer.batches import Batch, draw_batch
from trainer.loop import Trainee, TrainSettings, averaged_net, learning_rate, train
from trainer.losses import fidelity_loss
from trainer.simulate import GreyVolume, grey_volume

SMALL = TrainSettings(steps=8, strips=1, channels=8, blocks=1, warm_up_steps=2)


@pytest.fixture(scope="module")
def volumes() -> tuple[GreyVolume, ...]:
    """One phantom."""
    return (grey_volume(phantom(0)),)


def batch_of(volumes: tuple[GreyVolume, ...], step: int) -> Batch:
    """The batch of a step of ``SMALL``."""
    return draw_batch(volumes, SMALL.strips, SMALL.seed, step)


def test_the_rate_warms_up_and_ends_at_its_last_share() -> None:
    settings = TrainSettings(steps=1000)
    rates = [learning_rate(settings, step) for step in range(1000)]
    assert rates[0] == pytest.approx(3e-6, rel=1e-3)
    assert max(rates) <= 3e-4
    assert rates[99] == pytest.approx(2.93e-4, rel=0.01)
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == pytest.approx(3e-6, rel=0.01)


def test_the_loss_is_charbonnier_with_half_the_steps_along_z() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    thin = truth.clone()
    thin[:, 1] = 1.0
    # A third of the slices is off by 1, both steps along z are.
    expected = (np.sqrt(1 + 1e-6) + 2e-3) / 3 + 0.5 * np.sqrt(1 + 1e-6)
    assert fidelity_loss(thin, truth).item() == pytest.approx(expected, rel=1e-5)


def test_training_improves_on_cubic_dc(volumes: tuple[GreyVolume, ...]) -> None:
    """One batch, seen sixty times."""
    trainee = Trainee(dataclasses.replace(SMALL, steps=60, learning_rate=3e-3))
    batch = batch_of(volumes, 0)
    start = fidelity_loss(torch.from_numpy(batch.base), torch.from_numpy(batch.truth)).item()
    losses = [trainee.train_step(batch)[0] for _ in range(60)]
    assert losses[0] == pytest.approx(start, rel=0.02)  # untrained it is cubic-dc
    assert losses[-1] < 0.98 * start


def test_the_prediction_is_consistent_with_the_measured_slices(volumes: tuple[GreyVolume, ...]) -> None:
    """A contiguous stack: block means of the prediction are the thick slices, even of a net that is far off."""
    batch = next(b for b in (batch_of(volumes, step) for step in range(50)) if b.thickness_over_spacing == (1.0,))
    trainee = Trainee(dataclasses.replace(SMALL, precision="float32"))
    with torch.no_grad():
        for parameter in trainee.net.parameters():
            parameter.uniform_(-0.1, 0.1)
        thin = trainee.predict(batch)[0].numpy()
    means = thin.reshape(3, batch.ratio, *thin.shape[1:]).mean(axis=1)
    measured = batch.thick[0, batch.first[0] : batch.first[0] + 3]
    assert np.abs(means - measured).max() < 2e-3 * np.abs(thin - batch.base[0]).max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    precision: str, volumes: tuple[GreyVolume, ...], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SMALL, precision=precision)
    whole, begun = Trainee(settings), Trainee(settings)
    for step in range(6):
        whole.train_step(batch_of(volumes, step))
    for step in range(3):
        begun.train_step(batch_of(volumes, step))
    checkpoint.save(begun.checkpoint(), tmp_path / "last.safetensors")

    resumed = Trainee(settings)
    resumed.restore(checkpoint.load(tmp_path / "last.safetensors"))
    for step in range(3, 6):
        resumed.train_step(batch_of(volumes, step))
    for name in checkpoint.TENSORS:
        assert torch.equal(getattr(whole.checkpoint(), name), getattr(resumed.checkpoint(), name)), name


def test_a_checkpoint_of_other_settings_is_refused(volumes: tuple[GreyVolume, ...]) -> None:
    trainee = Trainee(SMALL)
    trainee.train_step(batch_of(volumes, 0))
    with pytest.raises(InputError, match="other settings"):
        Trainee(dataclasses.replace(SMALL, seed=2)).restore(trainee.checkpoint())


def test_a_run_may_end_at_another_step_and_remembers_it(volumes: tuple[GreyVolume, ...], tmp_path: Path) -> None:
    trainee = Trainee(SMALL)
    trainee.train_step(batch_of(volumes, 0))
    checkpoint.save(trainee.checkpoint(), tmp_path / "last.safetensors")
    shorter = Trainee(dataclasses.replace(SMALL, steps=4))
    shorter.restore(checkpoint.load(tmp_path / "last.safetensors"))
    assert shorter.checkpoint().schedule == ((0, SMALL.steps), (1, 4))


def test_a_checkpoint_that_could_not_be_written_leaves_the_old_one(
    volumes: tuple[GreyVolume, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    trainee = Trainee(SMALL)
    trainee.train_step(batch_of(volumes, 0))
    checkpoint.save(trainee.checkpoint(), path)
    trainee.train_step(batch_of(volumes, 1))

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(trainee.checkpoint(), path)
    assert checkpoint.load(path).step == 1


def test_a_whole_run_with_its_loader_leaves_checkpoint_and_journal(phantom_data: Path, tmp_path: Path) -> None:
    """The real loader process on phantoms; then the same folder is refused without --resume."""
    settings = dataclasses.replace(SMALL, steps=50)
    lines: list[str] = []
    final = train(settings, phantom_data, tmp_path, resume=False, report=lines.append)
    assert final.step == 50
    assert checkpoint.load(tmp_path / "last.safetensors").step == 50
    journal = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in journal] == [50]
    assert len(lines) == 1
    with pytest.raises(InputError, match="holds a run already"):
        train(settings, phantom_data, tmp_path, resume=False, report=lines.append)


def test_the_shipped_net_is_the_moving_average(volumes: tuple[GreyVolume, ...]) -> None:
    trainee = Trainee(SMALL)
    trainee.train_step(batch_of(volumes, 0))
    saved = trainee.checkpoint()
    net = averaged_net(saved)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])
    assert torch.equal(flat, saved.average)
    assert not torch.equal(flat, saved.master)
