"""Heuristics that designers add to a reward, some of which mislead (Gupta et al. 2023)."""

from __future__ import annotations

import torch
from gymnasium.spaces import Box
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer, number


class _Heuristic(RewardFunction):
    """Advice that reads the numbers of one kind of environment.

    Attributes:
        env: whose.
        numbers: of an observation there.
        actions: to choose from there.
    """

    env: str
    numbers: int
    actions: int

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Refuse what those numbers would mean nothing in.

        Raises:
            ValueError: for other observations or actions.
        """
        obs, action = spaces.observation, spaces.action
        if obs.shape != (self.numbers,) or getattr(action, "n", 0) != self.actions:
            raise ValueError(
                f"{self.name}: it is advice for {self.env}, whose observations are {self.numbers} "
                f"numbers and whose actions are {self.actions}; this environment has {obs} and "
                f"{action}"
            )
        super().bind(num_envs, device, spaces)


class _MazeAdvice(_Heuristic):
    """Advice for ``rewardzoo/AlignmentMaze-v0`` that is paid at every sub-step of a move.

    Where the sub-steps end follows from where the move began and ended: it is straight, and what
    stops it keeps it there.
    """

    env, numbers, actions = "rewardzoo/AlignmentMaze-v0", 2, 4

    def __init__(self, sub_step: float = 0.045, sub_steps: int = 4) -> None:
        if not number("sub_step", sub_step) > 0:
            raise ValueError(f"sub_step={sub_step}: expected a number > 0")
        self.sub_step = sub_step
        self.sub_steps = integer("sub_steps", sub_steps, 1)

    def __call__(self, t: Transition) -> Tensor:
        """The sum over the move's sub-steps, (N,) float32."""
        assert isinstance(t.obs, Tensor) and isinstance(t.next_obs, Tensor)
        move = t.next_obs - t.obs
        count = torch.arange(1, self.sub_steps + 1, device=move.device)
        reach = torch.minimum(move.abs().unsqueeze(1), (count * self.sub_step).unsqueeze(1))
        position = t.obs.unsqueeze(1) + move.sign().unsqueeze(1) * reach
        # The goal ends a move early: what would have followed is not paid.
        made = torch.round(move.abs().sum(1) / self.sub_step)
        live = t.terminated.logical_not().unsqueeze(1) | (count <= made.unsqueeze(1))
        return (self.value(position, t) * live).sum(1)

    def value(self, position: Tensor, t: Transition) -> Tensor:
        """What a sub-step that ends at ``position`` (N, K, 2) pays, (N, K)."""
        raise NotImplementedError


@register_reward("maze_goal_distance")
class MazeGoalDistance(_MazeAdvice):
    """Pays minus the squared distance to the goal's centre at every sub-step of a maze's move.

    Args:
        legacy: measure along x alone, as the authors' code does by a slip.
        sub_step: length of a sub-step of ``rewardzoo/AlignmentMaze-v0``.
        sub_steps: of a move.

    Paper: Gupta et al. (2023), "Behavior Alignment via Reward Function Optimization".
    """

    def __init__(self, legacy: bool = False, sub_step: float = 0.045, sub_steps: int = 4) -> None:
        super().__init__(sub_step, sub_steps)
        self.legacy = bool(legacy)

    def value(self, position: Tensor, t: Transition) -> Tensor:
        """Minus the squared distance."""
        square = (position - 0.87).square()
        return -square[..., 0] if self.legacy else -square.sum(-1)


@register_reward("maze_lure")
class MazeLure(_MazeAdvice):
    """Pays for every sub-step of a maze's move that ends inside a square on the way to the goal.

    Nothing is paid for the move that ends the episode. Its optimum is to stay in the square.

    Args:
        amount: paid per sub-step.
        sub_step: length of a sub-step of ``rewardzoo/AlignmentMaze-v0``.
        sub_steps: of a move.

    Paper: Gupta et al. (2023), "Behavior Alignment via Reward Function Optimization".
    """

    def __init__(self, amount: float = 50.0, sub_step: float = 0.045, sub_steps: int = 4) -> None:
        super().__init__(sub_step, sub_steps)
        self.amount = number("amount", amount)

    def value(self, position: Tensor, t: Transition) -> Tensor:
        """The amount inside [0.4, 0.6]^2."""
        inside = ((position >= 0.4) & (position <= 0.6)).all(-1)
        return self.amount * (inside & t.done.logical_not().unsqueeze(1))


@register_reward("velocity_push")
class VelocityPush(_Heuristic):
    """Pays ``weight`` for a mountain car's push along its velocity, and takes it for one against.

    Coasting, and any push at rest, pay nothing.

    Args:
        weight: paid; negative ones advise to brake.

    Paper: Gupta et al. (2023), "Behavior Alignment via Reward Function Optimization".
    """

    env, numbers, actions = "a mountain car", 2, 3

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = number("weight", weight)

    def __call__(self, t: Transition) -> Tensor:
        """By the velocity before the step, (N,) float32."""
        assert isinstance(t.obs, Tensor)
        return self.weight * (t.obs[:, 1] * (t.action - 1)).sign()


@register_reward("push_right")
class PushRight(_Heuristic):
    """Pays a mountain car for pushing right while it moves right, and for nothing else.

    Any other action while it moves right costs as much; while it moves left nothing is paid.

    Args:
        amount: paid or taken.

    Paper: Gupta et al. (2023), "Behavior Alignment via Reward Function Optimization".
    """

    env, numbers, actions = "a mountain car", 2, 3

    def __init__(self, amount: float = 5.0) -> None:
        self.amount = number("amount", amount)

    def __call__(self, t: Transition) -> Tensor:
        """By the velocity before the step, (N,) float32."""
        assert isinstance(t.obs, Tensor)
        pushes = torch.where(t.action == 2, self.amount, -self.amount)
        return torch.where(t.obs[:, 1] > 0, pushes, 0.0)


@register_reward("pole_rule")
class PoleRule(_Heuristic):
    """Pays for agreeing with a rule that balances a pole, or, with signs reversed, for defying it.

    The rule pushes right where ``.1 angle + .5 (angle - previous angle) > 0``, and remembers the
    previous angle of the episode (at its first step the difference is 0).

    Args:
        agree: paid where the action is the rule's.
        disagree: paid where it is not.

    Paper: Gupta et al. (2023), "Behavior Alignment via Reward Function Optimization".
    """

    markov = False
    env, numbers, actions = "a cart pole", 4, 2

    def __init__(self, agree: float = 5.0, disagree: float = -1.0) -> None:
        self.agree = number("agree", agree)
        self.disagree = number("disagree", disagree)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """No angle was seen yet."""
        self._previous = torch.zeros(num_envs)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """The first angle is its own predecessor."""
        assert isinstance(obs, Tensor)
        self._previous = torch.where(mask, obs[:, 2], self._previous)

    def __call__(self, t: Transition) -> Tensor:
        """By the state before the step, (N,) float32."""
        assert isinstance(t.obs, Tensor)
        angle = t.obs[:, 2]
        right = 0.1 * angle + 0.5 * (angle - self._previous) > 0
        self._previous = torch.where(t.valid, angle, self._previous)
        return torch.where(right == (t.action == 1), self.agree, self.disagree)


@register_reward("action_cost")
class ActionCost(RewardFunction):
    """Takes ``weight`` times the squared length of the action: effort.

    Args:
        weight: >= 0; 1 advises a running cheetah well, 4 to stand still (Gupta et al. 2023).
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = number("weight", weight, 0.0)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Effort needs actions that have a length.

        Raises:
            ValueError: for actions other than a Box.
        """
        if not isinstance(spaces.action, Box):
            raise ValueError(f"action_cost: it needs Box actions, these are {spaces.action}")
        super().bind(num_envs, device, spaces)

    def __call__(self, t: Transition) -> Tensor:
        """Minus the cost, (N,) float32."""
        return -self.weight * t.action.float().square().flatten(1).sum(1)
