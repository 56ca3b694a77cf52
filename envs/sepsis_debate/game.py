"""The debate as a batched game of two players, moves from outside; everything stays on the device.

Every debate of a batch has the same length, so all end together. Row ``i`` of a batch seeded with
``s`` is the single debate seeded with ``s + i``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardzoo.random import Rng
from rewardzoo.rewards.evidence import (
    Judging,
    check_num_evidence,
    check_utility,
    observation,
    reveal,
    utility,
)
from rewardzoo.rewards.judge import as_judging

from .patients import Source


class DebateState(NamedTuple):
    """N running debates."""

    features: Tensor  # (N, F) float32
    shown: Tensor  # (N, F) bool
    actions: Tensor  # (N, 2) int64, what player 0 and player 1 argue for
    first: Tensor  # (N,) int64, the player who began
    illegal: Tensor  # (N, 2) bool, who showed a feature twice
    turn: int  # moves made


class DebateGame:
    """N debates of two players.

    Args:
        source: deals the cases; player 0 argues for the preferred action, player 1 for the other.
        judge: scores (evidence, shown, action); default: the source's.
        num_evidence: features shown in a debate, even.
        utility: ``sign``, ``win01`` or ``margin``, see ``rewards.evidence.utility``.

    Example:
        >>> import torch
        >>> from rewardzoo.random import Rng
        >>> from rewardzoo.envs.sepsis_debate.patients import Patients
        >>> game = DebateGame(Patients(), num_evidence=2)
        >>> rows = torch.arange(3)
        >>> state = game.deal(Rng(rows, 0 * rows, 0))
        >>> while state.turn < 2:
        ...     state = game.play(state, game.observe(state)["action_mask"].argmax(1))
        >>> game.utilities(state).sum(1)
        tensor([0., 0., 0.])
    """

    def __init__(
        self,
        source: Source,
        judge: Judging | None = None,
        num_evidence: int = 6,
        utility: str = "sign",
    ) -> None:
        check_num_evidence(num_evidence, len(source.feature_names))
        self.source = source
        self.judge = as_judging(source.judge() if judge is None else judge)
        self.num_evidence = num_evidence
        self.utility = check_utility(utility)

    def deal(self, rng: Rng) -> DebateState:
        """The start of a debate for each row of ``rng``; a fair coin decides who begins."""
        case = self.source.deal(rng)
        first = rng.bits() & 1
        actions = torch.stack([case.preferred, case.rejected], 1)
        shown = torch.zeros_like(case.features, dtype=torch.bool)
        illegal = torch.zeros_like(actions, dtype=torch.bool)
        return DebateState(case.features, shown, actions, first, illegal, 0)

    def to_move(self, state: DebateState) -> Tensor:
        """The player whose turn it is, (N,) int64."""
        return (state.first + state.turn) % 2

    def observe(self, state: DebateState, player: Tensor | None = None) -> dict[str, Tensor]:
        """What ``player`` (N,) sees, by default the one to move.

        Returns:
            ``observation`` (N, 2 F + A) float32 and ``action_mask`` (N, F) int8, 1 where allowed.
        """
        player = self.to_move(state) if player is None else player
        own = state.actions.gather(1, player.unsqueeze(1)).squeeze(1)
        seen = observation(state.features, state.shown, own, self.source.num_actions)
        return {"observation": seen, "action_mask": (~state.shown).to(torch.int8)}

    def play(self, state: DebateState, item: Tensor) -> DebateState:
        """Show ``item`` (N,). A feature shown before changes nothing and loses the debate."""
        again = state.shown.gather(1, item.unsqueeze(1))
        mover = torch.nn.functional.one_hot(self.to_move(state), 2).to(torch.bool)
        return state._replace(
            shown=reveal(state.shown, item),
            illegal=state.illegal | (mover & again),
            turn=state.turn + 1,
        )

    def utilities(self, state: DebateState) -> Tensor:
        """What both players get, (N, 2) float32: 0 until the end; zero-sum but for ``win01``."""
        if state.turn < self.num_evidence:
            return torch.zeros_like(state.actions, dtype=torch.float32)
        ours = utility(self.judge, state.features, state.shown, state.actions, self.utility)
        if self.utility == "win01":
            theirs = utility(
                self.judge, state.features, state.shown, state.actions.flip(1), self.utility
            )
        else:
            theirs = -ours
        lost = state.illegal.to(torch.float32)
        foul = lost.flip(1) - lost
        fair = state.illegal.any(1, keepdim=True).logical_not()
        return torch.where(fair, torch.stack([ours, theirs], 1), foul)
