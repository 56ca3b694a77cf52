"""PPO on CartPole against Stable-Baselines3, a CleanRL-style file and a compiled JAX program.

Equal everywhere: separate actor and critic of 2 x 64 tanh units, 128 steps, 4 epochs of 4
minibatches, Adam 2.5e-4, gamma .99, lambda .95, no entropy bonus. Every repeat trains each
contender afresh from a seed of its own and compares both speed and the return that it reached.
Compilation and the first iteration are not timed.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

from . import contenders
from .contenders import NUM_STEPS, Contender
from .timing import Row, cores, missing, ratio

SEEDS = (11, 12, 13)
# (N, iterations, torch threads or 0 for all cores, {peer: its bar})
SETTINGS = (
    (8, 32, 1, {"stable_baselines3": 3.0, "jax_ppo": 1.0}),
    (64, 16, 1, {"cleanrl_style": 3.0, "jax_ppo": 1.0}),
    (2048, 2, 0, {"jax_ppo": 1.3}),
)
NEEDS = {"stable_baselines3": "stable_baselines3", "jax_ppo": "gymnax"}
OURS = ("rewardzoo", "rewardzoo_compiled")


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 3 x Stable-Baselines3 at N=8, 3 x CleanRL at N=64, 1.3 x JAX at N=2,048."""
    rows: list[Row] = []
    for num_envs, iterations, threads, bars in SETTINGS:
        rows += _setting(num_envs, iterations, threads or cores(), bars, say)
    return rows


def _setting(
    num_envs: int,
    iterations: int,
    threads: int,
    bars: dict[str, float],
    say: Callable[[str], None],
) -> list[Row]:
    steps = iterations * NUM_STEPS * num_envs
    rates, returns, failed = measure([*OURS, *bars], num_envs, iterations, threads, say)
    rows = []
    for ours in OURS:  # both face the bar: taking the better of two noisy readings would flatter
        if ours not in rates:
            rows.append(missing(f"PPO env steps/s, N={num_envs}, {ours}", failed[ours]))
            continue
        for peer, bar in bars.items():
            name = f"PPO env steps/s, N={num_envs}, {ours} vs {peer}"
            if peer not in rates:
                rows.append(missing(name, failed[peer]))
                continue
            note = (
                f"{steps:,} steps, {len(SEEDS)} seeds, torch threads {threads}; mean return "
                f"{statistics.mean(returns[ours]):.0f} vs {statistics.mean(returns[peer]):.0f}"
            )
            found: Any = {k: returns[k] for k in (ours, peer)}
            rows.append(
                ratio(
                    name,
                    rates,
                    "steps/s",
                    ours,
                    peer,
                    bar=bar,
                    note=note,
                    extra={"returns": found},
                )
            )
    return rows


def measure(
    names: list[str],
    num_envs: int,
    iterations: int,
    threads: int,
    say: Callable[[str], None],
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, str]]:
    """Steps per second and returns of each contender, one a seed, and why some have none."""
    rates: dict[str, list[float]] = {}
    returns: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    open_: dict[str, Contender] = {}
    for name in names:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            failed[name] = 'needs pip install "rewardzoo[bench]"'
            continue
        open_[name] = Contender(getattr(contenders, name), num_envs, threads)
    try:
        for seed in SEEDS:
            for name in list(open_):
                try:
                    seconds, ep_return = open_[name].train(seed, iterations)
                except (RuntimeError, EOFError) as error:
                    failed[name] = str(error).splitlines()[0] if str(error) else "it died"
                    open_.pop(name).close()
                    rates.pop(name, None)
                    continue
                rate = iterations * NUM_STEPS * num_envs / seconds
                rates.setdefault(name, []).append(rate)
                returns.setdefault(name, []).append(ep_return)
                say(f"N={num_envs} seed {seed} {name}: {rate:,.0f} steps/s, return {ep_return:.0f}")
    finally:
        for contender in open_.values():
            contender.close()
    return rates, returns, failed
