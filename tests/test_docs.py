"""Every block of the README, the guides and the tutorials runs; every page is made; links lead on."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import typer

from rewardzoo.cli import app
from rewardzoo.registration import AGENTS, EXPERIMENTS, REWARDS, check_env_id, env_ids
from rewardzoo.rewards import RewardFunction

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", DOCS / "index.md", *TUTORIALS]
BUDGET = re.compile(r"^(STEPS|UPDATES) = ([\d_]+)|^SEEDS = (\(.*\))", re.MULTILINE)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is forgotten after it."""
    _ = list(REWARDS), list(AGENTS), list(EXPERIMENTS)  # an experiment may bring rewards
    for registry in (REWARDS, AGENTS, EXPERIMENTS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The generated pages, with nothing played and no tutorial executed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        generate, gallery, zoo = (
            importlib.import_module(n) for n in ("generate", "gallery", "zoo")
        )
        out = tmp_path_factory.mktemp("docs") / "generated"
        patch.setattr(generate, "OUT", out)
        for room in (gallery, zoo):
            patch.setattr(room, "film_of", lambda film: b"GIF89a")
        plugins = type("Plugins", (RewardFunction,), {"__module__": "rewardzoo_plugin_mine"})
        patch.setitem(generate.REWARDS._entries, "of_a_plugin", plugins)  # which no page may name
        generate.main(slow=False)
        gallery.write_gallery(out)
        zoo.write_zoo(out / "zoo")
        yield out


# ---- blocks --------------------------------------------------------------------------------------


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [BUDGET.sub(smaller, block) for block in found]


def smaller(line: re.Match[str]) -> str:
    """A tutorial's budget, for the tests; it is spent in full when the site is built."""
    return f"{line[1]} = {int(line[2]) // 6}" if line[1] else "SEEDS = (0,)"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_code_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    from matplotlib import pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    module = ModuleType("example")
    namespace: dict[str, Any] = vars(module)
    for file in re.findall(r"^`(rewardzoo/\S+)\.py`:$", page.read_text(), re.MULTILINE):
        monkeypatch.setitem(sys.modules, file.replace("/", "."), module)  # which others import
    assert blocks(page, "python")
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)
    for name in [name for name in namespace if name.startswith("test_")]:
        namespace[name]()


def commands() -> list[tuple[Path, str]]:
    """Every line of a shell block that starts a program of ours, in any page."""
    lines = []
    for page in [*PAGES, DOCS / "choosing.md"]:
        spans = re.findall(r"`(rewardzoo (?:run|compare-rewards|report) [^`]*)`", page.read_text())
        shell = "\n".join(blocks(page, "bash") + blocks(page, "console"))
        lines += [(page, line) for line in [*shell.splitlines(), *spans]]
    return [(page, line) for page, line in lines if line.startswith(("rewardzoo ", "make "))]


def parsed(args: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its options, as the command line would read them; raises where it would."""
    command: Any = typer.main.get_command(app)
    context = None
    name = "rewardzoo"
    while True:
        context = command.make_context(name, list(args), parent=context)
        if not hasattr(command, "resolve_command"):
            return name, context.params
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, args = command.resolve_command(context, rest)


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda x: str(getattr(x, "stem", x)))
def test_commands_are_understood(page: Path, line: str, registries: None) -> None:
    program, *args = shlex.split(line.replace("…", ""), comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(args) <= set(targets)
        return
    if "NAME" in args or "PATH" in args or "DIR" in args:
        return  # a pattern, not a command
    try:
        name, options = parsed(args)
    except (typer.Exit, SystemExit) as stop:  # --help
        assert not getattr(stop, "exit_code", getattr(stop, "code", 0))
        return
    if name == "run" and options["experiment"]:
        assert options["experiment"] in EXPERIMENTS
    if options.get("env"):
        check_env_id(options["env"])


def test_the_git_commands_lead_from_a_fork_to_a_branch_on_top_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contributor's commands, with a project that moves on and a fork of it in two folders."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "someone")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "someone@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def shell(text: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-ec", text], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout

    page = ROOT / "CONTRIBUTING.md"
    first, last = (b for b in blocks(page, "console") if "git " in b)
    first = "\n".join(x for x in first.splitlines() if x.startswith("git "))
    files = last.partition("git add ")[2].partition("\n")[0].split()
    new = [file for file in files if not (ROOT / file).exists()]
    shell(
        "git init -q -b main project && cd project && echo Changes > CHANGELOG.md\n"
        "git add . && git commit -qm Start && cd .. && git clone -q --bare project fork\n"
        "cd project && git commit -q --allow-empty -m 'of somebody else'",
        tmp_path,
    )
    fork, project = tmp_path / "fork", tmp_path / "project"
    shell(first.replace("YOUR-FORK", str(fork)).replace("PROJECT", str(project)), tmp_path)
    clone = tmp_path / "rewardzoo"
    for file in files:
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        (clone / file).write_text("new")
    assert all(f"`{file}`:" in page.read_text() for file in new) and len(new) == 2
    shell(last, clone)
    log = shell("git log --format=%s stall-penalty", fork).splitlines()
    assert log[1:] == ["of somebody else", "Start"] and len(log) == 3
    changed = shell("git diff --name-only stall-penalty~ stall-penalty", fork).split()
    assert sorted(changed) == sorted(files)


def test_the_command_line_of_a_page_can_be_wrong() -> None:
    for line in (["trian"], ["train", "--envs", "x"], ["run", "quickstart", "--seeds", "many"]):
        with pytest.raises(Exception, match="(?i)no such|valid"):
            parsed(line)


def test_the_readmes_own_reward_function_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    from typer.testing import CliRunner

    text = (ROOT / "README.md").read_text()
    file, source = re.search(
        r"Save this as `(\S+)`:\n\n```python\n(.*?)```", text, re.DOTALL
    ).groups()
    (tmp_path / file).write_text(source)
    monkeypatch.chdir(tmp_path)
    (line,) = [
        x for b in blocks(ROOT / "README.md", "bash") for x in b.splitlines() if " train " in x
    ]
    args = [*shlex.split(line)[1:], "--steps", "64", "--num-envs", "4"]
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0 and "saved" in done.output


def test_a_reward_function_takes_under_25_lines_of_the_readme() -> None:
    section = PAGES[0].read_text().split("## Write a reward function")[1].split("\n## ")[0]
    assert len(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].splitlines()) < 25


# ---- pages ---------------------------------------------------------------------------------------


def test_every_environment_has_a_card(generated: Path, docs: Any) -> None:
    gallery = docs("gallery")
    for id in env_ids():
        text = (generated / f"{gallery.page_of(id)}.md").read_text()
        assert id in text and "## Objective" in text and "## Paper" in text
    index = (generated / "environments.md").read_text()
    assert "NetHack and MiniHack: sparse rewards" in index and "|  |" not in index


def test_every_family_plays_in_the_gallery_and_on_its_card(generated: Path, docs: Any) -> None:
    text = (generated / "gallery.md").read_text()
    for page in docs("gallery").pages():
        films = re.findall(rf"\]\((film-[^)]*\.gif)\)\]\({page}\.md\)", text)
        card = (generated / f"{page}.md").read_text()
        assert films and all((generated / film).is_file() and film in card for film in films), page


def test_where_there_is_no_picture_a_film_shows_captioned_text(docs: Any) -> None:
    from rewardzoo.frames import pictures

    gallery, players = docs("gallery"), docs("players")
    (film,) = players.films("TwoChoices-v0", "rewardzoo/TwoChoices-v0")
    frames, _ = gallery.play(film)
    expected = pictures(
        [
            "start\n\nplace 0, last action -",
            "step 1  action 0  reward 0  objective 0, in all 0\n\nplace 1, last action a",
            "step 2  action 0  reward 1  objective 1, in all 1\n\nplace 2, last action a",
        ]
    )
    assert np.array_equal(frames, expected)


def test_every_policy_of_the_zoo_has_its_card_and_its_scores_in_the_index(generated: Path) -> None:
    from rewardzoo.zoo import names, read_policy
    from rewardzoo.zoo.manifest import TRAINED

    index = (generated / "zoo" / "index.md").read_text()
    for name in names():
        recipe, config, metrics = read_policy(TRAINED / name)
        (row,) = re.findall(rf"^\| \[{name}\].*$", index, re.MULTILINE)
        cells = [x.split(" ± ")[0] for x in row.strip("| ").split(" | ")]
        means = [f"{metrics['scores'][key]['mean']:.4g}" for key in ("return", "objective")]
        assert cells[-2:] == means
        assert f"`{recipe.reward}`" in row and f"({name}.md): {recipe.title}<" in index
        card = (generated / "zoo" / f"{name}.md").read_text()
        assert card.startswith(f"# {name}\n\n![") and config["sha256"] in card
        assert (generated / "zoo" / f"zoo-{name}.gif").is_file()


def test_the_zoos_page_runs(generated: Path, tmp_path: Path, registries: None) -> None:
    page = generated / "zoo" / "index.md"
    (block,) = blocks(page, "python")
    namespace: dict[str, Any] = {}
    exec(compile(block, str(page), "exec"), namespace)
    env = gymnasium.make(namespace["agent"].envs.spec.id)
    action, _ = namespace["agent"].predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(action)
    (shell,) = blocks(page, "bash")
    assert len(shell.splitlines()) == 5
    for line in shell.splitlines():
        parsed(shlex.split(line, comments=True)[1:])


def test_a_reward_function_shows_its_arguments_and_examples(generated: Path) -> None:
    rewards = (generated / "rewards.md").read_text()
    assert "falling_sofa" in rewards and "- `high`: greatest reward." in rewards
    assert "`delay(inner: RewardFunction, k: int)`" in rewards
    assert "```pycon\n>>> import torch\n" in rewards
    outside = re.sub(r"^```.*?^```", "", rewards, flags=re.MULTILINE | re.DOTALL)
    assert ">>>" not in outside


def test_every_module_is_in_the_reference_and_every_paper_can_be_cited(generated: Path) -> None:
    pages = "".join(path.read_text() for path in (generated / "api").glob("*.md"))
    for module in (
        "transition",
        "rewards.base",
        "agents.ppo",
        "envs.sepsis.dynamics",
        "rlhf.losses",
    ):
        assert f"::: rewardzoo.{module}\n" in pages
    cite = (generated / "cite.md").read_text()
    assert "@software{rewardzoo," in cite and "Ng, Harada, Russell (1999)" in cite
    (year,) = re.findall(r"^  year = \{(\d{4})\},$", cite, re.MULTILINE)
    assert f"\ndate-released: {year}-" in (ROOT / "CITATION.cff").read_text()
    assert f"Copyright (c) {year} " in (ROOT / "LICENSE").read_text()
    assert "Schulman et al. 2017" in cite  # PPO's, from its module
    for name in EXPERIMENTS:
        assert f"(experiments.md#{name})" in cite


def test_what_plugins_register_is_not_documented(generated: Path) -> None:
    assert not [p.name for p in generated.rglob("*.md") if "of_a_plugin" in p.read_text()]


def test_links_lead_to_pages_and_headings(generated: Path, docs: Any) -> None:
    pages = [*PAGES, DOCS / "choosing.md", *generated.rglob("*.md")]
    wrong = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
        if not leads_somewhere(page, link, generated)
    ]
    assert not wrong


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "``", text, flags=re.MULTILINE | re.DOTALL)


def leads_somewhere(page: Path, link: str, generated: Path) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    target = page if not path else place(page, path, generated)
    if not target.is_file():
        return False
    if not anchor or target.suffix != ".md":
        return True
    if anchor.startswith("rewardzoo."):  # written by mkdocstrings when the site is built
        modules = re.findall(r"^::: (\S+)", target.read_text(), re.MULTILINE)
        return any(anchor == m or anchor.startswith(f"{m}.") for m in modules)
    text = target.read_text()
    headings = re.findall(r"^#+ (.*?)(?: \{ #(\S+) \})?$", text, re.MULTILINE)
    slugs = {given or re.sub(r"[^\w]+", "-", title.lower()).strip("-") for title, given in headings}
    return anchor in slugs


def place(page: Path, path: str, generated: Path) -> Path:
    """The file of a relative link, the generated pages standing in for those of docs/."""
    here = DOCS / "generated" / page.relative_to(generated) if generated in page.parents else page
    target = Path(*(here.parent / path).parts).resolve()
    if (DOCS / "generated" / "tutorials") in target.parents:
        return DOCS / "tutorials" / target.name
    if (DOCS / "generated") in target.parents:
        return generated / target.relative_to(DOCS / "generated")
    return target


def test_a_broken_link_is_found(generated: Path) -> None:
    page = DOCS / "choosing.md"
    assert leads_somewhere(page, "generated/rewards.md#potential", generated)
    for link in ("generated/nowhere.md", "generated/rewards.md#potentail", "nowhere.md"):
        assert not leads_somewhere(page, link, generated)


def test_the_browsers_check_finds_links_to_nowhere(tmp_path: Path, docs: Any) -> None:
    (tmp_path / "a").mkdir()
    for name in ("index.html", "a/index.html"):
        (tmp_path / name).touch()
    here = "http://127.0.0.1:1"
    good = [f"{here}/", f"{here}/a/#there", "https://example.org/", f"{here}/#top"]
    bad = [f"{here}/b/", f"{here}/a/#gone"]
    seen = {
        "index.html": {"ids": ["top"], "links": good + bad},
        "a/index.html": {"ids": ["there"], "links": []},
    }
    found = docs("check_site").broken_links(tmp_path, here, seen)
    assert found == [
        f"index.html: no such anchor: {here}/a/#gone",
        f"index.html: link to nowhere: {here}/b/",
    ]


def test_the_guide_names_what_exists() -> None:
    import rewardzoo.rewards

    rows = re.findall(r"^\|(.*?)\|(.*?)\|(.*?)\|$", (DOCS / "choosing.md").read_text(), re.M)
    used = {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row[1])}
    assert used <= {*REWARDS, *AGENTS, "ent_coef"}
    classes = {name for row in rows for name in re.findall(r"`([A-Z][A-Za-z]+)`", "".join(row))}
    assert len(classes) >= 4 and all(hasattr(rewardzoo.rewards, name) for name in classes)
    watched = {name for row in rows for name in re.findall(r"`([a-z]+_[a-z_]+)`", row[2])}
    assert watched <= {*EXPERIMENTS, *REWARDS} and len(watched & set(EXPERIMENTS)) >= 10
    assert len(rows) > 25


# ---- films, tutorials, speed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("GridWorld-v0", 1.0),
        ("AlignmentMaze-v0", 98.0),  # 15.3 at random
        ("CartPole-v0", 300.0),  # all steps of a film
        ("Pendulum-v0", -400.0),  # -1228 at random
        ("SubmodularCar-v0", 15.0),
        ("TomatoWatering-v0", 8.0),  # 5.49 at random, 9.74 at best
        ("PegInHole-v0", -60.0),
        ("OneState-v0", 50.0),  # 11 at random
        ("LeaveOrStay-v0", 99.0),
        ("SepsisDebate-v0", 1.0),  # won
    ],
)
def test_whoever_plays_in_the_gallery_knows_how(page: str, least: float, docs: Any) -> None:
    gallery, players = docs("gallery"), docs("players")
    (film,) = players.films(page, f"rewardzoo/{page}")
    env: Any = gymnasium.make(film.id, **film.arguments)
    obs, _ = env.reset(seed=film.seed)
    act, total = film.player(env.unwrapped), 0.0
    for _ in range(gallery.STEPS):
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total += float(reward)
        if terminated or truncated:
            break
    assert total >= least


def test_every_player_is_of_a_page(docs: Any) -> None:
    assert set(docs("players").FILMS) <= set(docs("gallery").pages())


def test_a_film_is_small_moves_and_comes_out_the_same(docs: Any) -> None:
    from PIL import Image

    gallery, players = docs("gallery"), docs("players")
    (film,) = players.films("GridWorld-v0", "rewardzoo/GridWorld-v0")
    first, second = (gallery.gif(*gallery.play(film)) for _ in range(2))
    assert first == second and len(first) < gallery.LIMIT
    with Image.open(io.BytesIO(first)) as image:
        assert image.n_frames > 4


def test_frames_that_do_not_fit_lose_pixels_and_are_refused_at_last(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = docs("gallery")
    monkeypatch.setattr(gallery, "LIMIT", 10_000)
    noise = list(np.random.default_rng(0).integers(0, 256, (4, 120, 360, 3), np.uint8))
    assert len(gallery.gif(noise[:1], 10.0)) <= gallery.LIMIT  # 43,200 at full size and colours
    with pytest.raises(ValueError, match="a film takes"):
        gallery.gif(noise, 10.0)


def test_what_is_stored_is_made_again_only_when_its_key_changes(
    docs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = docs("stored")
    monkeypatch.setattr(stored, "CACHE", tmp_path)
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"%d" % len(made))
        return made[-1]

    found = [stored.stored("x.gif", key, make) for key in ("a", "a", "b", "a")]
    assert found == [b"0", b"0", b"1", b"2"]
    assert len(list(tmp_path.iterdir())) == 1  # the older one is gone


def test_the_page_of_a_notebook_shows_what_was_printed_and_drawn(docs: Any) -> None:
    code = "def f():\n\n    return 6 * 7\n\n\nprint(f())"
    shown = [
        {"output_type": "stream", "name": "stdout", "text": ["42\n"]},
        {"output_type": "stream", "name": "stderr", "text": "a warning"},
        {"output_type": "display_data", "data": {"image/svg+xml": ["<svg", "/>"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "[b](../c.md) [d](../generated/e.md)"]},
        {"cell_type": "code", "source": code, "outputs": shown},
        {"cell_type": "markdown", "source": "```console\nfalse\n```"},
    ]
    notebook = json.dumps({"cells": cells}).encode()
    files = docs("notebooks").page("x", notebook)
    assert files["x.ipynb"] == notebook and files["x-1.svg"] == b"<svg/>"
    assert files["x.md"].decode() == (
        "# A\n[b](../../c.md) [d](../e.md)\n\n"
        f"```python\n{code}\n```\n\n"
        "![What the block above draws](x-1.svg)\n\n"
        "```{ .text .output }\n42\n```\n\n"
        "```bash\nfalse\n```\n\n"
        "[Download this page as a notebook](x.ipynb)\n"
    )


def test_what_a_model_was_found_to_be_is_stored_as_printed_and_shown(
    docs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generated: Path
) -> None:
    judges = docs("judges")
    shown = judges.chapter()
    assert shown in (generated / "speed.md").read_text()
    printed = json.loads(judges.STORED.read_text())["printed"]
    for name in ("model", "speed", "AUC", "balanced accuracy", "verdict"):
        assert f"| {name} | {printed[name]} |" in shown
    # The rules need no model; that they are not good enough is no failure.
    monkeypatch.setattr(judges, "COMMAND", ("rewardzoo", "llm", "check", "--annotator", "rules"))
    found = judges.measure()
    assert set(found["printed"]) == set(printed) and found["hardware"]["cores"] > 0
    assert re.fullmatch(r"0\.\d{3}", found["printed"]["AUC"])
    monkeypatch.setattr(judges, "COMMAND", ("rewardzoo", "llm", "check", "--annotator", "nobody"))
    with pytest.raises(RuntimeError, match="rewardzoo llm check --annotator nobody: .*expected"):
        judges.measure()


@pytest.mark.slow
def test_a_tutorial_is_executed_and_one_that_raises_is_refused(tmp_path: Path, docs: Any) -> None:
    pytest.importorskip("jupytext", reason="needs the extra docs")
    from nbclient.exceptions import CellExecutionError

    notebooks = docs("notebooks")
    good = tmp_path / "good.md"
    good.write_text("# A\n\n[b](../c.md)\n\n```python\nprint(6 * 7)\n```\n\n```bash\nfalse\n```\n")
    files = notebooks.page("good", notebooks.executed(good))
    page = files["good.md"].decode()
    assert "\n42\n" in page and "```bash\nfalse\n```" in page and "[b](../../c.md)" in page
    assert json.loads(files["good.ipynb"])["nbformat"] == 4
    bad = tmp_path / "bad.md"
    bad.write_text("```python\n1 / 0\n```\n")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.executed(bad)
