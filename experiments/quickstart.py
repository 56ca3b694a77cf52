"""Shaping keeps the optimum, a proxy does not: four reward functions on sepsis treatment.

Ng, Harada and Russell (1999): adding ``gamma * phi(s') - phi(s)`` changes no optimal policy,
whatever ``phi``. A reward of its own making carries no such promise: here an agent is paid for
every fall of the patient's SOFA score, and finds that a patient who gets worse can get better
again. Scaled down: PPO on the tabular ICU-Sepsis model instead of a hospital; the exact optimum
of every arm is known, which is what makes the comparison sharp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.tabular import expected_return, mdp_of, policy_iteration, shaped
from rewardzoo.experiment import Arm, Budget, Claim, Experiment
from rewardzoo.functional import load
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.registration import register_reward
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.base import RewardFunction, Spaces, env_reward
from rewardzoo.rewards.potential import Potential
from rewardzoo.transition import Transition
from rewardzoo.verdicts import below, decided, within

ENV = "rewardzoo/SepsisICU-v0"
GAMMA = 0.99
EQUIVALENT = 0.02  # survival; fixed before looking
OBJECTIVE, OPTIMAL, MISLEADING, PROXY = (
    "objective",
    "shaped by the optimal value",
    "shaped by a misleading potential",
    "proxy: falling SOFA",
)


@register_reward("falling_sofa")
class FallingSofa(RewardFunction):
    """Pays every point by which the SOFA score of a living patient falls; rises cost nothing.

    Plausible, since organ failure is what kills, and hackable, since a score that has risen can
    fall again.
    """

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Take the score of each state from the environment's tables."""
        from rewardzoo.envs.sepsis.data import tables

        self.sofa = torch.tensor(tables().sofa, dtype=torch.float32, device=device)

    def __call__(self, t: Transition) -> Tensor:
        """``max(0, SOFA(s) - SOFA(s'))``, 0 on the step into death or survival."""
        fall = (self.sofa[t.obs] - self.sofa[t.next_obs]).clamp(min=0.0)
        return torch.where(t.terminated, 0.0, fall)


def optimal_value(envs: Any) -> Tensor:
    """The optimal discounted value of every state, (716,) float32."""
    value, _ = policy_iteration(mdp_of(envs.func), GAMMA)
    return value.to(torch.float32)


def by_optimal_value(envs: Any) -> RewardFunction:
    """Objective + potential(phi = the optimal value)."""
    return env_reward + Potential(optimal_value(envs), gamma=GAMMA)


def by_misleading_potential(envs: Any) -> RewardFunction:
    """Objective + potential(phi = minus the optimal value): praises getting worse."""
    return env_reward + Potential(-optimal_value(envs), gamma=GAMMA)


def _difference(results: Results, label: str) -> Any:
    """Objective of an arm minus that of the objective arm, paired by seed."""
    return paired_difference(
        results[label].final["objective"], results[OBJECTIVE].final["objective"]
    )


def shaping_keeps_the_optimum(results: Results) -> Verdict:
    """Exact: the greedy policy of each shaped problem has the objective's optimal return."""
    func = load("rewardzoo.envs.sepsis.dynamics:SepsisICU")()
    mdp = mdp_of(func)
    value, _ = policy_iteration(mdp, GAMMA)
    losses = []
    for phi in (value, -value):
        _, policy = policy_iteration(shaped(mdp, phi, GAMMA), GAMMA)
        losses.append(float(abs(expected_return(mdp, policy, GAMMA) - value @ mdp.initial)))
    loss = max(losses)
    return Verdict(
        claim="Shaping by a potential, good or misleading, leaves the optimum unchanged.",
        outcome="holds" if loss < 1e-9 else "fails",
        effect=loss,
        low=None,
        high=None,
        n=len(losses),
        detail="exact: largest loss of discounted survival by following the optimal policy of a "
        "shaped problem, by policy iteration and a linear solve; n counts potentials",
    )


def learning_ends_the_same(label: str) -> Any:
    """A check that an arm's survival equals the objective arm's within ``EQUIVALENT``."""

    def check(results: Results) -> Verdict:
        d = _difference(results, label)
        return within(
            f"At this budget PPO on the reward {label} ends at the survival that it reaches "
            "without shaping.",
            d,
            f"difference of survival, paired by seed; equal means within {EQUIVALENT}",
            EQUIVALENT,
        )

    return check


def proxy_is_hacked(results: Results) -> Verdict:
    """The proxy's own return rises, while survival ends below what the objective teaches."""
    arm = results[PROXY]
    d = _difference(results, PROXY)
    paid = arm.curves["return"]
    points = max(1, paid.shape[1] // 10)
    rise = paired_difference(
        np.nanmean(paid[:, -points:], axis=1), np.nanmean(paid[:, :points], axis=1)
    )
    rises, falls = rise.low > 0, d.high < 0
    if rises and falls:
        outcome = "holds"
    elif rise.high < 0 or d.low > 0:
        outcome = "fails"
    else:
        outcome = "inconclusive"
    return decided(
        "The proxy is hacked: its own return rises while survival ends below what the "
        "objective teaches.",
        outcome,
        d,
        "difference of survival to the objective arm, paired by seed; over training the "
        f"proxy's own return rose by {rise.point:.2f} [{rise.low:.2f}, {rise.high:.2f}]",
    )


def proxy_is_worse_than_random(results: Results) -> Verdict:
    """A stronger statement: survival ends below the uniform policy's."""
    survival = results[PROXY].final["objective"]
    d = paired_difference(survival, np.full_like(survival, results.references["uniform policy"]))
    return below(
        "The proxy is so harmful that survival ends below that of random treatment.",
        d,
        "survival minus the uniform policy's exact .780071; the proxy's exact optimum at "
        "gamma .99 has survival .789, so a converged learner should make this fail",
    )


# A table of logits and one of values (hidden=()), and a short trace: with 713 states and 25 actions
# the noise of a patient's fate is the enemy, and the learned value of the next state has little.
_PPO = {
    "hidden": (),
    "num_steps": 32,
    "learning_rate": 5e-2,
    "anneal_lr": True,
    "gamma": GAMMA,
    "gae_lambda": 0.3,
    "num_epochs": 4,
    "num_minibatches": 8,
}

EXPERIMENT = Experiment(
    name="quickstart",
    title="Four reward functions for treating sepsis",
    paper="Ng, Harada, Russell (1999), Policy invariance under reward transformations, ICML",
    grid=[
        Arm(OBJECTIVE, ENV, "objective", agent_kwargs=_PPO),
        Arm(OPTIMAL, ENV, by_optimal_value, agent_kwargs=_PPO),
        Arm(MISLEADING, ENV, by_misleading_potential, agent_kwargs=_PPO),
        Arm(PROXY, ENV, "falling_sofa", agent_kwargs=_PPO),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4_096, num_envs=64, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=1_500_000, num_envs=512, eval_episodes=8_192, seeds=5),
        "full": Budget(total_timesteps=10_000_000, num_envs=1_024, eval_episodes=32_768, seeds=10),
    },
    claims=[
        Claim("Shaping leaves the optimum unchanged", shaping_keeps_the_optimum),
        Claim("PPO ends the same, shaped by the optimal value", learning_ends_the_same(OPTIMAL)),
        Claim("PPO ends the same, shaped misleadingly", learning_ends_the_same(MISLEADING)),
        Claim("The proxy is hacked", proxy_is_hacked),
        Claim("The proxy is worse than random", proxy_is_worse_than_random),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=tuple(range(5)),
    references={"optimal": 0.875142, "uniform policy": 0.780071},
)
