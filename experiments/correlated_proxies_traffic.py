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

from contextlib import ExitStack, closing
from typing import Any

from rewardzoo.envs.traffic_merge.policies import NoisyIDM
from rewardzoo.envs.traffic_merge.simulator import LEVELS
from rewardzoo.experiment import Budget, Experiment
from rewardzoo.jobs import make_envs

from .common.proxies import COLUMNS, arms, claims, optimise, picture

ENV, EPISODE = "rewardzoo/TrafficMerge-v0", 300
TRAFFIC = {"levels": LEVELS, "slots": 2}


def learn(
    trial: Any, reward: str, regulariser: str | None = None, factor: float = 0.0
) -> dict[str, float]:
    """PPO on a reward, from a clone of human drivers, watched by the hacking monitor."""
    with ExitStack() as worlds:

        def make(pays: str = reward) -> Any:
            envs = make_envs(ENV, pays, trial.budget.num_envs, trial.device, **TRAFFIC)
            return worlds.enter_context(closing(envs))

        return optimise(
            trial, make, "traffic_speed", NoisyIDM(LEVELS), EPISODE, regulariser, factor,
            num_steps=100, learning_rate=1e-3,
        )  # fmt: skip


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
    columns=COLUMNS,
    figures=[picture("Commutes over the coefficient", "speed", "an episode")],
)
