"""Shaping keeps the optimum only if it is done right: what each slip costs, and how to notice.

Ng, Harada, Russell (1999): ``gamma * phi(s') - phi(s)`` changes no optimal policy. The promise
hangs on details that are easily missed: phi of a terminal state is 0, the discount is the agent's,
the successor is the true one and not the observation after a reset, potentials that change are not
mixed, and progress that is paid is charged when it is lost. Scaled down: problems of a few states,
where optima are exact; a corridor on which PPO shows each slip; and Gymnasium's own MountainCar and
FrozenLake. (On a tuning seed two naive bonuses, energy and energy gained, did not mislead PPO on
MountainCar within the quick budget: it had reached the flag before it could learn to avoid it.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Arm, Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards import Potential, env_reward
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.verdicts import above, below, within

from .common.shaping_errors import (
    GAMMA,
    Progress,
    ResetAsSuccessor,
    TerminalKept,
    Undiscounted,
    table,
)
from .common.shaping_exact import counter_examples, look_ahead, q_learning, random_problems
from .common.shaping_frameworks import frameworks

SLIPS = {
    "terminal": "terminal potential kept",
    "discount": "shaped without the agent's discount",
    "reset": "reset observation as successor",
    "replay": "potentials of two ages mixed",
    "progress": "progress paid, regress free",
}
EXAMPLES, RANDOM, Q_LEARNING, ADVICE, FRAMEWORKS = (
    "counter-examples",
    "random problems",
    "Q-learning",
    "look-ahead advice",
    "Gymnasium's wrappers",
)
PLAIN, SHAPED = "corridor: objective", "corridor: potential"
CAR, CAR_SHAPED = "car: objective", "car: potential"
LAKE, LAKE_SHAPED, LAKE_NAIVE = (
    "lake: objective",
    "lake: potential",
    f"lake: {SLIPS['progress']}",
)
ENV, CAR_ENV, LAKE_ENV = "rewardzoo/GridWorld-v0", "MountainCar-v0", "FrozenLake-v1"
LONG_GAMMA = 0.99
MAP = "T.....S.G"
EQUIVALENT = 0.05
"""Objective returns on the corridor within this are the same; fixed before looking."""
SWING = 100.0
"""Potential of the car with all the energy that it needs; chosen on tuning seeds."""


# ---- learning ------------------------------------------------------------------------------------


def distance_from_start(envs: Any) -> Tensor:
    """The potential of the corridor: cells from the start, less 2, (S,) float32."""
    cells = torch.arange(len(MAP))
    return (cells - MAP.index("S")).abs().to(torch.float32) - 2.0


def by_potential(envs: Any) -> RewardFunction:
    """Objective + potential(phi = distance from the start - 2)."""
    return env_reward + Potential(distance_from_start(envs), gamma=GAMMA)


def with_slip(slip: str) -> Callable[[Any], RewardFunction]:
    """A reward of the corridor, shaped with a slip."""

    def make(envs: Any) -> RewardFunction:
        phi = table(distance_from_start(envs).to(envs.device))
        start = MAP.index("S")
        fns: dict[str, RewardFunction] = {
            "terminal": TerminalKept(phi),
            "discount": Undiscounted(phi),
            "reset": ResetAsSuccessor(phi, lambda obs: torch.full_like(obs, start)),
            "progress": Progress(phi),
        }
        return env_reward + fns[slip]

    make.__doc__ = f"Objective + the same potential, {SLIPS[slip]}."
    return make


LEARNED = ("terminal", "discount", "reset", "progress")


def energy(obs: Any) -> Any:
    """Mechanical energy of the car, 0 at rest in the valley, about ``SWING`` at the flag."""
    height = (3.0 * obs[:, 0]).sin() if isinstance(obs, Tensor) else np.sin(3.0 * obs[:, 0])
    return SWING * ((0.0025 / 3.0) * (1.0 + height) + 0.5 * obs[:, 1] ** 2) / 0.00166


def by_energy(envs: Any) -> RewardFunction:
    """Objective + potential(phi = mechanical energy)."""
    return env_reward + Potential(energy, gamma=LONG_GAMMA)


def nearness(obs: Any) -> Any:
    """Rows and columns that are left behind on the way over the lake, of 6, as a share."""
    return (obs // 4 + obs % 4) / 6.0


def by_nearness(envs: Any) -> RewardFunction:
    """Objective + potential(phi = share of the way)."""
    return env_reward + Potential(nearness, gamma=LONG_GAMMA)


def by_steps_nearer(envs: Any) -> RewardFunction:
    """Objective + every step nearer; steps back cost nothing."""
    return env_reward + Progress(nearness, LONG_GAMMA)


# ---- claims --------------------------------------------------------------------------------------


def examples_flip(results: Results) -> Verdict:
    """Each slip moves the optimum of its counter-example, and shaping done right moves none."""
    final = results[EXAMPLES].final
    right = min(float(final[f"{slip}_right"].min()) for slip in SLIPS)
    wrong = max(float(final[f"{slip}_wrong"].max()) for slip in SLIPS)
    return Verdict(
        claim="Each slip moves the optimum of its counter-example; shaping done right moves none.",
        outcome="holds" if right > 0 > wrong else "fails",
        effect=wrong,
        low=None,
        high=None,
        n=len(SLIPS),
        detail="exact: least lead of the best action shaped right is "
        f"{right:.3g}, greatest with its slip {wrong:.3g} (below 0: the optimum moved)",
    )


def right_moves_nothing(results: Results) -> Verdict:
    """Not one random problem's optimum moves when it is shaped right."""
    share = results[RANDOM].final["right"]
    return Verdict(
        claim="Shaped right, no random problem's optimum moves.",
        outcome="holds" if float(share.max()) == 0.0 else "fails",
        effect=float(share.max()),
        low=None,
        high=None,
        n=len(share),
        detail="exact: largest share over seeds, of 1,000 random problems each, in which following "
        "the optimum of the shaped problem loses return",
    )


def slips_move_optima(results: Results) -> Verdict:
    """Each slip moves the optimum of a good part of random problems."""
    final = results[RANDOM].final
    rarest = min(SLIPS, key=lambda slip: float(final[slip].mean()))
    return above(
        "Each slip moves the optimum of more than a tenth of random problems.",
        stratified_bootstrap(final[rarest]),
        "exact share of 1,000 random problems a seed; the rarest slip is "
        f"'{SLIPS[rarest]}', the others "
        + ", ".join(f"{float(final[s].mean()):.2f}" for s in SLIPS if s != rarest),
        bar=0.1,
    )


def shaping_is_initialisation(results: Results) -> Verdict:
    """Wiewiora (2003): the same actions, and tables that differ by phi."""
    final = results[Q_LEARNING].final
    apart, same = float(final["apart"].max()), float(final["same_actions"].min())
    return Verdict(
        claim="Q-learning shaped from 0 takes the actions of Q-learning unshaped from phi.",
        outcome="holds" if same == 1.0 and apart < 1e-9 else "fails",
        effect=apart,
        low=None,
        high=None,
        n=len(final["apart"]),
        detail="largest difference of the two tables less phi after 5,000 steps with the same "
        f"random numbers; least share of equal actions {same:g}",
    )


def advice_needs_the_agent(results: Results) -> Verdict:
    """Wiewiora et al. (2003): initial values by the advice, if the agent acts on Q + phi."""
    final = results[ADVICE].final
    apart, same_actions = float(final["apart"].max()), float(final["same_actions"].min())
    exact = same_actions == 1.0 and apart < 1e-9
    share = stratified_bootstrap(final["acting_on_q"])
    verdict = above(
        "Look-ahead advice on actions is initial values to an agent that acts on Q + phi, and "
        "moves the optimum of more than a tenth of random problems for one that acts on Q.",
        share,
        "exact share of 1,000 random problems a seed that lose return by acting on Q; over 5,000 "
        f"steps of Q-learning the tables less phi differ by {apart:.1g} at most, share of equal "
        f"actions {same_actions:g}",
        bar=0.1,
    )
    return verdict if exact else replace(verdict, outcome="fails")


def wrappers_slip(results: Results) -> Verdict:
    """Three of Gymnasium's vector wrappers err where this project's do not."""
    final = results[FRAMEWORKS].final
    names = ("sum", "dead", "running")
    theirs = min(float(final[f"{name}_theirs"].min()) for name in names)
    ours = max(float(final[f"{name}_ours"].max()) for name in names)
    return Verdict(
        claim=f"Gymnasium {gymnasium.__version__}'s vector wrappers misstate the sum of an "
        "episode in same-step mode, pay dead steps, and normalise by returns that run on over "
        "truncations; ours do not.",
        outcome="holds" if theirs > 0.5 and ours < 1e-3 else "fails",
        effect=theirs,
        low=None,
        high=None,
        n=len(names),
        detail="scripted episodes: least error of theirs; largest error of ours "
        f"{ours:.2g}; sums {float(final['sum_theirs'].max()):g}, dead steps "
        f"{float(final['dead_theirs'].max()):g}, running returns "
        f"{float(final['running_theirs'].max()):.3g}",
    )


def shaped_corridor(results: Results) -> Verdict:
    """PPO ends where it ends without shaping."""
    d = paired_difference(*(results[label].final["objective"] for label in (SHAPED, PLAIN)))
    return within(
        "On the corridor PPO shaped right ends where it ends without shaping.",
        d,
        f"difference of objective return, paired by seed; equal within {EQUIVALENT}",
        EQUIVALENT,
    )


def ends_below(claim: str, label: str, other: str) -> Callable[[Results], Verdict]:
    """A check that an arm's objective ends below another's."""

    def check(results: Results) -> Verdict:
        d = paired_difference(*(results[x].final["objective"] for x in (label, other)))
        mine, theirs = (float(results[x].final["objective"].mean()) for x in (label, other))
        return below(
            claim,
            d,
            "difference of objective return, paired by seed; means "
            f"{mine:.3g} against {theirs:.3g}",
        )

    return check


# ---- pictures ------------------------------------------------------------------------------------


def draw_shares(figure: Any, results: Results) -> None:
    """Share of random problems whose optimum moves."""
    ax = figure.subplots()
    final = results[RANDOM].final
    names = {"right": "shaped right", **SLIPS}
    for i, (slip, name) in enumerate(names.items()):
        found = stratified_bootstrap(final[slip])
        error = [[found.point - found.low], [found.high - found.point]]
        ax.barh(name, found.point, xerr=np.nan_to_num(error), color=colour(i))
    ax.invert_yaxis()
    ax.set_xlabel("share of random problems whose optimum moves")


def draw_learning(figure: Any, results: Results) -> None:
    """Objective while learning."""
    corridor = [PLAIN, SHAPED, *(corridor_label(slip) for slip in LEARNED)]
    panels = {
        "corridor": corridor,
        "MountainCar": [CAR, CAR_SHAPED],
        "FrozenLake": [LAKE, LAKE_SHAPED, LAKE_NAIVE],
    }
    for ax, (name, labels) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for i, label in enumerate(labels):
            curves = results[label].curves
            known = np.isfinite(curves["objective"]).any(0)
            middle = np.nanmean(curves["objective"][:, known], axis=0)
            step = curves["step"][0][known]
            ax.plot(step, middle, color=colour(i), label=label.split(": ")[1])
        ax.set_title(name)
        ax.set_xlabel("environment steps")
        ax.legend(fontsize=7)
    figure.axes[0].set_ylabel("objective return")


def corridor_label(slip: str) -> str:
    """The name of a corridor arm."""
    return f"corridor: {SLIPS[slip]}"


_PPO = {
    "hidden": (),
    "num_steps": 128,
    "learning_rate": 5e-2,
    "gamma": GAMMA,
    "ent_coef": 1e-3,
    "num_epochs": 4,
    "num_minibatches": 4,
}
_CAR_PPO = {
    "num_steps": 64,
    "learning_rate": 1e-3,
    "gamma": LONG_GAMMA,
    "num_epochs": 4,
    "num_minibatches": 4,
    "normalize_observations": True,
}
_LAKE_PPO = {**_PPO, "gamma": LONG_GAMMA}


def _corridor(label: str, reward: Any) -> Arm:
    return Arm(label, ENV, reward, env_kwargs={"map": MAP}, agent_kwargs=_PPO)


EXPERIMENT = Experiment(
    name="shaping_pitfalls",
    title="What shaping done wrong costs",
    paper="Ng, Harada, Russell (1999), Policy invariance under reward transformations, ICML; "
    "Wiewiora (2003), Potential-based shaping and Q-value initialization are equivalent, JAIR",
    grid=[
        _corridor(PLAIN, "objective"),
        _corridor(SHAPED, by_potential),
        *(_corridor(corridor_label(slip), with_slip(slip)) for slip in LEARNED),
        Arm(CAR, CAR_ENV, "objective", agent_kwargs=_CAR_PPO),
        Arm(CAR_SHAPED, CAR_ENV, by_energy, agent_kwargs=_CAR_PPO),
        Arm(LAKE, LAKE_ENV, "objective", agent_kwargs=_LAKE_PPO),
        Arm(LAKE_SHAPED, LAKE_ENV, by_nearness, agent_kwargs=_LAKE_PPO),
        Arm(LAKE_NAIVE, LAKE_ENV, by_steps_nearer, agent_kwargs=_LAKE_PPO),
        Measure(EXAMPLES, counter_examples),
        Measure(RANDOM, random_problems),
        Measure(Q_LEARNING, q_learning),
        Measure(ADVICE, look_ahead),
        Measure(FRAMEWORKS, frameworks),
    ],
    budgets={
        "smoke": Budget(total_timesteps=2_048, num_envs=16, eval_episodes=16, seeds=2),
        "quick": Budget(total_timesteps=80_000, num_envs=32, eval_episodes=256, seeds=5),
        "full": Budget(total_timesteps=1_000_000, num_envs=64, eval_episodes=1_024, seeds=10),
    },
    claims=[
        Claim("Each slip moves an optimum", examples_flip),
        Claim("Shaping moves none", right_moves_nothing),
        Claim("Slips move many", slips_move_optima),
        Claim("Shaping is initialisation", shaping_is_initialisation),
        Claim("Look-ahead advice asks for a change of the agent", advice_needs_the_agent),
        Claim("Wrappers slip too", wrappers_slip),
        Claim("Shaped right, the corridor is solved", shaped_corridor),
        *(
            Claim(
                f"Learned: {SLIPS[slip]}",
                ends_below(
                    f"On the corridor, {SLIPS[slip]}: PPO ends below what the objective teaches.",
                    corridor_label(slip),
                    PLAIN,
                ),
            )
            for slip in LEARNED
        ),
        Claim(
            "The car learns by the potential",
            ends_below(
                "On MountainCar-v0 PPO without shaping ends below PPO shaped by energy.",
                CAR,
                CAR_SHAPED,
            ),
        ),
        Claim(
            "The lake is crossed for ever",
            ends_below(
                "On FrozenLake-v1 PPO paid for steps nearer ends below PPO without shaping.",
                LAKE_NAIVE,
                LAKE,
            ),
        ),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0, 1),
    figures=[
        Figure(
            "Random problems",
            "Share of 1,000 random problems a seed whose optimum moves, exactly.",
            draw_shares,
        ),
        Figure(
            "Learning",
            "Objective return while PPO learns, mean over seeds.",
            draw_learning,
        ),
    ],
)
