"""What every converted folder is and every converter refuses, whatever the system."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from all_encoders import CONVERTED, write_encoder
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from toy_sounds import tones
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf.__main__ import main
from uamix_hf.models.conversion import SYSTEMS


class Malice:
    """Unpickling this writes a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch '{self.witness}'",)


def test_every_system_is_here() -> None:
    assert CONVERTED.keys() == SYSTEMS.keys()


@pytest.mark.parametrize("system", CONVERTED)
@torch.no_grad()
def test_a_folder_loads_by_auto_classes_and_states_its_licences(system: str, fixtures: Path, tmp_path: Path) -> None:
    write_encoder(system, tmp_path, fixtures)
    extractor, model = AutoFeatureExtractor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    inputs = extractor(tones(1)[0][0], extractor.sampling_rate, return_tensors="pt")
    batch, frames, mel_bins = inputs["input_values"].shape
    assert model.main_input_name == "input_values" and (batch, mel_bins) == (1, model.config.num_mel_bins)
    assert frames == extractor.whole_patches(frames)
    output = model(**inputs)
    assert output.pooler_output.shape == (1, model.config.embedding_size) and output.last_hidden_state.ndim == 3
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {"AutoConfig", "AutoModel"} <= auto_map.keys()
    assert all((tmp_path / f"{place.partition('.')[0]}.py").is_file() for place in auto_map.values())
    card = ModelCard.load(tmp_path / "README.md")
    facts = SYSTEMS[system]
    assert card.data.license == facts.licence and facts.citation in card.text
    note = card.text.partition("Licence")[2]
    assert facts.licence_note in note and "code" in note.lower() and "weights" in note.lower()


@pytest.mark.parametrize("system", CONVERTED)
def test_a_pickle_that_runs_code_is_refused(system: str, fixtures: Path, tmp_path: Path, capsys) -> None:
    source = next((fixtures / system).glob(f"{CONVERTED[system][0]}.[ps][ta]*"))
    content = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=False)
    content["extra"] = Malice(tmp_path / "witness")
    torch.save(content, tmp_path / "m.pth")
    assert zipfile.is_zipfile(tmp_path / "m.pth")
    flags = ["--num_attention_heads", "4"] if CONVERTED[system][1] else []
    assert main(["convert", system, str(tmp_path / "m.pth"), str(tmp_path / "target"), *flags]) == 1
    assert "was refused and nothing in it was run" in capsys.readouterr().err
    assert not (tmp_path / "witness").exists() and not (tmp_path / "target").exists()
    torch.load(tmp_path / "m.pth", weights_only=False)
    assert (tmp_path / "witness").exists()  # the file is as bad as it should be
