"""The zoo: every policy plays as its card says, is made by its recipe, and is safe to read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load as read_tensors

import rewardzoo.zoo as zoo
from rewardzoo.checkpoint import CheckpointError
from rewardzoo.jobs import provenance
from rewardzoo.registration import AGENTS, UnknownNameError
from rewardzoo.zoo import manifest
from rewardzoo.zoo.manifest import EPISODES, TRAINED
from rewardzoo.zoo.policies import Recipe, load_agent, load_policy, read_policy, save_policy, score

CARTPOLE = "rewardzoo/CartPole-v0"


# ---- what is shipped -------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.names())
def test_a_policy_plays_as_its_card_says(name: str) -> None:
    """Exactly where it was trained; elsewhere rounding makes other episodes of the same policy."""
    recipe, _, metrics = read_policy(TRAINED / name)
    assert metrics["episodes"] == EPISODES
    played = score(zoo.load(name), recipe, EPISODES, EPISODES)
    here = provenance("cpu")
    same = all(here[k] == metrics["provenance"][k] for k in ("hardware", "torch", "numpy"))
    for key, x in played.items():
        said = metrics["scores"][key]
        error = 5.0 * said["std"] * math.sqrt(2.0 / EPISODES)  # of a difference of two means
        tolerance = 1e-6 * abs(said["mean"]) if same else error + 1e-3 * abs(said["mean"])
        assert float(x.double().mean()) == pytest.approx(said["mean"], abs=tolerance)


@pytest.mark.parametrize("name", zoo.names())
def test_a_policy_is_of_its_recipe_and_small(name: str) -> None:
    made, kept = zoo.recipe(name), read_policy(TRAINED / name)[0]
    assert (made.env, made.reward, made.agent, made.steps, made.num_envs, made.seed) == (
        kept.env, kept.reward, kept.agent, kept.steps, kept.num_envs, kept.seed
    )  # fmt: skip
    assert json.loads(json.dumps(made.settings)).items() <= kept.settings.items()
    assert made.title and made.title == kept.title
    assert all(file.stat().st_size < 100_000 for file in (TRAINED / name).iterdir())


def test_the_zoo_is_what_the_manifest_says_and_small() -> None:
    assert sorted(f.name for f in TRAINED.iterdir()) == zoo.names()
    assert sum(f.stat().st_size for f in TRAINED.rglob("*")) < 1_000_000


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_is_read_by_the_hub(name: str) -> None:
    recipe, config, metrics = read_policy(TRAINED / name)
    card = ModelCard((TRAINED / name / "README.md").read_text())
    said = card.data.to_dict()
    assert said["library_name"] == "rewardzoo" and said["license"] == "mit"
    assert {"reinforcement-learning", recipe.agent} <= set(card.data.tags)
    assert card.data.model_name == name
    values = {r.metric_type: r for r in card.data.eval_results}
    assert set(values) == {"mean_reward", "mean_objective"}
    for kind, key in (("mean_reward", "return"), ("mean_objective", "objective")):
        result, score = values[kind], metrics["scores"][key]
        assert result.metric_value == f"{score['mean']:.2f} +/- {score['std']:.2f}"
        assert result.dataset_name == recipe.env
        assert result.task_type == "reinforcement-learning"
    for text in (recipe.title, config["sha256"], "## Use", "## Train it again", "no measure of"):
        assert text in card.text


@pytest.mark.parametrize("name", zoo.names())
def test_the_example_on_a_card_runs(name: str) -> None:
    text = (TRAINED / name / "README.md").read_text()
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    assert found["env"].action_space.contains(found["action"])


def test_the_example_on_the_card_of_a_policy_of_ones_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(CARTPOLE, num_envs=2)
    agent = AGENTS["ppo"](recipe.envs(), num_steps=16)
    save_policy("mine", agent, recipe, score(agent, recipe, 2, 2))
    text = (tmp_path / "mine" / "README.md").read_text()
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    assert found["env"].action_space.contains(found["action"])
    assert f"OMP_NUM_THREADS={torch.get_num_threads()} rewardzoo train" in text


def test_training_takes_one_thread_and_gives_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    short = dataclasses.replace(zoo.recipe("ppo-cartpole"), steps=1)
    monkeypatch.setattr(manifest, "recipe", lambda name: short)
    monkeypatch.setattr(manifest, "EPISODES", 2)
    torch.set_num_threads(2)
    try:
        manifest.train("x", tmp_path, callback=lambda *_: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {1} and read_policy(tmp_path / "x")[2]["provenance"]["threads"] == 1


def test_the_command_on_a_card_trains_the_same_policy(cli: Any, tmp_path: Path) -> None:
    """Bit for bit where it was trained; elsewhere one that is as good."""
    name = "ppo-gridworld"
    _, config, metrics = read_policy(TRAINED / name)
    text = (TRAINED / name / "README.md").read_text()
    line = text.split("## Train it again")[1].split("```")[1].replace("\\\n", " ")
    threads, program, *args = shlex.split(line)
    assert threads == f"OMP_NUM_THREADS={torch.get_num_threads()}" and program == "rewardzoo"
    assert args[-2:] == ["--save", "DIR"]
    done = cli(*args[:-1], tmp_path / name, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    recipe, again, _ = read_policy(tmp_path / name)
    here = provenance("cpu")
    if all(here[k] == metrics["provenance"][k] for k in ("hardware", "torch", "numpy")):
        assert again["sha256"] == config["sha256"]
    played = score(load_policy(tmp_path / name), recipe, EPISODES, EPISODES)
    said = metrics["scores"]["objective"]
    assert float(played["objective"].mean()) > said["mean"] - 0.1
    # What has become a setting since has its default, and changes nothing.
    assert {**again["settings"], **config["settings"]} == again["settings"]


def test_a_hacked_proxy_pays_while_the_objective_falls() -> None:
    for honest, hacked in (
        ("ppo-sepsis", "ppo-sepsis-falling-sofa"),
        ("ppo-tomato", "ppo-tomato-bucket"),
    ):
        said = [read_policy(TRAINED / name)[2]["scores"] for name in (honest, hacked)]
        assert said[1]["objective"]["mean"] < said[0]["objective"]["mean"]
        paid = zoo.recipe(hacked)
        other = score(zoo.load(honest), zoo.recipe(honest), EPISODES, EPISODES)["objective"]
        assert float(other.mean()) == pytest.approx(said[0]["objective"]["mean"], rel=0.1)
        # What the proxy would have paid the honest policy is less than it paid the hacker.
        envs = paid.envs(EPISODES)
        assert (
            float(zoo.load(honest).evaluate(envs, EPISODES)["return"].mean())
            < said[1]["return"]["mean"]
        )


# ---- saving and loading ----------------------------------------------------------------------

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ppo": (CARTPOLE, "objective", {"num_steps": 16, "normalize_observations": True}),
    "ppo with memory": (CARTPOLE, "objective", {"num_steps": 16, "recurrent": "gru"}),
    "ppo on dicts": ("rewardzoo/TomatoWatering-v0", "objective", {"num_steps": 16}),
    "sac": (
        "rewardzoo/Pendulum-v0",
        "objective",
        {"num_steps": 4, "updates_per_step": 0.125, "learning_starts": 16, "batch_size": 8},
    ),
    "td3": (
        "rewardzoo/Pendulum-v0",
        "objective",
        {"num_steps": 4, "updates_per_step": 0.25, "learning_starts": 16, "batch_size": 8,
         "clip_observations": 5.0},
    ),
    "double_dqn": (CARTPOLE, "objective", {"learning_starts": 16, "batch_size": 8}),
    "reinforce": (CARTPOLE, "objective", {}),
}  # fmt: skip


def trained(kind: str) -> tuple[Any, Recipe]:
    env, reward, settings = KINDS[kind]
    recipe = Recipe(env, reward, kind.split()[0], 256, 8, 3, settings)
    agent = AGENTS[recipe.agent](recipe.envs(), seed=3, **settings)
    return agent.learn(256), recipe


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_agent_plays_the_same_from_a_policy_and_from_a_checkpoint(
    kind: str, tmp_path: Path
) -> None:
    agent, recipe = trained(kind)
    scores = score(agent, recipe, 8, 8)
    save_policy(tmp_path / "policy", agent, recipe, scores)
    agent.save(tmp_path / "checkpoint.pt")
    for path in (tmp_path / "policy", tmp_path / "checkpoint.pt"):
        read = load_agent(path, recipe.env, recipe.reward)
        assert type(read) is type(agent) and read.num_timesteps == agent.num_timesteps
        again = score(read, recipe, 8, 8)
        assert all(torch.equal(again[k], x) for k, x in scores.items())
    obs, _ = gymnasium.make(recipe.env).reset(seed=0)
    action, _ = load_policy(tmp_path / "policy").predict(obs, deterministic=True)
    assert gymnasium.make(recipe.env).action_space.contains(action)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent, recipe = trained("ppo")
    folder = tmp_path_factory.mktemp("policy") / "mine"
    save_policy(folder, agent, recipe, score(agent, recipe, 8, 8))
    return folder


def damaged(policy: Path, tmp_path: Path, change: Any, file: str = "config.json") -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(policy, folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("format"), "expected format 'rewardzoo-policy-1'"),
        (lambda c: c.pop("agent"), "config.json lacks agent"),
        (lambda c: c.update(sha256="0"), "damaged, or not the one"),
        (lambda c: c.update(spaces="Box"), "it was saved for Box, and this environment has"),
        (lambda c: c["settings"].update(hidden=[8]), "size mismatch"),
    ],
)
def test_a_damaged_policy_says_what_is_wrong(
    change: Any, message: str, policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_policy(damaged(policy, tmp_path, change))


def test_what_is_no_policy_is_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json cannot be read \(FileNotFoundError\)"):
        load_policy(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(policy, folder)
    weights = folder / "model.safetensors"
    garbage = b"\x80\x04" + weights.read_bytes()[2:]

    def sign(config: Any) -> None:
        config["sha256"] = hashlib.sha256(garbage).hexdigest()

    weights.write_bytes(garbage)
    (tmp_path / "other").mkdir()
    signed = damaged(folder, tmp_path / "other", sign)
    with pytest.raises(CheckpointError, match="header"):
        load_policy(signed)
    weights.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        load_policy(folder)
    with pytest.raises(CheckpointError, match="it was saved for Box"):
        load_agent(policy, "rewardzoo/GridWorld-v0")
    with pytest.raises(ValueError, match="agent='sb3_ppo': it has no network"):
        zoo.policies.check_savable(AGENTS["sb3_ppo"])


def test_no_module_that_a_policy_names_is_executed(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    other = damaged(policy, tmp_path, lambda c: c.update(env=f"evil_module:{CARTPOLE}"))
    with pytest.raises(CheckpointError, match="names the module 'evil_module'"):
        load_policy(other)
    with pytest.raises(CheckpointError, match="names the module 'evil_module'"):
        load_agent(other, CARTPOLE)
    (tmp_path / "own").mkdir()
    own = damaged(policy, tmp_path / "own", lambda c: c.update(env=f"rewardzoo:{CARTPOLE}"))
    assert load_policy(own).num_timesteps == load_policy(policy).num_timesteps


def test_weights_are_plain_tensors(policy: Path) -> None:
    weights = read_tensors((policy / "model.safetensors").read_bytes())
    assert all(isinstance(x, torch.Tensor) for x in weights.values())
    assert {p.name for p in policy.iterdir()} == {
        "model.safetensors", "config.json", "metrics.json", "README.md"
    }  # fmt: skip


def test_a_name_that_is_none_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ppo-cartpole'"):
        zoo.load("ppo-cartpol")


# ---- the command line ------------------------------------------------------------------------


def test_a_saved_policy_is_played_from_the_command_line(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    args = ["train", "--env", "rewardzoo/Pendulum-v0", "--agent", "td3", "--steps", 128]
    args += ["--num-envs", 4, "--out", tmp_path / "out", "--save", folder]
    done = cli(*args, "--set", "num_steps=8", "--set", "updates_per_step=0.25")
    assert done.code == 0 and "a policy with its card" in " ".join(done.out.split())
    for checkpoint in (folder, tmp_path / "out/checkpoint.pt"):
        gif = tmp_path / "a.gif"
        gif.unlink(missing_ok=True)
        args = ["play", "rewardzoo/Pendulum-v0", "--checkpoint", checkpoint, "--out", gif]
        assert cli(*args, "--steps", 3).code == 0 and gif.read_bytes()[:6] == b"GIF89a"


def test_the_zoo_from_the_command_line(cli: Any) -> None:
    listed = cli("zoo", "list").out
    assert all(name in listed for name in zoo.names())
    assert "@" in cli("zoo", "play", "ppo-gridworld", "--steps", 20).out
    assert "mean_objective" in cli("zoo", "show", "ppo-gridworld").out
    assert "mean on the card" in cli("zoo", "evaluate", "ppo-gridworld", "--episodes", 10).out
    wrong = cli("zoo", "play", "ppo-gridwrld")
    assert wrong.code == 2 and "did you mean 'ppo-gridworld'" in wrong.err
