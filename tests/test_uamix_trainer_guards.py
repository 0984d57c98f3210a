"""UaMixTrainer with a recipe, guards and interpolated weights, from folder to folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config
from toy_sounds import CONFIG, EXTRACTOR, write_tones
from transformers import AutoModel, set_seed

from uamix_hf import AudioEmbedder, AudioMAEModel, UaMixTrainer, UaMixTrainingArguments
from uamix_hf.data import DataArguments
from uamix_hf.training import LoraArguments, LoraError

HEADS = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 16, "topk": 2}


def arguments(folder: Path, **more) -> UaMixTrainingArguments:
    fixed = {
        "use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 8, "max_steps": 3,
        "head_steps": 2, "save_strategy": "no", "learning_rate": 1e-2, "warmup_steps": 0, "seed": 3,
        "recipe": "plastic",
    }  # fmt: skip
    return UaMixTrainingArguments(str(folder), **{**fixed, **HEADS, **more})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "base"
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("recordings") / "sounds", 48)
    lines = [f"{number:02d}.wav,{number // 4}" for number in range(48)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,speaker", *lines]))
    return folder


def test_speakers_are_held_out_whole_and_the_card_says_so(base, sounds, tmp_path) -> None:
    data = DataArguments(train_dir=[str(sounds)], group_column="speaker")
    args = arguments(tmp_path, recipe="gentle", guard_fraction=0.7, guard_steps=1)
    trainer = UaMixTrainer(base, args, data)
    trainer.train()
    assert trainer.clips == 48 - 32  # eight speakers of four clips
    first = next(entry for entry in trainer.state.log_history if "guard_neighbours" in entry)
    assert first["step"] == 0 and first["guard_neighbours"] == 1
    card = (tmp_path / "README.md").read_text()
    for part in (
        "| recipe | gentle |", "| recipe_changes | learning_rate=0.01, warmup_steps=0, max_steps=3, head_steps=2 |",
        "| layer_decay | 0.65 |", "| freeze_blocks | 0.5 |", "| guard | stop |", "| guard_neighbours |",
        "| guard_step |", "16 clips",
    ):  # fmt: skip
        assert part in card, part


@pytest.mark.parametrize("clips", [pytest.param(2, marks=pytest.mark.slow), 12])
def test_a_tiny_folder_is_tuned_with_the_defaults(base, tmp_path, clips: int, caplog) -> None:
    folder = write_tones(tmp_path / "few", clips)
    args = UaMixTrainingArguments(
        str(tmp_path / "tuned"), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", **HEADS
    )
    trainer = UaMixTrainer(base, args, folder)
    before = {name: value.clone() for name, value in trainer.encoder.named_parameters()}
    trainer.train()
    assert trainer.clips == clips and trainer.state.global_step == 5
    assert f"{clips} clips are too few" in caplog.text and f"measured on {clips} clips that are tuned on" in caplog.text
    assert "Only 5 updates of the encoder" in caplog.text
    changed = {name for name, value in trainer.encoder.named_parameters() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("patch_embed", "layers.0.")) for name in changed)
    card = (tmp_path / "tuned" / "README.md").read_text()
    rate = {2: "5.77e-06", 12: "1.41e-05"}[clips]  # 2e-5 times the root of clips / 24
    for part in ("| recipe | gentle |", "| recipe_changes | none |", f"| learning_rate | {rate} |", "| guard_step |"):
        assert part in card, part


def test_interpolated_weights_are_saved_and_whitened(base, sounds, tmp_path) -> None:
    plain = UaMixTrainer(base, arguments(tmp_path / "plain", whiten=False), sounds)
    plain.train()
    between = UaMixTrainer(base, arguments(tmp_path / "between", interpolate=0.3, guard="warn"), sounds)
    between.train()
    start, saved = AutoModel.from_pretrained(base), AutoModel.from_pretrained(tmp_path / "between")
    moved = 0
    for name, tuned in plain.encoder.named_parameters():
        before = start.get_parameter(name)
        torch.testing.assert_close(saved.get_parameter(name), 0.7 * before + 0.3 * tuned, atol=1e-6, rtol=1e-5)
        moved += not torch.equal(tuned, before)
    assert moved > 10
    vectors = AudioEmbedder.from_pretrained(str(tmp_path / "between"), device="cpu").encode(
        sorted(map(str, sounds.glob("*.wav"))), progress_bar=False
    )
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.05)  # whitened after, not before
    assert "| interpolate | 0.3 |" in (tmp_path / "between" / "README.md").read_text()
    # The guards' last measures are of the interpolated encoder: nearer to the untuned one than the tuned.
    guarded = [entry["guard_neighbours"] for entry in between.state.log_history if "guard_neighbours" in entry]
    assert guarded[-1] > guarded[-2]


def test_interpolated_lora_is_nearer_to_the_base(base, sounds, tmp_path) -> None:
    moves = []
    for fraction in (None, 0.25):
        folder = tmp_path / str(fraction)
        UaMixTrainer(
            base, arguments(folder, interpolate=fraction, whiten=False), sounds, lora=LoraArguments(lora_r=2)
        ).train()
        start, saved = AutoModel.from_pretrained(base), AutoModel.from_pretrained(folder)
        name = "layers.1.mlp.fc1.weight"
        moves.append(saved.get_parameter(name) - start.get_parameter(name))
    assert moves[0].abs().max() > 1e-4
    torch.testing.assert_close(moves[1], 0.25 * moves[0], atol=1e-6, rtol=1e-3)


def test_adapters_without_weights_between_are_refused_before_training(base, sounds, tmp_path) -> None:
    with pytest.raises(LoraError, match="interpolate with adapters"):
        UaMixTrainer(base, arguments(tmp_path, interpolate=0.5), sounds, lora=IA3Config(feedforward_modules=[]))
