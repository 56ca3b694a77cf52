"""Base policies from what there is: an agent, a saved one, demonstrations of somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rewardzoo.base_policy import BasePolicy, check_actions
from rewardzoo.checkpoint import CheckpointError, load_checkpoint
from rewardzoo.demonstrations import Demonstrations, load_demonstrations
from rewardzoo.registration import AGENTS
from rewardzoo.transition import to_numpy, to_torch

from .distributions import Categorical
from .policy import PolicyAgent


def base_of(given: Any, envs: Any, device: torch.device) -> BasePolicy | Demonstrations:
    """A base policy, or its demonstrations.

    Args:
        given: a policy (a function of observations), an agent, demonstrations, or the name of a
            saved agent (a checkpoint, ``.pt``, or a policy's folder) or of demonstrations (see
            ``load_demonstrations``).
        envs: where it is to act.
        device: where it computes.

    Raises:
        TypeError: for anything else.
        ValueError: naming both sides, if it is of an environment with other spaces.
    """
    if isinstance(given, (str, Path)):
        path = Path(given)
        if path.suffix == ".pt" or (path / "config.json").is_file():
            given = _saved(path, envs, device)
        else:
            given = load_demonstrations(given)
    if isinstance(given, Demonstrations):
        given.check(envs.single_observation_space, envs.single_action_space)
        return given
    if hasattr(given, "predict"):
        return policy_of_agent(given, envs)
    if not callable(given):
        raise TypeError(
            "base_policy: expected a function of observations, an agent, demonstrations or the "
            f"name of saved ones, got {type(given).__name__}"
        )
    policy: BasePolicy = given
    return policy


def policy_of_agent(agent: Any, envs: Any) -> BasePolicy:
    """The policy of an agent, as a function of observations.

    Its probabilities where it has any; those of its preferred action, 1, where it chooses one of
    Discrete actions without; its actions, noise included, in a Box.

    Args:
        agent: with ``predict``, and without memory.
        envs: where it is to act.

    Raises:
        ValueError: for an agent with memory, or one of an environment with another action space.
    """
    space = envs.single_action_space
    check_actions(space)
    own = getattr(getattr(agent, "envs", None), "single_action_space", space)
    if own != space:
        raise ValueError(
            f"base_policy: it acts in {own}, and the environment's action_space is {space}"
        )
    if getattr(getattr(agent, "network", None), "memory_size", 0):
        raise ValueError("base_policy: an agent with memory, expected one without (recurrent=None)")

    def act(obs: Any) -> Tensor:
        if not isinstance(space, spaces.Discrete):
            return to_torch(agent.predict(to_numpy(obs))[0])  # type: ignore[no-any-return]
        if isinstance(agent, PolicyAgent) and isinstance(agent.distribution, Categorical):
            return agent.outputs(obs).softmax(-1)
        chosen = to_torch(agent.predict(to_numpy(obs), deterministic=True)[0]).to(torch.int64)
        return nn.functional.one_hot(chosen - int(space.start), int(space.n)).to(torch.float32)

    return act


class _Room(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Spaces without dynamics: what an agent that only plays is built on.

    The environments themselves would take its discount for their reward function's.
    """

    def __init__(self, envs: Any, num_envs: int, device: torch.device) -> None:
        self.metadata, self.num_envs, self.device = envs.metadata, num_envs, device
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.observation_space = gymnasium.vector.utils.batch_space(
            envs.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(envs.single_action_space, num_envs)


def _saved(path: Path, envs: Any, device: torch.device) -> Any:
    """The agent of a checkpoint or of a policy's folder, to play in these environments."""
    from rewardzoo.zoo.policies import load_policy, read_policy

    if path.is_dir():
        recipe, _, _ = read_policy(path)
        return load_policy(path, _Room(envs, recipe.num_envs, device), str(device))
    content = load_checkpoint(path, None, device)
    if content["kind"] not in AGENTS or "network" not in content:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it is of {content['kind']!r}, expected one of an agent of "
            "this project (give another library's agent itself)"
        )
    # Some settings fit some numbers of environments only: as many as there were.
    rows = len(content["collector"]["memory"]) if "collector" in content else envs.num_envs
    room = _Room(envs, rows, device)
    here = f"{room.single_observation_space} and {room.single_action_space}"
    if content["spaces"] != here:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it was saved for {content['spaces']}, and this environment "
            f"has {here}"
        )
    settings = {k: v for k, v in content["hyperparameters"].items() if k != "base"}
    agent = AGENTS[content["kind"]](room, seed=content["seed"], device=device, **settings)
    agent.network.load_state_dict(content["network"])
    return agent
