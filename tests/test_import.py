"""`import uamix_hf` imports transformers' base classes and nothing else, and so does a first embedding.

What jobs need comes when they are used.
"""

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
embedder = uamix_hf.AudioEmbedder.from_pretrained("model_cards/uamix-mae-tiny")
shape = embedder.encode(["examples/siren.flac"] * 3).shape
used = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([sorted(before), sorted(after - before), sorted(used - after), shape]))
"""
# Only for tables of recordings, evaluation, training and adapters.
HEAVY = {"datasets", "evaluate", "matplotlib", "pandas", "peft", "pyarrow", "sentence_transformers", "sklearn"}


def test_the_package_and_a_first_embedding_import_nothing_heavy() -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    before, added, used, shape = json.loads(done.stdout)
    # soundfile is not among them: transformers' feature extractors import it where it is installed.
    assert not HEAVY & {*before, *added, *used}
    assert "torch" in before and "uamix_hf" in added
    outside = set(added) - {"uamix_hf"} - sys.stdlib_module_names
    assert outside == {"lazy_loader"}
    assert shape == [3, 128]
    assert not set(used) - sys.stdlib_module_names - {"safetensors"}, used
