"""A finished folder is pushed without the run's leavings, and what arrives is usable where the package is absent."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from travelling import AUDIO_MAE_CODE

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.hub import push
from uamix_hf.hub.cards import tuned_card
from uamix_hf.metrics.modules import metric_folder

PUBLISHED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    *AUDIO_MAE_CODE,
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
    tuned_card("you/base", "birds", 10, {}, {}).save(folder / "README.md")
    published = {name: (folder / name).read_bytes() for name in PUBLISHED}
    card = published["README.md"].decode()
    published["README.md"] = str(tuned_card("you/base", "birds", 10, {}, {}, repo_id="user/tuned")).encode()
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
    assert (folder / "README.md").read_text() == card and 'from_pretrained("."' in card


PUSH_METRIC = """
import sys
from huggingface_hub.errors import HfHubHTTPError
from uamix_hf.hub.push import push_metric

for name in ("few_shot_accuracy", "user/few_shot_accuracy"):  # the second time into what exists
    address = push_metric(name)
    assert address.startswith(f"{sys.argv[1]}/spaces/user/few_shot_accuracy/commit/"), address
try:
    push_metric("user/few_shot_accuracy", token="hf_stranger")
except HfHubHTTPError as error:
    assert error.response.status_code == 401
else:
    raise AssertionError("pushed without the right to")
"""

PULL_METRIC = """
import sys
sys.modules["uamix_hf"] = None

import evaluate

metric = evaluate.load("user/few_shot_accuracy")
result = metric.compute(predictions=[0, 1, 0, 0], references=[0, 1, 0, 1], episodes=[0, 0, 1, 1])
assert result["accuracy"] == 0.75, result
"""


@pytest.mark.slow
def test_pushed_metric_loads_where_the_package_is_absent(tmp_path: Path) -> None:
    with HubServer() as hub:
        for home, code in (("author", PUSH_METRIC), ("user", PULL_METRIC)):
            environment = os.environ | hub.environment(tmp_path / home)
            command = [sys.executable, "-c", code, hub.url]
            process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert process.returncode == 0, process.stderr
        names = ("README.md", "app.py", "few_shot_accuracy.py", "requirements.txt")
        expected = {name: (metric_folder("few_shot_accuracy") / name).read_bytes() for name in names}
        assert hub.files("user/few_shot_accuracy", repo_type="space") == expected
        assert hub.unhandled == []


def test_a_metric_of_another_name_is_not_pushed() -> None:
    with pytest.raises(ValueError, match="no metric 'accuracy': there are classification_accuracy, few_shot_accuracy"):
        push.push_metric("user/accuracy")
