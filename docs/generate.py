"""Write the generated pages: a card for every environment, reward function, agent and experiment.

``make docs`` runs this before the site is built. Cards are the docstrings: nothing is kept twice.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium
from PIL import Image

import rewardzoo  # noqa: F401
from rewardzoo.registration import (
    AGENTS,
    EXPERIMENTS,
    REWARDS,
    documented_class,
    env_ids,
    functional_ids,
)

HERE = Path(__file__).parent
OUT = HERE / "generated"


def paragraphs(docstring: str | None) -> str:
    """A docstring as a page: ``Heading: text`` becomes a section, ``Args:`` a list.

    Its first line is what the thing is, and no section, whatever stands in it.
    """
    first, _, text = inspect.cleandoc(docstring or "").partition("\n")
    text = re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(
        r"^([A-Z][A-Za-z ]{2,24}):\s+(\S)",
        lambda found: f"\n## {found[1]}\n\n{found[2].upper()}",
        text,
        flags=re.MULTILINE,
    )
    return re.sub(r"``([^`]+)``", r"`\1`", f"{first}\n{text}")


def parameters(kind: type) -> str:
    """The fields of a Params dataclass with the strings that follow them in its source."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(kind)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    notes: dict[str, str] = {}
    for field, note in zip(body, body[1:], strict=False):
        documented = isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and documented:
            notes[field.target.id] = " ".join(str(note.value.value).split())
    rows = [
        f"| `{f.name}` | `{f.default!r}` | {notes.get(f.name, '')} |"
        for f in dataclasses.fields(kind)
    ]
    if not rows:
        return ""
    return "\n".join(["## Parameters", "", "| name | default | meaning |", "|---|---|---|", *rows])


def picture(id: str) -> Image.Image | None:
    """A frame after a few random steps, or None where there is nothing to draw."""
    env: Any = gymnasium.make(id, render_mode="rgb_array")
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(4):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return Image.fromarray(env.render())


def page_of(id: str) -> str:
    """The page of an environment; those that share a simulator's class share a page."""
    if id in functional_ids():
        return id.split("/")[1]
    return documented_class(id).__name__.removesuffix("Env")


def env_card(page: str, ids: list[str]) -> str:
    """A page of one environment, or of several that share a class; writes its picture beside it."""
    id = ids[0]
    env: Any = gymnasium.make(id).unwrapped
    func = getattr(env, "func", None)
    lines = [f"# {id if len(ids) == 1 else page}", ""]
    if "rgb_array" in env.metadata["render_modes"]:
        image = picture(id)
        if image is not None:
            image.save(OUT / f"{page}.png")
            lines += [f"![{page} after a few random steps]({page}.png)", ""]
    lines += [
        "| | value |",
        "|---|---|",
        f"| make | `gymnasium.make({id!r})` |",
        f"| observation space | `{env.observation_space}` |".replace("\n", " "),
        f"| action space | `{env.action_space}` |",
        f"| truncated after | {gymnasium.spec(id).max_episode_steps} steps |",
        "",
        paragraphs(documented_class(id).__doc__),
        "",
        parameters(type(func.params)) if func else "",
        "",
    ]
    env.close()
    films = sorted((HERE / "media").glob(f"{page}-*.gif"))
    if films:
        lines += ["## Films", ""]
        lines += [f"![{film.stem.split('-')[1]}](../media/{film.name})\n" for film in films]
    if len(ids) > 1:
        lines += ["## Ids", "", "| id | truncated after |", "|---|---|"]
        lines += [f"| `{i}` | {gymnasium.spec(i).max_episode_steps} steps |" for i in ids]
    return "\n".join(lines)


def code(text: str) -> str:
    """As code, where there is any."""
    return f"`{text}`" if text else ""


def signature(kind: type) -> str:
    """What a class is called with, its annotations without the quotes of postponed ones."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(kind)))
    return text.removesuffix(" -> None")


def hyperparameters(kind: Any) -> str:
    """The table of an agent's hyperparameters."""
    rows = [
        f"| `{f.name}` | `{f.default!r}` | {f.metadata.get('help', '')} |"
        for f in dataclasses.fields(kind)
    ]
    return "\n".join(["| hyperparameter | default | meaning |", "|---|---|---|", *rows])


def write(name: str, text: str) -> None:
    """Write one page."""
    (OUT / name).write_text(text + "\n")


def main() -> None:
    """Write all pages anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    pages: dict[str, list[str]] = {}
    for id in env_ids():
        pages.setdefault(page_of(id), []).append(id)
    index = ["# Environments", "", "| environment | ids | what it is |", "|---|---|---|"]
    for page, ids in pages.items():
        write(f"{page}.md", env_card(page, ids))
        first = paragraphs(documented_class(ids[0]).__doc__).splitlines()[0]
        names = f"`{ids[0]}`" if len(ids) == 1 else f"`{ids[0]}` and {len(ids) - 1} more"
        index.append(f"| [{page}]({page}.md) | {names} | {first} |")
    write("environments.md", "\n".join(index))
    _ = list(EXPERIMENTS)
    rewards = [
        f"## {name}\n\n`{name}{signature(REWARDS[name])}`\n\n"
        + paragraphs(REWARDS[name].__doc__).replace("\n## ", "\n### ")
        for name in REWARDS
    ]
    write("rewards.md", "\n\n".join(["# Reward functions", *rewards]))
    agents = [
        f"## {name}\n\n{paragraphs(AGENTS[name].__doc__).split(chr(10) + '## ')[0]}\n\n"
        + hyperparameters(AGENTS[name].Hyperparameters)
        for name in AGENTS
    ]
    write("agents.md", "\n\n".join(["# Agents", *agents]))
    chapters = ["# Experiments"]
    for name in EXPERIMENTS:
        e = EXPERIMENTS[name]
        arms = "\n".join(
            f"| {a.label} | {code(a.env)} | {a.text} | {code(a.agent)} |" for a in e.grid
        )
        claims = "\n".join(f"- {claim.sentence}" for claim in e.claims)
        chapters.append(
            f"## {name}: {e.title}\n\nPaper: {e.paper}\n\n```bash\nrewardzoo run {name}\n```\n\n"
            f"| arm | environment | reward | agent |\n|---|---|---|---|\n{arms}\n\n"
            f"Claims that can come out false:\n\n{claims}"
        )
    write("experiments.md", "\n\n".join(chapters))


if __name__ == "__main__":
    main()
