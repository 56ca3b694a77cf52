"""What the key-room experiments share: the policy's view of the room, training and its figures.

MiniHack's KeyRoom-S5: a key, a locked door, stairs behind it; 1 for the stairs, -.01 for a step in
which the game's clock stands still. PPO sees the 9 x 9 window around the hero in one-hot code, and
two flags (key in hand, door opened), in every arm alike; the message goes to the reward functions
only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.agents.ppo import PPO
from rewardzoo.autoreset import StepTracker
from rewardzoo.metrics.statistics import bootstrap_curve, paired_difference, stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.base import RewardFunction, Spaces
from rewardzoo.rewards.calm_detectors import KeyRoomOracle
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.verdicts import decided

ENV = "rewardzoo/MiniHackKeyRoomS5-v0"
KEYS = ("chars_crop", "message")
SIGNS = ".|-+(>@# "
"""What is told apart in the window; all else is one more kind."""

PPO_SETTINGS: dict[str, Any] = {
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 5e-4,
    "ent_coef": 0.01,
    "gamma": 0.99,
    "hidden": (128, 128),
}
"""Fixed before the reporting seeds were run. The number of environments is a setting too: with 32
and rollouts of 32 steps the sparse reward was learned in the one seed looked at (seed 200, success
.80 by the end), with 8 and 128 steps not in seed 0."""


class View(gymnasium.vector.VectorWrapper):
    """The window in one-hot code and two flags, (N, 812) float32."""

    def __init__(self, envs: VectorRewardWrapper) -> None:
        super().__init__(envs)
        self.device = envs.device
        self._tracker = StepTracker(envs, self.device)
        self.oracle = KeyRoomOracle()
        found = Spaces(envs.single_observation_space, envs.single_action_space, envs)
        self.oracle.bind(envs.num_envs, self.device, found)
        code = torch.full((256,), len(SIGNS), dtype=torch.int64)
        code[torch.tensor(list(SIGNS.encode()))] = torch.arange(len(SIGNS))
        self._code = torch.eye(len(SIGNS) + 1)[code].to(self.device)
        self.flags = torch.zeros(envs.num_envs, 2, device=self.device)
        self.width = 81 * (len(SIGNS) + 1) + 2
        self.single_observation_space = spaces.Box(0.0, 1.0, (self.width,), np.float32)
        self.observation_space = spaces.Box(0.0, 1.0, (envs.num_envs, self.width), np.float32)

    def reset(self, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """No key, no open door."""
        obs, _ = self.env.reset(**kwargs)
        self.flags = torch.zeros_like(self.flags)
        self._tracker.reset(obs)
        return self._view(self._tracker.obs, self.flags), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step; the flags follow what happened."""
        out = self.env.step(actions)
        t, info = self._tracker.step(actions, *out), out[4]
        flags = torch.maximum(self.flags, self.oracle.detect(t))
        final = self._view(t.next_obs, flags)
        self.flags = torch.where(t.done.unsqueeze(1), 0.0, flags)
        begun = self._view(self._tracker.obs, self.flags) if self._tracker.some_began else final
        kept = {"objective": info["objective"], "episode": info["episode"], "_episode": t.done}
        kept = {**kept, "final_obs": final, "_final_obs": t.done}
        return begun, t.reward, t.terminated, t.truncated, kept

    def _view(self, obs: Any, flags: Tensor) -> Tensor:
        crop = self._code[obs["chars_crop"].flatten(1).to(torch.int64)]
        return torch.cat([crop.flatten(1), flags], 1)


def make_key_rooms(num_envs: int, fn: RewardFunction, **arguments: Any) -> View:
    """Key rooms that pay ``fn``, as the policy sees them.

    All in this process: with so small a policy, and jobs side by side, what a worker process would
    save goes into waiting for it.
    """
    made: Any = gymnasium.make_vec(
        ENV, num_envs, observation_keys=KEYS, actions="calm", num_workers=0, **arguments
    )
    return View(VectorRewardWrapper(made, fn))


def train_in_key_room(trial: Any, fn: RewardFunction, **arguments: Any) -> dict[str, float]:
    """Train PPO on ``fn`` and count how often the stairs were reached.

    Args:
        trial: seed, budget and log of the job.
        fn: what is paid.
        **arguments: of the environment.

    Returns:
        ``success``: share of the episodes of the last quarter of training that reached the stairs;
        ``success_all``: of all episodes; ``objective``, ``return``, ``length``: means over the last
        quarter.
    """
    budget = trial.budget
    envs = make_key_rooms(budget.num_envs, fn, **arguments)
    tally = Tally(envs)
    agent = PPO(tally, seed=trial.seed, **PPO_SETTINGS)
    log: list[dict[str, float]] = []

    def after_iteration(agent: PPO, metrics: dict[str, float]) -> None:
        numbers = {**tally.take(), **{k: v for k, v in metrics.items() if k.startswith("reward/")}}
        log.append(numbers)
        trial.log(agent.num_timesteps, **numbers)

    try:
        agent.learn(budget.total_timesteps, callback=after_iteration)
    finally:
        envs.close()
    last = log[-max(1, len(log) // 4) :]
    return {
        "success": _ratio(last, "successes", "episodes"),
        "success_all": _ratio(log, "successes", "episodes"),
        "objective": _ratio(last, "sum_objective", "episodes"),
        "return": _ratio(last, "sum_return", "episodes"),
        "length": _ratio(last, "sum_length", "episodes"),
    }


class Tally(gymnasium.vector.VectorWrapper):
    """Counts episodes and successes between two calls of ``take``."""

    def __init__(self, envs: View) -> None:
        super().__init__(envs)
        self.device = envs.device
        self._sums = torch.zeros(5)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step, counted."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        done = (terminated | truncated).to(torch.float32)
        episode = info["episode"]
        # The stairs alone pay more than 0.
        won = (terminated & (info["objective"] > 0)).to(torch.float32)
        paid = [episode[key].to(torch.float32) * done for key in ("objective", "r", "l")]
        self._sums = self._sums + torch.stack([done, won, *paid]).sum(1)
        return obs, reward, terminated, truncated, info

    def take(self) -> dict[str, float]:
        """The counts since the last call."""
        names = ("episodes", "successes", "sum_objective", "sum_return", "sum_length")
        counts = dict(zip(names, self._sums.tolist(), strict=True))
        self._sums = torch.zeros(5)
        counts["success"] = counts["successes"] / counts["episodes"] if counts["episodes"] else 0.0
        return counts


def _ratio(log: list[dict[str, float]], over: str, under: str) -> float:
    return sum(x[over] for x in log) / max(1.0, sum(x[under] for x in log))


def success(results: Results, label: str) -> Any:
    """(seeds,) share of the last quarter's episodes that reached the stairs."""
    return results[label].final["success"]


def beats(label: str, base: str, sentence: str) -> Callable[[Results], Verdict]:
    """A check that an arm's interquartile mean is above another's with disjoint intervals."""

    def check(results: Results) -> Verdict:
        mine, other = (stratified_bootstrap(success(results, x)) for x in (label, base))
        difference = paired_difference(success(results, label), success(results, base))
        if mine.low > other.high:
            outcome = "holds"
        elif difference.high < 0:
            outcome = "fails"
        else:
            outcome = "inconclusive"
        return decided(
            sentence,
            outcome,
            difference,
            f"difference of success, paired by seed; {mine} against {other}: holds where "
            "the two intervals do not overlap",
        )

    return check


def does_not_help(label: str, base: str, sentence: str) -> Callable[[Results], Verdict]:
    """A check of a negative control: its interval is not above that of the base."""

    def check(results: Results) -> Verdict:
        mine, other = (stratified_bootstrap(success(results, x)) for x in (label, base))
        difference = paired_difference(success(results, label), success(results, base))
        if mine.low > other.high:
            outcome = "fails"
        else:
            outcome = "holds" if difference.n >= 5 else "inconclusive"
        return decided(
            sentence,
            outcome,
            difference,
            f"difference of success, paired by seed; {mine} against {other}: fails where "
            "the former lies above the latter",
            tested=False,
        )

    return check


def curves_of_success(figure: Any, results: Results) -> None:
    """Success while training, interquartile mean over seeds with its interval."""
    from rewardzoo.report import colour

    axes = figure.subplots()
    for i, arm in enumerate(results.arms):
        step, won = arm.curves["step"][0], arm.curves["successes"].cumsum(1)
        played = arm.curves["episodes"].cumsum(1)
        # Over the last tenth of the run: single iterations hold few episodes.
        back = max(1, len(step) // 10)
        won = won - np.pad(won, ((0, 0), (back, 0)))[:, : won.shape[1]]
        played = played - np.pad(played, ((0, 0), (back, 0)))[:, : played.shape[1]]
        curve = bootstrap_curve(won / np.maximum(played, 1.0))
        axes.plot(step, curve.point, color=colour(i), label=arm.label)
        axes.fill_between(step, curve.low, curve.high, color=colour(i), alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="episodes that reach the stairs", ylim=(0, 1))
    axes.legend(fontsize=8)
