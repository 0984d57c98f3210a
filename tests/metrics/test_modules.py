"""The package's metrics load wherever the script that asks for them lies."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from uamix_hf.metrics.modules import load_metric
metric = load_metric("classification_accuracy")
print(metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], num_classes=2)["accuracy"])
"""


def test_a_script_beside_another_one_called_evaluate_gets_the_library(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "evaluate.py").write_text("raise SystemExit('the wrong one')")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout) - 2 / 3) < 1e-9
