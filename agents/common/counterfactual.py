"""Counterfactual experiences: what a step would have been in every state of a reward machine.

The environment moves as it does whatever the machine remembers, so one step tells what follows from
each of the machine's states. Off-policy agents learn from all of them.

Paper: Toro Icarte et al. (2022), "Reward machines: exploiting reward function structure in
reinforcement learning", section 4.2 (CRM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium.vector import VectorWrapper

from rewardzoo.rewards.append_state import VectorAppendRewardState
from rewardzoo.rewards.reward_machine import RewardMachine
from rewardzoo.transition import Transition

from . import trees
from .replay_buffer import Sample


class Counterfactuals:
    """Turns the steps that a reward machine saw into rows for replay.

    A machine's end ends a row: it pays nothing more, whether the environment goes on or not. States
    in which it is over have no rows.

    Args:
        envs: a VectorAppendRewardState, alone or in other wrappers, that pays one reward machine.

    Raises:
        ValueError: for other environments.
    """

    def __init__(self, envs: Any) -> None:
        env = envs
        while isinstance(env, VectorWrapper) and not isinstance(env, VectorAppendRewardState):
            env = env.env
        if not isinstance(env, VectorAppendRewardState):
            raise ValueError(
                "counterfactual=True: the machine's state is not in the observation; wrap the "
                "environments with VectorAppendRewardState"
            )
        if not isinstance(env.reward_function, RewardMachine):
            raise ValueError(
                f"counterfactual=True: the reward function is {env.reward_function.name}, expected "
                "a reward machine alone"
            )
        self._envs, self._machine = env, env.reward_function
        self._states = torch.as_tensor(
            (~env.reward_function.machine.terminal).nonzero()[0], device=env.device
        )

    @property
    def last_step(self) -> Transition | None:
        """The last step as the machine saw it."""
        return self._envs.env.transition  # type: ignore[attr-defined,no-any-return]

    @property
    def count(self) -> int:
        """Rows of each step."""
        return len(self._states)

    @torch.no_grad()
    def rows(self, steps: Sequence[Transition]) -> Sample:
        """T steps of N rows as at most T * N * ``count``; dead ones are left out."""
        found = Sample(
            *(trees.flat(trees.stack(list(x))) for x in zip(*map(self._of, steps), strict=True))
        )
        alive = torch.cat([t.valid for t in steps]).repeat_interleave(self.count)
        kept = alive.nonzero().squeeze(1)
        return Sample(*(trees.rows(x, kept) for x in found))

    def _of(self, t: Transition) -> Sample:
        """N * ``count`` rows, those of a step together."""
        before, after, paid, over = (x[:, self._states] for x in self._machine.counterfactual(t))
        one_hot = torch.eye(len(self._machine.table), device=paid.device)

        def each(x: Any) -> Any:
            return trees.mapped(x, lambda v: v.repeat_interleave(self.count, 0))

        return Sample(
            self._envs.append(each(t.obs), one_hot[before].flatten(0, 1)),
            each(t.action),
            paid.flatten(),
            self._envs.append(each(t.next_obs), one_hot[after].flatten(0, 1)),
            (t.terminated.unsqueeze(1) | over).flatten(),
        )
