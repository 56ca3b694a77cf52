"""What can an objective say? The diagram of formalisms, computed, and two of them learned.

Subramani et al. (2024): seventeen ways to specify an objective differ in which orders of policies
they can express, and of regularised rewards, outer nonlinear rewards, reward machines, temporal
logic and average rewards none includes another. The theorems are about all finite environments;
each separation needs one, and ``expressivity_tasks.py`` has fourteen tiny ones, in which the
specification is evaluated exactly and the impossibility certified. Inclusions are theirs (that of
average rewards in functions from trajectories is derived there) and are taken as given.

What a formalism can express is no use unless it can be learned: PPO learns a reward machine whose
state it sees, against one whose state it does not (an errand to both ends of a corridor, which no
policy of the place alone does well), and a limit on risk, by prices, whose optimum a linear program
gives. Both are evaluated exactly on the model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from rewardzoo.agents.ppo import PPO
from rewardzoo.agents.tabular import (
    TabularMDP,
    expected_return,
    mdp_of,
    occupancy,
    policy_iteration,
)
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.figures import colour, draw_runs
from rewardzoo.jobs import make_envs
from rewardzoo.metrics.statistics import Interval, paired_difference, stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards import RewardFunction, VectorAppendRewardState, env_reward
from rewardzoo.rewards.expected import Constrained
from rewardzoo.rewards.machine import Machine
from rewardzoo.rewards.reward_machine import RewardMachine
from rewardzoo.verdicts import above, below

from .common.expressivity_certificates import Evidence
from .common.expressivity_diagram import INCLUSIONS, MEMBERS, diagram
from .common.expressivity_tasks import TASKS

ENV = "rewardzoo/GridWorld-v0"
DIAGRAM, BLIND, SEEING, SHAPED, PRICED, FREE = (
    "the diagram",
    "machine, state hidden",
    "machine, state observed",
    "machine, observed and shaped",
    "risk limited by prices",
    "risk ignored",
)
FIVE = ("RRL", "ONMR", "RM", "LTL", "LAR")

CORRIDOR = {"map": "....S....", "slip": 0.1}
ENDS = {"l": [0], "r": [8]}
ERRAND = "0\n[2]\n(0, 1, 'l', 0)\n(1, 2, 'r', 1)"
ERRAND_GAMMA = 0.95

SHORTCUT = {"map": "S...G\n.###.\n.....", "slip": 0.0}
RISK = "0\n[]\n(0, 0, 'risk', 1)"
RISKY = {"risk": [2]}
LIMIT, RISK_GAMMA = 0.3, 0.9
TOLERANCE, ENOUGH = 0.05, 0.95  # fixed before looking

_PPO = {
    "num_steps": 40,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2e-3,
    "ent_coef": 0.01,
    "hidden": (32,),
}
# More entropy, so that the policy can still answer when the price moves.
_PPO_RISK = {**_PPO, "learning_rate": 1e-3, "ent_coef": 0.05}


# ---- the diagram ---------------------------------------------------------------------------------


def compute(trial: Any) -> dict[str, float]:
    """Every specification's order and every certificate, and what follows for all pairs."""
    agreement: dict[tuple[str, str], float] = {}
    evidence: dict[tuple[str, str], Evidence] = {}
    for i, make in enumerate(TASKS):
        task = make()
        for name in task.expressed:
            agreement[task.name, name] = task.agreement(name)
        for name, certify in task.refuted.items():
            evidence[task.name, name] = certify()
        trial.log(trial.budget.total_timesteps * (i + 1) // len(TASKS), tasks=float(i + 1))
    relations = diagram(agreement, evidence)
    names = list(MEMBERS)
    says = np.full((len(names), len(names)), "itself", dtype="<U12")
    witness = np.full(says.shape, "", dtype="<U200")
    for r in relations:
        where = names.index(r.first), names.index(r.second)
        says[where], witness[where] = r.says, r.witness
    words = [
        [task, unable, why.kind, "yes" if why.holds else "NO", f"{why.number:.3g}", why.words]
        for (task, unable), why in evidence.items()
    ]
    trial.save_arrays(says=says, witness=witness, evidence=np.array(words))
    lines = [f"{r.first:7} {r.says:10} {r.second:7} {r.witness}" for r in relations]
    (trial.folder / "diagram.txt").write_text("\n".join(lines) + "\n")
    counts = {s: sum(r.says == s for r in relations) for s in ("expresses", "does not", "open")}
    computed = [why for why in evidence.values() if why.kind != "proof"]
    apart = sum(r.says == "does not" and {r.first, r.second} <= set(FIVE) for r in relations)
    return {
        "expresses": float(counts["expresses"]),
        "does_not": float(counts["does not"]),
        "open": float(counts["open"]),
        "agreement": min(agreement.values()),
        "certificates": float(len(computed)),
        "certified": float(sum(why.holds for why in computed)),
        "apart": float(apart),
    }


# ---- a reward machine, learned -------------------------------------------------------------------


def product(mdp: TabularMDP, machine: Machine, labels: dict[str, list[int]]) -> TabularMDP:
    """The model with states (s, u), numbered ``s * U + u``, and the machine's reward."""
    states, size = len(mdp.initial), len(machine.table)
    code = np.zeros(states, np.int64)
    for i, name in enumerate(machine.propositions):
        code[labels[name]] |= 1 << i
    leads = torch.nn.functional.one_hot(torch.tensor(machine.table[:, code]), size).double()
    moves = torch.einsum("sat,utv->suatv", mdp.transition, leads)
    paid = torch.einsum("sat,ut->sua", mdp.transition, torch.tensor(machine.reward[:, code]))
    start = torch.zeros(states, size, dtype=torch.float64)
    start[:, machine.initial] = mdp.initial
    actions, count = mdp.reward.shape[-1], states * size
    over = torch.tensor(machine.terminal).repeat(states)
    over = over | mdp.terminal.repeat_interleave(size)
    return TabularMDP(
        moves.reshape(count, actions, count), paid.reshape(count, actions), start.reshape(-1), over
    )


def envs_paying(fn: RewardFunction, trial: Any, world: Mapping[str, Any]) -> Any:
    """A batch of mazes, cut off after 40 steps."""
    count, device = trial.budget.num_envs, trial.device
    return make_envs(ENV, lambda _: fn, count, device, **world, max_episode_steps=40)


def errand(trial: Any, observed: bool, shaping: float | None = None) -> dict[str, float]:
    """PPO on the errand to both ends; values are exact, of the policy and of the optimum."""
    fn = RewardMachine(ERRAND, ENDS, shaping)
    envs: Any = envs_paying(fn, trial, CORRIDOR)
    model = product(mdp_of(ENV, **CORRIDOR), fn.machine, ENDS)
    size = len(fn.machine.table)
    cells = torch.arange(len(model.initial) // size).repeat_interleave(size)
    obs: Any = cells
    if observed:
        envs = VectorAppendRewardState(envs)
        memory = torch.eye(size).repeat(len(cells) // size, 1)
        obs = {"observation": cells, "reward_state": memory}
    agent = PPO(envs, seed=trial.seed, gamma=ERRAND_GAMMA, **_PPO)
    found: list[float] = []

    def after(learner: Any, metrics: dict[str, float]) -> None:
        policy = learner.outputs(obs).softmax(-1).double()
        found.append(float(expected_return(model, policy, ERRAND_GAMMA)))
        trial.log(learner.num_timesteps, value=found[-1])

    # (Half of what the prices need.)
    agent.learn(trial.budget.total_timesteps // 2, callback=after)
    value, _ = policy_iteration(model, ERRAND_GAMMA)
    return {
        "value": float(np.mean(found[-max(1, len(found) // 10) :])),
        "area": float(np.mean(found)),
        "optimum": float(value @ model.initial),
    }


# ---- a constraint, learned -----------------------------------------------------------------------


def constrained_optimum(mdp: TabularMDP, cost: torch.Tensor, limit: float, gamma: float) -> float:
    """The best return of a policy whose expected cost is within the limit: a linear program."""
    alive = ~mdp.terminal
    states, actions = mdp.reward.shape
    flow = torch.eye(states, dtype=torch.float64).unsqueeze(1) - gamma * mdp.transition
    kept = flow[alive][:, :, alive].reshape(-1, int(alive.sum())).T
    found = linprog(
        -mdp.reward[alive].reshape(-1).numpy(),
        A_ub=cost[alive].reshape(1, -1).numpy(),
        b_ub=[limit],
        A_eq=kept.numpy(),
        b_eq=mdp.initial[alive].numpy(),
    )
    return -float(found.fun)


def risk(trial: Any, priced: bool) -> dict[str, float]:
    """PPO on a shortcut through a risky cell; return and risk are exact."""
    mdp = mdp_of(ENV, **SHORTCUT)
    cost = mdp.transition[:, :, RISKY["risk"]].sum(-1)
    cost[mdp.terminal] = 0.0
    danger = RewardMachine(RISK, RISKY)
    fn = Constrained(env_reward, danger, LIMIT, step=0.1, damping=1.0) if priced else env_reward
    envs = envs_paying(fn, trial, SHORTCUT)
    agent = PPO(envs, seed=trial.seed, gamma=RISK_GAMMA, **_PPO_RISK)
    cells = torch.arange(len(mdp.initial))
    log: list[tuple[float, float]] = []

    def after(learner: Any, metrics: dict[str, float]) -> None:
        policy = learner.outputs(cells).softmax(-1).double()
        visits = occupancy(mdp, policy, RISK_GAMMA)
        log.append((float((visits * mdp.reward).sum()), float((visits * cost).sum())))
        price = float(fn.prices[0]) if isinstance(fn, Constrained) else 0.0
        trial.log(learner.num_timesteps, value=log[-1][0], risk=log[-1][1], price=price)

    agent.learn(trial.budget.total_timesteps, callback=after)
    # The mean over the last half: prices make a policy swing around its limit, and what dual
    # ascent promises is the mixture.
    value, seen = np.mean(log[len(log) // 2 :], 0)
    return {
        "value": float(value),
        "risk": float(seen),
        "optimum": constrained_optimum(mdp, cost, LIMIT, RISK_GAMMA),
    }


# ---- claims --------------------------------------------------------------------------------------


def diagram_is_decided(results: Results) -> Verdict:
    """Every computation came out as the diagram needs it, and leaves no pair open."""
    final = results[DIAGRAM].final
    right = (final["certified"] == final["certificates"]) & (final["agreement"] == 1.0)
    whole = bool((right & (final["open"] == 0.0)).all())
    return Verdict(
        claim="Of all pairs of formalisms it is decided whether one expresses all that the other "
        "can, each separation but that of lexicographic orders by a computed witness.",
        outcome="holds" if whole else "fails",
        effect=float(final["open"].max()),
        low=None,
        high=None,
        n=len(right),
        detail=f"pairs left open; {final['expresses'].max():.0f} inclusions (theorems), "
        f"{final['does_not'].min():.0f} separations, from {final['certified'].min():.0f} of "
        f"{final['certificates'].max():.0f} certificates that hold and specifications that order "
        f"{100 * final['agreement'].min():.0f} % of pairs of policies as their tasks",
    )


def five_are_apart(results: Results) -> Verdict:
    """The five that the paper names."""
    apart = results[DIAGRAM].final["apart"]
    return Verdict(
        claim="Of regularised rewards, outer nonlinear rewards, reward machines, temporal logic "
        "and average rewards none includes another.",
        outcome="holds" if (apart == 20.0).all() else "fails",
        effect=float(apart.min()),
        low=None,
        high=None,
        n=len(apart),
        detail="separations among their 20 ordered pairs",
    )


def better(claim: str, one: str, other: str, key: str, what: str) -> Any:
    """A check that one arm's number exceeds another's, paired by seed."""

    def check(results: Results) -> Verdict:
        x, y = results[one].final[key], results[other].final[key]
        detail = f"{what}, paired by seed; means {x.mean():.3f} and {y.mean():.3f}"
        return above(claim, paired_difference(x, y), detail)

    return check


def near_optimal(claim: str, label: str) -> Any:
    """A check that an arm reaches ``ENOUGH`` of the optimum."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        share = stratified_bootstrap(final["value"] / final["optimum"])
        detail = f"share of the exact optimum {final['optimum'].mean():.4f}; the bar is {ENOUGH}"
        return above(claim, share, detail, bar=ENOUGH)

    return check


def excess(results: Results, label: str) -> Interval:
    """Of the expected risk over its limit."""
    return stratified_bootstrap(results[label].final["risk"] - LIMIT)


def limit_is_kept(results: Results) -> Verdict:
    """With prices the risk stays within its limit."""
    return below(
        "A constraint is kept: with prices the expected risk ends within its limit.",
        excess(results, PRICED),
        f"exact expected risk over the limit {LIMIT}, mean over the last half of training; within "
        f"{TOLERANCE}",
        bar=TOLERANCE,
    )


def limit_binds(results: Results) -> Verdict:
    """Without them it does not."""
    return above(
        "The constraint asks for something: without prices the risk ends above its limit.",
        excess(results, FREE),
        f"exact expected risk over the limit {LIMIT}; above {TOLERANCE}",
        bar=TOLERANCE,
    )


# ---- pictures ------------------------------------------------------------------------------------

_PLACES = {
    "PO": (1.5, 6), "GOMORL": (0.7, 5), "FPR": (2.3, 5), "OMORL": (1.5, 4), "FTR": (0.7, 3),
    "ONMR": (2.2, 2), "RRL": (3.1, 2), "RM": (-0.6, 2), "LAR": (0.3, 2), "LTL": (1.2, 2),
    "MR": (1.5, 1),
}  # fmt: skip


def draw_diagram(figure: Any, results: Results) -> None:
    """Inclusions as a graph, and all pairs as a table."""
    saved = results.arrays(DIAGRAM)[0]
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for high, low, _ in INCLUSIONS:
        (x1, y1), (x2, y2) = _PLACES[high], _PLACES[low]
        left.plot((x1, x2), (y1, y2), color="0.6", lw=1, zorder=1)
    for name, (x, y) in _PLACES.items():
        left.text(
            x, y, name, ha="center", va="center", fontsize=8, bbox={"fc": "white", "ec": "0.6"}
        )
    left.set_xlim(-1.2, 3.7)
    left.set_ylim(0.5, 6.5)
    left.axis("off")
    names = list(MEMBERS)
    kinds = {"itself": "0.85", "expresses": colour(0), "does not": colour(1), "open": "white"}
    numbers = {make().name: str(i + 1) for i, make in enumerate(TASKS)}
    for i in range(len(names)):
        for j in range(len(names)):
            says = str(saved["says"][i, j])
            right.add_patch(_square(j, i, kinds[says]))
            task = numbers.get(str(saved["witness"][i, j]).split(":")[0], "")
            mark = "≥" if says == "expresses" else task if says == "does not" else ""
            right.text(j, i, mark, ha="center", va="center", fontsize=7, color="white")
    right.set_xlim(-0.5, len(names) - 0.5)
    right.set_ylim(len(names) - 0.5, -0.5)
    right.set_xticks(range(len(names)), names, rotation=60, fontsize=7)
    right.set_yticks(range(len(names)), names, fontsize=7)
    right.set_ylabel("expresses all that ...")
    right.xaxis.tick_top()


def _square(x: float, y: float, face: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white")


def draw_evidence(figure: Any, results: Results) -> None:
    """The certificates, a row each."""
    rows = results.arrays(DIAGRAM)[0]["evidence"]
    ax = figure.subplots()
    ax.axis("off")
    heads = ["task", "cannot be said by", "because of", "found", "number", "which is"]
    table = ax.table(
        rows.tolist(),
        colLabels=heads,
        colWidths=[0.16, 0.12, 0.1, 0.06, 0.08, 0.48],
        cellLoc="left",
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def draw_learning(figure: Any, results: Results) -> None:
    """Exact values while learning, and the risk."""
    left, right = figure.subplots(1, 2)
    for ax, labels, key in (
        (left, (BLIND, SEEING, SHAPED), "value"),
        (right, (FREE, PRICED), "risk"),
    ):
        for i, label in enumerate(labels):
            draw_runs(ax, results[label].curves, key, i, label)
        ax.set_xlabel("environment steps")
    left.axhline(results[SEEING].final["optimum"][0], color=colour(5), ls=":", lw=1)
    left.set_ylabel("exact value of the errand")
    right.axhline(LIMIT, color=colour(5), ls=":", lw=1)
    right.set_ylabel("exact expected risk")
    left.legend(fontsize=7)
    right.legend(fontsize=7)


EXPERIMENT = Experiment(
    name="expressivity",
    title="What can an objective say?",
    paper="Subramani et al. (2024), On the Expressivity of Objective-Specification Formalisms in "
    "Reinforcement Learning, ICLR",
    grid=[
        Measure(DIAGRAM, compute),
        Measure(BLIND, functools.partial(errand, observed=False)),
        Measure(SEEING, functools.partial(errand, observed=True)),
        Measure(SHAPED, functools.partial(errand, observed=True, shaping=ERRAND_GAMMA)),
        Measure(PRICED, functools.partial(risk, priced=True)),
        Measure(FREE, functools.partial(risk, priced=False)),
    ],
    budgets={
        "smoke": Budget(total_timesteps=2_560, num_envs=32, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=80_000, num_envs=32, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=1_000_000, num_envs=32, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim("The diagram is decided", diagram_is_decided),
        Claim("Five formalisms are apart", five_are_apart),
        Claim(
            "A machine's state must be seen",
            better(
                "A reward machine is learned better where its state is observed.",
                SEEING,
                BLIND,
                "value",
                "difference of exact discounted values at the end",
            ),
        ),
        Claim(
            "A machine can be learned",
            near_optimal(
                "With its state observed PPO comes near the reward machine's optimum.", SEEING
            ),
        ),
        Claim(
            "A machine's own shaping helps",
            better(
                "Shaping by the values of the machine's states learns faster.",
                SHAPED,
                SEEING,
                "area",
                "difference of the mean exact value over training",
            ),
        ),
        Claim("A limit is kept", limit_is_kept),
        Claim("The limit binds", limit_binds),
        Claim(
            "A limit costs no more than it must",
            near_optimal("Within its limit the policy comes near the constrained optimum.", PRICED),
        ),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=tuple(range(5)),
    columns={
        "value": "exact value",
        "optimum": "optimum",
        "risk": "exact risk",
        "certified": "certificates",
        "open": "pairs open",
    },
    figures=[
        Figure(
            "The diagram",
            "Left: what includes what, the wider above. Right: row against column; blue, the row's "
            "formalism expresses all that the column's can; else the number of the task that the "
            "column's expresses and the row's cannot.",
            draw_diagram,
            size=(9.0, 5.0),
        ),
        Figure(
            "Certificates",
            "Why each formalism cannot say a task, and the number that shows it.",
            draw_evidence,
            size=(9.0, 6.0),
        ),
        Figure(
            "Learning",
            "Each line is a run; dotted, the optimum of the errand and the limit of the risk.",
            draw_learning,
        ),
    ],
)
