"""ray_embed.py in a cluster of this machine: each file's vector is the embedder's own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from processes import ROOT
from toy_sounds import CONFIG, EXTRACTOR, write_tones

from uamix_hf import AudioEmbedder, AudioMAEModel


@pytest.mark.slow
def test_vectors_are_those_of_the_embedder(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'uamix_hf[ray]'")
    AudioMAEModel(CONFIG).save_pretrained(tmp_path / "model")
    EXTRACTOR.save_pretrained(tmp_path / "model")
    sounds = write_tones(tmp_path / "sounds", 7)
    command = [sys.executable, ROOT / "examples" / "ray_embed.py", "--model_name_or_path", tmp_path / "model",
               "--data_dir", sounds, "--output_dir", tmp_path / "vectors", "--batch_size", "3"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = pyarrow.dataset.dataset(tmp_path / "vectors").to_table().sort_by("path").to_pylist()
    files = sorted(sounds.iterdir())
    assert [row["path"] for row in rows] == [str(file) for file in files]
    expected = AudioEmbedder.from_pretrained(str(tmp_path / "model"), device="cpu").encode(files, progress_bar=False)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-5)
