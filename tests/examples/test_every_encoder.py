"""Every kind of encoder through the command line: tuned, embedded, exported, evaluated and fine-tuned."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from all_encoders import KINDS, write_encoder
from toy_sounds import tones, write_tones

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("every") / "recordings", 15)
    labels = tones(15)[1]
    rows = [f"{number:02d}.wav,{'abc'[label]}" for number, label in enumerate(labels)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_goes_through_all_scripts(kind: str, recordings: Path, request, tmp_path: Path) -> None:
    encoder = write_encoder(kind, tmp_path / "encoder", request.getfixturevalue("fixtures"))
    command = [sys.executable, Path(__file__).with_name("every_encoder.py"), encoder, recordings, tmp_path / "output"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads((tmp_path / "output" / "outcome.json").read_text())
    assert outcome["size"] > 0 and outcome["spread"] > 1e-3
    assert outcome["batch"] < 1e-5, "an embedding depends on its batch"
    assert outcome["half"] < 0.05 and outcome["models"] == ["encoder", "tuned", "exported"]
    assert len(outcome["classifier"]) == 1 and outcome["classifier"][0].endswith("ForAudioClassification")
