"""What the theory of submodular reinforcement learning says, where optima are known.

Prajapat et al. (2024): the policy gradient credits an action with the gains that follow; a bandit
is solved to ``1 - 1/e``; policies that see no history can lose by it; an additive surrogate has
nothing to say. Small enough that optima are known: a chain on which greed is a trap (greedy 3,
optimum 10), a walk that must remember where it began (Markov 1.5, history 2), 100 random bandits.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.submodular_solvers import (
    best_markov,
    best_set,
    brute_force,
    dp_augmented,
    exact_return,
    greedy_set,
    greedy_value,
    random_value,
    tree_of,
)
from rewardzoo.agents.subpo import SubPO, credits, policy_gradient_loss
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.parse import make_reward
from rewardzoo.rewards.submodular_coverage import Coverage
from rewardzoo.rewards.submodular_information import Information, matern52
from rewardzoo.rewards.wrappers import VectorRewardWrapper

from .common.submodular import SEEDS, TUNING_SEEDS, play

GRAPH, BANDIT = "rewardzoo/SubmodularGraph-v0", "rewardzoo/SubmodularBandit-v0"
# A coin decides which of two items is collected first; both lead to one place, from which either
# can be reached: only who remembers takes the other one.
GAP: dict[str, Any] = {
    "edges": ((0, 2), (1, 2), (2, 0), (2, 1)),
    "weights": (1.0, 1.0, 0.0),
    "starts": (0, 1),
    "stay": False,
    "horizon": 3,
}
MARKOV, HISTORY, AUGMENTED, MYOPIC, PREFIX, MODULAR, GREEDY, RANDOM, OPTIMUM, BANDITS, COST = (
    "SubPO-M",
    "SubPO-NM",
    "SubPO, sees the memory",
    "SubPO-M, gamma = 0",
    "SubPO-M, prefix credit",
    "MODPO",
    "greedy",
    "random",
    "optimum",
    "bandits",
    "cost of a gain",
)
PER_SEED = 20  # bandits
NEMHAUSER = 1.0 - 1.0 / math.e
LENGTHS = (16, 32, 64, 128, 256, 512)


def learn(
    trial: Any, obs: str, reward: str = "objective", agent: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """SubPO on the chain and on the history gap: F of the stochastic policy."""
    tabular = {"hidden": (), "learning_rate": 0.2} if obs == "index" else {}
    final = {}
    for i, (name, kwargs) in enumerate({"chain": {}, "gap": GAP}.items()):
        envs = gymnasium.make_vec(
            GRAPH, num_envs=trial.budget.num_envs, obs=obs, device=trial.device, **kwargs
        )
        wrapped = VectorRewardWrapper(envs, make_reward(reward))
        learner = SubPO(wrapped, seed=trial.seed, **{**tabular, **(agent or {})})
        learner.learn(trial.budget.total_timesteps // 2)
        episodes = gymnasium.make_vec(
            GRAPH, num_envs=trial.budget.eval_episodes, obs=obs, device=trial.device, **kwargs
        )
        final[name] = float(play(learner, episodes)[0].mean())
        trial.log((i + 1) * trial.budget.total_timesteps // 2, **{name: final[name]})
    return final


def solve(trial: Any, how: str) -> dict[str, float]:
    """Without learning: greedy, the uniform policy, or the optimum by exact enumeration."""
    chain = gymnasium.make_vec(GRAPH, num_envs=1).unwrapped.func
    gap = gymnasium.make_vec(GRAPH, num_envs=1, **GAP).unwrapped.func
    if how == "greedy":
        final = {"chain": greedy_value(chain, 256), "gap": greedy_value(gap, 256)}
    elif how == "random":
        final = {
            "chain": random_value(chain, 4096, trial.seed),
            "gap": random_value(gap, 4096, trial.seed),
        }
    else:
        final = {"chain": brute_force(chain)[1], "gap": dp_augmented(gap)}
    trial.log(trial.budget.total_timesteps, **final)
    return final


def bandits(trial: Any) -> dict[str, float]:
    """Greedy and SubPO on 20 random bandits a seed, as shares of the optimum by enumeration."""
    greedy, learned = [], []
    for i in range(PER_SEED):
        instance = trial.seed * PER_SEED + i
        envs = gymnasium.make_vec(
            BANDIT, num_envs=trial.budget.num_envs, obs="index", instance=instance
        )
        picks = envs.unwrapped.func.episode_steps
        function = envs.unwrapped.func.set_function
        _, optimum = best_set(function, picks)
        greedy.append(greedy_set(function, picks)[1] / optimum)
        agent = SubPO(envs, seed=trial.seed, hidden=(), learning_rate=0.2)
        agent.learn(trial.budget.total_timesteps)
        values, _ = play(agent, envs)
        learned.append(float(values.mean()) / optimum)
        trial.log((i + 1) * trial.budget.total_timesteps // PER_SEED, greedy=greedy[-1])
    trial.save_arrays(greedy=np.array(greedy), learned=np.array(learned))
    return {"bandit": min(learned), "bandit, greedy": min(greedy)}


def cost(trial: Any) -> dict[str, float]:
    """Processor seconds a gain after h elements, grown and anew; slopes over log h from 128 on."""
    curves: dict[str, list[float]] = {k: [] for k in ("coverage", "information", "determinant")}
    for h in LENGTHS:
        rng = np.random.default_rng(trial.seed)
        coverage = Coverage((40, 40))
        information = Information(matern52(rng.random((600, 2)) * 10), 1e-2, h + 1)
        visited = rng.permutation(600)[:h]
        curves["coverage"].append(_seconds(coverage, visited, rows=4096))
        # As many rows as make 32 MB, so that no length has the advantage of the cache.
        rows = LENGTHS[-1] ** 2 * 16 // h**2
        curves["information"].append(_seconds(information, visited, rows))
        kernel = information.kernel[visited][:, visited].expand(16, -1, -1)
        matrix = torch.eye(h, dtype=torch.float64) + kernel / information.noise
        curves["determinant"].append(_fastest(lambda m=matrix: torch.linalg.slogdet(m)) / 16)
        trial.log(
            trial.budget.total_timesteps * len(curves["coverage"]) // len(LENGTHS),
            **{k: v[-1] for k, v in curves.items()},
        )
    x = np.log(LENGTHS)
    trial.save_arrays(lengths=np.array(LENGTHS), **{k: np.array(v) for k, v in curves.items()})
    return {
        f"slope of {k}": float(np.polyfit(x[3:], np.log(v)[3:], 1)[0]) for k, v in curves.items()
    }


def _seconds(function: Any, visited: np.ndarray, rows: int) -> float:
    """Of one gain in a batch of ``rows`` sets that hold ``visited``."""
    memory = function.empty(rows)
    for v in visited:
        memory, _ = function.add(memory, torch.full((rows,), int(v)))
    element = torch.arange(rows) % function.size
    return _fastest(lambda: function.gain(memory, element)) / rows


def _fastest(call: Callable[[], Any], repeats: int = 15, reading: float = 0.01) -> float:
    """Processor time of a call: the least of several readings, since others only add to it.

    A reading is of as many calls as take ``reading`` seconds.
    """
    call()
    start = time.process_time()
    call()
    count = max(1, round(reading / max(time.process_time() - start, 1e-6)))
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(count):
            call()
        best = min(best, (time.process_time() - start) / count)
    return best


def estimator_error(credit: str, gamma: float, target: str) -> float:
    """Largest difference of the estimator's mean over all trajectories to an exact gradient.

    On a 2 x 2 grid with horizon 3, from random logits: every trajectory's estimate is computed by
    the agent's own loss and weighted with its exact chance.

    Args:
        credit: "togo" or "prefix".
        gamma: of the estimator.
        target: "return", the gradient of the exact expected F by automatic differentiation, or
            "myopic", the estimator's own mean with ``credit="togo"`` and ``gamma=0``.
    """
    walk = gymnasium.make_vec(
        "rewardzoo/SubmodularCoverage-v0",
        num_envs=1,
        shape=(2, 2),
        horizon=3,
        footprint="cell",
        weights=[[1.0, 2.0], [0.5, 3.0]],
        start=(0, 0),
    ).unwrapped.func
    shape = (walk.horizon - 1, walk.cells, walk.actions)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    estimate = _mean_estimate(walk, logits, credit, gamma)
    if target == "myopic":
        exact = _mean_estimate(walk, logits, "togo", 0.0)
    else:
        (exact,) = torch.autograd.grad(exact_return(tree_of(walk), logits.softmax(-1)), logits)
    return float((estimate - exact).abs().max())


def _mean_estimate(walk: Any, logits: Tensor, credit: str, gamma: float) -> Tensor:
    """The estimator's mean over all trajectories, a gradient of the expected F."""
    steps = walk.horizon - 1
    total = torch.zeros_like(logits)
    for actions in itertools.product(range(walk.actions), repeat=steps):
        cell, logp = walk.starts[0], []
        memory, _ = walk.set_function.add(walk.set_function.empty(1), torch.tensor([cell]))
        gains = []
        for t, action in enumerate(actions):
            logp.append(logits[t, cell].log_softmax(-1)[action])
            cell = int(walk.neighbours[cell, action])
            memory, gain = walk.set_function.add(memory, torch.tensor([cell]))
            gains.append(gain)
        done = torch.zeros(steps, 1, dtype=torch.bool)
        done[-1] = True
        advantage = credits(torch.stack(gains), done, gamma, credit).reshape(-1)
        score = torch.stack(logp)
        loss, _ = policy_gradient_loss(score, torch.zeros_like(score), advantage, None, 0.0)
        (grad,) = torch.autograd.grad(-loss * steps, logits)  # the loss is a mean over steps
        total += score.detach().sum().exp() * grad
    return total


# ---- claims --------------------------------------------------------------------------------------


def gradient_is_exact(results: Results) -> Verdict:
    """Exact: the estimator's mean over all trajectories is the gradient of the expected F."""
    togo = estimator_error("togo", 1.0, "return")
    prefix = estimator_error("prefix", 1.0, "myopic")
    wrong = estimator_error("prefix", 1.0, "return")
    right = togo < 1e-9 and prefix < 1e-9 and wrong > 1e-3
    return Verdict(
        claim="Gains to go give the gradient of the expected F; gains so far give the myopic one.",
        outcome="holds" if right else "fails",
        effect=togo,
        low=None,
        high=None,
        n=1,
        detail="exact: largest error of the estimator's mean over all 25 trajectories of a 2 x 2 "
        f"grid; prefix credit differs from the myopic gradient by {prefix:.1e}, and from the "
        f"gradient of F by {wrong:.2g}",
    )


def reaches(
    sentence: str, label: str, key: str, low: float, high: float = math.inf
) -> Callable[[Results], Verdict]:
    """A check that every seed of an arm ends between two numbers."""

    def check(results: Results) -> Verdict:
        x = results[label].final[key]
        inside = (x >= low) & (x <= high)
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"at least {low:g}"
        return Verdict(
            claim=sentence,
            outcome="holds" if inside.all() else "fails" if not inside.any() else "inconclusive",
            effect=float(x.mean()),
            low=float(x.min()),
            high=float(x.max()),
            n=len(x),
            detail=f"{key} of {label}, mean and range over seeds; every seed must be {bounds}",
        )

    return check


def markov_cannot_reach_the_optimum(results: Results) -> Verdict:
    """Exact: the best policy of place and time gets 1.5, the best with history 2."""
    gap = gymnasium.make_vec(GRAPH, num_envs=1, **GAP).unwrapped.func
    markov, history = best_markov(gap), dp_augmented(gap)
    right = abs(markov - 1.5) < 1e-12 and abs(history - 2.0) < 1e-12
    return Verdict(
        claim="Where a walk must remember its beginning the best Markov policy gets 1.5 of 2.",
        outcome="holds" if right else "fails",
        effect=history - markov,
        low=None,
        high=None,
        n=1,
        detail=f"exact: all time-indexed policies {markov:g}, backward induction {history:g}",
    )


def cost_grows_as_it_should(results: Results) -> Verdict:
    """A gain of coverage costs the same after any path, one of information at most O(h^2).

    Where reading the factor is what costs, on fast processors, it grows more slowly (1.5 on one).
    """
    final = results[COST].final
    flat, square = final["slope of coverage"], final["slope of information"]
    right = (np.abs(flat) < 0.2).all() and (square < 2.5).all()
    wrong = np.median(np.abs(flat)) > 0.2 or np.median(square) > 2.5
    return Verdict(
        claim="A gain of coverage costs the same after any path, one of information at most h "
        "squared.",
        outcome="holds" if right else "fails" if wrong else "inconclusive",
        effect=float(flat.mean()),
        low=float(flat.min()),
        high=float(flat.max()),
        n=len(flat),
        detail="slope of log time over log h, h from 128 to 512, mean and range over seeds, of "
        f"coverage; of information {square.mean():.2f} [{square.min():.2f}, {square.max():.2f}]; "
        "they must lie within .2 of 0 and below 2.5",
    )


# ---- pictures ------------------------------------------------------------------------------------


def draw_cost(figure: Any, results: Results) -> None:
    """Time of one gain over the elements added before."""
    ax = figure.subplots()
    saved = results.arrays(COST)
    names = {
        "coverage": "coverage, incremental",
        "information": "information, rank-one growth of a Cholesky factor",
        "determinant": "information, determinant anew",
    }
    for i, (key, name) in enumerate(names.items()):
        y = np.array([s[key] for s in saved]) * 1e6
        x = saved[0]["lengths"]
        ax.plot(x, np.median(y, 0), "o-", color=colour(i), label=name)
        ax.fill_between(x, y.min(0), y.max(0), color=colour(i), alpha=0.16, lw=0)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("elements added before")
    ax.set_ylabel("microseconds a gain")
    ax.legend(fontsize=8)


def draw_bandits(figure: Any, results: Results) -> None:
    """Shares of the optimum on all bandits."""
    ax = figure.subplots()
    saved = results.arrays(BANDITS)
    for i, (key, name) in enumerate({"greedy": "greedy", "learned": "SubPO-M"}.items()):
        shares = np.sort(np.concatenate([s[key] for s in saved]))
        ax.step(shares, np.arange(1, len(shares) + 1) / len(shares), color=colour(i), label=name)
    ax.axvline(NEMHAUSER, color="0.5", ls=":")
    ax.annotate("1 - 1/e", (NEMHAUSER, 0.5), xytext=(4, 0), textcoords="offset points")
    ax.set_xlabel("share of the optimum")
    ax.set_ylabel("share of bandits at or below")
    ax.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="submodular_theory",
    title="Submodular reinforcement learning where the optimum is known",
    paper="Prajapat, Mutný, Zeilinger, Krause (2024), Submodular reinforcement learning, ICLR",
    grid=[
        Measure(MARKOV, functools.partial(learn, obs="index")),
        Measure(HISTORY, functools.partial(learn, obs="history")),
        Measure(AUGMENTED, functools.partial(learn, obs="augmented")),
        Measure(MYOPIC, functools.partial(learn, obs="index", agent={"gamma": 0.0})),
        Measure(PREFIX, functools.partial(learn, obs="index", agent={"credit": "prefix"})),
        Measure(MODULAR, functools.partial(learn, obs="index", reward="modular_surrogate")),
        *(Measure(k, functools.partial(solve, how=k)) for k in (GREEDY, RANDOM, OPTIMUM)),
        Measure(BANDITS, bandits),
        Measure(COST, cost),
    ],
    budgets={
        "smoke": Budget(total_timesteps=10_000, num_envs=64, eval_episodes=256, seeds=2),
        "quick": Budget(total_timesteps=100_000, num_envs=256, eval_episodes=4_096, seeds=5),
        "full": Budget(total_timesteps=400_000, num_envs=256, eval_episodes=16_384, seeds=10),
    },
    claims=[
        Claim("The estimator is the gradient", gradient_is_exact),
        Claim(
            "SubPO looks ahead",
            reaches("On the chain SubPO-M finds the ten behind the zeros.", MARKOV, "chain", 9.9),
        ),
        Claim(
            "Without gains to go it is greedy",
            reaches(
                "With gamma = 0 it takes the three ones, as greedy does.", MYOPIC, "chain", 2.9, 3.1
            ),
        ),
        Claim(
            "Prefix credit is myopic",
            reaches("So it does with prefix credit.", PREFIX, "chain", 2.9, 3.1),
        ),
        Claim("Markov policies lose by the past", markov_cannot_reach_the_optimum),
        Claim(
            "SubPO-M reaches the best Markov policy",
            reaches("SubPO-M ends at 1.5 on the history gap.", MARKOV, "gap", 1.45, 1.55),
        ),
        Claim(
            "SubPO-NM reaches the optimum",
            reaches("SubPO-NM ends at 2 on the history gap.", HISTORY, "gap", 1.95),
        ),
        Claim(
            "The memory does as well as the history",
            reaches("Seeing the set function's memory is as good.", AUGMENTED, "gap", 1.95),
        ),
        Claim(
            "Greedy solves bandits to 1 - 1/e",
            reaches(
                "On all random bandits greedy reaches 1 - 1/e of the optimum.",
                BANDITS,
                "bandit, greedy",
                NEMHAUSER,
            ),
        ),
        Claim(
            "SubPO solves bandits to 1 - 1/e",
            reaches(
                "On all random bandits SubPO-M reaches 1 - 1/e of the optimum.",
                BANDITS,
                "bandit",
                NEMHAUSER,
            ),
        ),
        Claim("Gains are cheap", cost_grows_as_it_should),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "chain": "F on the chain",
        "gap": "F on the history gap",
    },
    figures=[
        Figure(
            "What a gain costs",
            "Time of one gain after a path of that length, median and range over seeds: flat for "
            "coverage, quadratic for information, against a determinant anew.",
            draw_cost,
            (7.0, 3.6),
        ),
        Figure(
            "Bandits",
            "How much of the optimum greedy and SubPO-M reach on all random bandits; the guarantee "
            "is the dotted line.",
            draw_bandits,
            (7.0, 3.2),
        ),
    ],
)
