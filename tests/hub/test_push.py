"""A finished folder is pushed without the run's leavings, and what arrives is usable where the package is absent."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from hub_server import HubServer

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.hub.cards import tuned_card

PUBLISHED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "configuration_audio_mae.py",
    "modeling_audio_mae.py",
    "feature_extraction_audio_mae.py",
}

PUSH = """
import sys
from huggingface_hub.errors import HfHubHTTPError
from uamix_hf.hub.push import push_folder

folder, endpoint = sys.argv[1:]
address = push_folder(folder, "tuned", commit_message="First")
assert address.startswith(f"{endpoint}/user/tuned/commit/"), address
push_folder(folder, "user/tuned")  # again, into what exists now
try:
    push_folder(folder, "user/tuned", token="hf_stranger")
except HfHubHTTPError as error:
    assert error.response.status_code == 401
else:
    raise AssertionError("pushed without the right to")
"""

PULL = """
import sys
sys.modules["uamix_hf"] = None  # as if it were not installed

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained("user/tuned", trust_remote_code=True)
model = AutoModel.from_pretrained("user/tuned", trust_remote_code=True).eval()
inputs = extractor(np.load(sys.argv[1]), sampling_rate=extractor.sampling_rate, return_tensors="pt")
with torch.no_grad():
    np.save(sys.argv[2], model(**inputs).pooler_output.numpy())
"""


def test_pushed_folder_is_clean_and_gives_the_same_embedding(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder, wave_file, vector_file = tmp_path / "run", tmp_path / "wave.npy", tmp_path / "vector.npy"
    model, extractor = AudioMAEModel(tiny_config).eval(), AudioMAEFeatureExtractor(mean=-5.0, std=3.0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    tuned_card("you/base", "birds", 10, {}, {}, repo_id="user/tuned").save(folder / "README.md")
    published = {name: (folder / name).read_bytes() for name in PUBLISHED}
    for name in ("config.json", "model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"):
        for part in ("checkpoint-1", "head/checkpoint-1"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / name).write_bytes(b"private")
    for name in ("optimizer.pt", "training_args.bin", "pytorch_model.bin", ".env"):
        (folder / name).write_bytes(b"private")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    np.save(wave_file, wave)

    with HubServer() as hub:

        def run(code: str, home: str, *arguments: object) -> None:
            environment = os.environ | hub.environment(tmp_path / home)
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            assert process.returncode == 0, process.stderr

        run(PUSH, "author", folder, hub.url)
        assert hub.files("user/tuned") == published
        run(PULL, "user", wave_file, vector_file)
        assert hub.unhandled == []

    with torch.no_grad():
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        expected = model(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(np.load(vector_file), expected, atol=1e-6)
    assert (folder / "optimizer.pt").read_bytes() == b"private"  # nothing of the run is touched
