"""Policies in folders of plain files, which can be read from anybody: none can execute code.

A folder holds::

    model.safetensors   the weights of the agent's network
    config.json         the recipe: environment, reward function, agent, settings, steps, seed
    metrics.json        how the policy played
    README.md           its model card

From a checkpoint training goes on; a policy only plays, and is a hundredth as large.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from ..checkpoint import CheckpointError, load_checkpoint
from ..files import write_atomic
from ..jobs import make_envs, provenance
from ..registration import AGENTS
from ..rewards.terminate import VectorTerminateTask
from ..rewards.wrappers import VectorRewardWrapper
from .cards import card

FORMAT = "rewardzoo-policy-1"
WEIGHTS, CONFIG, METRICS, CARD = "model.safetensors", "config.json", "metrics.json", "README.md"
SEED = 1_000_000  # of a score; far from every training seed


@dataclass(frozen=True)
class Recipe:
    """How a policy is trained.

    Args:
        env: id of the environment.
        reward: what the agent is paid, as ``make_reward`` reads it.
        agent: a registered agent.
        steps: of the environment, in all.
        num_envs: environments side by side.
        seed: of everything.
        settings: hyperparameters that are not the agent's defaults.
        title: one line about it.
    """

    env: str
    reward: str = "objective"
    agent: str = "ppo"
    steps: int = 100_000
    num_envs: int = 64
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def envs(
        self, num_envs: int | None = None, device: str = "cpu"
    ) -> VectorRewardWrapper | VectorTerminateTask:
        """Fresh environments that pay the reward; as many as in training by default."""
        return make_envs(self.env, self.reward, num_envs or self.num_envs, device)


def save_policy(
    folder: str | Path, agent: Any, recipe: Recipe, scores: Mapping[str, Tensor], load: str = ""
) -> None:
    """Write ``agent`` so that ``load_policy`` reads it.

    Args:
        folder: made if missing; its name is the policy's.
        agent: with a ``network``.
        recipe: by which it was trained; all hyperparameters are written, defaults too.
        scores: of ``score``, (E,) float32 by name.
        load: how its card says that it is loaded; default: ``load_policy`` of its folder.

    Raises:
        ValueError: for an agent that is no network.
    """
    check_savable(agent)
    folder = Path(folder)
    weights = tensor_bytes(
        {k: v.detach().cpu().contiguous() for k, v in agent.network.state_dict().items()}
    )
    config = {
        "format": FORMAT,
        **asdict(replace(recipe, settings=asdict(agent.hp))),
        "num_timesteps": agent.num_timesteps,
        "spaces": _spaces(agent.envs),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    metrics = {
        "episodes": len(scores["objective"]),
        "seed": SEED,
        "scores": {
            name: {"mean": float(x.double().mean()), "std": float(x.double().std(unbiased=False))}
            for name, x in scores.items()
        },
        # Sums of other lengths are rounded otherwise: weights depend on the number of threads.
        "provenance": {**provenance(str(agent.device)), "threads": torch.get_num_threads()},
    }
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / METRICS, json.dumps(metrics, indent=1) + "\n")
    write_atomic(folder / CARD, card(folder.resolve().name, config, metrics, load))
    # Last: a folder without it is none, so a cut-off one is never taken for a policy.
    write_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def read_policy(folder: str | Path) -> tuple[Recipe, dict[str, Any], dict[str, Any]]:
    """The recipe, the config and the metrics of a policy's folder.

    Raises:
        CheckpointError: if it is none.
    """
    folder = Path(folder)
    found = []
    for name in (CONFIG, METRICS):
        try:
            found.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"policy {str(folder)!r}: {name} cannot be read ({type(error).__name__}); expected "
                "a folder written by rewardzoo train --save"
            ) from None
    config, metrics = found
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"policy {str(folder)!r}: expected format {FORMAT!r} in {CONFIG}")
    keys = [f.name for f in fields(Recipe)]
    missing = [key for key in (*keys, "sha256", "spaces", "num_timesteps") if key not in config]
    if missing:
        raise CheckpointError(f"policy {str(folder)!r}: {CONFIG} lacks {', '.join(missing)}")
    module, separator, _ = config["env"].partition(":")
    if separator and module != "rewardzoo":  # Gymnasium would import it
        raise CheckpointError(
            f"policy {str(folder)!r}: its env {config['env']!r} names the module {module!r}, which "
            "making it would execute; if you trust it, import it and load_policy(folder, envs=...)"
        )
    return Recipe(**{key: config[key] for key in keys}), config, metrics


def load_policy(
    folder: str | Path,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any] | None = None,
    device: str = "cpu",
) -> Any:
    """The agent of a policy's folder: ``act``, ``predict`` and ``evaluate`` play as it was saved.

    Args:
        folder: of the policy.
        envs: whose spaces it is to play in; None makes those of its recipe.
        device: where it computes.

    Raises:
        CheckpointError: if the folder is no whole policy, or one for other spaces.
    """
    recipe, config, _ = read_policy(folder)
    file = Path(folder) / WEIGHTS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"policy {str(file)!r}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != config["sha256"]:
        raise CheckpointError(
            f"policy {str(file)!r}: it is damaged, or not the one that {CONFIG} is about (sha256); "
            "copy the folder again, or train it anew"
        )
    try:
        weights = read_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"policy {str(file)!r}: {error}") from None
    envs = recipe.envs(device=device) if envs is None else envs
    return _built(config, envs, device, weights, file)


def load_agent(path: str | Path, env: str, reward: str = "objective", device: str = "cpu") -> Any:
    """The agent of any checkpoint or policy folder, to play in ``env``.

    Args:
        path: a file that an agent's ``save`` wrote, or a policy's folder.
        env: id of the environment.
        reward: what it pays; some agents refuse another reward function than their own.
        device: where it computes.

    Raises:
        CheckpointError: for what is neither, or an agent of another environment.
    """
    if Path(path).is_dir():
        recipe, _, _ = read_policy(path)
        envs = make_envs(env, reward, recipe.num_envs, device)
        return load_policy(path, envs, device)
    content = load_checkpoint(path, None, device)
    kind = content["kind"]
    if kind not in AGENTS:
        raise CheckpointError(f"checkpoint {str(path)!r}: it is of {kind!r}, which is no agent")
    if "network" not in content:  # another library's, which knows how to load its own
        return AGENTS[kind].load(path, make_envs(env, reward, 1, device), device)
    # Some settings fit some numbers of environments only: as many as there were.
    num_envs = len(content["collector"]["memory"]) if "collector" in content else 1
    envs = make_envs(env, reward, num_envs, device)
    config = {**content, "agent": kind, "settings": content["hyperparameters"]}
    return _built(config, envs, device, content["network"], path)


def score(
    agent: Any, recipe: Recipe, episodes: int, num_envs: int, device: str = "cpu"
) -> dict[str, Tensor]:
    """``return``, ``objective`` and ``length`` of fresh episodes, (E,) float32 each."""
    envs = recipe.envs(num_envs, device)
    if hasattr(agent, "gamma"):
        envs.reward_function.match_gamma(agent.gamma)
    scores: dict[str, Tensor] = agent.evaluate(envs, episodes, seed=SEED)
    return scores


def check_savable(agent: Any) -> None:
    """Raise ValueError unless the agent plays by a network; ``agent`` may be its class."""
    if "network" not in getattr(agent, "parts", ()):
        raise ValueError(
            f"agent={agent.registered_name!r}: it has no network that a policy could be read from; "
            "keep its checkpoint"
        )


def _built(
    config: Mapping[str, Any],
    envs: Any,
    device: str,
    weights: Mapping[str, Tensor],
    path: str | Path,
) -> Any:
    """The agent that was saved.

    Raises:
        CheckpointError: if it is of another environment or another network.
    """
    if config["spaces"] != _spaces(envs):
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it was saved for {config['spaces']}, and this environment "
            f"has {_spaces(envs)}"
        )
    agent = AGENTS[config["agent"]](envs, seed=config["seed"], device=device, **config["settings"])
    try:
        agent.network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"checkpoint {str(path)!r}: {first}") from None
    agent.num_timesteps = config["num_timesteps"]
    return agent


def _spaces(envs: Any) -> str:
    return f"{envs.single_observation_space} and {envs.single_action_space}"
