"""UaMixTrainer does what its parts do by hand: the same weights, scores, checkpoints, card and upload."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from datasets import Audio, Dataset, DatasetDict
from hub_server import HubServer
from sentence_transformers import SentenceTransformer
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import ASTConfig, ASTModel, AutoModel, TrainerCallback, set_seed
from travelling import AUDIO_MAE_CODE

from uamix_hf import (
    AnotherRunError,
    AudioEmbedder,
    AudioMAEForPreTraining,
    AudioMAEModel,
    DataError,
    NotTunedError,
    UaMixForContrastiveTuning,
    UaMixTrainer,
    UaMixTrainingArguments,
    fit_whitening,
)
from uamix_hf.data import DataArguments, load_recordings, prepare
from uamix_hf.evaluation import ProtocolArguments, few_shot_accuracy, paired_difference
from uamix_hf.training import EncoderArguments
from uamix_hf.tuning import train_stages

CLIPS = 24
SMALL = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 16, "topk": 2}
FEW = ProtocolArguments(["few_shot", "knn"], n_way=3, k_shot=[1, 2], queries=3, episodes=12, seed=5)


def arguments(folder: Path, **more) -> UaMixTrainingArguments:
    fixed = {
        "use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 8, "max_steps": 4,
        "head_steps": 2, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0, "seed": 3,
        "mix": "cutmix", "recipe": "plastic",
    }  # fmt: skip
    if more.get("save_strategy") == "no":
        del fixed["save_steps"]
    return UaMixTrainingArguments(str(folder), **{**fixed, **SMALL, **more})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an encoder, with a card."""
    folder = tmp_path_factory.mktemp("encoders") / "base"
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of clips with labels and speakers."""
    folder = tmp_path_factory.mktemp("recordings") / "sounds"
    folder.mkdir()
    lines = ["file_name,pitch,speaker"]
    for number, (wave, label) in enumerate(zip(*tones(CLIPS), strict=True)):
        soundfile.write(folder / f"{number:02}.wav", wave, 16_000, subtype="FLOAT")
        lines.append(f"{number:02}.wav,{'abc'[label]},{number // 6}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> UaMixTrainer:
    """A trainer that has trained, from a folder on a folder."""
    trainer = UaMixTrainer(base, arguments(tmp_path_factory.mktemp("runs") / "tuned"), sounds)
    output = trainer.train()
    assert output.global_step == 4 and output.training_loss == output.metrics["train_loss"] > 0
    return trainer


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, its = one.state_dict(), two.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(value, its[name]) for name, value in mine.items())


def test_weights_are_those_of_the_parts_by_hand(tuned: UaMixTrainer, base: Path, sounds: Path, tmp_path: Path) -> None:
    set_seed(3)
    statistics = {"input_mean": EXTRACTOR.mean, "input_std": EXTRACTOR.std}
    model = UaMixForContrastiveTuning.from_encoder(AutoModel.from_pretrained(base), mix="cutmix", **statistics, **SMALL)
    data = prepare(DataArguments(train_dir=[str(sounds)]), EXTRACTOR)
    by_hand = train_stages(model, arguments(tmp_path), data.dataset, EXTRACTOR)
    fit_whitening(model.encoder, EXTRACTOR, data.dataset)
    assert same_weights(tuned.model, model)
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (tuned, by_hand)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert same_weights(AutoModel.from_pretrained(tuned.args.output_dir), model.encoder)
    assert tuned.encoder.config.whitening_size == 32
    names = {path.name for path in Path(tuned.args.output_dir).iterdir()}
    assert names >= {"preprocessor_config.json", "modeling_audio_mae.py", "README.md", "checkpoint-4", "head"}


def test_sentence_transformers_loads_the_folder(tuned: UaMixTrainer, sounds: Path) -> None:
    model = SentenceTransformer(str(tuned.args.output_dir), trust_remote_code=True, device="cpu")
    files = sorted(map(str, sounds.glob("*.wav")))[:4]
    expected = AudioEmbedder(tuned.encoder, EXTRACTOR).encode(files, progress_bar=False)
    np.testing.assert_allclose(model.encode(files), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["undecoded", "decoded", "paths", "prepared", "flags", "stream", "decoded stream"])
def test_other_forms_of_the_same_data_and_of_the_encoder_give_the_same_weights(
    tuned: UaMixTrainer, base: Path, sounds: Path, tmp_path: Path, form: str
) -> None:
    paths = sorted(map(str, sounds.glob("*.wav")))
    if form.startswith("decoded"):
        waves = [{"array": soundfile.read(path)[0], "sampling_rate": 16_000} for path in paths]
        data = Dataset.from_dict({"sound": waves})
    elif form in ("undecoded", "paths", "stream"):
        data = Dataset.from_dict({"sound": paths})
        data = data if form == "paths" else data.cast_column("sound", Audio(decode=True))
    else:
        data = DataArguments(train_dir=[str(sounds)])
        data = prepare(data, EXTRACTOR) if form == "prepared" else data
    column = {"audio_column": "sound"} if isinstance(data, Dataset) else {}
    data = data.to_iterable_dataset() if form.endswith("stream") else data
    encoder = AudioMAEModel.from_pretrained(base)
    model = {"flags": EncoderArguments(str(base)), "paths": base}.get(form, encoder)
    trainer = UaMixTrainer(model, arguments(tmp_path, save_strategy="no"), data, EXTRACTOR, **column)
    trainer.train()
    assert same_weights(trainer.encoder, tuned.encoder)
    assert trainer.encoder is encoder or model is not encoder  # an object is tuned in place
    assert same_weights(trainer.base, AutoModel.from_pretrained(base))


def test_a_model_of_the_method_is_trained_as_it_is(tuned: UaMixTrainer, base: Path, sounds: Path, tmp_path: Path):
    set_seed(3)
    model = UaMixForContrastiveTuning.from_encoder(
        AutoModel.from_pretrained(base), mix="cutmix", input_mean=EXTRACTOR.mean, input_std=EXTRACTOR.std, **SMALL
    )
    args = arguments(tmp_path, save_strategy="no")
    trainer = UaMixTrainer(model, args, sounds, EXTRACTOR)
    trainer.train()
    assert trainer.model is model and same_weights(model, tuned.model)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_as_if_it_never_had(
    tuned: UaMixTrainer, base: Path, sounds: Path, tmp_path: Path
) -> None:
    stopped = UaMixTrainer(base, arguments(tmp_path), sounds, callbacks=[Stop()])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    with pytest.raises(NotTunedError, match="make another one"):
        stopped.train()
    with pytest.raises(AnotherRunError, match="mix: checkpoint 'cutmix', now 'mixup'"):
        UaMixTrainer(base, arguments(tmp_path, mix="mixup"), sounds).train(True)
    trainer = UaMixTrainer(base, arguments(tmp_path), sounds)
    trainer.train(resume_from_checkpoint=True)
    assert same_weights(trainer.model, tuned.model)
    again = UaMixTrainer(base, arguments(tmp_path, whiten=False), sounds)  # of a finished run
    assert again.train(resume_from_checkpoint=True).global_step == 4
    assert again.encoder.config.whitening_size == 0
    with pytest.raises(NotTunedError):
        again.train()


# --- evaluation, card, upload


def test_scores_are_those_of_the_protocol_by_hand(tuned: UaMixTrainer, base: Path, sounds: Path) -> None:
    found = tuned.evaluate(sounds, "pitch", "speaker", protocols=FEW)
    table = load_recordings(sounds)
    vectors = [
        AudioEmbedder.from_pretrained(str(folder)).encode(table["audio"][:], progress_bar=False)
        for folder in (base, tuned.args.output_dir)
    ]
    labels, groups = tones(CLIPS)[1], np.arange(CLIPS) // 6
    assert [one.k for one in found.measurements] == [1, 2, None] and found.measurements[2].protocol == "knn"
    for one in found.measurements[:2]:
        before, after = (
            few_shot_accuracy(each, labels, groups, n_way=3, k_shot=one.k, queries=3, episodes=12, seed=5)
            for each in vectors
        )
        expected = paired_difference(before, after)
        assert (one.before, one.after) == pytest.approx((before.mean, after.mean), abs=1e-6)
        assert (one.before_interval, one.after_interval) == pytest.approx((before.interval, after.interval), abs=1e-6)
        assert (one.difference, one.low, one.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.clips == CLIPS and found.classes == ["a", "b", "c"] and tuned.evaluations[-1] is found
    assert "1-shot" in str(found) and "before" in str(found)
    assert tuned.base.device.type == "cpu" and same_weights(tuned.base, AutoModel.from_pretrained(base))
    card = (Path(tuned.args.output_dir) / "README.md").read_text()
    first = found.measurements[0]
    assert f"| {100 * first.before:.1f} ± {100 * first.before_interval:.1f} |" in card
    assert f"| {100 * first.difference:+.1f} [" in card and "no group of `speaker` on both sides" in card
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    metrics = [metric for result in index["results"] for metric in result["metrics"]]
    assert [metric["value"] for metric in metrics] == [round(one.after, 4) for one in found.measurements]
    assert [metric["name"] for metric in metrics] == [one.name for one in found.measurements]


def test_a_table_with_an_audio_column_is_evaluated_as_a_folder(tuned: UaMixTrainer, sounds: Path) -> None:
    table = load_recordings(sounds).remove_columns("sample_id")
    one, two = (tuned.evaluate(data, "pitch", protocols=FEW, where=["speaker=0,1,2"]) for data in (sounds, table))
    assert one.measurements == two.measurements and one.clips == 18


def test_card_has_settings_log_and_licence(tuned: UaMixTrainer, base: Path) -> None:
    card = str(tuned.create_model_card())
    for part in (
        "license: mit", "# base, tuned with uaMix", f"sounds, {CLIPS} clips", "| mix | cutmix |", "| queue_size | 16 |",
        "| whiten | True |", "| updates | 4 |", "| seed | 3 |", "| train_loss |",
    ):  # fmt: skip
        assert part in card, part
    assert str(base.parent) not in card


PULL = """
import sys
sys.modules["uamix_hf"] = None
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained("user/mine", trust_remote_code=True)
model = AutoModel.from_pretrained("user/mine", trust_remote_code=True)
inputs = extractor(np.load(sys.argv[1]), sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    np.save(sys.argv[2], model(**inputs).pooler_output.numpy())
"""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch):
    """A Hub that this process talks to."""
    with HubServer() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub
        assert hub.unhandled == []


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_what_is_pushed_is_encoder_preprocessor_code_and_card(tuned: UaMixTrainer, online: HubServer, tmp_path: Path):
    address = tuned.push_to_hub("user/mine", token=online.token)
    assert address == tuned.hub_url and address.startswith(f"{online.url}/user/mine/commit/")
    files = {name: data for name, data in online.files("user/mine").items() if name != ".gitattributes"}
    code = {name for name in files if name.endswith("_audio_mae.py")}
    assert files.keys() - code == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "modules.json",
        "config_sentence_transformers.json",
    }
    assert code == AUDIO_MAE_CODE
    assert 'from_pretrained("user/mine"' in files["README.md"].decode()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    wave = tones(1, seed=9)[0][0]
    pulled = AudioEmbedder(AutoModel.from_pretrained(tmp_path), EXTRACTOR).encode(wave)
    assert np.array_equal(pulled, AudioEmbedder(tuned.encoder, EXTRACTOR).encode(wave))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_what_is_pushed_embeds_alike_where_the_package_is_absent(tuned: UaMixTrainer, online: HubServer, tmp_path):
    wave = tones(1, seed=9)[0][0]
    np.save(tmp_path / "wave.npy", wave)
    tuned.push_to_hub("user/mine", token=online.token)
    command = [sys.executable, "-c", PULL, str(tmp_path / "wave.npy"), str(tmp_path / "vector.npy")]
    subprocess.run(command, env=os.environ | online.environment(tmp_path / "home"), cwd=tmp_path, check=True)
    vector = AudioEmbedder(tuned.encoder, EXTRACTOR).encode(wave)
    np.testing.assert_allclose(np.load(tmp_path / "vector.npy")[0], vector, atol=1e-5)


def test_push_to_hub_among_the_arguments_uploads_after_training_and_after_evaluation(
    base: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[tuple] = []

    def push(folder, repo_id, private, token, message):
        pushed.append((repo_id, private, token, "Evaluation" in (Path(folder) / "README.md").read_text()))
        return "address"

    monkeypatch.setattr("uamix_hf.tuning.publishing.push_folder", push)
    hub = {"push_to_hub": True, "hub_model_id": "me/it", "hub_private_repo": True, "hub_token": "secret"}
    args = arguments(tmp_path, save_strategy="no", max_steps=1, head_steps=0, **hub)
    trainer = UaMixTrainer(base, args, sounds)
    trainer.train()
    trainer.evaluate(sounds, "pitch", protocols=FEW)
    assert pushed == [("me/it", True, "secret", False), ("me/it", True, "secret", True)]
    assert trainer.hub_url == "address"


# --- labels and other encoders


def test_labels_are_checked_and_never_learnt_from(
    tuned: UaMixTrainer, base: Path, sounds: Path, tmp_path: Path
) -> None:
    args = arguments(tmp_path, save_strategy="no")
    trainer = UaMixTrainer(base, args, sounds, label_column="pitch", group_column="speaker")
    metrics = trainer.train().metrics
    assert 0 <= metrics["knn_accuracy"] <= 1 and metrics["knn_neighbours"] >= 1
    assert same_weights(trainer.encoder, tuned.encoder)
    assert "| knn_accuracy |" in (tmp_path / "README.md").read_text()


def ast() -> ASTModel:
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ASTModel(ASTConfig(**sizes, max_length=64, num_mel_bins=32))


def test_an_encoder_of_another_kind_is_tuned_without_whitening(sounds: Path, tmp_path: Path) -> None:
    encoder = ast()
    before = copy.deepcopy(encoder)
    args = arguments(tmp_path, whiten=False, save_strategy="no", max_steps=1, head_steps=0)
    trainer = UaMixTrainer(encoder, args, sounds, EXTRACTOR)
    trainer.train()
    assert not same_weights(encoder, before) and same_weights(trainer.base, before)
    assert same_weights(ASTModel.from_pretrained(tmp_path), encoder)
    found = trainer.evaluate(sounds, "pitch", protocols=FEW)
    short = [path for path in sorted(sounds.glob("*.wav")) if soundfile.info(path).duration < 0.6]
    inputs = EXTRACTOR([soundfile.read(path, dtype="float32")[0] for path in short], sampling_rate=16_000,
                       padding="max_length", return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        expected = encoder(input_values=inputs["input_values"]).pooler_output
    vectors = AudioEmbedder(encoder, EXTRACTOR).encode(short, progress_bar=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert all(0 <= one.after <= 1 for one in found.measurements)
    card = (tmp_path / "README.md").read_text()
    assert "| whiten | False |" in card and "license" not in card.split("---")[1]


def test_random_weights_are_named_and_are_what_before_means(base: Path, sounds: Path, tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="no", max_steps=1, head_steps=0)
    trainer = UaMixTrainer(EncoderArguments(str(base), random_weights=True), args, sounds)
    trainer.train()
    assert not same_weights(trainer.base, AutoModel.from_pretrained(base))
    assert "training started from **random weights**" in (tmp_path / "README.md").read_text()


def test_a_pooling_is_learnt_with_the_encoder(base: Path, sounds: Path, tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="no", max_steps=2, head_steps=0)
    UaMixTrainer(EncoderArguments(str(base), pooling="attention_time"), args, sounds).train()
    tuned = AutoModel.from_pretrained(tmp_path)
    assert tuned.config.pooling == "attention_time" and tuned.attention_pooling.weight.any()  # which begins at 0


# --- what is refused, before anything is trained


def test_wrong_inputs_are_refused_by_name(base: Path, sounds: Path, tmp_path: Path) -> None:
    args, encoder = arguments(tmp_path), AudioMAEModel.from_pretrained(base)
    table = load_recordings(sounds)
    statistics = UaMixForContrastiveTuning.from_encoder(copy.deepcopy(encoder), mix="cutmix", **SMALL)
    agreeing = UaMixForContrastiveTuning.from_encoder(
        copy.deepcopy(encoder), mix="mixup", input_mean=EXTRACTOR.mean, input_std=EXTRACTOR.std, **SMALL
    )
    cases = [
        (TypeError, "args is a dict", (encoder, {"output_dir": "x"}, sounds, EXTRACTOR), {}),
        (TypeError, "model is a int", (3, args, sounds), {}),
        (TypeError, "give feature_extractor, too", (encoder, args, sounds), {}),
        (TypeError, "AudioMAEForPreTraining has no place for a whitening.*whiten=False",
         (AudioMAEForPreTraining(encoder.config), args, sounds, EXTRACTOR), {}),
        (ValueError, "normalises log-mels with input_mean=-4.2677393", (statistics, args, sounds, EXTRACTOR), {}),
        (ValueError, "mix='cutmix' and the model has 'mixup'", (agreeing, args, sounds, EXTRACTOR), {}),
        (DataError, "gone is not a folder", (base, args, tmp_path / "gone"), {}),
        (TypeError, "give folders of audio", (base, args, 5), {}),
        (DataError, "no column 'sound', only", (base, args, table), {"audio_column": "sound"}),
        (DataError, "'pitch' of .* holds no audio", (base, args, Dataset.from_dict({"pitch": [1, 2]})),
         {"audio_column": "pitch"}),
        (DataError, "has no rows", (base, args, table.select([])), {}),
        (DataError, "no effect on folders", (base, args, sounds), {"audio_column": "sound"}),
        (DataError, r"dictionary of splits \(train\)", (base, args, DatasetDict(train=table)), {}),
        (DataError, "A stream of torch", (base, args, Endless()), {}),
        (DataError, "no column 'sound', only", (base, args, table.to_iterable_dataset()), {"audio_column": "sound"}),
        (DataError, "has no rows", (base, args, table.to_iterable_dataset().take(0)), {}),
        (DataError, "takes label_column, and which", (base, args, sounds), {"group_column": "speaker"}),
        (DataError, "label_column: without effect here, a DataArguments has its own",
         (base, args, DataArguments(train_dir=[str(sounds)])), {"label_column": "pitch"}),
        (OSError, "nowhere", (tmp_path / "nowhere", args, sounds), {}),
    ]  # fmt: skip
    for kind, message, given, more in cases:
        with pytest.raises(kind, match=message):
            UaMixTrainer(*given, **more)
    assert not tmp_path.joinpath("model.safetensors").exists()


def test_results_before_training_are_refused(base: Path, sounds: Path, tmp_path: Path) -> None:
    trainer = UaMixTrainer(base, arguments(tmp_path), sounds)
    for early in (lambda: trainer.evaluate(sounds, "pitch"), trainer.create_model_card, trainer.push_to_hub):
        with pytest.raises(NotTunedError, match="call train"):
            early()
