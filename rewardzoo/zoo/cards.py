"""Model cards of policies, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..registration import AGENTS

_TEXT = """\
# {name}

{title}

| | |
|---|---|
| environment | `{env}` |
| paid by | `{reward}` |
| agent | `{agent}`, {num_timesteps:,} steps, seed {seed} |

## How it plays

Mean and standard deviation of {episodes} episodes with the most likely action. *Objective* is what
the environment's designer meant; *return* is what the agent was paid. Where the two go apart, the
reward function was hacked.

| | mean | standard deviation |
|---|---|---|
{rows}

One training run of one seed: an example to play with and to test against, no measure of the
algorithm. Experiments with several seeds and intervals are run by `rewardzoo run`.

## Use

```python
import gymnasium
import rewardzoo.zoo

agent = rewardzoo.zoo.{load}
env = gymnasium.make("{env}")
observation, info = env.reset(seed=0)
action, memory = agent.predict(observation, deterministic=True)
```

Nothing in the folder can execute code: the weights are safetensors, the rest is JSON and text.

## Train it again

```
{command}
```

On the hardware and versions below, with as many threads, it ends with the same weights, bit for
bit: sha256 `{sha256}`.

{provenance}

Settings: {settings}
"""


def card(name: str, config: Mapping[str, Any], metrics: Mapping[str, Any], load: str = "") -> str:
    """The text of ``README.md``.

    Args:
        name: of the policy.
        load: how ``rewardzoo.zoo`` loads it; default: from a folder of its name.
        config: of ``config.json``.
        metrics: of ``metrics.json``.
    """
    scores = metrics["scores"]
    rows = (f"| {k} | {v['mean']:.4g} | {v['std']:.4g} |" for k, v in scores.items())
    provenance = (f"- {k}: {v}" for k, v in metrics["provenance"].items())
    text = _TEXT.format(
        **{
            **config,
            "name": name,
            "title": config["title"] or f"`{config['agent']}` on `{config['env']}`.",
            "episodes": metrics["episodes"],
            "rows": "\n".join(rows),
            "provenance": "\n".join(provenance),
            "load": load or f"load_policy({json.dumps(name)})  # its folder",
            "command": _command(config, metrics["provenance"]["threads"]),
            "settings": ", ".join(f"`{k}={json.dumps(v)}`" for k, v in config["settings"].items()),
        }
    )
    return f"---\n{_metadata(name, config, metrics)}---\n\n{text}"


def _metadata(name: str, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The block that the hub reads: YAML, of which JSON strings are a part."""
    env = config["env"].split("/")[-1]
    tags = ["reinforcement-learning", "deep-reinforcement-learning", config["agent"], env]
    results = (
        f"      - type: {kind}\n        name: {kind}\n"
        f"        value: {json.dumps(_value(metrics['scores'][key]))}\n"
        "        verified: false\n"
        for kind, key in (("mean_reward", "return"), ("mean_objective", "objective"))
    )
    return (
        "library_name: rewardzoo\nlicense: mit\ntags:\n"
        + "".join(f"  - {json.dumps(tag)}\n" for tag in tags)
        + f"model-index:\n  - name: {json.dumps(name)}\n    results:\n"
        "    - task:\n        type: reinforcement-learning\n        name: reinforcement-learning\n"
        f"      dataset:\n        name: {json.dumps(config['env'])}\n"
        f"        type: {json.dumps(config['env'])}\n      metrics:\n" + "".join(results)
    )


def _value(score: Mapping[str, float]) -> str:
    return f"{score['mean']:.2f} +/- {score['std']:.2f}"


def _command(config: Mapping[str, Any], threads: int) -> str:
    """What ``rewardzoo train`` needs to train it again."""
    parts = [f"OMP_NUM_THREADS={threads} rewardzoo train --env {config['env']}"]
    parts.append(f"--reward '{config['reward']}' --agent {config['agent']}")
    parts.append(
        f"--steps {config['steps']} --num-envs {config['num_envs']} --seed {config['seed']}"
    )
    parts += [f"--set '{k}={json.dumps(v)}'" for k, v in _unusual(config).items()]
    return " \\\n    ".join([*parts, "--save DIR"])


def _unusual(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the agent's defaults."""
    usual = {f.name: f.default for f in fields(AGENTS[config["agent"]].Hyperparameters)}
    return {
        k: v
        for k, v in config["settings"].items()
        if (tuple(v) if isinstance(v, list) else v) != usual[k]
    }
