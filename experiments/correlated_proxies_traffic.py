"""Speed on the road correlates with commutes, and is hacked by keeping commuters off the road.

Laidlaw, Singhal, Dragan (2024), the traffic task: the mean speed of vehicles on the road correlates
with commute times among human drivers, and is greatest when automated vehicles let nobody in from
the ramp. Optimised near the base policy, in occupancy rather than in actions, it should shorten
commutes. Scaled down: one on-ramp and five minutes, two controlled vehicles with four accelerations
each, and a few coefficients of each regulariser. All arms start from a clone of the base, the
simulator's model of human drivers with a tenth of accelerations at random. Each regulariser is
judged at its best coefficient, chosen for each seed on the other seeds; the theory's coefficient is
judged besides.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, closing
from typing import Any

import torch

from rewardzoo.agents.orpo import play_base
from rewardzoo.envs.traffic_merge.policies import NoisyIDM
from rewardzoo.envs.traffic_merge.simulator import LEVELS
from rewardzoo.experiment import Budget, Experiment, Figure
from rewardzoo.jobs import make_envs
from rewardzoo.metrics.occupancy import theory_coefficient

from .common.proxies import DIVERGENCES, arms, claims, draw
from .correlated_proxies import SQRT_CHI2, train

ENV, EPISODE, GAMMA = "rewardzoo/TrafficMerge-v0", 300, 0.99
TRAFFIC = {"levels": LEVELS, "slots": 2}


def learn(
    trial: Any, reward: str, regulariser: str | None = None, factor: float = 0.0
) -> dict[str, float]:
    """PPO on a reward, from a clone of human drivers, watched by the hacking monitor."""
    base, device = NoisyIDM(LEVELS), torch.device(trial.device)
    with ExitStack() as worlds:

        def make(pays: str = reward) -> Any:
            envs = make_envs(ENV, pays, trial.budget.num_envs, trial.device, **TRAFFIC)
            return worlds.enter_context(closing(envs))

        # What the proxy is under the base, for the coefficients: other rows than any used later.
        seen = play_base(make("traffic_speed"), base, EPISODE, trial.seed + 900_000, device)
        sigma = float(seen.reward.std())
        both = torch.stack([seen.reward.flatten(), seen.objective.flatten()])
        r = float(torch.corrcoef(both)[0, 1])
        found = train(
            trial,
            make,
            base,
            DIVERGENCES.get(regulariser or ""),
            factor * (theory_coefficient(sigma, r) if regulariser == SQRT_CHI2 else sigma),
            EPISODE,
            base_steps=EPISODE,
            every=trial.budget.total_timesteps // 5,
            watched=EPISODE,
            num_steps=100,
            num_epochs=10,
            num_minibatches=8,
            learning_rate=1e-3,
            gamma=GAMMA,
        )
    return {**found, "r": r, "sigma": sigma}


EXPERIMENT = Experiment(
    name="correlated_proxies_traffic",
    title="Optimising speed on the road, near human drivers",
    paper="Laidlaw, Singhal, Dragan (2024), Correlated Proxies: A New Definition and Improved "
    "Mitigation for Reward Hacking",
    grid=arms(learn, "traffic_speed"),
    # Whole episodes, so that the last iteration, of a third of one, ends one. Each world is a
    # process: few of them.
    budgets={
        "smoke": Budget(total_timesteps=600, num_envs=2, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=120_000, num_envs=8, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=2_400_000, num_envs=16, eval_episodes=0, seeds=10),
    },
    claims=claims(
        "The speed is hacked",
        "Optimised as it is, speed on the road brings commutes below the base policy's.",
        "speed",
    ),
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0,),
    columns={
        "objective": "objective a step",
        "base": "base policy",
        "r": "r",
        "score": "monitor's highest score",
    },
    figures=[
        Figure(
            "Commutes over the coefficient",
            "Left: the objective at the end of training, a dot a seed, for each regulariser of the "
            "speed; sqrt(chi2)'s coefficient in units of the theory's, the others' in standard "
            "deviations of the speed. Right: the objective while learning, a line a seed.",
            functools.partial(draw, episode="an episode"),
        )
    ],
)
