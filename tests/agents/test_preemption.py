"""Rules follow from times, the gate refuses what does not pay, and learning on the job is fair."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.failure_predictor import Windows
from rewardzoo.agents.online_preemption import OnlinePreemption, cross_fit, gathered
from rewardzoo.agents.preemption import (
    AdoptionGate,
    Rule,
    best_threshold,
    calls,
    never,
    rule_makespan,
    stopping_rule,
)
from rewardzoo.envs.peg_in_hole.closed_form import ConfusionTimes, expected_makespan
from rewardzoo.envs.peg_in_hole.makespan import best_cutoff
from rewardzoo.envs.peg_in_hole.stopping import StoppingProblem, solve
from rewardzoo.transition import to_numpy


def bare(duration: Any, success: Any, stride: float = 1.0) -> Windows:
    """Windows without readings: what rules look at."""
    duration, success = np.asarray(duration, dtype=float), np.asarray(success, dtype=bool)
    times = [np.arange(stride, d - 1e-9, stride) for d in duration]
    owner = np.repeat(np.arange(len(duration)), [len(t) for t in times])
    empty = np.zeros((len(owner), 6, 1), np.float32)
    return Windows(empty, owner, np.concatenate(times), success, duration)


def test_calls_are_the_first_to_reach_the_threshold() -> None:
    w = bare([3.5, 2.5, 4.5], [True, False, False])
    p = np.array([0.1, 0.9, 0.2, 0.1, 0.2, 0.3, 0.6, 0.9, 0.9])
    rule = Rule(np.array([0.0, 3.0]), np.array([0.8, 0.5]), 0.0)
    assert calls(p, w, rule).tolist() == [2.0, math.inf, 3.0]
    assert calls(p, w, rule._replace(threshold=np.array([1.1, 0.5]))).tolist() == [
        math.inf,
        math.inf,
        3.0,
    ]
    assert (calls(p, w, never()) == math.inf).all()


def test_before_its_first_time_a_rule_never_gives_up() -> None:
    rule = Rule(np.array([1.0]), np.array([0.5]), 0.0)
    assert rule(np.array([0.9, 0.9, 0.4]), np.array([0.5, 1.0, 2.0])).tolist() == [
        False,
        True,
        False,
    ]


def test_best_threshold_is_the_best_of_all() -> None:
    g = np.random.default_rng(0)
    success = g.random(200) < 0.5
    w = bare(np.where(success, g.uniform(2, 8, 200), 14.0), success)
    p = np.clip(np.where(success[w.attempt], 0.3, 0.6) + 0.2 * g.normal(size=len(w.time)), 0, 1)
    best = best_threshold(p, w, 1.0)
    tried = [Rule(np.zeros(1), np.full(1, k / 100), 0.0) for k in range(1, 100)]
    assert best.makespan == pytest.approx(min(rule_makespan(p, w, r, 1.0) for r in tried))
    assert best.makespan == rule_makespan(p, w, best, 1.0) < rule_makespan(p, w, never(), 1.0)


def test_an_ignorant_predictor_is_never_heeded() -> None:
    w = bare([2.5] * 50 + [3.5] * 50, [True] * 50 + [False] * 50)
    p = np.full(len(w.time), 0.5)
    for rule in (best_threshold(p, w, 5.0), stopping_rule(p, w, 5.0)):
        assert (calls(p, w, rule) == math.inf).all()
        assert rule.makespan == rule_makespan(p, w, never(), 5.0)


def test_a_perfect_predictor_reaches_the_closed_forms_limit() -> None:
    success = np.arange(100) < 40
    w = bare(np.where(success, 5.0, 14.0), success)
    p = np.where(success[w.attempt], 0.0, 1.0)
    want = 5.0 + 60 / 40 * (1.0 + 2.0)  # MTS + (1 - p) / p (d_TN + r)
    assert stopping_rule(p, w, 2.0).makespan == pytest.approx(want)


def test_stopping_rule_equals_dynamic_programming_where_one_score_says_all() -> None:
    """A single informative score at the first window: the rule's threshold is optimal."""
    count = 4_000
    g = np.random.default_rng(3)
    success = np.arange(count) % 2 == 0
    score = g.random(count) < np.where(success, 0.2, 0.7)
    posterior = np.where(score, 0.7 / 0.9, 0.3 / 1.1)
    w = bare(np.where(success, 2.5, 9.5), success)
    rule = stopping_rule(posterior[w.attempt], w, 1.0)
    llr = np.log(np.array([[0.3 / 0.8, 0.7 / 0.2], [1.0, 1.0]]))
    chance = np.array([[[0.3, 0.7], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]]])
    rest = np.array([[1.0, 8.5], [1.0, 1.5]])
    problem = StoppingProblem(
        0.0, np.zeros(2), np.array([[0.0, 1.0]] * 2), rest, llr, chance, 1.0, 0.0
    )
    grid = np.unique(np.concatenate([[-20.0, 0.0, 20.0], llr[0]]))
    optimum = solve(problem, grid).makespan
    assert rule.makespan == pytest.approx(optimum, rel=0.05)  # 4,000 attempts, fifty-fifty scores
    called = calls(posterior[w.attempt], w, rule)
    assert (np.isfinite(called) == score).all()


def test_gate_adopts_what_pays_and_refuses_what_does_not() -> None:
    g = np.random.default_rng(1)
    success = g.random(300) < 0.5
    duration = np.where(success, 30.0, 68.0)
    good = np.where(g.random(300) < np.where(success, 0.05, 0.9), 10.0, math.inf)
    chance = np.where(g.random(300) < 0.5, 10.0, math.inf)
    gate = AdoptionGate()
    assert gate.decide(duration, success, good, 3.0).adopt
    useless = gate.decide(duration, success, chance, 3.0)
    silent = gate.decide(duration, success, np.full(300, math.inf), 3.0)
    assert not useless.adopt and not silent.adopt and silent.confidence == 0.0
    # Calls by the clock pay though no sensor speaks: what still runs after 30 s will fail.
    timer = np.full(300, best_cutoff(duration, success, 3.0).seconds)
    assert gate.decide(duration, success, timer, 3.0).adopt
    with pytest.raises(ValueError, match="confidence=0.2"):
        AdoptionGate(confidence=0.2)


def test_gate_is_right_about_random_settings() -> None:
    """Where the modes differ by more than 20 %, 300 attempts are enough nearly always."""
    g = np.random.default_rng(2)
    right, clear = 0, 0
    for _ in range(60):
        p, rho_tn, rho_fn = g.uniform(0.3, 0.9), g.random(), g.uniform(0, 0.6)
        mts, mtf, d = g.uniform(5, 60), g.uniform(20, 120), g.uniform(1, 30)
        success = g.random(300) < p
        duration = np.where(success, mts, mtf)
        heard = g.random(300) < np.where(success, rho_fn, rho_tn)
        called = np.where(heard & (d < duration), d, math.inf)
        times = ConfusionTimes.from_rates(
            p, mts, mtf, rho_tn * (d < mtf), rho_fn * (d < mts), min(d, mtf), min(d, mts), 2.0
        )
        e0 = float(mts + (1 - p) / p * (mtf + 2.0))
        margin = 1 - float(expected_makespan(times)) / e0
        if abs(margin) > 0.2:
            clear += 1
            right += AdoptionGate(resamples=200).decide(duration, success, called, 2.0).adopt == (
                margin > 0
            )
    assert clear > 20 and right >= clear - 1


class Wrists(gymnasium.vector.VectorEnv):
    """A stand-in for the physics: failing attempts read +1 in every channel, succeeding ones -1."""

    def __init__(self, num_envs: int, signal: float = 1.0, limit: int = 8) -> None:
        self.num_envs, self.signal, self.limit = num_envs, signal, limit
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        box = gymnasium.spaces.Box
        self.single_observation_space = gymnasium.spaces.Dict(
            ft=box(-np.inf, np.inf, (6, 40)), elapsed=box(0, 100, (1,))
        )
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.g = np.random.default_rng(seed)
        self.k = np.zeros(self.num_envs, dtype=int)
        self.good = self.g.random(self.num_envs) < 0.5
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        mean = self.signal * np.where(self.good, -1.0, 1.0)[:, None, None]
        ft = mean + self.g.normal(size=(self.num_envs, 6, 40))
        ft[self.k == 0] = 0.0
        elapsed = (0.5 * self.k)[:, None].astype(np.float32)
        return {"ft": ft.astype(np.float32), "elapsed": elapsed}

    def step(self, action: Any) -> Any:
        abort = np.asarray(to_numpy(action)) == 1
        self.k = self.k + ~abort
        won = self.good & (self.k == 3) & ~abort
        failed = (self.k == self.limit) & ~abort
        lost = abort | failed
        duration = np.where(won | lost, 0.5 * self.k, 0.0)
        outcome = np.where(won, 1, np.where(failed, 2, np.where(abort, 3, 0)))
        reward = -0.5 * ~abort - lost * 1.0
        over = won | lost
        self.k[over] = 0
        self.good = np.where(over, self.g.random(self.num_envs) < 0.5, self.good)
        obs = self.observe()
        info = {"outcome": outcome, "attempt_duration": duration}
        if won.any():
            info |= {"final_obs": obs, "_final_obs": won}
        return obs, reward, won, np.zeros(self.num_envs, dtype=bool), info


SMALL = {"first_fit": 80, "num_epochs": 2, "log_every": 16, "audit": 0.2}


def test_learns_on_the_job_adopts_and_is_faster() -> None:
    agent = OnlinePreemption(Wrists(8), seed=0, **SMALL)
    before = agent.evaluate(Wrists(8), 160)
    history: list[dict[str, float]] = []
    agent.learn(8 * 200, callback=lambda agent, metrics: history.append(metrics))
    assert agent.adopted and history[0]["train/adopted"] == 0.0
    after = agent.evaluate(Wrists(8), 160)
    # Reactive: 1.5 + 4 + 1 s on average; with calls at the first window 1.5 + .5 + 1 s.
    assert float(before["objective"].mean()) == pytest.approx(-6.5, abs=5 * 7.1 / math.sqrt(160))
    assert float(after["objective"].mean()) == pytest.approx(-3.0, abs=5 * 2.2 / math.sqrt(160))
    assert set(after) == {"return", "objective", "length"} and len(after["length"]) == 160
    assert history[-1]["train/gate_preemptive"] < history[-1]["train/gate_reactive"]


def test_never_adopts_without_a_signal() -> None:
    agent = OnlinePreemption(Wrists(8, signal=0.0, limit=4), seed=0, **SMALL)
    agent.learn(8 * 150)
    assert not agent.adopted and np.isfinite(agent.gate["reactive"])
    obs, _ = Wrists(8).reset(seed=1)
    assert not agent.predict(obs)[0].any()


def test_only_exempt_attempts_are_logged_and_they_are_a_fair_sample() -> None:
    """The share of successes in the log is the true one, though most failures are given up."""
    agent = OnlinePreemption(Wrists(8), seed=0, **SMALL)
    agent.learn(8 * 400)
    depth = int(agent.ended.min())
    kept = [a for a in agent._log if a["index"] < depth]
    late = [a for a in kept if a["index"] >= 20]  # after adoption
    assert agent.adopted and len(late) > 30
    share = np.mean([a["success"] for a in late])
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(len(late))
    assert len(late) / (8 * (depth - 20)) == pytest.approx(0.2, abs=0.1)
    assert {a["duration"] for a in kept} == {1.5, 4.0}


def test_out_of_fold_calls_do_not_know_the_attempt() -> None:
    """With labels dealt at random, calls made out of fold cannot pay."""
    agent = OnlinePreemption(Wrists(4), seed=0, **{**SMALL, "first_fit": 10_000})
    agent.learn(4 * 200)
    windows = gathered(agent._log)
    assert windows is not None
    fake = windows._replace(success=np.random.default_rng(0).permutation(windows.success))
    _, called = cross_fit(fake, agent.hp, 0)
    gate = AdoptionGate(resamples=200).decide(fake.duration, fake.success, called, 1.0)
    assert not gate.adopt


def test_saved_and_loaded_acts_the_same(tmp_path: Any) -> None:
    agent = OnlinePreemption(Wrists(8), seed=0, **SMALL).learn(8 * 100)
    agent.save(tmp_path / "agent.pt")
    again = OnlinePreemption.load(tmp_path / "agent.pt", Wrists(8))
    assert again.adopted == agent.adopted and again.num_timesteps == agent.num_timesteps
    a, b = (x.evaluate(Wrists(8), 40, seed=9) for x in (agent, again))
    assert all(torch.equal(a[k], b[k]) for k in a)
    again.learn(8 * 40, reset_num_timesteps=False)
    assert again.num_timesteps == 8 * 140
    obs = {"ft": np.zeros((6, 40), np.float32), "elapsed": np.zeros(1, np.float32)}
    assert again.predict(obs)[0] == 0  # a single observation, before the first window


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a Dict with 'ft' and 'elapsed'"):
        OnlinePreemption(gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2))
