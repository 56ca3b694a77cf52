"""DebateTrap: seven features decide, a debater trained alone never learns the one that matters."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardzoo.envs.sepsis_debate.dynamics import SepsisDebate
from rewardzoo.envs.sepsis_debate.patients import Case
from rewardzoo.random import Rng

FOR, AGAINST, NEUTRALISER, IDLE = slice(0, 3), slice(3, 6), 6, slice(7, 44)
COST = 0.5  # what showing the neutraliser costs, in units of a feature in favour
PRESENT = 0.75  # how often there is a neutraliser to show
_SCALE = 6.0


class TrapCases:
    """Action 0 against action 1; features that decide are 1, the neutraliser 1 or 0.

    Args:
        device: where cases live.
    """

    feature_names = (
        *(f"for_{i}" for i in range(3)),
        *(f"against_{i}" for i in range(3)),
        "neutraliser",
        *(f"idle_{i}" for i in range(37)),
    )
    num_actions = 2

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def deal(self, rng: Rng) -> Case:
        """A case for each row of ``rng``."""
        present = (rng.uniform() < PRESENT).to(torch.float32)
        idle = rng.normal(37)
        fixed = torch.ones_like(idle[:, :6])
        features = torch.cat([fixed, present.unsqueeze(1), idle], 1)
        zero = torch.zeros_like(present, dtype=torch.int64)
        return Case(features, zero, zero + 1)

    def judge(self) -> TrapJudge:
        """The fixed judge."""
        return TrapJudge()


class TrapJudge:
    """Scores action 0 by ``(for - 2 against (1 - neutraliser) - COST neutraliser) / 12``.

    ``for`` and ``against`` count the shown features of each kind; action 1 scores the negative, so
    the margin of the debate is the bracket divided by 6.
    """

    def __call__(self, evidence: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        """Scores (B,) float32."""
        pro, con = evidence[:, FOR].sum(1), evidence[:, AGAINST].sum(1)
        neutral = evidence[:, NEUTRALISER]
        bracket = pro - 2.0 * con * (1.0 - neutral) - COST * neutral
        return bracket * (1 - 2 * action) / (2.0 * _SCALE)


class DebateTrap(SepsisDebate):
    """A debate of known value in which a debater trained alone is beaten by a confuser.

    Dynamics: of 44 features three favour action 0, three favour action 1 twice as strongly, and one
    neutraliser, there in three cases of four, cancels the latter at a small cost; 37 are idle.
    Without an opponent the neutraliser only costs, so a debater trained alone learns not to show
    it; against a confuser it is what saves the case.

    Observation: Dict of ``observation``, Box (90,) float32 (44 features, 44 marks of those that
    were shown, the action argued for) and ``action_mask`` (44,) int8.

    Action: Discrete(44), the feature to show.

    Objective: the margin of the judge's scores at the end, at most 1/2.

    Start state: action 0 is the preferred one; a fair coin decides who begins.

    End of episode: as ``rewardzoo/SepsisDebate-v0``.

    Arguments: those of ``rewardzoo/SepsisDebate-v0``; ``utility`` is ``margin`` by default.

    Reference returns: of the proponent, six features: minimax .0625 (.25 with a neutraliser, -.5
    without), alone .5, the best lone debater against its best confuser -.5.

    Paper: after Sukovic, Radanovic (2024), "Reward design for justifiable sequential
    decision-making", section 5, whose isolated debater loses to a confuser.
    """

    def __init__(self, device: torch.device | str = "cpu", **params: object) -> None:
        super().__init__(device, **{"utility": "margin", **params})

    def make_source(self) -> TrapCases:
        """The cases of the trap."""
        return TrapCases(self.device)
