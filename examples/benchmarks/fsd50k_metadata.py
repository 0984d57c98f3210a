"""Writes the metadata.csv of a folder with FSD50K, from its tables of labels:

python examples/benchmarks/fsd50k_metadata.py FSD50K
"""

import sys
from pathlib import Path

import pandas as pd


def main(folder: Path) -> None:
    parts = []
    for part, split in (("dev", None), ("eval", "test")):
        rows = pd.read_csv(folder / "labels" / f"{part}.csv", dtype=str)  # fname,labels,mids and, of dev, split
        rows["file_name"] = f"clips/{part}/" + rows["fname"] + ".wav"
        parts.append(rows if split is None else rows.assign(split=split))
    table = pd.concat(parts)[["file_name", "labels", "split"]]
    table.to_csv(folder / "metadata.csv", index=False)
    print(f"{len(table)} clips: {table['split'].value_counts().to_dict()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
