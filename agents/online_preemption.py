"""Learn in production: run, log, refit, and preempt only once the closed form says that it pays.

The robot starts without preemption. Attempts that ran to their end teach a predictor; attempts that
were given up teach nothing, since nobody knows what they would have come to. So a share of all
attempts is exempt from preemption, chosen before they begin, and only exempt attempts are learned
from: they are a fair sample whatever the rule does to the others.

Paper: Watson, Correll (2023), "Optimal decision making in robotic assembly and other
trial-and-error tasks", arXiv 2301.10846.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewardzoo.autoreset import StepTracker
from rewardzoo.checkpoint import load_checkpoint, save_checkpoint
from rewardzoo.random import Rng
from rewardzoo.registration import register_agent
from rewardzoo.transition import Transition, to_numpy

from .common.hyperparameters import build, hyper
from .common.logger import Logger
from .failure_predictor import DilatedFailurePredictor, Windows, split_attempts
from .preemption import AdoptionGate, Rule, calls, never, stopping_rule

_STREAM = 4  # of random numbers; environments draw from 0, PPO from 1 to 3
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class OnlinePreemptionHyperparameters:
    """When to refit, and how sure to be."""

    first_fit: int = hyper(200, "logged attempts at the first fit; each later fit waits for twice "
                           "as many", low=10)  # fmt: skip
    folds: int = hyper(3, "parts for out-of-fold calls", low=2)
    confidence: float = hyper(0.95, "adopt iff P(it pays) is at least this", low=0.5, high=1.0)
    audit: float = hyper(0.05, "share of attempts never preempted", low=0.0, high=1.0)
    reset_time: float = hyper(1.0, "s lost after an attempt without success", low=0.0)
    num_epochs: int = hyper(12, "passes over the windows in a fit", low=1)
    log_every: int = hyper(32, "steps between two reports", low=1)


@register_agent("preemption")
class OnlinePreemption:
    """Give attempts up by a predictor that is learned on the job, once that provably saves time.

    For environments whose observation is a Dict with ``ft`` (6, W) and ``elapsed`` (1,), whose
    action 1 gives up, and whose info has ``outcome`` (0 none, 1 success, 2 failure, 3 given up) and
    ``attempt_duration``: ``rewardzoo/PegInHoleContact-v0``.

    Attempts are logged lane by lane, and a fit uses equally many of every lane: the first attempts
    to end anywhere would be mostly the short ones.

    Args:
        env: a vector environment, in any autoreset mode but DISABLED.
        seed: of the predictor, the exempt attempts and the environments.
        device: taken for the sake of the interface; it computes on the CPU.
        **hyperparameters: see ``OnlinePreemptionHyperparameters``.
    """

    Hyperparameters = OnlinePreemptionHyperparameters
    default_num_envs = 64
    gamma = 1.0  # seconds count the same whenever they pass

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        seed: int = 0,
        device: torch.device | str | None = None,
        **hyperparameters: Any,
    ) -> None:
        self.hp: OnlinePreemptionHyperparameters = build(
            OnlinePreemptionHyperparameters, hyperparameters
        )
        space = env.single_observation_space
        if not isinstance(space, gymnasium.spaces.Dict) or not {"ft", "elapsed"} <= set(space):
            raise ValueError(f"env: observes {space}, expected a Dict with 'ft' and 'elapsed'")
        if env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED:
            raise ValueError("env: autoreset is disabled, expected 'SAME_STEP' or 'NEXT_STEP'")
        self.envs, self.seed = env, seed
        self.tracker = StepTracker(env, _CPU)
        self.predictor: DilatedFailurePredictor | None = None
        self.rule: Rule = never()
        self.adopted = False
        self.num_timesteps = 0
        self.gate = {"reactive": math.nan, "preemptive": math.nan, "confidence": math.nan}
        count = env.num_envs
        self.ended = np.zeros(count, dtype=np.int64)  # attempts of each lane
        self.exempt = np.ones(count, dtype=bool)  # the running attempt is not preempted
        self._pending: list[list[tuple[Any, float]]] = [[] for _ in range(count)]
        self._log: list[dict[str, Any]] = []  # attempts that ran to their end, exempt
        self._next_fit = self.hp.first_fit
        self._started = False

    # ---- acting ------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Actions for a batch of observations, or for one; never 1 before adoption."""
        ft = np.asarray(to_numpy(observation["ft"]))
        elapsed = np.asarray(to_numpy(observation["elapsed"]), dtype=np.float64)
        single = ft.ndim == 2
        action = self._give_up(ft[None] if single else ft, elapsed.reshape(-1)).astype(np.int64)
        return (np.int64(action[0]) if single else action), state

    def _give_up(self, ft: NDArray[Any], elapsed: NDArray[Any]) -> NDArray[np.bool_]:
        stop = np.zeros(len(ft), dtype=bool)
        asked = elapsed > 0
        if self.adopted and self.predictor is not None and asked.any():
            stop[asked] = self.rule(self.predictor.predict_proba(ft[asked]), elapsed[asked])
        return stop

    # ---- learning ----------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callable[[OnlinePreemption, dict[str, float]], bool | None] | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> OnlinePreemption:
        """Run and learn for ``total_timesteps`` decisions, all lanes together.

        Args:
            total_timesteps: decisions.
            callback: called at every report with the metrics; False stops.
            reset_num_timesteps: count from 0 again.
            progress_bar: show one.
            log_dir: where to write TensorBoard files.
        """
        if reset_num_timesteps:
            self.num_timesteps = 0
        if not self._started:
            self._reset()
        goal = self.num_timesteps + total_timesteps
        totals = _Totals(self.envs.num_envs)
        with Logger(total_timesteps, log_dir, progress_bar) as logger:
            while self.num_timesteps < goal:
                for _ in range(self.hp.log_every):
                    totals.add(self._step(), self.tracker)
                    if self.num_timesteps >= goal:
                        break
                self._maybe_fit()
                metrics = {**totals.read(self.num_timesteps), **self._report()}
                logger.log(metrics, self.num_timesteps, total_timesteps - goal + self.num_timesteps)
                if callback is not None and callback(self, metrics) is False:
                    break
        return self

    def _reset(self) -> None:
        obs, _ = self.envs.reset(seed=self.seed)
        self._tensors = isinstance(obs["ft"], Tensor)
        self.tracker.reset(obs)
        self._started = True

    def _step(self) -> Transition:
        obs = to_numpy(self.tracker.obs)
        ft, elapsed = obs["ft"], obs["elapsed"].reshape(-1).astype(np.float64)
        for lane in np.flatnonzero(self.exempt & (elapsed > 0)):
            self._pending[lane].append((ft[lane].copy(), float(elapsed[lane])))
        action = (self._give_up(ft, elapsed) & ~self.exempt).astype(np.int64)
        sent = torch.from_numpy(action) if self._tensors else action
        step = self.tracker.step(sent, *self.envs.step(sent))
        self.num_timesteps += int(step.valid.sum())
        self._attempts_end(to_numpy(step.info["outcome"]), to_numpy(step.info["attempt_duration"]))
        return step

    def _attempts_end(self, outcome: NDArray[Any], duration: NDArray[Any]) -> None:
        """Log what ran to its end, and choose which of the next attempts are exempt."""
        rows = np.flatnonzero(outcome)
        if not len(rows):
            return
        counters = torch.from_numpy(self.seed + rows), torch.from_numpy(self.ended[rows])
        u = Rng(*counters, 0, _STREAM).uniform().numpy()
        for lane, chance in zip(rows, u, strict=True):
            if self.exempt[lane]:
                windows = self._pending[lane]
                self._log.append(
                    {
                        "lane": int(lane),
                        "index": int(self.ended[lane]),
                        "ft": np.stack([w for w, _ in windows]) if windows else None,
                        "time": np.array([t for _, t in windows]),
                        "success": bool(outcome[lane] == 1),
                        "duration": float(duration[lane]),
                    }
                )
            self._pending[lane] = []
            self.exempt[lane] = not self.adopted or chance < self.hp.audit
        self.ended[rows] += 1

    def _maybe_fit(self) -> None:
        """Refit when every lane has had enough attempts."""
        depth = int(self.ended.min())
        if depth * self.envs.num_envs < self._next_fit:
            return
        kept = [a for a in self._log if a["index"] < depth]
        self._next_fit *= 2
        windows = gathered(kept)
        if windows is None or min(windows.success.sum(), (~windows.success).sum()) < 20:
            return  # too few of one kind to learn what tells them apart
        probability, called = cross_fit(windows, self.hp, self.seed)
        found = AdoptionGate(self.hp.confidence, seed=self.seed).decide(
            windows.duration, windows.success, called, self.hp.reset_time
        )
        self.gate = {
            "reactive": found.reactive,
            "preemptive": found.preemptive,
            "confidence": found.confidence,
        }
        self.adopted = found.adopt
        if found.adopt:
            self.rule = stopping_rule(probability, windows, self.hp.reset_time)
            self.predictor = _fitted(windows, self.hp, self.seed)

    def _report(self) -> dict[str, float]:
        return {
            "train/adopted": float(self.adopted),
            "train/attempts": float(self.ended.sum()),
            "train/logged": float(len(self._log)),
            **{f"train/gate_{k}": v for k, v in self.gate.items()},
        }

    # ---- evaluating --------------------------------------------------------------------------

    def evaluate(
        self, env: Any, num_episodes: int = 100, deterministic: bool = True, seed: int = 1_000_000
    ) -> dict[str, Tensor]:
        """Play equally many whole episodes in every environment; see ``PPO.evaluate``."""
        quota = -(-num_episodes // env.num_envs)
        tracker = StepTracker(env, _CPU)
        obs, _ = env.reset(seed=seed)
        tensors = isinstance(obs["ft"], Tensor)
        tracker.reset(obs)
        totals = _Totals(env.num_envs)
        while min(len(lane) for lane in totals.episodes) < quota:
            action, _ = self.predict(tracker.obs)
            sent = torch.from_numpy(action) if tensors else action
            totals.add(tracker.step(sent, *env.step(sent)), tracker)
        kept = [episode for lane in totals.episodes for episode in lane[:quota]]
        columns = torch.tensor(kept, dtype=torch.float32).unbind(1)
        return dict(zip(("return", "objective", "length"), columns, strict=True))

    # ---- saving ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what was learned and the log; the running attempts are started anew on loading."""
        content = {
            "hyperparameters": asdict(self.hp),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "adopted": self.adopted,
            "gate": self.gate,
            "rule": [torch.from_numpy(np.asarray(x)) for x in self.rule[:2]],
            "rule_makespan": self.rule.makespan,
            "predictor": self.predictor.state_dict() if self.predictor else None,
            "ended": torch.from_numpy(self.ended.copy()),
            "next_fit": self._next_fit,
            "log": [
                {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in a.items()}
                for a in self._log
            ],
        }
        save_checkpoint(path, "preemption", content)

    @classmethod
    def load(cls, path: str | Path, env: Any, device: Any = None) -> OnlinePreemption:
        """Read what ``save`` wrote, for an environment with as many lanes."""
        content = load_checkpoint(path, "preemption")
        agent = cls(env, content["seed"], device, **content["hyperparameters"])
        agent.num_timesteps, agent.adopted = content["num_timesteps"], content["adopted"]
        agent.gate = content["gate"]
        times, thresholds = (x.numpy() for x in content["rule"])
        agent.rule = Rule(times, thresholds, content["rule_makespan"])
        if content["predictor"] is not None:
            agent.predictor = DilatedFailurePredictor.from_state_dict(content["predictor"])
        if len(content["ended"]) == env.num_envs:  # else it is loaded to act, not to go on
            agent.ended = content["ended"].numpy()
            agent._next_fit = content["next_fit"]
            agent._log = [
                {k: v.numpy() if isinstance(v, Tensor) else v for k, v in a.items()}
                for a in content["log"]
            ]
        return agent


class _Totals:
    """Return, objective and length of episodes, lane by lane."""

    def __init__(self, count: int) -> None:
        self.sums = np.zeros((3, count))
        self.episodes: list[list[tuple[float, ...]]] = [[] for _ in range(count)]
        self._since = time.perf_counter(), 0
        self._read = [0] * count

    def add(self, step: Transition, tracker: StepTracker) -> None:
        objective = tracker.objective(step)
        columns = (step.reward, objective, step.valid.to(torch.float32))
        self.sums += np.stack([to_numpy(x) for x in columns])
        for lane in np.flatnonzero(to_numpy(step.done)):
            self.episodes[lane].append(tuple(self.sums[:, lane].tolist()))
            self.sums[:, lane] = 0.0

    def read(self, num_timesteps: int) -> dict[str, float]:
        """Means over the episodes that ended since the last reading."""
        fresh = [e for lane, n in zip(self.episodes, self._read, strict=True) for e in lane[n:]]
        self._read = [len(lane) for lane in self.episodes]
        means = np.mean(fresh, axis=0) if fresh else np.full(3, math.nan)
        now, (before, steps) = time.perf_counter(), self._since
        self._since = now, num_timesteps
        names = ("rollout/ep_return", "rollout/ep_objective", "rollout/ep_length")
        return {
            **dict(zip(names, means.tolist(), strict=True)),
            "rollout/episodes": float(len(fresh)),
            "time/sps": (num_timesteps - steps) / max(now - before, 1e-9),
            "time/total_timesteps": float(num_timesteps),
        }


def gathered(attempts: list[dict[str, Any]]) -> Windows | None:
    """The windows of logged attempts; None where there are none."""
    long = [k for k, a in enumerate(attempts) if a["ft"] is not None]
    if not long:
        return None
    return Windows(
        np.concatenate([attempts[k]["ft"] for k in long]),
        np.concatenate([np.full(len(attempts[k]["time"]), k) for k in long]),
        np.concatenate([attempts[k]["time"] for k in long]),
        np.array([a["success"] for a in attempts]),
        np.array([a["duration"] for a in attempts]),
    )


def cross_fit(
    windows: Windows, hp: OnlinePreemptionHyperparameters, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Out-of-fold probabilities (M,) and calls (A,), by predictors and rules of other attempts.

    The probabilities of a fold come from a predictor that was fitted without it, and its calls from
    a rule that was chosen on the other folds' out-of-fold probabilities.
    """
    count = len(windows.success)
    folds = split_attempts(count, [1.0 / hp.folds] * (hp.folds - 1), seed)
    probability = np.zeros(len(windows.time))
    called = np.full(count, math.inf)
    for k, fold in enumerate(folds):
        rest = np.concatenate([f for i, f in enumerate(folds) if i != k])
        inside = np.isin(windows.attempt, fold)
        predictor = _fitted(windows.of(np.sort(rest)), hp, seed + k)
        probability[inside] = predictor.predict_proba(windows.ft[inside])
    for k, fold in enumerate(folds):
        rest = np.sort(np.concatenate([f for i, f in enumerate(folds) if i != k]))
        fold = np.sort(fold)
        rule = stopping_rule(
            probability[np.isin(windows.attempt, rest)], windows.of(rest), hp.reset_time
        )
        inside = np.isin(windows.attempt, fold)
        called[fold] = calls(probability[inside], windows.of(fold), rule)
    return probability, called


def _fitted(
    windows: Windows, hp: OnlinePreemptionHyperparameters, seed: int
) -> DilatedFailurePredictor:
    """A predictor trained on four fifths of the attempts and calibrated on the others."""
    training, calibration = split_attempts(len(windows.success), [0.8], seed)
    predictor = DilatedFailurePredictor(windows.ft.shape[2], seed, num_epochs=hp.num_epochs)
    return predictor.fit(windows.of(training), windows.of(calibration))
