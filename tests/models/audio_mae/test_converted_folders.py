"""Folders of other systems' checkpoints: padding, saving, remote code, missing keys and cards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from converted import CASES, ONE_OF_EACH, outputs
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioMAEModel
from uamix_hf.models.checkpoint import CheckpointError
from uamix_hf.models.conversion import SYSTEMS, convert


@pytest.mark.parametrize("system,file,options", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_clip_has_the_same_embedding_alone_and_in_a_padded_batch(
    folder, system: str, file: str, options: dict
) -> None:
    target = folder(system, file, **options)
    model, extractor = AutoModel.from_pretrained(target).eval(), AutoFeatureExtractor.from_pretrained(target)
    rate, shift = extractor.sampling_rate, extractor.frame_shift
    lengths = [250 * shift, 131 * shift + 7, 20 * shift, 300]
    clips = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in lengths]
    with torch.no_grad():
        together = model(**extractor(clips, rate, return_tensors="pt")).pooler_output
        alone = [model(**extractor(clip, rate, return_tensors="pt")).pooler_output for clip in clips]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system,file,options", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_saved_and_loaded_models_are_bit_equal(folder, tmp_path: Path, system: str, file: str, options: dict) -> None:
    target = folder(system, file, **options)
    model = AutoModel.from_pretrained(target).eval()
    config, extractor = model.config, AutoFeatureExtractor.from_pretrained(target)
    assert type(model) is AudioMAEModel and extractor.time_stride == config.time_stride
    model.save_pretrained(tmp_path)
    values = torch.randn(1, config.max_length, config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    first, second = (outputs(place, values).pooler_output for place in (target, tmp_path))
    assert torch.equal(first, second)


@pytest.mark.parametrize("system", ONE_OF_EACH)
def test_missing_keys_are_named_and_cards_state_licences(fixtures: Path, folder, tmp_path: Path, system: str) -> None:
    file, options = ONE_OF_EACH[system]
    card = (folder(system, file, **options) / "README.md").read_text()
    assert f"license: {SYSTEMS[system].licence}" in card and SYSTEMS[system].citation in card
    source = next((fixtures / system).glob(f"{file}.[ps][ta]*"))
    content = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=False)
    weights = content["teacher"] if system == "asit" else content
    for ending in ("blocks.1.norm2.bias", "pos_embed"):
        key = next(key for key in weights if key.endswith(ending))
        left = {name: value for name, value in weights.items() if name != key}
        torch.save({"teacher": left} if system == "asit" else left, tmp_path / "broken.pth")
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            convert(system, str(tmp_path / "broken.pth"), str(tmp_path / "target"), num_attention_heads=4)
    assert not (tmp_path / "target").exists()


ELSEWHERE = """
import sys
sys.modules["uamix_hf"] = None  # as if it were not installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

outputs = {}
for name, folder in zip(sys.argv[3::2], sys.argv[4::2]):
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        inputs = extractor(load_file(sys.argv[1])["waveform"], extractor.sampling_rate, return_tensors="pt")
        outputs[name] = model(**inputs).pooler_output
save_file(outputs, sys.argv[2])
"""


@pytest.mark.slow
def test_folders_load_where_the_package_is_absent(folder, tmp_path: Path) -> None:
    folders = {system: folder(system, file, **options) for system, (file, options) in ONE_OF_EACH.items()}
    waveform = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) * 0.1
    save_file({"waveform": waveform}, tmp_path / "waveform.safetensors")
    arguments = [tmp_path / "waveform.safetensors", tmp_path / "outputs.safetensors"]
    arguments += [text for item in folders.items() for text in item]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    command = [sys.executable, "-I", "-c", ELSEWHERE, *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "outputs.safetensors")
    for system, target in folders.items():
        extractor = AutoFeatureExtractor.from_pretrained(target)
        inputs = extractor(waveform, extractor.sampling_rate, return_tensors="pt")
        torch.testing.assert_close(found[system], outputs(target, **inputs).pooler_output, atol=1e-6, rtol=1e-5)
