"""A reward learned for its effect survives advice that wrecks the plain sum (Gupta et al. 2023).

BARFI learns how much of an auxiliary reward to believe, where, and how far to look ahead, so that a
learner trained on the result is good for the primary reward. Scaled down: ten seeds, fewer episodes
of the cart pole and the car than the paper's, Fourier features throughout, of order 1 for the cart
pole; the half cheetah runs for 100 steps an episode, on linear policies. Competitors learn from new
episodes ("old episodes": as BARFI's learner does). Shaping by a potential is, to these learners, a
baseline: it should change little, for better or worse. The authors' own shaping subtracts the
advice, which sees actions, from the return, and so turns it round: bad advice helps.

Read the mountain car with care: BARFI's own learner, slow as it is, is seldom misled by the plain
sum either ("plain sum, old episodes"), so its success there says little of the reward that it
learns. In the maze and on the pole that learner is wrecked by the sum, and BARFI is not.

A task is an experiment: ``barfi_maze``, ``barfi_cart_pole``, ``barfi_mountain_car``,
``barfi_half_cheetah``. Its seeds and arms are learned as one batch by the first job, so that one
worker does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import bootstrap_curve, paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import above, below

from .common.barfi_tasks import BAD, EPISODES, GOOD, NONE, TASKS, WEIGHTS, last_tenth, study


def compare(trial: Any, name: str, kind: str) -> dict[str, float]:
    """BARFI and what it competes with on one task: shares of the optimum in the last tenth."""
    block = TASKS[name].seeds[: trial.budget.seeds]
    seeds = block if trial.seed in block else (trial.seed,)
    arms = study(name, seeds, trial.budget.total_timesteps)
    row = seeds.index(trial.seed)
    whole = TASKS[name].optimum or float(last_tenth(arms["primary"]["objective"]).mean())
    shown = {"barfi": f"barfi {kind}", "primary": "primary", "old_primary": "old primary"}
    if kind != NONE:
        grid = [f"{weight} {kind}" for weight in WEIGHTS] + [f"naive {kind}"]
        best = max(grid, key=lambda arm: float(last_tenth(arms[arm]["objective"]).mean()))
        shown |= {
            "naive": f"naive {kind}",
            "old_naive": f"old naive {kind}",
            "weight": best,
            "shaping": f"shaping {kind}",
            "subtracted": f"authors' shaping {kind}",
        }
    curves = {k: arms[arm]["objective"][row] / whole for k, arm in shown.items()}
    learned_arm = arms[f"barfi {kind}"]
    rounds = len(curves["barfi"])
    for part in np.array_split(np.arange(rounds), min(rounds, 60)):
        step = round((part[-1] + 1) / rounds * trial.budget.total_timesteps)
        numbers = {k: float(v[part].mean()) for k, v in curves.items()}
        trial.log(step, gamma_phi=float(learned_arm["gamma_phi"][row, part].mean()), **numbers)
    if "map_1" in learned_arm:
        trial.save_arrays(**{k: learned_arm[k][row] for k in ("map_1", "map_3")})
    return {
        **{k: float(last_tenth(v[None])[0]) for k, v in curves.items()},
        "gamma_phi": float(learned_arm["gamma_phi"][row, -1]),
        "phi_3": float(learned_arm["phi_3"][row]),
    }


# ---- claims --------------------------------------------------------------------------------------

Check = Callable[[Results], Verdict]


def yardstick(name: str) -> str:
    """What shares are of, in words."""
    return "the optimum" if TASKS[name].optimum else "what the primary reward alone teaches"


def share(name: str) -> str:
    """What is compared, in words."""
    return f"share of {yardstick(name)} in the last tenth of the episodes"


def label(name: str, kind: str) -> str:
    """Of a task's line."""
    return f"{name}, {kind} advice"


def reaches(name: str) -> Check:
    """BARFI despite bad advice."""

    def check(results: Results) -> Verdict:
        found = stratified_bootstrap(results[label(name, BAD)].final["barfi"])
        sentence = f"{name}: misled, BARFI reaches 95 % of {yardstick(name)}."
        return above(sentence, found, share(name), 0.95)

    return check


def fails(name: str, arm: str, words: str) -> Check:
    """A competitor, or BARFI's own learner on what competitors learn from, under bad advice."""

    def check(results: Results) -> Verdict:
        found = stratified_bootstrap(results[label(name, BAD)].final[arm])
        sentence = f"{name}: misled, {words} stays below 50 % of {yardstick(name)}."
        return below(sentence, found, share(name), 0.5)

    return check


def no_worse(name: str, kind: str, other: str, margin: float, words: str) -> Check:
    """BARFI against another arm."""

    def check(results: Results) -> Verdict:
        final = results[label(name, kind)].final
        found = paired_difference(final["barfi"], final[other])
        detail = (
            f"difference of shares of {yardstick(name)}, paired by seed; a loss of {margin} is "
            "borne"
        )
        return above(f"{name}: {words}", found, detail, -margin)

    return check


def disbelieves(name: str) -> Check:
    """phi_3 under bad advice."""

    def check(results: Results) -> Verdict:
        found = stratified_bootstrap(results[label(name, BAD)].final["phi_3"])
        detail = "phi_3 over states of old episodes; it starts at 1"
        return below(f"{name}: bad advice is believed less than half.", found, detail, 0.5)

    return check


def claims_of(name: str) -> list[Claim]:
    """The same of every task."""
    return [
        Claim(f"{name}: BARFI reaches {yardstick(name)}, despite bad advice", reaches(name)),
        Claim(f"{name}: bad advice wrecks the plain sum", fails(name, "naive", "the plain sum")),
        Claim(
            f"{name}: and for BARFI's own learner",
            fails(name, "old_naive", "BARFI's own learner on the plain sum"),
        ),
        Claim(f"{name}: and shaping", fails(name, "shaping", "shaping by a bad potential")),
        Claim(
            f"{name}: and the authors' shaping",
            fails(name, "subtracted", "shaping that subtracts bad advice from the return"),
        ),
        Claim(
            f"{name}: BARFI is near the best weight",
            no_worse(name, BAD, "weight", 0.1,
                     "misled, BARFI is within 10 % of the best weight, chosen with hindsight."),
        ),
        Claim(
            f"{name}: BARFI keeps good advice",
            no_worse(name, GOOD, "naive", 0.05, "well advised, BARFI is no worse than the sum."),
        ),
        Claim(
            f"{name}: BARFI corrects the learner",
            no_worse(name, NONE, "old_primary", 0.05,
                     "without advice, BARFI is no worse than its learner on the primary reward."),
        ),
        Claim(f"{name}: bad advice is disbelieved", disbelieves(name)),
    ]  # fmt: skip


# ---- pictures ------------------------------------------------------------------------------------

CURVES = {
    "barfi": "BARFI",
    "naive": "plain sum",
    "old_naive": "plain sum, old episodes",
    "shaping": "shaping",
    "subtracted": "authors' shaping",
    "weight": "best weight",
    "primary": "primary reward",
}


def draw_objective(figure: Any, results: Results, name: str) -> None:
    """The objective over training, with good and with bad advice."""
    axes = figure.subplots(1, 2, sharey=True)
    for kind, ax in zip((GOOD, BAD), axes, strict=True):
        curves = results[label(name, kind)].curves
        for i, (key, words) in enumerate(CURVES.items()):
            _band(ax, curves["step"][0], curves[key], i, words)
        ax.set_title(label(name, kind))
        ax.set_xlabel("episodes of a run")
    axes[0].set_ylabel(f"share of {yardstick(name)}")
    axes[0].legend(fontsize=7)


def draw_gamma(figure: Any, results: Results, name: str) -> None:
    """gamma_phi over training."""
    ax = figure.subplots()
    for i, kind in enumerate((GOOD, BAD, NONE)):
        curves = results[label(name, kind)].curves
        _band(ax, curves["step"][0], curves["gamma_phi"], i, f"{kind} advice")
    ax.set_xlabel("episodes of a run")
    ax.set_ylabel("gamma_phi")
    ax.legend()


def _band(ax: Any, step: np.ndarray, curves: np.ndarray, i: int, words: str) -> None:
    """The interquartile mean and its interval."""
    middle = bootstrap_curve(curves, reps=200)
    ax.plot(step, middle.point, color=colour(i), label=words)
    ax.fill_between(step, middle.low, middle.high, color=colour(i), alpha=0.15, linewidth=0)


def draw_maps(figure: Any, results: Results, name: str) -> None:
    """phi_1 and phi_3 over the observations, means over seeds."""
    axes = figure.subplots(1, 4)
    shown = [(kind, key) for kind in (GOOD, BAD) for key in ("map_1", "map_3")]
    for ax, (kind, key) in zip(axes, shown, strict=True):
        mean = np.mean([a[key] for a in results.arrays(label(name, kind))], 0)
        image = ax.imshow(mean.T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
        figure.colorbar(image, ax=ax, shrink=0.6)
        for low, high in ((0.4, 0.6), (0.75, 0.99)) if name == "maze" else ():
            ax.plot([low, high, high, low, low], [low, low, high, high, low], color="white")
        ax.set_title(f"phi_{key[-1]}, {kind} advice", fontsize=9)


def figures_of(name: str) -> list[Figure]:
    """The pictures of a task; maps where observations have two dimensions."""
    where = "white: the lure and the goal" if name == "maze" else "both axes scaled to [0, 1]"
    found = [
        Figure(
            "The objective while learning",
            f"Interquartile means with 95 % intervals over seeds, as shares of {yardstick(name)}.",
            functools.partial(draw_objective, name=name),
        ),
        Figure(
            "The discount",
            "gamma_phi while learning; it starts at .99.",
            functools.partial(draw_gamma, name=name),
        ),
    ]
    maps = Figure(
        "What is believed where",
        f"phi_1 and phi_3 over observations, means over seeds; {where}.",
        functools.partial(draw_maps, name=name),
        size=(9.0, 3.0),
    )
    return [*found, maps] if name in ("maze", "mountain car") else found


def experiment(name: str) -> Experiment:
    """Of one task."""
    seeds = {"smoke": 2, "quick": 10, "full": 20}
    return Experiment(
        name=f"barfi_{name.replace(' ', '_')}",
        title=f"A reward learned for its effect survives bad advice: {name}",
        paper="Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), Behavior Alignment via "
        "Reward Function Optimization, NeurIPS",
        grid=[
            Measure(label(name, kind), functools.partial(compare, name=name, kind=kind))
            for kind in (BAD, GOOD, NONE)
        ],
        budgets={
            budget: Budget(episodes, num_envs=EPISODES, eval_episodes=0, seeds=seeds[budget])
            for budget, episodes in TASKS[name].episodes.items()
        },
        claims=claims_of(name),
        seeds=TASKS[name].seeds,
        tuning_seeds=tuple(range(20)),
        columns={
            **CURVES,
            "old_primary": "primary reward, old episodes",
            "phi_3": "phi_3",
            "gamma_phi": "gamma_phi",
        },
        figures=figures_of(name),
        max_workers=1,
    )


TASK_EXPERIMENTS = {name: experiment(name) for name in TASKS}
