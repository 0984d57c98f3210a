"""UaMixTrainer with LoRA, from folder to folder: tuned, whitened, evaluated, resumed, saved and pushed."""

import copy
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import slow_but, write_encoder
from hub_server import HubServer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, tones, write_tones
from transformers import AutoModel, TrainerCallback, set_seed
from travelling import AUDIO_MAE_CODE

from uamix_hf import (
    AnotherRunError,
    AudioEmbedder,
    AudioMAEModel,
    UaMixForContrastiveTuning,
    UaMixTrainer,
    UaMixTrainingArguments,
)
from uamix_hf.data import load_recordings
from uamix_hf.embedding import EncoderError, load_encoder
from uamix_hf.embedding.encoders import base_of
from uamix_hf.evaluation import ProtocolArguments
from uamix_hf.training import EncoderArguments, LoraArguments, LoraError

HEADS = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 16, "topk": 2}
FEW = ProtocolArguments(["few_shot"], n_way=3, k_shot=[1], queries=3, episodes=12)
TARGET = {"ast": "v_proj", "wavlm": "output_dense", "whisper": "fc1"}
LORA = LoraArguments(lora_r=2, lora_dropout=0.1)


def arguments(folder: Path, **more) -> UaMixTrainingArguments:
    fixed = {
        "use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 8, "max_steps": 4,
        "head_steps": 2, "save_steps": 1, "save_total_limit": 9, "learning_rate": 1e-2, "warmup_steps": 0, "seed": 3,
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
    folder = write_tones(tmp_path_factory.mktemp("recordings") / "sounds", 24)
    labels = tones(24)[1]
    lines = [f"{number:02d}.wav,{'abc'[label]}" for number, label in enumerate(labels)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,pitch", *lines]))
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> UaMixTrainer:
    trainer = UaMixTrainer(base, arguments(tmp_path_factory.mktemp("runs") / "tuned"), sounds, lora=LORA)
    trainer.train()
    return trainer


def vectors(embedder: AudioEmbedder, sounds: Path) -> np.ndarray:
    return embedder.encode(load_recordings(sounds)["audio"][:], progress_bar=False)


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, its = one.state_dict(), two.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(value, its[name]) for name, value in mine.items())


def test_the_output_folder_is_an_ordinary_encoder_and_beside_it_the_adapter(tuned, base, sounds) -> None:
    folder = Path(str(tuned.args.output_dir))
    assert isinstance(tuned.encoder, PeftModel)
    loaded, before = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(base)
    changed = {name for name, value in before.named_parameters() if not torch.equal(value, loaded.get_parameter(name))}
    assert changed == {name for name, _ in before.named_parameters() if re.search(r"(_proj|fc\d)\.weight$", name)}
    now = vectors(AudioEmbedder(tuned.encoder, EXTRACTOR), sounds)
    assert now.shape == (24, 32) and loaded.config.whitening_size == 32
    np.testing.assert_allclose(now.mean(axis=0), 0, atol=0.05)  # whitened over these very clips
    for place in (folder, folder / "adapter"):
        np.testing.assert_allclose(
            vectors(AudioEmbedder.from_pretrained(str(place), device="cpu"), sounds), now, atol=1e-4
        )
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert sum(value.numel() for value in adapter.values()) == 2 * 2 * (4 * (32 + 32) + 2 * (32 + 48))
    assert same_weights(tuned.base, before)


def test_scores_before_and_after_and_the_card(tuned, base, sounds) -> None:
    found = tuned.evaluate(sounds, "pitch", protocols=FEW)
    assert all(0 < one.before <= 1 and 0 < one.after <= 1 for one in found.measurements)
    card = str(tuned.create_model_card())
    for part in (
        "| lora_r | 2 |", "| lora_alpha | 2 |", "| lora_dropout | 0.1 |", "| adapter | LORA |",
        "| lora_target_modules | fc1, fc2, k_proj, o_proj, q_proj, v_proj |", "| learning_rate | 0.01 |", "- lora\n",
        "Adapters of peft (LORA) were tuned", "| whiten | True |",
    ):  # fmt: skip
        assert part in card, part
    assert str(base.parent) not in card


class Stop(TrainerCallback):
    """Stops a run after a step of stage 1 and after one of stage 2, in turn."""

    def __init__(self, step: int, stage: str):
        self.step, self.stage = step, stage

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step and (Path(args.output_dir).name == "head") == (self.stage == "head"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage, step", [pytest.param("head", 2, marks=pytest.mark.slow), ("tune", 3)])
def test_a_stopped_run_goes_on_as_if_it_never_had(tuned, base, sounds, tmp_path, stage, step) -> None:
    stopped = UaMixTrainer(base, arguments(tmp_path), sounds, lora=LORA, callbacks=[Stop(step, stage)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    for lora, message in (
        (LoraArguments(lora_r=4, lora_dropout=0.1), "adapters.default.r: checkpoint 2, now 4"),
        (LoraArguments(lora_r=2), "adapters.default.lora_dropout: checkpoint 0.1, now 0.0"),
        (None, "adapters: checkpoint {.*'r': 2.*}*, now {}"),
    ):
        with pytest.raises(AnotherRunError, match=message):
            UaMixTrainer(base, arguments(tmp_path), sounds, lora=lora).train(True)
    trainer = UaMixTrainer(base, arguments(tmp_path), sounds, lora=LORA)
    trainer.train(resume_from_checkpoint=True)
    assert same_weights(trainer.model, tuned.model)


@pytest.mark.parametrize("kind", slow_but(["wavlm"], TARGET))
def test_another_kind_of_encoder_is_whitened_beside_its_adapter(sounds: Path, tmp_path: Path, kind: str) -> None:
    write_encoder(kind, tmp_path / "base")
    args = arguments(tmp_path / "tuned", save_strategy="no", max_steps=1, head_steps=0, save_steps=500)
    trainer = UaMixTrainer(tmp_path / "base", args, sounds, lora=LoraConfig(r=2, target_modules=[TARGET[kind]]))
    trainer.train()
    now = vectors(AudioEmbedder(trainer.encoder, trainer.feature_extractor), sounds)
    np.testing.assert_allclose(now.mean(axis=0), 0, atol=0.05)
    for place in ("tuned", "tuned/adapter"):
        embedder = AudioEmbedder.from_pretrained(str(tmp_path / place), device="cpu")
        assert type(embedder.model) is type(base_of(trainer.encoder))
        np.testing.assert_allclose(vectors(embedder, sounds), now, atol=1e-4)
    assert f"| lora_target_modules | {TARGET[kind]} |" in (tmp_path / "tuned" / "README.md").read_text()


def test_an_encoder_that_the_user_wrapped_is_saved_alike(base: Path, sounds: Path, tmp_path: Path) -> None:
    encoder = get_peft_model(AudioMAEModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    args = arguments(tmp_path, save_strategy="no", max_steps=1, head_steps=0, save_steps=500)
    trainer = UaMixTrainer(encoder, args, sounds, EXTRACTOR)
    trainer.train()
    assert trainer.encoder is encoder
    one, two = load_encoder(tmp_path), load_encoder(tmp_path / "adapter")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], atol=1e-6, rtol=1e-6)
    shutil.copytree(tmp_path / "adapter", tmp_path / "alone")
    loaded = AutoModel.from_pretrained(tmp_path / "alone")  # by transformers, without the whitening
    assert type(loaded) is AudioMAEModel and any("lora_A" in name for name, _ in loaded.named_parameters())


def test_what_lora_does_not_go_with_is_refused(base: Path, sounds: Path, tmp_path: Path) -> None:
    encoder, args = AudioMAEModel.from_pretrained(base), arguments(tmp_path)
    wrapped = get_peft_model(copy.deepcopy(encoder), LoraConfig(r=2, target_modules=["q_proj"]))
    statistics = {"input_mean": EXTRACTOR.mean, "input_std": EXTRACTOR.std}
    model = UaMixForContrastiveTuning.from_encoder(copy.deepcopy(encoder), **statistics, **HEADS)
    random = EncoderArguments(str(base), random_weights=True)
    for given, kind, message in (
        (wrapped, LoraError, "PeftModel has adapters already"),
        (model, LoraError, "add adapters to its encoder before from_encoder"),
        (random, LoraError, "lora with random_weights"),
    ):
        with pytest.raises(kind, match=message):
            UaMixTrainer(given, args, sounds, EXTRACTOR, lora=LORA)
    with pytest.raises(EncoderError, match="has the encoder that the adapters belong to"):
        UaMixTrainer(base, arguments(base), sounds, lora=LORA)
    with pytest.raises(TypeError, match="lora is a int"):
        UaMixTrainer(encoder, args, sounds, EXTRACTOR, lora=8)


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_encoder_and_adapter_are_pushed(tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        tuned.push_to_hub("user/mine", token=hub.token)
        assert hub.unhandled == []
        files = {name for name in hub.files("user/mine") if name != ".gitattributes"} - AUDIO_MAE_CODE
    assert files == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors", "adapter/embedding_config.json", "adapter/preprocessor_config.json",
        "adapter/embedding_whitening.safetensors", "modules.json", "config_sentence_transformers.json",
    }  # fmt: skip


def test_adapters_and_random_weights_need_another_rate_than_gentle(base: Path, sounds: Path, tmp_path: Path):
    gentle = UaMixTrainingArguments(str(tmp_path), use_cpu=True, **HEADS)
    with pytest.raises(ValueError, match="hardly moves LoRA adapters.*--recipe plastic"):
        UaMixTrainer(base, gentle, sounds, lora=LORA)
    random = EncoderArguments(str(base), random_weights=True)
    with pytest.raises(ValueError, match="hardly moves random weights.*or give a learning_rate"):
        UaMixTrainer(random, gentle, sounds)
    UaMixTrainer(base, gentle, sounds)
    for chosen in ({"learning_rate": 1e-3}, {"recipe": "plastic"}):
        args = UaMixTrainingArguments(str(tmp_path), use_cpu=True, **HEADS, **chosen)
        UaMixTrainer(base, args, sounds, lora=LORA)
        UaMixTrainer(random, args, sounds)
