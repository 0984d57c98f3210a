"""docs/encoders.md names every encoder that the package takes, and promises no more than what is tested."""

from pathlib import Path

import pytest
from all_encoders import CONVERTED, KINDS

from uamix_hf.embedding.kinds import ADAPTERS
from uamix_hf.models.conversion import SYSTEMS

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
# How the page calls model types that it does not name as transformers does.
NAMES = {
    "audio_mae": "Audio-MAE", "audio-spectrogram-transformer": "AST", "clap": "CLAP", "clap_audio_model": "CLAP",
    "mae_ast": "MAE-AST", "musicflamingo": "Audio Flamingo", "audioflamingo3": "Audio Flamingo",
    "audioflamingo3_encoder": "Audio Flamingo", "qwen2_audio": "Qwen2-Audio", "qwen2_audio_encoder": "Qwen2-Audio",
    "voxtral_encoder": "Voxtral", "wav2vec2-layer-norm": "wav2vec 2.0", "wav2vec2": "wav2vec 2.0",
}  # fmt: skip


BUILT_IN = {kind for kind, adapter in ADAPTERS.items() if adapter.__module__.startswith("uamix_hf.embedding.")}


@pytest.mark.parametrize("kind", sorted({*BUILT_IN, *KINDS} - {*CONVERTED}))
def test_the_page_names_every_encoder(kind: str) -> None:
    table = PAGE.partition("## What was tried")[2].partition("## Licences")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    names = [name.strip().lower() for cell in cells for name in cell.partition("(")[0].split(",")]
    assert any(name.startswith(NAMES.get(kind, kind).lower()) for name in names), names


def test_the_page_names_every_system_with_its_licence() -> None:
    for system, facts in SYSTEMS.items():
        rows = [line for line in PAGE.splitlines() if f"`convert {system}`" in line]
        assert len(rows) == 1, system
        name = rows[0].split("|")[1].strip()
        (licence,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |") and "convert" not in line]
        stated = licence.split("|")[3].lower().replace(" ", "-")
        assert facts.licence == "unknown" or facts.licence in stated, (system, licence)
        assert facts.licence != "unknown" or "none-stated" in stated or "never-published" in stated, (system, licence)
