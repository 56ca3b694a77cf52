"""``rewardzoo train``: one agent on one reward function, in a folder from which it can go on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .disk import check_room, check_writable, keeping_room

console = Console()


def train(
    env: Annotated[str, typer.Option(help="Environment id.")],
    reward: Annotated[str, typer.Option(help="Reward expression.")] = "objective",
    agent: Annotated[str, typer.Option(help="Registered agent.")] = "ppo",
    steps: Annotated[int, typer.Option(help="Environment steps.", min=1)] = 100_000,
    num_envs: Annotated[int, typer.Option(help="Environments in the batch.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/train/ENV.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    fresh: Annotated[bool, typer.Option(help="Delete an earlier training in --out.")] = False,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations; keeps best.pt.", min=1)
    ] = None,
    video: Annotated[bool, typer.Option(help="Film every evaluation into --out/videos.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the policy: weights, config, scores, card.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Hyperparameter, name=value; repeatable.")
    ] = None,
) -> None:
    """Train an agent on a reward function; `rewardzoo doctor --agent ppo` lists hyperparameters.

    Example: rewardzoo train --env rewardzoo/CartPole-v0 --set learning_rate=0.0025
    """
    import gymnasium

    from .callbacks import Evaluation, Saving
    from .checkpoint import latest_checkpoint, remove_previous
    from .files import hold
    from .jobs import make_envs
    from .registration import AGENTS, check_env_id
    from .settings import parse_settings
    from .training import BEST, CHECKPOINT, check_unused, record_training, remove_training
    from .zoo.policies import Recipe, check_savable, save_policy, score

    kind = AGENTS[agent]
    check_env_id(env)
    if video and eval_every is None:
        raise ValueError("--video: films evaluations; say how often with --eval-every")
    if resume and fresh:
        raise ValueError("--fresh: it deletes what --resume goes on from; give one of them")
    if save is not None:
        check_savable(kind)
    folder = out or Path("runs") / "train" / env.replace("/", "-")
    envs = make_envs(env, reward, num_envs, device)
    checkpoint = folder / CHECKPOINT
    settings = parse_settings(setting)
    if resume:
        found = latest_checkpoint(checkpoint)
        if found is None:
            raise ValueError(
                f"--resume: no whole checkpoint in {folder}; leave it out to train from the start"
            )
        learner = kind.load(found, env=envs)
    else:
        learner = kind(envs, seed=seed, **settings)
    for option, each in (("--out", folder), ("--save", save)):
        if each is not None:
            check_writable(option, each)
    asked = {
        "env": env, "reward": reward, "agent": agent, "num_envs": num_envs, "seed": seed,
        "settings": settings,
    }  # fmt: skip

    def kept() -> str:
        if checkpoint.is_file():
            return f"{CHECKPOINT} is as it was saved last, to go on from with --resume"
        return "nothing was saved yet"

    with hold(folder):
        if not (resume or fresh):
            check_unused(folder, save, asked)
        check_room("--out", folder, learner.save)
        if fresh:
            remove_training(folder)
        if not resume:
            record_training(folder, asked)
        saving = Saving(checkpoint, resumed=resume)
        evaluation = None
        if eval_every is not None:
            unseen = make_envs(env, reward, min(num_envs, 64), device)
            if hasattr(learner, "gamma"):
                unseen.reward_function.match_gamma(learner.gamma)
            best, to_beat = folder / BEST, -math.inf
            if resume and best.is_file():
                scores = kind.load(best, env=unseen).evaluate(unseen, 20)
                to_beat = float(scores["objective"].mean())
            film = gymnasium.make(env, render_mode="rgb_array") if video else None
            evaluation = Evaluation(
                unseen, eval_every, 20, to_beat, best=best, film=film, folder=folder / "videos"
            )

        def after_iteration(agent: Any, metrics: dict[str, float]) -> None:
            if evaluation is not None:
                evaluation(agent, metrics)
            saving(agent, metrics)

        try:
            with keeping_room("--out", folder, lambda: f"make room; {kept()}"):
                learner.learn(
                    max(0, steps - learner.num_timesteps),
                    callback=after_iteration,
                    reset_num_timesteps=False,
                    progress_bar=console.is_terminal,
                    log_dir=folder,
                )
                learner.save(checkpoint)
        except KeyboardInterrupt:
            try:
                with keeping_room("--out", folder, lambda: f"make room; {kept()}"):
                    saving.save(learner)
                said = f"saved {checkpoint}. Go on with the same command and --resume"
            except KeyboardInterrupt:
                said = f"not saved, as it was interrupted again; {kept()}"
            console.print(f"stopped; {said}")
            raise typer.Exit(130) from None
        remove_previous(checkpoint)
        recipe = Recipe(env, reward, agent, steps, num_envs, getattr(learner, "seed", seed))
        scores = score(learner, recipe, 100, min(num_envs, 64), device)
        text = "  ".join(f"{k} {float(v.mean()):.3f}" for k, v in scores.items())
        console.print(f"{text}  (mean of 100 episodes)\nsaved {checkpoint}")
        if save is not None:
            with keeping_room("--save", save, lambda: f"make room; {kept()}"):
                save_policy(save, learner, recipe, scores)
            console.print(f"saved {save}, a policy with its card")
