"""The pages of the zoo: every trained agent's model card, and their index with a film of each.

What they say comes from the folders of ``rewardzoo/zoo/trained``: nothing is kept twice.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gallery
import players
from players import Act, Film
from stored import stored

from rewardzoo.files import write_atomic
from rewardzoo.registration import REWARDS
from rewardzoo.zoo import load, names, read_policy, recipe
from rewardzoo.zoo.manifest import TRAINED
from rewardzoo.zoo.policies import CARD

INTRO = """# Zoo of trained agents

Small policies that come with the package: to play with, to test against, and to see what a hacked
reward function does. Each is one training run of one seed, no measure of its algorithm.

```python
import rewardzoo.zoo

agent = rewardzoo.zoo.load("{name}")
```

`agent.predict(observation, deterministic=True)` gives an action and the policy's memory,
`agent.evaluate(envs, 100)` plays episodes. In the terminal:

```bash
rewardzoo zoo list
rewardzoo zoo play {name}  # as text
rewardzoo zoo play {name} --out film.gif
rewardzoo zoo evaluate {name}  # fresh episodes beside what the card says
rewardzoo zoo train  # all of them again, into runs/zoo
```

On the hardware and versions that a card names, training ends with the same weights, bit for bit.
`rewardzoo train --save DIR` makes such a folder of your own agent, with its card in the form that
the Hugging Face hub reads.
"""
SCORES = """## How they play

Mean ± standard error over fresh episodes with the most likely action. *Return* is what the agent
was paid, in the units of its reward function; *objective* is what the environment's designer meant.
A hacked reward function pays well for an objective below that of other agents on the same
environment.
"""


def by_policy(name: str) -> Any:
    """A player that does what a policy of the zoo finds most likely."""

    def player(env: Any) -> Act:
        agent, state = load(name), None

        def act(obs: Any) -> Any:
            nonlocal state
            action, state = agent.predict(obs, state, deterministic=True)
            return action

        return act

    return player


def film_of(name: str) -> bytes:
    """The policy's first episode as an animation, from the store if it is there."""
    made, config, _ = read_policy(TRAINED / name)
    key = config["sha256"] + Path(gallery.__file__).read_text() + Path(players.__file__).read_text()
    film = Film(made.env, name, by_policy(name))
    return stored(f"zoo-{name}.gif", key, lambda: gallery.gif(*gallery.play(film)))


def line(name: str) -> str:
    """A policy's row of the table."""
    made, _, metrics = read_policy(TRAINED / name)
    scores = [
        f"{x['mean']:.4g} ± {x['std'] / math.sqrt(metrics['episodes']):.2g}"
        for x in (metrics["scores"][key] for key in ("return", "objective"))
    ]
    env = f"[{made.env.split('/')[1]}](../{gallery.page_of(made.env)}.md)"
    agent = f"[`{made.agent}`](../agents.md#{made.agent})"
    reward = f"`{made.reward}`"
    if made.reward in REWARDS:
        reward = f"[{reward}](../rewards.md#{made.reward})"
    cells = [f"[{name}]({name}.md)", env, reward, agent, *scores]
    return f"| {' | '.join(cells)} |"


def card(name: str) -> str:
    """A policy's model card below its film, without the block that only the hub reads."""
    text = (TRAINED / name / CARD).read_text(encoding="utf-8").split("---\n", 2)[2]
    heading, _, rest = text.strip().partition("\n")
    return f"{heading}\n\n![An episode of {name}](zoo-{name}.gif)\n{rest}\n"


def write_zoo(out: Path) -> None:
    """Write a page and a film of each policy, and their index."""
    films = []
    for name in names():
        write_atomic(out / f"zoo-{name}.gif", film_of(name))
        write_atomic(out / f"{name}.md", card(name))
        films += [
            "<figure markdown>",
            f"[![An episode of {name}](zoo-{name}.gif)]({name}.md)",
            f"<figcaption markdown>[{name}]({name}.md): {recipe(name).title}</figcaption>",
            "</figure>",
            "",
        ]
    head = (
        "| policy | environment | paid by | agent | return | objective |\n|---|---|---|---|---|---|"
    )
    lines = [
        INTRO.format(name=min(names(), key=len)),
        '<div class="gallery" markdown>',
        "",
        *films,
        "</div>",
        "",
        SCORES,
        head,
        *map(line, names()),
        "",
    ]
    write_atomic(out / "index.md", "\n".join(lines))
