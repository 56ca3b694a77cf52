"""What the experiments found when they were last run: stored in ``docs/verdicts``, a file each.

``python docs/verdicts.py runs`` stores the results of every experiment below ``runs`` that was run
at the budget ``quick``, without their curves. The page of experiments shows them, ``RESULTS.md``
lists every claim with its verdict, and the README's table counts them; both are written anew.

``python docs/verdicts.py --compare runs`` says which stored numbers those runs repeat, to the bit.
One seed is enough to notice that an experiment would find something else today:
``rewardzoo run NAME --seeds 1 --out runs``.

``python docs/verdicts.py --judge`` judges what is stored by the claims as they are now, where they
read no curves: for claims that were changed after the runs.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rewardzoo.experiment import judge
from rewardzoo.registration import EXPERIMENTS
from rewardzoo.report import facts_of
from rewardzoo.results import (
    OUTCOMES,
    Results,
    Verdict,
    read_json,
    write_atomic,
    write_json,
)
from rewardzoo.summary import column_digits, rows_of, show

STORED = Path(__file__).parent / "verdicts"
ROOT = Path(__file__).parents[1]
RESULTS = """# Results

Every claim of every experiment, as `rewardzoo run NAME` found it at the budget `quick`, the
negative ones too. ✓ holds, ✗ fails, ? is open: the interval lies on both sides.

`rewardzoo run --all` runs all {count} and prints a scoreboard. These runs, many of them on a busy
machine, took {hours:.0f} hours of one core together.

On the same kind of processor numbers repeat to the bit. Others round differently, by their vector
instructions (AVX2, AVX512) too, and long training magnifies that: there runs end elsewhere, as with
other seeds, and a claim near its bar may come out otherwise. So every chapter names its own.
"""
GLYPHS = dict(zip(OUTCOMES, ("✓", "✗", "?"), strict=True))


def store(runs: Path) -> list[str]:
    """Keep what was found below a folder of runs; returns the experiments' names.

    Raises:
        ValueError: for a run of which a part failed, or one of code that no revision has.
    """
    STORED.mkdir(exist_ok=True)
    names = []
    for path in sorted(runs.glob("*/quick/results.json")):
        results, verdicts = read_json(path)
        ran = results.provenance
        if missing := ran.get("not finished"):
            raise ValueError(f"{results.name}: not finished: {missing}; run it again")
        if ran.get("rewardzoo", "").endswith("-dirty"):
            raise ValueError(f"{results.name}: run by changed files; commit them and run it again")
        short = replace(
            results,
            arms=[replace(arm, curves={}) for arm in results.arms],
            # Where somebody's runs lie is no part of how to repeat them.
            command=re.sub(r" --out[ =]\S+", "", results.command),
        )
        write_json(short, verdicts, STORED / f"{results.name}.json")
        names.append(results.name)
    return names


def found() -> dict[str, tuple[Results, list[Verdict]]]:
    """Results and verdicts by the experiments' names."""
    return {path.stem: read_json(path) for path in sorted(STORED.glob("*.json"))}


def counts(verdicts: list[Verdict]) -> tuple[int, ...]:
    """How many claims hold, fail and are open."""
    total = Counter(v.outcome for v in verdicts)
    return tuple(total[outcome] for outcome in OUTCOMES)


def chapter(results: Results, verdicts: list[Verdict]) -> str:
    """What an experiment found, as Markdown."""
    ran = results.provenance
    seeds = max(len(arm.seeds) for arm in results.arms)
    lines = [
        f"Found at the budget {results.budget}, {seeds} seeds, on {ran.get('date', '')} "
        f"(rewardzoo {ran.get('rewardzoo', '')}; {ran.get('hardware', '')}; "
        f"{ran.get('computing time', '')}):",
        "",
        "| | claim | found |",
        "|---|---|---|",
        *(f"| {' | '.join(map(_cell, _row(v)))} |" for v in verdicts),
        "",
        "| arm | " + " | ".join(results.columns.values()) + " | n |",
        "|---|" + "---|" * (len(results.columns) + 1),
    ]
    rows = rows_of(results)
    digits = column_digits(rows)
    for row in rows:
        cells = [show(cell, digits[key]) for key, cell in row.cells.items()]
        lines.append(f"| {_cell(row.arm.label)} | {' | '.join(cells)} | {len(row.arm.seeds)} |")
    lines += ["", "Interquartile mean over seeds [95 % bootstrap interval]."]
    return "\n".join(lines)


def results_page() -> str:
    """``RESULTS.md``: a chapter an experiment, a line a claim."""
    stored = found()
    seconds = sum(float(r.provenance["computing time"].split()[0]) for r, _ in stored.values())
    lines = [RESULTS.format(count=len(stored), hours=seconds / 3600)]
    for name, (results, verdicts) in stored.items():
        ran = results.provenance
        lines += [
            f"## {name}\n",
            f"{results.title}. `rewardzoo run {name}`, {ran.get('date', '')}, revision "
            f"{ran.get('rewardzoo', '').partition(' ')[2]}, on {ran.get('hardware', '')}.\n",
            "| | claim | found |",
            "|---|---|---|",
            *(f"| {' | '.join(map(_cell, _row(v)))} |" for v in verdicts),
            "",
        ]
    return "\n".join(lines)


def readme_counted(text: str) -> str:
    """The README with its table's counts as they are now."""
    verdicts = {name: v for name, (_, v) in found().items()}

    def counted(row: re.Match[str]) -> str:
        if row[1] not in verdicts:
            return row[0]
        numbers = " / ".join(map(str, counts(verdicts[row[1]])))
        return f"| `{row[1]}` | {row[2]} | [{numbers}](RESULTS.md#{row[1]}) |"

    return re.sub(r"^\| `(\w+)` \| (.*) \| \[\d.*\)? \|$", counted, text, flags=re.MULTILINE)


def write_pages() -> None:
    """Bring ``RESULTS.md`` and the README up to date with what is stored."""
    write_atomic(ROOT / "RESULTS.md", results_page())
    readme = ROOT / "README.md"
    write_atomic(readme, readme_counted(readme.read_text(encoding="utf-8")))


def judged(results: Results) -> list[Verdict] | None:
    """Verdicts of today's claims on stored results; None where one reads what is not stored."""
    try:
        return judge(EXPERIMENTS[results.name], results)
    except (KeyError, FileNotFoundError):  # curves; arrays
        return None


def judge_stored() -> list[str]:
    """Store today's verdicts; returns the names of the experiments where one is new."""
    changed = []
    for name, (results, before) in found().items():
        verdicts = judged(results)
        if verdicts is not None and outcomes(verdicts) != outcomes(before):
            write_json(results, verdicts, STORED / f"{name}.json")
            changed.append(name)
    return changed


def outcomes(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    """What is claimed, and whether it holds."""
    return [(v.claim, v.outcome) for v in verdicts]


def _row(v: Verdict) -> tuple[str, str, str]:
    return f"{GLYPHS[v.outcome]} {v.outcome}", v.claim, "; ".join(facts_of(v))


def _cell(text: str) -> str:
    """``text`` in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def numbers(results: Results) -> dict[tuple[str, int, str], float]:
    """What every seed of every arm ended with."""
    return {
        (arm.label, seed, name): values[k]
        for arm in results.arms
        for name, values in arm.final.items()
        for k, seed in enumerate(arm.seeds)
    }


def compare(runs: Path) -> list[str]:
    """A line for each experiment below a folder of runs: what of it is stored, and what differs.

    Only seeds and arms that both have are compared; numbers must be equal to the bit.
    """
    lines = []
    for path in sorted(runs.glob("*/quick/results.json")):
        now, _ = read_json(path)
        if not (STORED / f"{now.name}.json").is_file():
            lines.append(f"{now.name}: not stored")
            continue
        then, _ = read_json(STORED / f"{now.name}.json")
        stored, found = numbers(then), numbers(now)
        both = stored.keys() & found.keys()
        differ = sorted(key for key in both if str(stored[key]) != str(found[key]))
        lines.append(
            f"{now.name}: {len(both) - len(differ)} of {len(both)} numbers repeat"
            + "".join(f"\n  {key}: {stored[key]}, now {found[key]}" for key in differ)
        )
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        for folder in sys.argv[2:]:
            print("\n".join(compare(Path(folder))))
        sys.exit()
    if sys.argv[1:] == ["--judge"]:
        print(", ".join(judge_stored()))
    for folder in sys.argv[1:]:
        if folder != "--judge":
            print(", ".join(store(Path(folder))))
    write_pages()
