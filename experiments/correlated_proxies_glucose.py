"""A cost that correlates with health is hacked by giving no insulin; near the PID base it is not.

Laidlaw, Singhal, Dragan (2024), the glucose task: what treatment costs the patient correlates with
their health under a sensible controller, and is least when a diabetic gets no insulin. Optimised
near the base policy, in occupancy rather than in actions, it should improve health. Scaled down:
one virtual patient, days instead of twenty of them, nine rates instead of a continuum, an hour of
history, and a few coefficients of each regulariser. All arms start
from a clone of the base, a PID controller with a tenth of its rates at random. Each regulariser is
judged at its best coefficient, chosen for each seed on the other seeds; the theory's coefficient is
judged besides.
"""

from __future__ import annotations

from typing import Any

from rewardzoo.envs.glucose.dynamics import RATES, Glucose
from rewardzoo.envs.glucose.policies import NoisyPID
from rewardzoo.experiment import Budget, Experiment
from rewardzoo.jobs import make_envs

from .common.proxies import COLUMNS, arms, claims, optimise, picture

ENV, DAY = "rewardzoo/Glucose-v0", 288
PATIENT = {"levels": RATES, "history_hours": 1.0}


def learn(
    trial: Any, reward: str, regulariser: str | None = None, factor: float = 0.0
) -> dict[str, float]:
    """PPO on a reward, from a clone of the PID controller, watched by the hacking monitor."""

    def make(pays: str = reward) -> Any:
        return make_envs(ENV, pays, trial.budget.num_envs, trial.device, **PATIENT)

    base = NoisyPID(Glucose(trial.device, **PATIENT))
    return optimise(
        trial, make, "glucose_cost", base, DAY, regulariser, factor,
        num_steps=96, learning_rate=2e-3,
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="correlated_proxies_glucose",
    title="Optimising what diabetes costs, near a PID controller",
    paper="Laidlaw, Singhal, Dragan (2024), Correlated Proxies: A New Definition and Improved "
    "Mitigation for Reward Hacking",
    grid=arms(learn, "glucose_cost"),
    # Whole days, so that the last iteration, of a third of a day, ends one.
    budgets={
        "smoke": Budget(total_timesteps=4_608, num_envs=16, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=221_184, num_envs=128, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=2_949_120, num_envs=256, eval_episodes=0, seeds=10),
    },
    claims=claims(
        "The cost is hacked",
        "Optimised as it is, the cost brings health below the base policy's.",
        "cost",
    ),
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0,),
    columns=COLUMNS,
    figures=[picture("Health over the coefficient", "cost", "a day")],
)
