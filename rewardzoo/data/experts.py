"""Who played the shipped demonstrations, and how to train them again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium

from ..callbacks import Evaluation
from ..demonstrations import gathered, record_episodes
from ..registration import AGENTS, check_env_id, nearest
from .trajectories import write_minari

_SHARED: dict[str, Any] = {"updates_per_step": 0.5, "batch_size": 100, "learning_rate": 1e-3}
_SMALL = {"actor_hidden": (64, 64), "critic_hidden": (64, 64)}
_MIDDLE = {"actor_hidden": (128, 128), "critic_hidden": (128, 128), "learning_starts": 5000}
EXPERTS: dict[str, tuple[int, dict[str, Any]]] = {
    "InvertedPendulum": (50_000, {**_SMALL, "learning_starts": 1000, "updates_per_step": 1.0}),
    "InvertedDoublePendulum": (60_000, {**_SMALL, "learning_starts": 2000}),
    "Hopper": (400_000, _MIDDLE),
}
"""Task to steps and what is not TD3's default; all on four environments, seed 0."""
_NUM_ENVS, _EVALUATIONS = 4, 20


def train_expert(
    name: str, out: Path, steps: int | None = None, episodes: int = 8, compile: bool = True
) -> str:
    """Train a shipped expert again and write its demonstrations.

    The policy that played best in one of twenty evaluations of four episodes is the expert.

    Args:
        name: of the task.
        out: folder of the data set, to be made.
        steps: of training; default: as many as for the shipped ones.
        episodes: recorded.
        compile: see ``TD3``.

    Returns:
        What was recorded, in one line.

    Raises:
        ValueError: for a name without settings.
    """
    if name not in EXPERTS:
        raise ValueError(f"expert {name!r} is unknown: {nearest(name, EXPERTS)}")
    usual, settings = EXPERTS[name]
    env, kind = f"rewardzoo/{name}-v0", AGENTS["td3"]
    check_env_id(env)
    total = steps or usual
    envs, test = (gymnasium.make_vec(env, num_envs=_NUM_ENVS) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.pt"
        evaluation = Evaluation(test, max(1, total // _EVALUATIONS), 4, best=best)
        agent = kind(envs, seed=0, compile=compile, **{**_SHARED, **settings})
        agent.learn(total, callback=evaluation, progress_bar=True)
        if best.is_file():
            agent = kind.load(best, env=envs)
    return record(agent, env, out, episodes, 0)


def record(agent: Any, env: str, out: Path, episodes: int, seed: int) -> str:
    """Write episodes of an agent's preferred actions as a Minari data set.

    Args:
        agent: a trained one of this project.
        env: id of the environment.
        out: folder of the data set, to be made.
        episodes: how many.
        seed: of the first episode.

    Returns:
        What was recorded, in one line.
    """
    made = gymnasium.make(env)
    played = record_episodes(agent, made, episodes, seed)
    made.close()  # type: ignore[no-untyped-call]
    returns = gathered(played, str(out)).returns
    facts = (
        f"{episodes} episodes of {env}, the preferred actions of {agent.registered_name} "
        f"(seed {agent.seed}) after {agent.num_timesteps} steps, seeds {seed} to "
        f"{seed + episodes - 1}; return {returns.mean():.1f}, from {returns.min():.1f} to "
        f"{returns.max():.1f}"
    )
    write_minari(out, played, env, agent.registered_name, facts)
    return facts
