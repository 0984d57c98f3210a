"""What is shared among encoders asks the adapter: it names no encoder's class, module or `model_type`."""

import ast
from pathlib import Path

import pytest
import transformers

from uamix_hf.embedding.kinds import ADAPTERS

PACKAGE = Path(__file__).parents[1] / "uamix_hf"
MODULES = {one.__module__ for one in ADAPTERS.values() if one.__module__.startswith("uamix_hf.")}  # not of other tests
ADAPTER_FILES = {Path(*module.split(".")[1:]).with_suffix(".py") for module in MODULES}
ROOMS = ("data", "embedding", "evaluation", "fine_tuning", "hub", "metrics", "search", "training", "tuning")
FILES = [file.relative_to(PACKAGE) for room in ROOMS for file in sorted((PACKAGE / room).rglob("*.py"))]
SHARED = [Path("trainer.py"), *(file for file in FILES if file not in ADAPTER_FILES)]
# What chooses the adapter by the configuration's type, and the default tag of a model card.
CHOOSES, DEFAULTS = Path("embedding/kinds.py"), {Path("hub/cards.py"): {"audio_mae"}}
NAMES = ("Whisper", "AST", "Clap", "Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio", "UniSpeech", "SEW", "Qwen2Audio",
         "Voxtral", "AudioFlamingo3", "AudioMAE", "Beats", "MAEAST", "SSAMBA")  # fmt: skip
ENDS = ("Model", "Encoder", "Config", "Processor", "ForCTC", "ForPreTraining", "ForAudioClassification", "ForMaskedLM")
WAVES = {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat", "sew", "sew-d"}
BUILT_IN = {kind for kind, one in ADAPTERS.items() if one.__module__.startswith("uamix_hf.embedding.")} | WAVES


def encoders_named(code: str) -> set[str]:
    """Classes of encoders, modules of their models and values of `model_type` that code names, outside docstrings."""
    tree, found = ast.parse(code), set()
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                found |= {module, *(f"{module}.{one.name}" for one in node.names)}
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)) if id(node) not in texts:
                found.add(name)
    return {
        name
        for name in found
        if name in BUILT_IN
        or (name.rpartition(".")[2].startswith(NAMES) and name.endswith(ENDS))
        or any(part.startswith(("modeling_", "configuration_")) and "models" in name for part in name.split("."))
    }


@pytest.mark.parametrize(
    "code, says",
    [
        ("from transformers import ASTModel", "transformers.ASTModel"),
        ("isinstance(x, transformers.WhisperModel)", "WhisperModel"),
        ("if config.model_type == 'whisper': pass", "whisper"),
        ("if type(x).__name__ == 'HubertModel': pass", "HubertModel"),
        ("from ..models.beats.modeling_beats import BeatsLayer", "models.beats.modeling_beats"),
    ],
)
def test_a_branch_by_the_class_of_an_encoder_is_found(code: str, says: str) -> None:
    assert says in encoders_named(code)
    assert not encoders_named(f'"""{code}"""')
    assert hasattr(transformers, "ASTModel") and {"whisper", "audio_mae", "beats"} <= BUILT_IN


@pytest.mark.parametrize("file", SHARED, ids=Path.as_posix)
def test_shared_code_names_no_encoder(file: Path) -> None:
    assert len(SHARED) > 100 and Path("embedding/whisper.py") not in SHARED
    if file != CHOOSES:
        assert encoders_named((PACKAGE / file).read_text(encoding="utf-8")) == DEFAULTS.get(file, set())
