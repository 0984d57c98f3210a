"""Writes the results of all benchmarks into docs/performance.md, a table for each.

python benchmarks/table.py
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import RESULTS
from transformers import HfArgumentParser

NAMES = (
    "encoder",
    "pretraining",
    "tuning",
    "features",
    "pipeline",
    "utilisation",
    "neighbour_queue",
    "scaling",
    "memory",
    "modes",
    "levers",
    "import_time",
)
PEERS = ("audio_mae", "lightly_nnclr", "embed_files")  # with libraries of their own: a table where there is a result
MARKS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")
HEADS = ("case", "ours", "baseline", "ratio or value [min, max]", "target", "met")


class TableError(ValueError):
    """Results or a page of which no table can be made; the message names the file and says what to do."""


@dataclass
class TableArguments:
    results: str = field(default=str(RESULTS), metadata={"help": "Folder of the benchmarks' JSON."})
    page: str = field(
        default=str(Path(__file__).parents[1] / "docs" / "performance.md"),
        metadata={"help": "File that holds the marks."},
    )


def read(folder: Path) -> list[dict[str, Any]]:
    """What every benchmark reported, in the order of NAMES and PEERS.

    Raises:
        TableError: one of NAMES is absent, or any is unreadable, of tiny sizes, or of another machine than the first.
    """
    records: list[dict[str, Any]] = []
    for name in NAMES + PEERS:
        path = folder / f"{name}.json"
        if name in PEERS and not path.is_file():
            continue
        if not path.is_file():
            raise TableError(f"{path} is absent: run python benchmarks/{name}.py.")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TableError(f"{path} is not JSON ({error}): run python benchmarks/{name}.py again.") from error
        if record["arguments"]["small"]:
            raise TableError(f"{path} was made with --small, so that its numbers mean nothing: run it without.")
        if records and machine(record) != machine(records[0]):
            raise TableError(
                f"{path} was measured elsewhere ({machine(record)}) than {NAMES[0]} ({machine(records[0])}): "
                "run all benchmarks again (make bench)."
            )
        records.append(record)
    return records


def machine(record: Mapping[str, Any]) -> str:
    """Processor, cores and versions in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['processor']}, {record['cores']} cores, {versions}"


def markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def row_cells(row: Mapping[str, Any]) -> list[str]:
    """Cells of one row of a report, in the order of HEADS."""
    target, met = "", ""
    if row["bar"] is not None:
        target = f"{'≥' if row['at_least'] else '≤'} {row['bar']:,g}"
        met = "yes" if row["reached"] else "no"
    value, low, high = (number(row[name]) for name in ("value", "low", "high"))
    return [row["case"], row["ours"], row["peer"], f"{value} [{low}, {high}]", target, met]


def number(value: float) -> str:
    """Three digits, or all of a whole number's."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def tables(records: Iterable[Mapping[str, Any]]) -> str:
    """A heading, the baseline and a Markdown table for each benchmark, and a line on the machine."""
    records = list(records)
    lines = [f"Measured on: {machine(records[0])}."]
    for record in records:
        lines += ["", f"### {record['benchmark']}", "", f"Baseline: {record['against']}.", ""]
        lines += [markdown_row(HEADS), "|" + "---|" * len(HEADS)]
        lines += [markdown_row(row_cells(row)) for row in record["rows"]]
    return "\n".join(lines)


def replace_between(text: str, content: str, path: Path) -> str:
    """`text` with `content` between the marks.

    Raises:
        TableError: there is not one of each mark, in order.
    """
    first, last = MARKS
    before, _, rest = text.partition(first)
    _, _, after = rest.partition(last)
    if [text.count(mark) for mark in MARKS] != [1, 1] or last in before:
        raise TableError(f"{path} needs {first} and, below it, {last}, once each: the tables go between them.")
    return f"{before}{first}\n\n{content}\n\n{last}{after}"


def main() -> None:
    (args,) = HfArgumentParser(TableArguments).parse_args_into_dataclasses()
    page = Path(args.page)
    text = replace_between(page.read_text(encoding="utf-8"), tables(read(Path(args.results))), page)
    page.write_text(text, encoding="utf-8")
    print(f"Wrote the tables into {page}")
    for name in PEERS:
        if not (Path(args.results) / f"{name}.json").is_file():
            print(f"No table of {name}, which has no result yet: run make peers and python benchmarks/{name}.py")


if __name__ == "__main__":
    main()
