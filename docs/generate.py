"""Write the generated pages: cards, gallery, zoo, tutorials, references, how to cite, speed.

``make docs`` runs this before the site is built. What a page says comes from docstrings and
registries: nothing is kept twice. Films and executed tutorials are kept in ``docs/.cache`` until a
source changes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import gallery
import gymnasium
import notebooks
import players
import speed
import verdicts
import zoo

import rewardzoo
from rewardzoo.experiment import Experiment
from rewardzoo.files import write_atomic
from rewardzoo.registration import (
    AGENTS,
    EXPERIMENTS,
    REWARDS,
    description_of,
    documented_class,
)

HERE = Path(__file__).parent
OUT = HERE / "generated"


# ---- docstrings ----------------------------------------------------------------------------------


def own_rewards() -> list[str]:
    """Names of the project's reward functions, without those of plugins that are loaded."""
    return [name for name in REWARDS if REWARDS[name].__module__.startswith("rewardzoo.")]


def first_line(docstring: str | None) -> str:
    """What a docstring says first, as Markdown."""
    return paragraphs((docstring or "").strip().partition("\n")[0])


def section(docstring: str | None, heading: str) -> str:
    """The text of ``Heading: text`` in one line, or nothing."""
    text = inspect.cleandoc(docstring or "")
    found = re.search(rf"^{heading}: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def paragraphs(docstring: str | None, level: str = "##") -> str:
    """A docstring as a page: ``Heading: text`` becomes a section, ``Args:`` a list.

    Its first line is what the thing is, and no section, whatever stands in it.
    """
    first, _, text = inspect.cleandoc(docstring or "").partition("\n")
    text = re.sub(r"(?:^ *>>> .*\n?(?:^ *\S.*\n?)*)+", _session, text, flags=re.MULTILINE)
    text = re.sub(r"^=+ +=+\n.*?^=+ +=+$", _table, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(
        r"^([A-Z][A-Za-z ]{2,24}):\s+(\S)",
        lambda found: f"\n{level} {found[1]}\n\n{found[2].upper()}",
        text,
        flags=re.MULTILINE,
    )
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", f"{first}\n{text}").strip()


def _session(found: re.Match[str]) -> str:
    """A doctest as a block of code."""
    return f"\n```pycon\n{inspect.cleandoc(found[0])}\n```\n"


def _table(found: re.Match[str]) -> str:
    """A simple table of reStructuredText, a row a line, as one of Markdown."""
    start = found[0].index(" ")
    rows: list[list[str]] = []
    for line in found[0].splitlines()[1:-1]:
        name, what = line[:start].strip(), line[start:].strip()
        if name:
            rows.append([name, what])
        else:
            rows[-1][1] += f" {what}"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {what} |" for name, what in rows)])


# ---- environments --------------------------------------------------------------------------------


def parameters(kind: type) -> str:
    """The fields of a Params dataclass with the strings that follow them in its source."""
    notes: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        tree = ast.parse(inspect.cleandoc(inspect.getsource(owner)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, note in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(note, ast.Expr)
                and isinstance(note.value, ast.Constant)
            ):
                notes[field.target.id] = " ".join(str(note.value.value).split())
    rows = [
        f"| `{f.name}` | `{f.default!r}` | {notes.get(f.name, '')} |"
        for f in dataclasses.fields(kind)
    ]
    if not rows:
        return ""
    return "\n".join(["## Parameters", "", "| name | default | meaning |", "|---|---|---|", *rows])


def env_card(page: str, ids: list[str]) -> str:
    """A page of one environment, or of several that share a class."""
    id = ids[0]
    env: Any = gymnasium.make(id).unwrapped
    func = getattr(env, "func", None)
    lines = [f"# {id if len(ids) == 1 else page}", "", first_line(documented_class(id).__doc__), ""]
    films = players.films(page, id)
    lines += ['<div class="gallery" markdown>', ""] if len(films) > 1 else []
    for film in films:
        name = gallery.name_of(film)
        shown = film.id.split("/")[1]
        lines += [
            "<figure markdown>",
            f"![{shown}: {film.caption}]({name})",
            f"<figcaption>{shown}: {film.caption}</figcaption>",
            "</figure>",
            "",
        ]
    lines += ["</div>", ""] if len(films) > 1 else []
    limit = gymnasium.spec(id).max_episode_steps
    lines += [
        "| | value |",
        "|---|---|",
        f"| make | `gymnasium.make({id!r})` |",
        f"| observation space | `{env.observation_space}` |".replace("\n", " "),
        f"| action space | `{env.action_space}` |",
        f"| truncated after | {limit} steps |" if limit else "| truncated | never |",
        "",
        paragraphs(documented_class(id).__doc__).partition("\n")[2],
        "",
        parameters(type(func.params)) if func else "",
        "",
    ]
    env.close()
    stories = sorted((HERE / "media").glob(f"{page}-*.gif"))
    if stories:
        lines += ["## Films", ""]
        lines += [f"![{s.stem.split('-')[1]}](../media/{s.name})\n" for s in stories]
    if len(ids) > 1:
        lines += ["## Ids", "", "| id | what it asks | truncated after |", "|---|---|---|"]
        lines += [
            f"| `{i}` | {description_of(i)} | {gymnasium.spec(i).max_episode_steps} steps |"
            for i in ids
        ]
    return "\n".join(lines)


def write_environments() -> None:
    """The cards and their index."""
    index = ["# Environments", "", "| environment | ids | what it is |", "|---|---|---|"]
    for page, ids in gallery.pages().items():
        write(f"{page}.md", env_card(page, ids))
        first = first_line(documented_class(ids[0]).__doc__)
        names = f"`{ids[0]}`" if len(ids) == 1 else f"`{ids[0]}` and {len(ids) - 1} more"
        index.append(f"| [{page}]({page}.md) | {names} | {first} |")
    write("environments.md", "\n".join(index))


# ---- reward functions, agents, experiments -------------------------------------------------------


def code(text: str) -> str:
    """As code, where there is any."""
    return f"`{text}`" if text else ""


def signature(kind: type) -> str:
    """What a class is called with, its annotations without the quotes of postponed ones."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(kind)))
    return text.removesuffix(" -> None")


def index_of(entries: Iterable[tuple[str, str]]) -> str:
    """A table of what a page holds."""
    rows = [f"| [`{name}`](#{name}) | {what} |" for name, what in entries]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def write_rewards() -> None:
    """Every reward function with its arguments."""
    _ = list(EXPERIMENTS)  # an experiment may bring its own
    chapters = [
        f"## {name} {{ #{name} }}\n\n`{name}{signature(REWARDS[name])}`\n\n"
        + paragraphs(REWARDS[name].__doc__, "####")
        + f"\n\n{where(REWARDS[name])}"
        for name in own_rewards()
    ]
    intro = (
        "A reward function is a name with arguments, in arithmetic with others: "
        '`--reward "objective + 0.1 * novelty()"`. Tables, functions and models are given in '
        "Python. [Which one to choose](../choosing.md)."
    )
    index = index_of((name, first_line(REWARDS[name].__doc__)) for name in own_rewards())
    write("rewards.md", "\n\n".join(["# Reward functions", intro, index, *chapters]))


def where(kind: type) -> str:
    """A link to a class in the API's pages."""
    room = ".".join(kind.__module__.split(".")[:2])
    return f"In the API: [`{kind.__name__}`](api/{room}.md#{kind.__module__}.{kind.__qualname__})."


def hyperparameters(kind: Any) -> str:
    """The table of an agent's hyperparameters."""
    rows = [
        f"| `{f.name}` | `{f.default!r}` | {f.metadata.get('help', '')} |"
        for f in dataclasses.fields(kind)
    ]
    return "\n".join(["| hyperparameter | default | meaning |", "|---|---|---|", *rows])


def write_agents() -> None:
    """Every agent with its hyperparameters, and whose algorithm it is."""
    chapters = [
        f"## {name} {{ #{name} }}\n\n"
        + paragraphs(AGENTS[name].__doc__).split("\n## ")[0].strip()
        + f"\n\nAlgorithm: {source_of(AGENTS[name])}\n\n{where(AGENTS[name])}\n\n"
        + hyperparameters(AGENTS[name].Hyperparameters)
        for name in AGENTS
    ]
    index = index_of((name, first_line(AGENTS[name].__doc__)) for name in AGENTS)
    write("agents.md", "\n\n".join(["# Agents", index, *chapters]))


def source_of(kind: type) -> str:
    """Whose idea a class is: its ``Paper``, or else the first paragraph of its module."""
    module = sys.modules[kind.__module__].__doc__
    paper = section(kind.__doc__, "Papers?") or section(module, "Papers?")
    return paper or first_line(inspect.cleandoc(module or "").partition("\n\n")[0])


def module_of(experiment: Experiment) -> ModuleType:
    """The module that made an experiment; its docstring says what is claimed and scaled down."""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("rewardzoo.experiments."):
            continue
        for value in vars(module).values():
            made = value.values() if isinstance(value, dict) else [value]  # several at once
            if any(each is experiment for each in made):
                return module
    return sys.modules["rewardzoo.experiments"]


def write_experiments() -> None:
    """Every experiment: what it asks, its arms, its claims, what was found, its budgets."""
    chapters, found = [], verdicts.found()
    for name in EXPERIMENTS:
        e = EXPERIMENTS[name]
        arms = "\n".join(
            f"| {a.label} | {code(a.env)} | {a.text} | {code(a.agent)} |" for a in e.grid
        )
        claims = "\n".join(f"- {claim.sentence}" for claim in e.claims)
        outcome = f"Claims that can come out false, not decided at `quick` yet:\n\n{claims}"
        if name in found:
            outcome = verdicts.chapter(*found[name])
        budgets = "\n".join(
            f"| `{budget}` | {b.total_timesteps:,} | {b.seeds} |" for budget, b in e.budgets.items()
        )
        about = paragraphs(module_of(e).__doc__).replace("\n## ", "\n#### ")
        chapters.append(
            f"## {name}: {e.title} {{ #{name} }}\n\n{about}\n\nPaper: {e.paper}\n\n"
            f"```bash\nrewardzoo run {name}\n```\n\n"
            f"| arm | environment | reward | agent |\n|---|---|---|---|\n{arms}\n\n"
            f"{outcome}\n\n"
            f"| budget | steps | seeds |\n|---|---|---|\n{budgets}"
        )
    index = index_of((name, EXPERIMENTS[name].title) for name in EXPERIMENTS)
    write("experiments.md", "\n\n".join(["# Experiments", index, *chapters]))


# ---- API, how to cite ----------------------------------------------------------------------------


def rooms() -> dict[str, list[str]]:
    """The public modules of every sub-package, and of the package itself, by their page."""
    found: dict[str, list[str]] = {"rewardzoo": []}
    for module in pkgutil.walk_packages(rewardzoo.__path__, "rewardzoo."):
        parts = module.name.split(".")
        if any(part.startswith("_") for part in parts):
            continue
        alone = len(parts) == 2 and not module.ispkg
        found.setdefault("rewardzoo" if alone else ".".join(parts[:2]), []).append(module.name)
    return found


def reference(module: str) -> str:
    """What mkdocstrings shows of a module; of a package its docstring, the rest is in its parts."""
    spec = find_spec(module)
    package = spec is not None and spec.submodule_search_locations is not None
    return f"::: {module}\n" + ("    options: {members: false}\n" if package else "")


def docstring_of(module: str) -> str | None:
    """Of a module, without importing it: some need an extra."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text()))


def write_api() -> None:
    """A page of the API for each room, and their index."""
    index = ["# API", "", "Every public module, by room.", ""]
    for room, modules in rooms().items():
        index += [f"## [{room}](api/{room}.md)", "", "| module | what it holds |", "|---|---|"]
        for name in modules:
            what = first_line(docstring_of(name)).replace("|", "\\|")
            index.append(f"| [`{name}`](api/{room}.md#{name}) | {what} |")
        index.append("")
        write(f"api/{room}.md", "\n\n".join([f"# {room}", *map(reference, modules)]))
    write("api.md", "\n".join(index))


def write_citations() -> None:
    """How to cite the project, and the paper of everything in it."""
    cff = (HERE.parent / "CITATION.cff").read_text()
    fields = dict(re.findall(r"^([\w-]+): (.+)$", cff, re.MULTILINE))
    authors = " and ".join(f"{{{name}}}" for name in re.findall(r"- name: (.+)", cff))
    lines = [
        "# How to cite",
        "",
        fields["message"],
        "",
        "```bibtex",
        "@software{rewardzoo,",
        f"  title = {{{fields['title']}}},",
        f"  author = {authors},".replace("{The", "{{The").replace("authors}", "authors}}"),
        f"  year = {{{fields['date-released'][:4]}}},",
        f"  version = {{{fields['version']}}},",
        f"  license = {{{fields['license']}}},",
        "}",
        "```",
        "",
        "The same is in `CITATION.cff`. What follows names the paper that each part comes from.",
        "",
    ]
    environments = {
        f"[{page}]({page}.md)": section(documented_class(ids[0]).__doc__, "Papers?")
        for page, ids in gallery.pages().items()
    }
    rewards = {
        f"[`{name}`](rewards.md#{name})": section(REWARDS[name].__doc__, "Papers?")
        for name in own_rewards()
    }
    agents = {f"[`{name}`](agents.md#{name})": source_of(AGENTS[name]) for name in AGENTS}
    experiments = {f"[`{n}`](experiments.md#{n})": EXPERIMENTS[n].paper for n in EXPERIMENTS}
    for heading, papers in (
        ("Environments", environments),
        ("Reward functions", rewards),
        ("Agents", agents),
        ("Experiments", experiments),
    ):
        lines += [f"## {heading}", "", "| | paper |", "|---|---|"]
        lines += [f"| {name} | {paper or 'this project'} |" for name, paper in papers.items()]
        lines.append("")
    write("cite.md", "\n".join(lines))


def write_contributing() -> None:
    """``CONTRIBUTING.md`` as a page of the site."""
    text = (HERE.parent / "CONTRIBUTING.md").read_text()
    write("contributing.md", text.replace("](docs/tutorials/", "](tutorials/"))


# ---- all of it -----------------------------------------------------------------------------------


def write(name: str, text: str) -> None:
    """Write one page."""
    write_atomic(OUT / name, text + "\n")


def main(slow: bool = True) -> None:
    """Write all pages anew; ``slow=False`` leaves out what is played or executed."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    write_environments()
    write_rewards()
    write_agents()
    write_experiments()
    write_api()
    write_citations()
    write_contributing()
    speed.write_speed(OUT)
    if slow:
        gallery.write_gallery(OUT)
        zoo.write_zoo(OUT / "zoo")
        notebooks.write_tutorials(OUT / "tutorials")


if __name__ == "__main__":
    main()
