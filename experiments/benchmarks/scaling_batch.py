"""What a row costs, as the batch grows: reward functions, PPO, sampling of a language model.

A call costs its overhead in all and its arithmetic a row, so that a row becomes cheaper until
arithmetic rules. On one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import torch
from gymnasium import spaces

from rewardzoo.agents.ppo import PPO
from rewardzoo.rewards.adversarial import AdversarialReward
from rewardzoo.rewards.base import RewardFunction, Spaces
from rewardzoo.rewards.potential import Potential
from rewardzoo.rewards.reward_machine import RewardMachine
from rewardzoo.transition import Transition

from . import rlhf
from .env_step import ID
from .timing import Point, Row, cheaper, interleave, inverse, missing, one_thread, seconds_per_call

ROWS = (1, 8, 64, 512, 4096)
NUM_ENVS = (1, 8, 64, 512)
PROMPTS = (1, 8, 64, 512)
BUDGET = 0.1  # s, of a reading
ERRAND = "0\n[2]\n(0, 1, 'a', 0)\n(1, 2, 'b', 1)"


def run(say: Callable[[str], None]) -> list[Row]:
    """No bar: three curves."""
    with one_thread():
        return [*_rewards(say), *_ppo(say), *_sampling(say)]


def _rewards(say: Callable[[str], None]) -> list[Row]:
    """Reward functions on made-up transitions: no environment is timed."""
    found = []
    for rows in ROWS:
        say(f"reward functions, {rows} transitions")
        t = _transition(rows)
        found.append(
            {
                name: _share(_paying(fn, t), rows)
                for name, fn in {
                    "potential": Potential(lambda obs: obs[:, 2].abs(), 0.99),
                    "reward machine": RewardMachine(ERRAND, lambda t: t.next_obs[:, :2] > 1.0),
                    "discriminator of 100 × 100": AdversarialReward("InvertedPendulum", gamma=0.99),
                }.items()
            }
        )
    return _curve("The reward of a transition", "transitions", ROWS, found)


def _transition(rows: int) -> Transition:
    """Observations of four numbers, actions of one, no end of an episode."""
    g = torch.Generator().manual_seed(0)
    no = torch.zeros(rows, dtype=torch.bool)
    return Transition(
        obs=torch.randn(rows, 4, generator=g),
        action=torch.randn(rows, 1, generator=g),
        next_obs=torch.randn(rows, 4, generator=g),
        reward=torch.zeros(rows),
        terminated=no,
        truncated=no,
        valid=~no,
        episode_step=torch.ones(rows, dtype=torch.int64),
        info={},
    )


def _paying(fn: RewardFunction, t: Transition) -> Callable[[], Any]:
    """One call, without gradients, as in a rollout."""
    boxes = spaces.Box(-9.0, 9.0, (4,)), spaces.Box(-9.0, 9.0, (1,))
    fn.bind(len(t.reward), torch.device("cpu"), Spaces(*boxes))
    fn.reset(t.valid, t.obs)

    @torch.no_grad()
    def pay() -> Any:
        return fn(t)

    return pay


def _ppo(say: Callable[[str], None]) -> list[Row]:
    """The two halves of an iteration of PPO on CartPole, with the defaults of its settings."""
    found = []
    for num_envs in NUM_ENVS:
        say(f"PPO, {num_envs} environments")
        agent = PPO(gymnasium.make_vec(ID, num_envs=num_envs))
        batch = agent.prepare(agent.collect()[0])
        rows = len(batch.logp)
        found.append(
            {
                "learning from it": _share(partial(agent.update, batch), rows),
                "playing it": _share(agent.collect, rows),
            }
        )
    steps = PPO.Hyperparameters().num_steps
    sizes = tuple(n * steps for n in NUM_ENVS)
    return _curve("A transition of CartPole in PPO", "transitions in a rollout", sizes, found)


def _sampling(say: Callable[[str], None]) -> list[Row]:
    """Tokens of the small models that ``rlhf`` compares."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        return [missing("A sampled token", 'needs pip install "rewardzoo[rlhf]"')]
    say(f"sampling for {', '.join(map(str, PROMPTS))} prompts")
    found = [
        # Completions end by chance, so that a few of them are no measure.
        {name: inverse(rate) for name, rate in rlhf.samplers(count, -(-64 // count)).items()}
        for count in PROMPTS
    ]
    return _curve("A sampled token", "prompts", PROMPTS, found)


def _curve(
    title: str,
    along: str,
    sizes: tuple[int, ...],
    contenders: list[dict[str, Callable[[], float]]],
) -> list[Row]:
    """A row a size; its result is how much cheaper the first contender is than at the first."""
    for at_size in contenders:
        for read in at_size.values():
            read()  # warm
    names = list(contenders[0])
    readings = interleave(
        {f"{i} {name}": contenders[i][name] for i in range(len(sizes)) for name in names}
    )
    first = readings[f"0 {names[0]}"]
    return [
        cheaper(
            Point(title, along, size),
            {name: readings[f"{i} {name}"] for name in names},
            first,
            f"{names[0]}, against {sizes[0]:,}; one thread",
        )
        for i, size in enumerate(sizes)
    ]


def _share(call: Callable[[], Any], rows: int) -> Callable[[], float]:
    """A reading: seconds a row."""
    seconds = seconds_per_call(call, BUDGET)
    return lambda: seconds() / rows
