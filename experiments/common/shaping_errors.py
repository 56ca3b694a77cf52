"""Shaping done wrong: the slips as reward functions, and small problems that each of them breaks.

Ng, Harada, Russell (1999) ask for ``gamma * phi(s') - phi(s)`` with phi of a terminal state 0, the
true successor and the agent's discount. Each class here breaks one of these and nothing else; each
``CounterExample`` is a problem of a few states whose optimum that slip moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.tabular import TabularMDP, q_values, value_iteration
from rewardzoo.rewards.base import RewardFunction, number
from rewardzoo.rewards.potential import Potential
from rewardzoo.transition import Obs, Transition

Phi = Callable[[Obs], Tensor]
GAMMA = 0.9


class Misuse(RewardFunction):
    """What the slips share.

    Args:
        phi: from a batch of observations to (N,).
        gamma: the agent's discount.
    """

    def __init__(self, phi: Phi, gamma: float = GAMMA) -> None:
        self.phi, self._gamma = phi, number("gamma", gamma, 0.0, 1.0)


class TerminalKept(Misuse):
    """The potential of a terminal state is paid, not zeroed."""

    def __call__(self, t: Transition) -> Tensor:
        """``gamma * phi(s') - phi(s)``."""
        return self._gamma * self.phi(t.next_obs) - self.phi(t.obs)


class Undiscounted(Misuse):
    """The difference of potentials without a discount, though the agent has one."""

    def __call__(self, t: Transition) -> Tensor:
        """``phi(s') - phi(s)``, phi of a terminal state 0."""
        return torch.where(t.terminated, 0.0, self.phi(t.next_obs)) - self.phi(t.obs)


class ResetAsSuccessor(Misuse):
    """The first observation of the next episode is taken for the successor of the last step.

    That is what a vector environment with same-step autoreset returns as its observation.

    Args:
        phi: the potential.
        first: from the last observations of episodes to the first ones of the next.
        gamma: the agent's discount.
    """

    def __init__(self, phi: Phi, first: Callable[[Obs], Obs], gamma: float = GAMMA) -> None:
        super().__init__(phi, gamma)
        self.first = first

    def __call__(self, t: Transition) -> Tensor:
        """``gamma * phi(returned observation) - phi(s)``."""
        then = torch.where(t.done, self.phi(self.first(t.next_obs)), self.phi(t.next_obs))
        return self._gamma * then - self.phi(t.obs)


class MixedInReplay(Misuse):
    """Potentials of two ages in one transition: the successor's is new, the state's was stored.

    Args:
        phi: the potential now.
        old: the potential when the transition was stored.
        gamma: the agent's discount.

    Paper: Devlin, Kudenko (2012), "Dynamic potential-based reward shaping", which keeps the
    optimum as long as each visit's potential is the one that the step before it was paid for.
    """

    def __init__(self, phi: Phi, old: Phi, gamma: float = GAMMA) -> None:
        super().__init__(phi, gamma)
        self.old = old

    def __call__(self, t: Transition) -> Tensor:
        """``gamma * phi_new(s') - phi_old(s)``, phi of a terminal state 0."""
        then = torch.where(t.terminated, 0.0, self.phi(t.next_obs))
        return self._gamma * then - self.old(t.obs)


class Progress(Misuse):
    """Pays progress and charges no regress, as the bicycle that rode in circles was paid.

    Paper: Randløv, Alstrøm (1998), "Learning to drive a bicycle using reinforcement learning and
    shaping".
    """

    def __call__(self, t: Transition) -> Tensor:
        """``max(0, phi(s') - phi(s))``."""
        return (self.phi(t.next_obs) - self.phi(t.obs)).clamp(min=0.0)


# ---- problems ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CounterExample:
    """A problem of S states in which one slip moves the optimum at state 0.

    Args:
        moves: successor of each state and action, (S, A).
        reward: (S, A).
        ends: terminal states.
        phi: potential of each state, (S,).
        right: the best action at state 0; the other is what the slip prefers.
    """

    moves: list[list[int]]
    reward: list[list[float]]
    ends: tuple[int, ...]
    phi: list[float]
    right: int = 0

    @property
    def mdp(self) -> TabularMDP:
        """Its exact model."""
        states = len(self.moves)
        transition = torch.eye(states, dtype=torch.float64)[torch.tensor(self.moves)]
        terminal = torch.zeros(states, dtype=torch.bool)
        terminal[list(self.ends)] = True
        reward = torch.tensor(self.reward, dtype=torch.float64)
        initial = torch.eye(states, dtype=torch.float64)[0]
        return TabularMDP(transition, reward, initial, terminal)

    @property
    def table(self) -> Tensor:
        """(S,) float64."""
        return torch.tensor(self.phi, dtype=torch.float64)

    def advantage(self, paid: Tensor) -> float:
        """By how much the right action is preferred at state 0 when ``paid`` (S, A) is added."""
        mdp = self.mdp
        mdp = mdp.with_reward(mdp.reward + paid)
        q = q_values(mdp, value_iteration(mdp, GAMMA), GAMMA)[0]
        return float(q[self.right] - q[1 - self.right])


_FORK = [[1, 2], [1, 1], [2, 2]]
_LOOP = CounterExample([[2, 1], [0, 0], [2, 2]], [[0.5, 0], [0, 0], [0, 0]], (2,), [0, 10, 0])
COUNTER_EXAMPLES = {
    # Left ends with 1; right ends with 0, in a state of potential 2.
    "terminal": CounterExample(_FORK, [[1, 0], [0, 0], [0, 0]], (1, 2), [0, 0, 2]),
    # Leave with .5, or go round a loop for nothing through a state of potential 10.
    "discount": _LOOP,
    # Live on .5 a step for ever, or die with 0; the start has potential 10.
    "reset": CounterExample([[0, 1], [1, 1]], [[0.5, 0], [0, 0]], (1,), [10, 0]),
    # Left ends with 1; right passes a state of potential 10, once 0, and ends with 0.
    "replay": CounterExample(
        [[2, 1], [3, 3], [2, 2], [3, 3]], [[1, 0], [0, 0], [0, 0], [0, 0]], (2, 3), [0, 10, 0, 0]
    ),
    "progress": _LOOP,
}
"""By the slip that breaks them."""


def expected_pay(fn: RewardFunction, mdp: TabularMDP) -> Tensor:
    """What ``fn`` pays for each state and action on average over successors, (..., S, A) float64.

    Leading axes of the model are many problems: state s of problem i is observed as ``i * S + s``.
    """
    *lead, states, _, _ = mdp.transition.shape
    problems = int(np.prod(lead))
    i, s, t = (
        x.reshape(-1)
        for x in torch.meshgrid(
            torch.arange(problems), torch.arange(states), torch.arange(states), indexing="ij"
        )
    )
    no = torch.zeros_like(i, dtype=torch.bool)
    step: dict[str, Any] = {
        "action": torch.zeros_like(i),
        "reward": torch.zeros(len(i)),
        "truncated": no,
        "valid": ~no,
        "episode_step": torch.zeros_like(i),
    }
    paid = fn(Transition(obs=i * states + s, next_obs=i * states + t,
                         terminated=mdp.terminal[t], **step))  # fmt: skip
    table = paid.to(torch.float64).reshape(*lead, states, states)
    found = torch.einsum("...sat,...st->...sa", mdp.transition, table)
    return torch.where(mdp.terminal.unsqueeze(-1), 0.0, found)


def table(values: Tensor) -> Phi:
    """The potential that looks observations up in ``values``."""
    return lambda obs: values[obs]


def slips(values: Tensor, old: Tensor, states: int) -> dict[str, RewardFunction]:
    """Shaping by a table, done right and with each slip; every problem starts in its state 0."""
    phi = table(values)
    return {
        "right": Potential(phi, GAMMA),
        "terminal": TerminalKept(phi),
        "discount": Undiscounted(phi),
        "reset": ResetAsSuccessor(phi, lambda obs: obs - obs % states),
        "replay": MixedInReplay(phi, table(old)),
        "progress": Progress(phi),
    }
