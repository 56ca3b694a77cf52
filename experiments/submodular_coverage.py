"""Coverage needs a reward that knows what was seen: SubPO against its modular surrogate.

Prajapat et al. (2024): a policy trained on what a step *adds* covers a field, one trained on what a
place is *worth* stays on a rich one, and can end below a random walk. Scaled down: 30 x 30 grids
and horizon 40 as in the paper, with 5 seeds and less than a million steps a task; the optimum of
the uniform field is known, so the claim is sharp.
"""

from __future__ import annotations

from rewardzoo.experiment import Budget, Claim, Experiment, Figure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import below

from .common.submodular import (
    GREEDY_BEST,
    HISTORY,
    MARKOV,
    MODULAR,
    RANDOM,
    SEEDS,
    TUNING_SEEDS,
    Task,
    at_least,
    draw_curves,
    draw_paths,
    methods,
    usual_claims,
)

_ENV = "rewardzoo/SubmodularCoverage-v0"
BOUND = 82.0  # 2 * (horizon + 1): two new cells a step, and four at the start

TASKS = (
    Task("uniform", _ENV),
    Task("slippery", _ENV, {"slip": 0.1}),
    Task("bimodal", _ENV, {"weights": "bimodal"}),
    Task("nests", "rewardzoo/SubmodularNests-v0", instances=10),
    Task("two rooms", "rewardzoo/SubmodularTwoRooms-v0", share=1.5),
)


def modular_is_worse_than_random(results: Results) -> Verdict:
    """On the uniform field the surrogate teaches to stay where four cells are in sight."""
    x, y = results[MODULAR].final["uniform"], results[RANDOM].final["uniform"]
    d = paired_difference(x, y)
    return below(
        "MODPO ends below the uniform policy on the uniform field.",
        d,
        "difference of F, paired by seed",
    )


EXPERIMENT = Experiment(
    name="submodular_coverage",
    title="Covering a field: gains of a set function against its modular surrogate",
    paper="Prajapat, Mutný, Zeilinger, Krause (2024), Submodular reinforcement learning, ICLR",
    grid=methods(TASKS),
    budgets={
        "smoke": Budget(total_timesteps=60_000, num_envs=32, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=2_400_000, num_envs=128, eval_episodes=512, seeds=5),
        "full": Budget(total_timesteps=20_000_000, num_envs=512, eval_episodes=2_048, seeds=10),
    },
    claims=[
        Claim(
            "SubPO-M covers at least 1.5 times as much as MODPO",
            at_least(
                "SubPO-M covers at least 1.5 times as much of the uniform field as MODPO.",
                MARKOV,
                "uniform",
                1.5,
                MODULAR,
            ),
        ),
        Claim(
            "SubPO-M reaches .95 of the bound",
            at_least(
                "SubPO-M reaches .95 of the most that any walk can see of the uniform field.",
                MARKOV,
                "uniform",
                0.95,
                BOUND,
            ),
        ),
        Claim("MODPO is worse than random", modular_is_worse_than_random),
        *usual_claims(TASKS),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={task.name: task.name for task in TASKS},
    figures=[
        Figure(
            "Paths",
            "What a middling episode of the first seed sees (blue) of each field (darker is worth "
            "more); it goes from the dot to the square.",
            draw_paths(TASKS, (MARKOV, HISTORY, MODULAR, GREEDY_BEST)),
            (9.0, 7.6),
        ),
        Figure(
            "Training",
            "F of the episodes played while training, mean and range over seeds; dotted: greedy "
            "and the uniform policy.",
            draw_curves(TASKS, (MARKOV, HISTORY, MODULAR)),
            (9.0, 2.8),
        ),
    ],
)
