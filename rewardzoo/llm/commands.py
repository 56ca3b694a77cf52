"""``rewardzoo llm``: serve the embedded model; check whether a model judges well enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Language models that judge: a local server, and a check of any model.",
    epilog="Example: rewardzoo llm check --endpoint http://127.0.0.1:8000/v1",
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; there are no passwords.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65535)] = 8000,
    model: Annotated[
        Path | None, typer.Option(help="GGUF file; default: SmolLM2-135M-Instruct.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: half of the cores.", min=1)] = None,
) -> None:
    """Serve the embedded model as a chat-completions server.

    Example: rewardzoo llm serve --port 8000
    """
    from .embedded import EmbeddedModel
    from .server import make_server

    embedded = EmbeddedModel(model, threads=threads)
    try:
        server = make_server(embedded, host, port)
    except OSError as error:
        raise ValueError(f"port={port}: {error.strerror}; choose another, or 0") from None
    typer.echo(f"{embedded.name} at http://{host}:{server.server_address[1]}/v1 (Ctrl-C stops)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        server.server_close()


@app.command()
def check(
    endpoint: Annotated[
        str | None, typer.Option(help="Base URL of a server; default: the embedded model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name on the server; default: its first.")] = (
        None
    ),
    annotator: Annotated[
        str, typer.Option(help="smollm2, rules, random or a file of labels.")
    ] = "smollm2",
    messages: Annotated[
        Path | None, typer.Option(help="Labelled messages (JSON, JSONL); default: those shipped.")
    ] = None,
    goal: Annotated[str, typer.Option(help="What the player wants.")] = "score",
    limit: Annotated[int | None, typer.Option(help="Ask about so many messages.", min=2)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until a call is given up.")] = 60.0,
) -> None:
    """Measure a model's speed and judgement on labelled messages, and say whether it will do.

    Exits with 1 where the model is not good enough.
    """
    from .check import assess
    from .client import ChatClient, LLMError
    from .judges import Judge, ServerJudge, make_judge
    from .labels import read_labels, shipped_messages
    from .tasks import PAIR, Task

    labels = shipped_messages() if messages is None else read_labels(messages)
    if any(PAIR in message for message in labels):
        raise ValueError(f"messages={str(messages)!r}: expected single messages, not pairs")
    labels = dict(list(labels.items())[:limit])
    task = Task(goal)
    judge: Judge
    if endpoint is not None:
        judge = ServerJudge(ChatClient(endpoint, model, timeout), task)
    else:
        judge = make_judge(annotator, task)
    try:
        quality = assess(judge, labels)
    except LLMError as error:
        raise ValueError(f"endpoint={endpoint!r}: {error}") from None
    finally:
        judge.close()
    helpful = sum(labels.values()) / len(labels)
    typer.echo(f"model              {quality.name}, {task.version}")
    typer.echo(
        f"messages           {quality.n}, {helpful:.0%} helpful; {quality.answered} answered"
    )
    typer.echo(f"speed              {quality.rate:.1f} messages/s")
    typer.echo(f"AUC                {quality.auc:.3f}")
    typer.echo(
        f"balanced accuracy  {quality.balanced_accuracy:.3f} "
        f"[{quality.low:.3f}, {quality.high:.3f}]; chance is .5"
    )
    typer.echo(
        f"precision, recall  {quality.precision:.3f}, {quality.recall:.3f}; F1 {quality.f1:.3f}"
    )
    typer.echo(f"says helpful       {quality.yes_rate:.0%}")
    typer.echo(f"verdict            {quality.verdict}")
    if not quality.verdict.startswith("good"):
        raise typer.Exit(1)
