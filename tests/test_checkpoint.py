"""Checkpoints: a changed bit is found, and a run always has a whole one to go on from."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rewardzoo.callbacks import Saving
from rewardzoo.checkpoint import (
    DamagedCheckpointError,
    latest_checkpoint,
    load_checkpoint,
    remove_previous,
    save_checkpoint,
    save_keeping_previous,
)
from rewardzoo.experiments.common.rlhf import curves_of
from rewardzoo.rlhf.trainer import Trainer


class Counter:
    """Something to save."""

    count = 0

    def save(self, path: str | Path) -> None:
        self.count += 1
        save_checkpoint(path, "counter", {"count": self.count, "x": torch.full((500,), self.count)})


def count(path: Path | None) -> int:
    assert path is not None
    return int(load_checkpoint(path, "counter")["count"])


def test_a_flipped_bit_is_found_unless_it_means_nothing(tmp_path: Path) -> None:
    """Torch itself loads most of them: it does not look at the checksums that it writes."""
    path = tmp_path / "a.pt"
    x = torch.arange(1000.0)
    save_checkpoint(path, "counter", {"x": x, "text": "abc"})
    whole = path.read_bytes()
    draw = random.Random(0)
    found = silent = 0
    for _ in range(200):
        at = draw.randrange(8 * len(whole))
        spoilt = bytearray(whole)
        spoilt[at // 8] ^= 1 << at % 8
        path.write_bytes(spoilt)
        try:
            content = load_checkpoint(path, "counter")
        except DamagedCheckpointError:
            found += 1
            continue
        silent += 1
        assert torch.equal(content["x"], x) and content["text"] == "abc", at
    assert found > 100 and silent > 0  # padding between the parts is no content


def test_the_checkpoint_before_the_last_is_kept_until_training_has_ended(tmp_path: Path) -> None:
    path, counter = tmp_path / "a.pt", Counter()
    for _ in range(4):
        save_keeping_previous(counter.save, path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt", "a.previous.pt"}
    assert [count(path), count(tmp_path / "a.previous.pt")] == [4, 3]
    assert latest_checkpoint(path) == path
    remove_previous(path)
    remove_previous(path)  # nothing to do
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    path.unlink()
    assert latest_checkpoint(path) is None


@pytest.mark.parametrize("call", range(3))
def test_a_save_that_is_cut_off_anywhere_leaves_the_last_checkpoint_or_the_new_one(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three renames: the file that was written, the one that was there, the new one."""
    path, counter = tmp_path / "a.pt", Counter()
    for _ in range(2):
        save_keeping_previous(counter.save, path)
    calls = iter(range(3))
    rename = os.replace

    def killed(*args: Any) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        rename(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        save_keeping_previous(counter.save, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(latest_checkpoint(path)) == 2
    save_keeping_previous(counter.save, path)
    assert count(latest_checkpoint(path)) == 4


def test_a_training_never_goes_back_to_a_checkpoint_of_another(tmp_path: Path) -> None:
    path, old = tmp_path / "a.pt", Counter()
    for _ in range(2):
        save_keeping_previous(old.save, path)
    fresh, saving = Counter(), Saving(path, seconds=0.0)
    saving(fresh, {})
    assert count(path) == 1 and not (tmp_path / "a.previous.pt").exists()
    saving(fresh, {})
    assert [count(path), count(tmp_path / "a.previous.pt")] == [2, 1]
    Saving(path, seconds=0.0, resumed=True)(fresh, {})
    assert [count(path), count(tmp_path / "a.previous.pt")] == [3, 2]


def test_training_of_language_models_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    """The loop that their experiments share."""

    class Walk(Trainer):
        kind = "walk"

        def __init__(self) -> None:
            self.layer = torch.nn.Linear(1, 1)
            torch.nn.init.zeros_(self.layer.weight)
            self.parts = {"layer": self.layer}

        def weight(self) -> dict[str, float]:
            return {"w": self.layer.weight.item()}

        @torch.no_grad()
        def train(self, steps: int) -> dict[str, float]:
            for _ in range(steps):
                self.num_steps += 1
                self.layer.weight += self.num_steps
            return {}

    def run(folder: Path, until: int) -> Any:
        folder.mkdir(exist_ok=True)
        trainer, logged = Walk(), []

        def log(step: int, **numbers: float) -> None:
            logged.append(step)
            if step == until:
                raise KeyboardInterrupt

        trial = SimpleNamespace(budget=SimpleNamespace(total_timesteps=6), folder=folder, log=log)
        try:
            curve = curves_of(trial, trainer, trainer.weight, parts=6)
        except KeyboardInterrupt:
            return logged
        return logged, curve["w"].tolist()

    whole = run(tmp_path / "whole", -1)
    assert whole[1] == [0, 1, 3, 6, 10, 15, 21]
    assert run(tmp_path / "part", 4) == [0, 1, 2, 3, 4]
    (tmp_path / "part" / "checkpoint.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="going on from checkpoint.previous.pt"):
        part = run(tmp_path / "part", -1)
    assert part == ([3, 4, 5, 6], whole[1])
