"""Tiny environments that tell formalisms of objectives apart: their moves are tables.

Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
reinforcement learning": an objective orders stationary policies, and what a formalism cannot order
shows on a state or two. What the designer means here is a history, so a state holds the last action
and the observation does not.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv
from rewardzoo.random import Rng


class TinyState(NamedTuple):
    """Where each row is, and what it did last; both (N,) int64."""

    place: Tensor
    last: Tensor  # -1 before the first action


class Tiny(FuncEnv):
    """Deterministic moves by a table; a subclass is one environment.

    ``moves`` (S, A) says where each action leads, ``terminal_places`` which places end.
    """

    moves: ClassVar[tuple[tuple[int, ...], ...]]
    terminal_places: ClassVar[tuple[int, ...]] = ()
    actions: ClassVar[str] = "abc"
    render_modes = ("ansi",)

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        self._moves = torch.tensor(self.moves, device=self.device)
        self._end = torch.zeros(len(self.moves), dtype=torch.bool, device=self.device)
        self._end[list(self.terminal_places)] = True
        self.observation_space = spaces.Discrete(len(self.moves))
        self.action_space = spaces.Discrete(len(self.moves[0]))

    def initial(self, rng: Rng, params: Any = None) -> TinyState:
        """Place 0."""
        place = torch.zeros_like(rng.integers(0, 2))
        return TinyState(place, place - 1)

    def transition(
        self, state: TinyState, action: Tensor, rng: Rng, params: Any = None
    ) -> TinyState:
        """As the table says."""
        return TinyState(self._moves[state.place, action], action)

    def observation(self, state: TinyState, rng: Rng, params: Any = None) -> Tensor:
        """The place, (N,) int64."""
        return state.place

    def reward(
        self,
        state: TinyState,
        action: Tensor,
        next_state: TinyState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """What the subclass means."""
        return self.meant(state, action).to(torch.float32)

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """(N,) of a step."""
        raise NotImplementedError

    def terminal(self, state: TinyState, rng: Rng, params: Any = None) -> Tensor:
        """In a place that ends."""
        return self._end[state.place]

    def transition_matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P (S, A, S), start (S,) and a reward of 0 between them: the objective is no table."""
        count, actions = len(self.moves), len(self.moves[0])
        moves = np.zeros((count, actions, count))
        for place, row in enumerate(self.moves):
            for action, there in enumerate(row):
                moves[place, action, place if place in self.terminal_places else there] = 1.0
        return moves, np.zeros((count, actions)), np.eye(count)[0]

    @property
    def terminal_states(self) -> np.ndarray:
        """(S,) bool."""
        return self._end.cpu().numpy()

    def render_text(self, state: TinyState, i: int) -> str:
        """The place and the last action."""
        last = int(state.last[i])
        return f"place {int(state.place[i])}, last action {'-' if last < 0 else self.actions[last]}"


class OneState(Tiny):
    """A single place with three actions, for ever: a policy is a point of a triangle.

    Dynamics: nothing changes.

    Observation: Discrete(1).

    Action: Discrete(3): a, b, c.

    Objective: 1 whenever b follows a. With probabilities p of the actions that is worth ``p_a p_b``
    a step, whose level sets are curves, which no Markov reward has.

    Start state: the place.

    End of episode: truncated after 100 steps.

    Arguments: none.

    Reference returns: uniform 99 / 9 = 11; the best stationary policy, half a and half b, 24.75;
    the best with memory 50.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning", ICLR.
    """

    moves = ((0, 0, 0),)

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """Action b after a."""
        return (state.last == 0) & (action == 1)


class OneChoice(Tiny):
    """One choice of three, and the episode is over: a trajectory is that choice.

    Dynamics: every action ends the episode.

    Observation: Discrete(2); 1 is the end.

    Action: Discrete(3): a, b, c.

    Objective: 1 for a. (The task that tells formalisms apart here is to choose at random, as
    measured by the entropy of the policy, which is no function of what happens.)

    Start state: place 0.

    End of episode: terminated after the choice.

    Arguments: none.

    Reference returns: uniform 1/3; the optimum is 1.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning", ICLR.
    """

    moves = ((1, 1, 1), (1, 1, 1))
    terminal_places = (1,)

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """Action a."""
        return action == 0


class TwoChoices(Tiny):
    """Two choices, one after the other, and the episode is over.

    Dynamics: place 0, place 1, end, whatever is chosen.

    Observation: Discrete(3): the place; the first choice is not shown.

    Action: Discrete(2): a, b.

    Objective: 1 if both choices are the same. With probabilities p and q of a that is worth
    ``p q + (1 - p) (1 - q)``: what is best in one place depends on what was done in the other, so
    it is no sum over places.

    Start state: place 0.

    End of episode: terminated after two choices.

    Arguments: none.

    Reference returns: uniform 1/2; the optimum is 1.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning", ICLR.
    """

    moves = ((1, 1), (2, 2), (2, 2))
    terminal_places = (2,)

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """The second choice, if it is the first again."""
        return (state.place == 1) & (action == state.last)


class LeaveOrStay(Tiny):
    """Stay where you are, or leave for a better place that is never left.

    Dynamics: in place 0, a leaves for place 1 and b stays; place 1 is never left.

    Observation: Discrete(2): the place.

    Action: Discrete(2): a, b.

    Objective: 1 in every step that begins in place 1. On average over all time, all policies that
    leave with any probability are equally good: the order jumps where that probability is 0, and
    discounted rewards cannot.

    Start state: place 0.

    End of episode: truncated after 100 steps.

    Arguments: none.

    Reference returns: uniform 98 (up to 2**-100); the optimum, leaving at once, is 99.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning", ICLR.
    """

    moves = ((1, 0), (1, 1))

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """In the better place."""
        return state.place == 1


class Unvisited(Tiny):
    """A place that no policy can reach: what a policy would do there shows in nothing it does.

    Dynamics: place 0 ends at once; place 1 is never entered.

    Observation: Discrete(3); 2 is the end.

    Action: Discrete(2): a, b.

    Objective: 1 for a.

    Start state: place 0.

    End of episode: terminated after the choice.

    Arguments: none.

    Reference returns: uniform 1/2; the optimum is 1.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning", ICLR.
    """

    moves = ((2, 2), (2, 2), (2, 2))
    terminal_places = (2,)

    def meant(self, state: TinyState, action: Tensor) -> Tensor:
        """Action a."""
        return action == 0
