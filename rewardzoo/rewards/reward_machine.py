"""RewardMachine and LtlGoal: rewards that follow what has happened so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor
from torch.nn.functional import one_hot

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, discount
from .machine import Automaton, Machine, automaton

Labels = Callable[[Transition], Tensor] | Mapping[str, Sequence[int]]


class Tracking(RewardFunction):
    """What both share: a state for each row, that the labels of its steps move.

    Args:
        names: the propositions.
        table: (U, 2**P), where each label leads.
        initial: the first state.
        labels: which propositions are true of a step: a function of the transition to (N, P) bool,
            in the order of ``names``; or, for Discrete observations, for each proposition the
            observations on whose entering it is true.
    """

    markov = False

    def __init__(self, names: tuple[str, ...], table: Any, initial: int, labels: Labels) -> None:
        self.propositions = names
        self.table = torch.as_tensor(np.asarray(table), dtype=torch.int64)
        self.initial = int(initial)
        if not callable(labels):
            if missing := set(names) - set(labels):
                raise ValueError(f"labels: nothing says when {min(missing)!r} is true")
        self.labels = labels

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Every row in the first state."""
        self.state = torch.full((num_envs,), self.initial)
        self._bits = 1 << torch.arange(len(self.propositions))
        if not callable(self.labels):
            self._entered = _entered(self.labels, self.propositions, spaces.observation)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Rows in ``mask`` begin anew."""
        self.state = self.state.masked_fill(mask, self.initial)

    def observation_features(self) -> Tensor:
        """The state, one-hot, (N, U) float32."""
        return one_hot(self.state, len(self.table)).to(torch.float32)

    def label(self, t: Transition) -> Tensor:
        """The number of the label of each row, (N,) int64."""
        if callable(self.labels):
            true = self.labels(t)
            if true.shape != (len(t.valid), len(self.propositions)):
                raise ValueError(
                    f"labels: returned {tuple(true.shape)}, expected ({len(t.valid)}, "
                    f"{len(self.propositions)}), a column for each of {self.propositions}"
                )
            return (true * self._bits).sum(1)
        return self._entered[t.next_obs]

    def move(self, t: Transition, label: Tensor) -> tuple[Tensor, Tensor]:
        """The states before and after the step; dead rows stay."""
        before = self.state
        self.state = torch.where(t.valid, self.table[before, label], before)
        return before, self.state


@register_reward("reward_machine")
class RewardMachine(Tracking):
    r"""Pays what a reward machine pays: a finite memory of labels, with a reward on each edge.

    Its state is what makes the reward Markov again: ``AppendRewardState`` puts it into the
    observation. When the machine is in a terminal state the task is over and pays 0; the
    environment goes on, or, with ``terminate=True``, its episode ends there: for that put
    ``TerminateTask`` or ``VectorTerminateTask`` of ``rewardzoo.rewards.terminate`` around the
    wrapper that pays it. (The command line and experiments do.) ``double_dqn`` learns from each
    step in all of the machine's states at once, with ``counterfactual=True``.

    Args:
        machine: a ``Machine``, its text, or the path of a file that holds it.
        labels: which propositions are true of a step: a function of the transition to (N, P) bool,
            in the order of the machine's propositions (they are sorted); or, for Discrete
            observations, for each proposition the observations on whose entering it is true.
        shaping: None, or the agent's discount (or "agent"): adds shaping by the value of the
            machine's state, found as if every label could be had in one step. It leaves the optimal
            policies as they are.
        terminate: the end of the task ends the episode. An environment that goes on is refused.

    Example:
        >>> fn = RewardMachine("0\n[1]\n(0, 1, 'goal', 1)", {"goal": [3]})
        >>> fn.propositions
        ('goal',)

    Paper: Toro Icarte et al. (2022), "Reward machines: exploiting reward function structure in
    reinforcement learning".
    """

    def __init__(
        self,
        machine: Machine | str,
        labels: Labels,
        shaping: float | str | None = None,
        terminate: bool = False,
    ) -> None:
        self.machine = machine if isinstance(machine, Machine) else Machine.read(machine)
        found = self.machine
        super().__init__(found.propositions, found.table, found.initial, labels)
        self.reward = torch.tensor(found.reward, dtype=torch.float32)
        self.gamma = None if shaping is None else discount(shaping)
        self.terminate = terminate
        self._value: Tensor | None = None

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Every row in the first state."""
        super().bind(num_envs, device, spaces)
        self._device = device
        self._shape()

    def match_gamma(self, gamma: float) -> None:
        """Take or check the agent's discount."""
        super().match_gamma(gamma)
        self._shape()

    def __call__(self, t: Transition) -> Tensor:
        """The reward on the edge that the step follows, and the shaping if there is one."""
        label = self.label(t)
        if self.terminate and self.state.device.type == "cpu":  # looking at others would stall
            self._refuse_to_go_on(t)
        before, after = self.move(t, label)
        return self._paid(before, after, label, t.terminated)

    def counterfactual(self, t: Transition) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The step as it would have been in every state of the machine, for replay.

        (``agents.common.counterfactual`` makes rows of it.)

        Returns:
            The states before and after, (N, U) int64, the rewards (N, U) float32, with shaping if
            there is one, and whether the machine is then over, (N, U) bool. Changes nothing.
        """
        label = self.label(t).unsqueeze(1)
        before = torch.arange(len(self.table), device=label.device).expand(len(label), -1)
        after = self.table[before, label]
        paid = self._paid(before, after, label, t.terminated.unsqueeze(1))
        return before, after, paid, self._ends()[after]

    def over(self) -> Tensor:
        """(N,) bool, whether the task is over."""
        return self._ends()[self.state]

    def _paid(self, before: Tensor, after: Tensor, label: Tensor, terminated: Tensor) -> Tensor:
        """Of edges, with the shaping; the arguments have one shape, or broadcast."""
        paid = self.reward[before, label]
        if self.gamma is None:
            return paid
        gamma = self.check_gamma()
        if self._value is None:
            self._shape()
        assert self._value is not None
        then = self._value[after].masked_fill(terminated, 0.0)
        return paid + gamma * then - self._value[before]

    def _ends(self) -> Tensor:
        """(U,) bool; no state of the function, so it is not saved."""
        return torch.as_tensor(self.machine.terminal, device=self.state.device)

    def _refuse_to_go_on(self, t: Transition) -> None:
        """Raise if a row steps on after its task is over."""
        late = self.over() & t.valid
        if bool(late.any()):
            raise ValueError(
                f"terminate=True: the task of row {int(late.nonzero()[0, 0])} is over and its "
                "environment goes on: wrap it with TerminateTask or VectorTerminateTask "
                "(rewardzoo.rewards.terminate)"
            )

    def _shape(self) -> None:
        """The potential of each state; it is no state of the function, so it is not saved."""
        if isinstance(self.gamma, (int, float)) and hasattr(self, "_device"):
            values = self.machine.values(self.gamma)
            self._value = torch.tensor(values, dtype=torch.float32, device=self._device)


@register_reward("ltl_goal")
class LtlGoal(Tracking):
    """Pays 1 in an episode whose trace of labels satisfies a temporal formula, else 0.

    It is paid on the step that makes it certain, or, where only the end decides, on the episode's
    last step: the trace of an episode is finite (LTLf), whether it terminated or was cut off. So
    formulas mean what they do on finite traces, which for some is not what they do on infinite
    ones: ``G F a`` ("again and again") and ``F G a`` ("for ever, some time") both say that ``a``
    holds in the last step, ``X a`` is false where there is no next step and ``WX a`` true, and
    ``G a`` is not paid before the end. ``formulas.for_ever`` tells whether a finite trace can
    decide a formula of infinite ones, and refuses the others: those need an automaton over infinite
    words, which is not here.

    Args:
        formula: see ``rewardzoo.rewards.formulas``; of finite traces.
        labels: as for ``RewardMachine``; the propositions are the formula's, sorted.

    Example:
        >>> LtlGoal("(!trap U key) & F door", {"trap": [1], "key": [2], "door": [3]}).propositions
        ('door', 'key', 'trap')

    Paper: De Giacomo, Vardi (2013), "Linear temporal logic and linear dynamic logic on finite
    traces".
    """

    def __init__(self, formula: str, labels: Labels) -> None:
        found: Automaton = automaton(formula)
        super().__init__(found.propositions, found.table, 0, labels)
        self.accepting = torch.tensor(found.accepting)
        self.certain = torch.tensor(found.certain)

    def __call__(self, t: Transition) -> Tensor:
        """1 where the goal is reached in this step."""
        before, after = self.move(t, self.label(t))
        ended = t.done & self.accepting[after]
        won = (self.certain[after] | ended) & self.certain[before].logical_not()
        return won.to(torch.float32)


def _entered(labels: Mapping[str, Sequence[int]], names: tuple[str, ...], space: Any) -> Tensor:
    """(S,) int64, the label of entering each observation."""
    if not isinstance(space, gym_spaces.Discrete) or int(space.start) != 0:
        raise ValueError(f"labels: lists of observations need Discrete ones, these are {space}")
    codes = torch.zeros(int(space.n), dtype=torch.int64)
    for i, name in enumerate(names):
        for state in labels[name]:
            if not 0 <= state < int(space.n):
                raise ValueError(
                    f"labels[{name!r}]: {state}, expected an observation below {space.n}"
                )
            codes[state] |= 1 << i
    return codes
