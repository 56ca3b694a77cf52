"""Tutorials as executed notebooks: Markdown with blocks of Python in, pages with results out.

A tutorial is a Markdown file in ``docs/tutorials``, so that it reads well where it is and its
blocks run in the tests. Here Jupytext reads it as a notebook, and nbclient executes it; its page
shows what was printed and drawn, and the executed notebook lies beside it to be downloaded. A block
that raises fails the build, and is shown.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stored import stored

from rewardzoo.files import write_atomic

TUTORIALS = Path(__file__).parent / "tutorials"
TIMEOUT = 600  # seconds a block
PROLOGUE = "%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']"


def tutorials() -> list[Path]:
    """All of them, by name."""
    return sorted(TUTORIALS.glob("*.md"))


def executed(path: Path) -> bytes:
    """A tutorial as a notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: for a block that raises.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    # Jupytext would execute a block of shell; those are for the reader, and checked by the tests.
    source = path.read_text().replace("```bash\n", "```console\n")
    notebook = jupytext.reads(source, fmt="md")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PROLOGUE))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        # Sockets of its own: by default two kernels at a time would share those in this folder.
        sockets = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        NotebookClient(
            notebook,
            timeout=TIMEOUT,
            startup_timeout=TIMEOUT,
            kernel_name="python3",
            config=Config({"KernelManager": sockets}),
        ).execute(env=environment)
    del notebook.cells[0]
    written: str = nbformat.writes(notebook)
    return written.encode()


def page(name: str, notebook: bytes) -> dict[str, bytes]:
    """The files of an executed tutorial, by name: its page, its pictures and itself."""
    parts: list[str] = []
    files = {f"{name}.ipynb": notebook}
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(moved(source.replace("```console\n", "```bash\n")))
            continue
        parts.append(f"```python\n{source}\n```")
        printed = ""
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/svg+xml" in data:
                picture = f"{name}-{len(files)}.svg"
                files[picture] = "".join(data["image/svg+xml"]).encode()
                parts.append(f"![What the block above draws]({picture})")
            elif output["output_type"] == "stream" and output["name"] == "stdout":
                printed += "".join(output["text"])
        if printed.strip():
            parts.append(f"```{{ .text .output }}\n{printed.rstrip()}\n```")
    parts.append(f"[Download this page as a notebook]({name}.ipynb)")
    files[f"{name}.md"] = ("\n\n".join(parts) + "\n").encode()
    return files


def moved(text: str) -> str:
    """Links as seen from a folder lower, beside the other generated pages."""
    return re.sub(r"\]\(\.\./(?!generated/)", "](../../", text).replace("](../generated/", "](../")


def write_tutorials(out: Path) -> None:
    """Write the pages of all tutorials; two are executed at a time, unchanged ones not at all."""

    def write(path: Path) -> None:
        notebook = stored(f"{path.stem}.ipynb", path.read_text(), lambda: executed(path))
        for name, content in page(path.stem, notebook).items():
            write_atomic(out / name, content)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, tutorials()))
