"""Processes of their own for the modules of `evaluate`: any connection is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

OFFLINE = """
import socket

def refuse(*address, **more):
    raise AssertionError(f"asks the network for {address}")

socket.getaddrinfo = socket.socket.connect = refuse
"""
COMPUTE = """
import json, sys
for name in ("uamix_hf", *sys.argv[2:]):
    sys.modules[name] = None  # a Space has none of them
import evaluate

metric = evaluate.load(sys.argv[1])
for line in sys.stdin:
    try:
        print(json.dumps(metric.compute(**json.loads(line))))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def run_offline(code: str, home: Path, *arguments: object, lines: str = "") -> list[str]:
    """What Python code prints, line by line; its caches go into `home`."""
    process = subprocess.run(
        [sys.executable, "-c", OFFLINE + code, *map(str, arguments)],
        input=lines, env=os.environ | {"HF_HOME": str(home)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def compute_offline(folder: Path, home: Path, cases: list[dict], absent: tuple[str, ...] = ()) -> list:
    """Results, or the messages of errors, of a module in a process that has neither the package nor what is absent."""
    lines = "\n".join(map(json.dumps, cases))
    return [json.loads(line) for line in run_offline(COMPUTE, home, folder, *absent, lines=lines)]


__all__ = ["compute_offline", "run_offline"]
