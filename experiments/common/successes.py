"""PPO where an episode either succeeds or does not: training, counts, verdicts and the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from rewardzoo.agents.ppo import PPO
from rewardzoo.metrics.statistics import bootstrap_curve, paired_difference, stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import decided


def train_and_count(trial: Any, envs: Any, **settings: Any) -> dict[str, float]:
    """Train PPO, count how often an episode succeeded, and close the environments.

    Args:
        trial: seed, budget and log of the job.
        envs: of this project; whatever ends an episode as terminated and pays is a success.
        **settings: of PPO.

    Returns:
        ``success``: share of the episodes of the last quarter of training that succeeded;
        ``success_all``: of all episodes; ``objective``, ``return``, ``length``: means over the last
        quarter.
    """
    tally = Tally(envs)
    agent = PPO(tally, seed=trial.seed, **settings)
    log: list[dict[str, float]] = []

    def after_iteration(agent: PPO, metrics: dict[str, float]) -> None:
        numbers = {**tally.take(), **{k: v for k, v in metrics.items() if k.startswith("reward/")}}
        log.append(numbers)
        trial.log(agent.num_timesteps, **numbers)

    try:
        agent.learn(trial.budget.total_timesteps, callback=after_iteration)
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

    def __init__(self, envs: Any) -> None:
        super().__init__(envs)
        self.device = envs.device
        self._sums = torch.zeros(5)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step, counted."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        done = (terminated | truncated).to(torch.float32)
        episode = info["episode"]
        # Only what is to be reached pays more than 0.
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
    """(seeds,) share of the last quarter's episodes that succeeded."""
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


def curves_of_success(figure: Any, results: Results, without: tuple[str, ...] = ()) -> None:
    """Success while training, interquartile mean over seeds with its interval."""
    from rewardzoo.report import colour

    axes = figure.subplots()
    for i, arm in enumerate(results.arms):
        if arm.label in without:
            continue
        step, won = arm.curves["step"][0], arm.curves["successes"].cumsum(1)
        played = arm.curves["episodes"].cumsum(1)
        # Over the last tenth of the run: single iterations hold few episodes.
        back = max(1, len(step) // 10)
        won = won - np.pad(won, ((0, 0), (back, 0)))[:, : won.shape[1]]
        played = played - np.pad(played, ((0, 0), (back, 0)))[:, : played.shape[1]]
        curve = bootstrap_curve(won / np.maximum(played, 1.0))
        axes.plot(step, curve.point, color=colour(i), label=arm.label)
        axes.fill_between(step, curve.low, curve.high, color=colour(i), alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="episodes that reach the stairs")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
