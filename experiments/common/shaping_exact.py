"""The exact part of ``shaping_pitfalls``: whose optimum moves, and what is only initialisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.tabular import (
    TabularMDP,
    evaluate_policy,
    greedy,
    q_values,
    value_iteration,
)
from rewardzoo.metrics.planning import random_transitions
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.rewards.potential import Potential

from .shaping_errors import COUNTER_EXAMPLES, GAMMA, expected_pay, slips, table


def counter_examples(trial: Any) -> dict[str, float]:
    """The lead of the best action of each counter-example, shaped right and with its slip."""
    final = {}
    for slip, example in COUNTER_EXAMPLES.items():
        states = len(example.phi)
        fns = slips(example.table, torch.zeros(states, dtype=torch.float64), states)
        for name, fn in (("right", fns["right"]), ("wrong", fns[slip])):
            final[f"{slip}_{name}"] = example.advantage(expected_pay(fn, example.mdp))
    trial.log(trial.budget.total_timesteps, **final)
    return final


def random_problems(trial: Any) -> dict[str, float]:
    """The share of random problems whose optimum moves, shaped right and with each slip."""
    rng = np.random.default_rng(trial.seed)
    mdp = problems(rng)
    count, states = mdp.reward.shape[:2]
    phi, old = (torch.tensor(rng.normal(size=count * states) * 3.0) for _ in range(2))
    final = {}
    for slip, fn in slips(phi, old, states).items():
        paid = mdp.with_reward(mdp.reward + expected_pay(fn, mdp))
        final[slip] = share_moved(mdp, q_values(paid, value_iteration(paid, GAMMA), GAMMA))
    trial.log(trial.budget.total_timesteps, **final)
    return final


def problems(rng: np.random.Generator, count: int = 1000) -> TabularMDP:
    """Random problems of 6 states, two of them terminal, and 3 actions, all begun in state 0."""
    states, actions = 6, 3
    return TabularMDP(
        torch.tensor(random_transitions(rng, count, states, actions, 2)),
        torch.tensor(rng.normal(size=(count, states, actions))),
        torch.eye(states, dtype=torch.float64)[0],
        torch.arange(states) >= states - 2,
    )


def share_moved(mdp: TabularMDP, q: Tensor) -> float:
    """The share of problems in which the greedy policy of ``q`` loses return from some state."""
    best = value_iteration(mdp, GAMMA)
    lost = (best - evaluate_policy(mdp, greedy(q), GAMMA)).amax(-1)
    return float((lost > 1e-6 * best.abs().amax(-1)).double().mean())


def q_learning(trial: Any) -> dict[str, float]:
    """Q-learning shaped from 0, and unshaped from phi: the same actions, tables apart by phi."""
    rng = np.random.default_rng(trial.seed)
    mdp = problem(rng)
    states, actions = mdp.reward.shape
    phi = rng.normal(size=states) * 3.0
    phi[-1] = 0.0  # of the terminal state, in both
    shaping = expected_pay_by_successor(Potential(table(torch.tensor(phi)), GAMMA), mdp)
    start = np.repeat(phi[:, None], actions, 1)
    plain = play(mdp, start, trial.seed)
    shaped = play(mdp, 0.0 * start, trial.seed, shaping)
    final = same(plain, shaped, start)
    trial.log(trial.budget.total_timesteps, **final)
    return final


def look_ahead(trial: Any) -> dict[str, float]:
    """Look-ahead advice on actions: as good as initial values, if the agent acts on Q + phi."""
    rng = np.random.default_rng(trial.seed)
    mdp = problem(rng)
    phi = rng.normal(size=mdp.reward.shape) * 3.0
    phi[-1] = 0.0
    many = problems(rng)
    best = q_values(many, value_iteration(many, GAMMA), GAMMA)
    advice = torch.tensor(rng.normal(size=best.shape) * 3.0)
    final = {
        **same(play(mdp, phi, trial.seed), play(mdp, 0.0 * phi, trial.seed, advice=phi), phi),
        # What is learned is Q - phi (Wiewiora et al. 2003).
        "acting_on_q": share_moved(many, best - advice),
    }
    trial.log(trial.budget.total_timesteps, **final)
    return final


def problem(rng: np.random.Generator) -> TabularMDP:
    """A random problem of 8 states, the last of them terminal, and 3 actions."""
    states, actions = 8, 3
    return TabularMDP(
        torch.tensor(random_transitions(rng, 1, states, actions, 3)[0]),
        torch.tensor(rng.normal(size=(states, actions))),
        torch.eye(states, dtype=torch.float64)[0],
        torch.arange(states) == states - 1,
    )


def same(
    plain: tuple[np.ndarray, np.ndarray], shaped: tuple[np.ndarray, np.ndarray], phi: np.ndarray
) -> dict[str, float]:
    """The share of equal actions, and how far the tables are from ``phi`` apart."""
    return {
        "same_actions": float((plain[1] == shaped[1]).mean()),
        "apart": float(np.abs(plain[0] - phi - shaped[0]).max()),
    }


def expected_pay_by_successor(fn: RewardFunction, mdp: TabularMDP) -> np.ndarray:
    """What ``fn`` pays for s and s', (S, S) float64."""
    states = len(mdp.terminal)
    certain = torch.eye(states, dtype=torch.float64).expand(states, states, states)
    nothing = torch.zeros(states, states, dtype=torch.float64)
    return expected_pay(fn, TabularMDP(certain, nothing, mdp.initial, mdp.terminal)).numpy()


def play(
    mdp: TabularMDP,
    q: np.ndarray,
    seed: int,
    shaping: np.ndarray | None = None,
    advice: np.ndarray | None = None,
    steps: int = 5000,
) -> tuple[np.ndarray, np.ndarray]:
    """Epsilon-greedy Q-learning; returns the table and the actions taken.

    Args:
        mdp: the problem.
        q: where the table begins, (S, A).
        seed: of exploration and successors.
        shaping: what a step from s to s' is paid on top, (S, S).
        advice: look-ahead advice (S, A), 0 in terminal states; the agent acts on ``q + advice``.
        steps: of the environment.
    """
    rng = np.random.default_rng(seed + 1)
    moves, reward = mdp.transition.numpy().cumsum(-1), mdp.reward.numpy()
    ends = mdp.terminal.numpy()
    extra = np.zeros((len(ends), len(ends))) if shaping is None else shaping
    phi = np.zeros_like(q) if advice is None else advice
    q, s, taken = q.copy(), 0, []
    for explore, u, anything in zip(
        rng.random(steps), rng.random(steps), rng.integers(q.shape[1], size=steps), strict=True
    ):
        a = int(anything) if explore < 0.2 else int((q[s] + phi[s]).argmax())
        after = min(int(np.searchsorted(moves[s, a], u, side="right")), len(ends) - 1)
        future = 0.0 if ends[after] else (q[after] + phi[after]).max()
        q[s, a] += 0.1 * (reward[s, a] + extra[s, after] + GAMMA * future - phi[s, a] - q[s, a])
        taken.append(a)
        s = 0 if ends[after] else after
    return q, np.array(taken)
