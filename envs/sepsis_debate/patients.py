"""What debates are about: patients with a preferred and a rejected treatment."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rewardzoo.envs.sepsis.data import DEATH, NUM_ACTIONS
from rewardzoo.envs.sepsis.dynamics import PAPER_FEATURES, SepsisICU
from rewardzoo.random import Rng
from rewardzoo.rewards.evidence import Judging
from rewardzoo.rewards.judge import LinearJudge

_BITS = 32


class Case(NamedTuple):
    """What N debates are about."""

    features: Tensor  # (N, F) float32
    preferred: Tensor  # (N,) int64, what the proponent argues for
    rejected: Tensor  # (N,) int64


class Source(Protocol):
    """Deals cases; a frozen set of features and actions, and a judge who needs no training."""

    feature_names: tuple[str, ...]
    num_actions: int

    def deal(self, rng: Rng) -> Case:
        """A case for each row of ``rng``."""
        ...

    def judge(self) -> Judging:
        """The judge unless another is given."""
        ...


class Patients:
    """Windows of ICU-Sepsis patients: clinicians' treatment against a random other one.

    A state is drawn by how often clinicians' patients are in it, the preferred action from what
    clinicians did there, the rejected one uniformly from the other 24.

    Args:
        obs_noise: spread of a patient around the state's mean, in units of the spread within.
        device: where the tables live.
    """

    feature_names = PAPER_FEATURES
    num_actions = NUM_ACTIONS

    def __init__(self, obs_noise: float = 0.0, device: torch.device | str = "cpu") -> None:
        func = SepsisICU(device=device, obs="features", obs_noise=obs_noise)
        self.device = func.device
        self.centres = torch.tensor(func.evidence_table, device=self.device)
        within = np.sqrt(np.maximum(0.0, 1.0 - func.evidence_table[: DEATH + 1].var(0)))
        self._noise = torch.tensor(obs_noise * within, dtype=torch.float32, device=self.device)
        self._noisy = obs_noise > 0
        visits = func.expert_visits[:DEATH]
        joint = (visits / visits.sum())[:, None] * func.expert_policy[:DEATH]
        thresholds = np.ceil(joint.cumsum() / joint.sum() * 2.0**_BITS).astype(np.int64)
        self._cdf = torch.tensor(thresholds, device=self.device)

    def deal(self, rng: Rng) -> Case:
        """A window of a patient for each row of ``rng``."""
        # One search draws state and action: their joint distribution has 17,825 cells.
        cell = torch.searchsorted(self._cdf, rng.bits(), right=True)
        state, preferred = cell // NUM_ACTIONS, cell % NUM_ACTIONS
        shift = 1 + (rng.bits() * (NUM_ACTIONS - 1) >> _BITS)
        features = self.centres[state]
        if self._noisy:
            features = features + self._noise * rng.normal(features.shape[1])
        return Case(features, preferred, (preferred + shift) % NUM_ACTIONS)

    def judge(self) -> LinearJudge:
        """The least-squares judge of clinicians' choices."""
        func = SepsisICU()
        policy, visits = torch.tensor(func.expert_policy), torch.tensor(func.expert_visits)
        centres = torch.tensor(func.evidence_table)
        return LinearJudge.of_policy(centres, policy, visits).to(self.device)
