"""The garden's proxy is hacked by PPO; near a poor base policy, in occupancy, it is not.

Laidlaw, Singhal, Dragan (2024), the tomato task, learned on their level and by their PPO: small
clips, long-sighted advantages, random weights at first, a base policy of which nine actions in ten
are uniform. What regularisers reach exactly is in ``correlated_proxies``. Scaled down: two layers
of 64 units instead of four of 512, a twelfth of the steps, no adaptive KL, and action KL is paid in
the reward of a step, as the occupancy's penalties are, not added to a loss of standardised
advantages. Each regulariser is judged at its best of seven coefficients, chosen for each seed on
the other seeds; the theory's coefficient is judged besides.

That choice turned out to be a bet: with small coefficients of sqrt(chi2) four runs of five end near
the optimum and one hacks, which the other four do not tell. So, after the first look, what is best
in the mean over the same seeds was compared too; a coefficient that fails in one of five is not.

Not every PPO hacks here: with the usual clip, value loss and advantages four of four runs on tuning
seeds 0 and 1, from random weights and from the base policy, find the objective's optimum and never
see that the bucket is worth more.
"""

from __future__ import annotations

from typing import Any

from rewardzoo.experiment import Budget, Claim, Experiment
from rewardzoo.jobs import make_envs

from .common.proxies import (
    COLUMNS,
    GAMMA,
    KL,
    Regulariser,
    arms,
    best_of_all,
    compared,
    every,
    picture,
    regulariser_claims,
)
from .correlated_proxies import ACTION_KL, ENV, SQRT_CHI2, STEPS, Garden, train

LEVEL, EPS = "4", 0.9
SQRT_CHI2_STATES, KL_STATES = "sqrt chi2 of states", "KL of states"
_SQRT_CHI2, _KL = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4), (1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)
REGULARISERS = {
    SQRT_CHI2: Regulariser("sqrt_chi2", _SQRT_CHI2),
    SQRT_CHI2_STATES: Regulariser("sqrt_chi2", _SQRT_CHI2, on="state"),
    KL: Regulariser("kl", _KL),
    KL_STATES: Regulariser("kl", _KL, on="state"),
    ACTION_KL: Regulariser("action_kl", (10.0, 30.0, 60.0, 100.0, 150.0, 250.0, 500.0)),
}
"""Around what is best exactly; for sqrt(chi2) smaller ones too, of which 0.4 was best of four on
tuning seed 0."""


def learn(
    trial: Any, reward: str, regulariser: str | None = None, factor: float = 0.0
) -> dict[str, float]:
    """The authors' PPO on a reward, from random weights."""
    garden = Garden(LEVEL, EPS, trial.seed)
    kind = REGULARISERS[regulariser] if regulariser else None
    divergence = kind.divergence if kind else None
    found = train(
        trial,
        lambda: make_envs(ENV, reward, trial.budget.num_envs, trial.device, map=LEVEL),
        garden.probabilities,
        divergence,
        factor * garden.unit(divergence),
        STEPS,
        base_steps=2 * STEPS,
        every=trial.budget.total_timesteps,
        clone=False,
        on=kind.on if kind else "state_action",
        num_steps=STEPS,
        num_epochs=8,
        num_minibatches=8,
        learning_rate=1e-3,
        gamma=GAMMA,
        gae_lambda=0.98,
        clip_range=0.05,
        ent_coef=0.01,
        vf_coef=0.01,
        max_grad_norm=0.1,
    )
    return {**found, "r": garden.r}


EXPERIMENT = Experiment(
    name="correlated_proxies_tomato",
    title="Optimising what looks like watered tomatoes, near a poor gardener",
    paper="Laidlaw, Singhal, Dragan (2024), Correlated Proxies: A New Definition and Improved "
    "Mitigation for Reward Hacking",
    grid=arms(learn, "tomato_proxy", REGULARISERS),
    budgets={
        "smoke": Budget(total_timesteps=1_600, num_envs=16, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=128_000, num_envs=32, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=1_500_000, num_envs=30, eval_episodes=0, seeds=10),
    },
    claims=[
        *regulariser_claims(
            "The bucket is hacked",
            "Optimised as it is, the proxy waters less than the base policy.",
            "proxy",
            REGULARISERS,
        ),
        Claim(
            "sqrt(chi2) of states beats action KL",
            compared(
                "At each one's best coefficient sqrt(chi2) of state occupancies ends above action "
                "KL.",
                every(SQRT_CHI2_STATES, REGULARISERS),
                every(ACTION_KL, REGULARISERS),
            ),
        ),
        *(
            Claim(
                f"In the mean {short} beats {words}",
                compared(
                    f"At each one's best coefficient in the mean over these seeds {long} ends "
                    f"above {words}.",
                    every(name, REGULARISERS),
                    every(rival, REGULARISERS) if rival else None,
                    best_of_all,
                ),
            )
            for name, short, long in (
                (SQRT_CHI2, "sqrt(chi2)", "sqrt(chi2) of occupancies"),
                (SQRT_CHI2_STATES, "sqrt(chi2) of states", "sqrt(chi2) of state occupancies"),
                (KL, "occupancy KL", "KL of occupancies"),
            )
            for rival, words in ((None, "the base policy"), (ACTION_KL, "action KL"))
        ),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0, 1, 2, 3),
    columns={k: words for k, words in COLUMNS.items() if k != "score"},
    figures=[picture("True return over the coefficient", "proxy", "an episode", REGULARISERS)],
)
