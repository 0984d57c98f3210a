"""Halves of the speakers of Speech Commands' test split, for --where: speakers.py METADATA validation|test

Sorted speakers take turns. Silence has no speaker; it is measured in the test.
"""

import csv
import sys


def speakers(metadata: str, half: str) -> list[str]:
    with open(metadata, newline="", encoding="utf-8") as file:
        names = sorted({row["speaker"] for row in csv.DictReader(file) if row["split"] == "test"} - {""})
    return {"validation": names[0::2], "test": ["", *names[1::2]]}[half]


if __name__ == "__main__":
    print("speaker=" + ",".join(speakers(*sys.argv[1:])))
