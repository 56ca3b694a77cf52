"""Measuring where it tells most: informative path planning on a Gaussian process.

Prajapat et al. (2024), experimental design: a policy paid for the information that each
measurement adds spreads them; one paid for each measurement's worth alone measures one place again
and again. Scaled down: a 10 x 10 field with horizon 20 beside the paper's 30 x 30 with horizon 40,
and facility location as another function that saturates; 5 instances, one a seed.
"""

from __future__ import annotations

from rewardzoo.experiment import Budget, Claim, Experiment, Figure

from .common.submodular import (
    GREEDY_BEST,
    HISTORY,
    MARKOV,
    MODULAR,
    SEEDS,
    TUNING_SEEDS,
    Task,
    at_least,
    draw_curves,
    draw_paths,
    methods,
    usual_claims,
)

_DESIGN = "rewardzoo/SubmodularDesign-v0"

TASKS = (
    Task(
        "small field",
        _DESIGN,
        {"shape": (10, 10), "spacing": 0.3, "known": 3, "horizon": 20},
        instances=10,
        share=0.5,
    ),
    Task("large field", _DESIGN, instances=10),
    Task("facility", "rewardzoo/SubmodularFacility-v0", instances=10, share=0.5),
)


def _ratio(task: str) -> Claim:
    return Claim(
        f"SubPO-M learns 1.5 times as much as MODPO on the {task}",
        at_least(
            f"On the {task} SubPO-M gains at least 1.5 times the information that MODPO gains.",
            MARKOV,
            task,
            1.5,
            MODULAR,
        ),
    )


EXPERIMENT = Experiment(
    name="submodular_gp",
    title="Where to measure a Gaussian process along a path",
    paper="Prajapat, Mutný, Zeilinger, Krause (2024), Submodular reinforcement learning, ICLR",
    grid=methods(TASKS),
    budgets={
        "smoke": Budget(total_timesteps=20_000, num_envs=32, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=1_200_000, num_envs=256, eval_episodes=512, seeds=5),
        "full": Budget(total_timesteps=12_000_000, num_envs=512, eval_episodes=2_048, seeds=10),
    },
    claims=[
        _ratio("small field"),
        _ratio("large field"),
        *usual_claims(TASKS),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        task.name: f"{task.name}{' (nats)' if 'field' in task.name else ''}" for task in TASKS
    },
    figures=[
        Figure(
            "Paths",
            "Where a middling episode of the first seed measures: darker cells were less known "
            "before, blue ones are known after. It goes from the dot to the square.",
            draw_paths(TASKS, (MARKOV, MODULAR, GREEDY_BEST)),
            (9.0, 8.4),
        ),
        Figure(
            "Training",
            "F of the episodes played while training, mean and range over seeds; dotted: greedy "
            "and the uniform policy.",
            draw_curves(TASKS, (MARKOV, HISTORY, MODULAR)),
            (9.0, 3.0),
        ),
    ],
)
