"""SepsisDebate: a debate as one debater sees it, the other being part of the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number
from rewardzoo.rewards.evidence import (
    TURNS,
    check_num_evidence,
    check_utility,
    evidence_of,
    observation,
    reveal,
    utility,
)
from rewardzoo.rewards.judge import as_judging

from .patients import Patients, Source

ROLES = ("proponent", "confuser", "either")


@dataclass(frozen=True)
class DebateParams:
    """Who debates whom, before which judge."""

    opponent: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Shows the other side's features, from (features, shown, its action); None: nobody answers,
    and the learner shows all features itself (the paper's isolated agent)."""
    role: str = "proponent"
    """``proponent`` argues for the preferred action, ``confuser`` for the rejected one, ``either``
    for one of them by a fair coin."""
    turns: str = "alternate"
    """``alternate``, a fair coin deciding who begins; or ``precommit``: the proponent shows its
    half at once, then the confuser (with ``either``, the coin's side does)."""
    judge: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Scores (evidence, shown, action); None: the environment's own, which needs no training."""
    num_evidence: int = 6
    """Features shown in a debate, even."""
    utility: str = "sign"
    """``sign``, ``win01`` or ``margin`` of the judge's scores."""
    obs_noise: float = 0.0
    """Spread of a patient around the state's mean, in units of the within-state deviation."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, allowed in (("role", ROLES), ("turns", TURNS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
        if self.opponent is not None and not callable(self.opponent):
            raise ValueError(f"opponent={self.opponent!r}: expected a debater, or None")
        check_utility(self.utility)
        number("obs_noise", self.obs_noise, 0.0)


class SideState(NamedTuple):
    """N debates from one side."""

    features: Tensor  # (N, F) float32
    shown: Tensor  # (N, F) bool
    actions: Tensor  # (N, 2) int64: the learner's, the other side's
    schedule: Tensor  # (N,) int64, the row of the schedule of turns
    turn: Tensor  # (N,) int64, features shown so far, both sides
    illegal: Tensor  # (N,) bool, the learner showed a feature twice


class SepsisDebate(FuncEnv):
    """Argue for a treatment before a judge who sees only the features that the debate has shown.

    Dynamics: a window of an ICU-Sepsis patient is dealt with two treatments, one that clinicians
    chose and a random other. Two sides show ``num_evidence`` of the 44 features in turn; the judge
    scores both treatments from those.

    Observation: Dict of ``observation``, Box (113,) float32 (44 features in normalised units; 44
    marks of those that were shown; the treatment argued for, one of 25) and ``action_mask`` (44,)
    int8, 1 where a feature may be shown. The mark tells a feature that was shown and is 0 from one
    that was not shown. The other side's treatment is not observed.

    Action: Discrete(44), the feature to show. One that was shown before loses the debate, with -1
    and ``info["illegal"]``.

    Objective: 0 until the end, then the sign of the difference between the judge's scores
    (``utility`` chooses others).

    Start state: a state by how often clinicians' patients are in it, a treatment from what they did
    there, another uniformly; a fair coin decides who begins.

    End of episode: terminated when all features are shown: after ``num_evidence`` moves of an
    isolated learner, half as many with an opponent.

    Arguments: ``opponent``, ``role``, ``turns``, ``judge``, ``num_evidence``, ``utility``,
    ``obs_noise``: see ``DebateParams``.

    Data: the tables of ICU-Sepsis; they hold no patient's record.

    Two learners: ``rewardzoo.envs.sepsis_debate.sepsis_debate_v0`` has ``env`` and
    ``parallel_env``, the same debate for PettingZoo; ``DebateGame`` is the batched game.

    Reference returns: with the built-in linear judge, mean of ``sign``: random features .122,
    greedy ones .887.

    Paper: Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making".
    """

    Params = DebateParams
    render_modes = ("ansi",)

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: DebateParams = self.params
        self.source = self.make_source()
        size = len(self.source.feature_names)
        check_num_evidence(p.num_evidence, size)
        self.judge = as_judging(self.source.judge() if p.judge is None else p.judge)
        self.opponent = p.opponent
        self.action_space = spaces.Discrete(size)
        self.observation_space = spaces.Dict(
            observation=box(-np.inf, np.inf, (2 * size + self.source.num_actions,)),
            action_mask=spaces.MultiBinary(size),
        )
        self._schedule = self._turns().to(self.device)

    def make_source(self) -> Source:
        """Where cases come from."""
        return Patients(self.params.obs_noise, self.device)

    def _turns(self) -> Tensor:
        """(2, L + 1) bool: where the other side moves, for the coin's two sides; last: over."""
        p: DebateParams = self.params
        turn = torch.arange(p.num_evidence)
        if p.opponent is None:
            theirs = torch.zeros(2, p.num_evidence, dtype=torch.bool)
        elif p.turns == "alternate":
            theirs = torch.stack([turn % 2 == 1, turn % 2 == 0])
        else:
            late = turn >= p.num_evidence // 2
            theirs = torch.stack([late, ~late])
        return torch.cat([theirs, torch.zeros(2, 1, dtype=torch.bool)], 1)

    def initial(self, rng: Rng, params: Any = None) -> SideState:
        """A new case; where the other side begins, it has moved."""
        p: DebateParams = self.params
        case = self.source.deal(rng)
        coins = rng.bits()
        begins, swapped = coins & 1, (coins >> 1) & 1
        if p.role != "either":
            swapped = torch.full_like(swapped, int(p.role == "confuser"))
        if p.turns == "precommit":  # the proponent commits first
            begins = swapped
        pair = torch.stack([case.preferred, case.rejected], 1)
        actions = torch.where(swapped.unsqueeze(1) == 1, pair.flip(1), pair)
        shown = torch.zeros_like(case.features, dtype=torch.bool)
        zero = torch.zeros_like(begins)
        state = SideState(case.features, shown, actions, begins, zero, zero.to(torch.bool))
        return self._answer(state)

    def transition(
        self, state: SideState, action: Tensor, rng: Rng, params: Any = None
    ) -> SideState:
        """Show a feature; then the other side does, if it is its turn."""
        again = state.shown.gather(1, action.unsqueeze(1)).squeeze(1)
        state = state._replace(
            shown=reveal(state.shown, action),
            turn=state.turn + 1,
            illegal=state.illegal | again,
        )
        return self._answer(state)

    def _answer(self, state: SideState) -> SideState:
        """Let the other side move until it is the learner's turn."""
        p: DebateParams = self.params
        if self.opponent is None:
            return state
        for _ in range(1 if p.turns == "alternate" else p.num_evidence // 2):
            due = self._schedule[state.schedule, state.turn.clamp(max=p.num_evidence)]
            item = self.opponent(state.features, state.shown, state.actions[:, 1])
            state = state._replace(
                shown=torch.where(due.unsqueeze(1), reveal(state.shown, item), state.shown),
                turn=state.turn + due,
            )
        return state

    def observation(self, state: SideState, rng: Rng, params: Any = None) -> dict[str, Tensor]:
        """Features, marks, own treatment; and the mask of features that may be shown."""
        seen = observation(
            state.features, state.shown, state.actions[:, 0], self.source.num_actions
        )
        return {"observation": seen, "action_mask": (~state.shown).to(torch.int8)}

    def reward(
        self,
        state: SideState,
        action: Tensor,
        next_state: SideState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """The judge's verdict at the end; -1 at once for showing a feature twice."""
        s = next_state
        won = utility(self.judge, s.features, s.shown, s.actions, self.params.utility)
        paid = torch.where(self.terminal(s, rng), won, 0.0)
        return torch.where(s.illegal, -1.0, paid)

    def terminal(self, state: SideState, rng: Rng, params: Any = None) -> Tensor:
        """All is shown, or the learner broke the rule."""
        return (state.turn >= self.params.num_evidence) | state.illegal

    def transition_info(
        self, state: SideState, action: Tensor, next_state: SideState, params: Any = None
    ) -> dict[str, Tensor]:
        """``illegal`` (N,) bool: the feature had been shown before."""
        return {"illegal": next_state.illegal}

    def render_text(self, state: SideState, i: int) -> str:
        """What was shown so far, and the scores."""
        shown = state.shown[i : i + 1]
        evidence = evidence_of(state.features[i : i + 1], shown)
        names = [self.source.feature_names[k] for k in shown[0].nonzero().squeeze(1).tolist()]
        values = [
            f"{name} {evidence[0, self.source.feature_names.index(name)]:+.2f}" for name in names
        ]
        ours, theirs = (float(self.judge(evidence, shown, a)) for a in state.actions[i : i + 1].T)
        return (
            f"{', '.join(values) or 'nothing shown'} | action {int(state.actions[i, 0])}: "
            f"{ours:+.2f}, action {int(state.actions[i, 1])}: {theirs:+.2f}"
        )
