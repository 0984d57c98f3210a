"""The checkpoints with the code and settings that version 0.1.0 saved beside them give the same vectors as today.

They are the same to the bit. `saved_by_0.1.0/` holds these files as they were then; the weights are those of
`model_cards/`, which have not changed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, AudioMAEModel

ROOT = Path(__file__).parents[2]
SAVED = Path(__file__).with_name("saved_by_0.1.0")
NAMES = ("audio-mae-tiny", "uamix-mae-tiny")

WITHOUT_THE_PACKAGE = """
import sys
from pathlib import Path

sys.modules["uamix_hf"] = None  # as if it were not installed
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel

root = Path(sys.argv[1])
waves = list(np.load(root / "waves.npz").values())
outputs = {}
for name in sys.argv[2:]:
    extractor = AutoFeatureExtractor.from_pretrained(root / name, trust_remote_code=True)
    model = AutoModel.from_pretrained(root / name, trust_remote_code=True)
    assert all(type(thing).__module__.startswith("transformers_modules.") for thing in (extractor, model))
    inputs = extractor(waves, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        outputs[name] = model(**inputs).pooler_output
    outputs[f"{name}.input_values"] = inputs["input_values"]
save_file(outputs, root / "outputs.safetensors")
"""


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """Two clips of unequal length, one louder than the other."""
    rng = np.random.default_rng(0)
    return [
        (level * rng.standard_normal(samples)).astype(np.float32) for level, samples in ((0.3, 40_000), (0.01, 9_000))
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, waves: list[np.ndarray]) -> Path:
    """Folder of both checkpoints as they were."""
    root = tmp_path_factory.mktemp("saved")
    for name in NAMES:
        (root / name).mkdir()
        shutil.copy(SAVED / f"{name}.config.json", root / name / "config.json")
        shutil.copy(SAVED / "preprocessor_config.json", root / name)
        for file in SAVED.glob("*.py.txt"):
            shutil.copy(file, root / name / file.stem)
        (root / name / "model.safetensors").symlink_to(ROOT / "model_cards" / name / "model.safetensors")
    np.savez(root / "waves.npz", *waves)
    return root


def embed(folder: Path, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised log-mels, and embeddings."""
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    assert type(extractor) is AudioMAEFeatureExtractor and type(model) is AudioMAEModel
    inputs = extractor(waves, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return inputs["input_values"], model(**inputs).pooler_output


@pytest.mark.parametrize("name", NAMES)
def test_the_package_loads_them(saved: Path, waves: list[np.ndarray], name: str) -> None:
    today = ROOT / "model_cards" / name
    for old, new in zip(embed(saved / name, waves), embed(today, waves), strict=True):
        assert torch.equal(old, new)
    old, new = (
        AudioEmbedder.from_pretrained(str(folder)).encode(waves, progress_bar=False) for folder in (saved / name, today)
    )
    assert old.shape == (2, AutoModel.from_pretrained(today).config.embedding_size) and np.array_equal(old, new)


def test_their_code_then_and_now_computes_the_same_where_the_package_is_absent(
    saved: Path, waves: list[np.ndarray], tmp_path: Path
) -> None:
    today = [str(ROOT / "model_cards" / name) for name in NAMES]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, str(saved), *NAMES, *today],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found = load_file(saved / "outputs.safetensors")
    for then, now in zip(NAMES, today, strict=True):
        inputs, embeddings = embed(Path(now), waves)
        for name in (then, now):
            assert torch.equal(found[f"{name}.input_values"], inputs), name
            assert torch.equal(found[name], embeddings), name
