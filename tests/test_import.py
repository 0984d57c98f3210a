"""`import uamix_hf` imports transformers' base classes and nothing else: what jobs need comes when they are used."""

import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys
from transformers import AutoModel, AutoProcessor, PreTrainedModel, SequenceFeatureExtractor

before = {name.partition(".")[0] for name in sys.modules}
import uamix_hf

after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([sorted(before), sorted(after - before)]))
"""


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    before, added = json.loads(done.stdout)
    # soundfile is not among them: transformers' feature extractors import it where it is installed.
    assert not {"sklearn", "matplotlib", "datasets", "pandas", "evaluate"} & {*before, *added}
    assert "torch" in before and "uamix_hf" in added
    outside = set(added) - {"uamix_hf"} - sys.stdlib_module_names
    assert outside == {"lazy_loader"}
