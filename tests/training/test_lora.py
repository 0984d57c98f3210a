"""LoRA in every kind of encoder: what gets adapters, what is trained, and what is merged, saved and loaded."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from all_encoders import BUILDS, IN_TREE, make_encoder, slow_but, write_encoder
from peft import LoraConfig, PeftModel
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from uamix_hf import (
    AudioEmbedder,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEModel,
    UaMixForContrastiveTuning,
    front_end,
)
from uamix_hf.embedding import EmbeddingSettings, EncoderError, load_encoder, make_adapter, save_encoder
from uamix_hf.embedding.kinds import adapter_class, load_feature_extractor
from uamix_hf.embedding.peft_folders import merged
from uamix_hf.training import LoraArguments, LoraError
from uamix_hf.training.lora import add_lora

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
MEL = {"num_mel_bins": 32, "max_length": 96}
HEADS = {"projector_hidden_size": 16, "projection_size": 8, "predictor_hidden_size": 16, "queue_size": 16, "topk": 1}
RANK = 3


EXTRACTOR = AudioMAEFeatureExtractor(**MEL)
# Linear layers whose weights are read without a call.
NEVER_CALLED = {"wavlm": r"attention\.(q|k|v|out)_proj$"}


# Others are built like one of these, but for details, and take long together.
FAST = ("ssamba", "whisper", "clap", "wav2vec2", "wavlm")


@pytest.fixture(scope="module", params=slow_but(FAST, dict.fromkeys([*BUILDS, *IN_TREE])))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder_of_base(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(kind, tmp_path_factory.mktemp(kind) / "base")


@pytest.fixture(scope="module")
def base(folder_of_base: Path) -> PreTrainedModel:
    """Loaded from a folder, as users' encoders are, in evaluation mode."""
    encoder = load_encoder(folder_of_base)
    AudioEmbedder(encoder, load_feature_extractor(folder_of_base))  # records what the front end does
    return encoder


@pytest.fixture(scope="module")
def extractor(folder_of_base: Path) -> Any:
    return load_feature_extractor(folder_of_base)


def adapted(base: PreTrainedModel, extractor: Any, learnt: bool = True, **settings: Any) -> PeftModel:
    """With LoRA in all linear layers, as after some training."""
    torch.manual_seed(1)
    config = LoraArguments(**{"lora_r": RANK, "lora_alpha": 6, **settings}).config()
    encoder = add_lora(copy.deepcopy(base), config, extractor).eval()
    if learnt:
        for name, value in encoder.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value, std=0.3)
    return encoder


def features(extractor: Any, clips: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    bins = extractor.frame_shift if extractor.domain == "waveform" else extractor.num_mel_bins
    values = torch.randn(clips, 64, bins, generator=torch.Generator().manual_seed(4))
    return values, torch.tensor([64, 48, 41, 60][:clips])


def embeddings(encoder: Any, extractor: Any) -> torch.Tensor:
    values, lengths = features(extractor)
    with torch.no_grad():
        return make_adapter(encoder.eval()).encode(values, lengths, 0.0, 0.0)[0]


def test_every_linear_layer_of_the_layers_has_an_adapter_and_nothing_else(kind, base, extractor) -> None:
    encoder = adapted(base, extractor, learnt=False)
    assert torch.equal(embeddings(encoder, extractor), embeddings(base, extractor))  # fresh ones change nothing
    found = {name.removeprefix("base_model.model.").rpartition(".lora_A")[0] for name, _ in encoder.named_parameters()}
    path = make_adapter(base).layers_path
    linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    inside = {name for name in linear if name.startswith(f"{path}.")}
    expected = {name for name in inside if not re.search(NEVER_CALLED.get(kind, "$^"), name)}
    assert found - {""} == expected and len(expected) >= 4
    size = sum(RANK * sum(base.get_submodule(name).weight.shape) for name in expected)
    assert sum(value.numel() for value in encoder.parameters() if value.requires_grad) == size
    assert encoder.active_peft_config.base_model_name_or_path == base.name_or_path
    assert encoder.training is False and all(module.training is False for module in encoder.modules())


def test_merged_and_unmerged_encoders_have_the_same_embeddings_and_gradients(base, extractor) -> None:
    encoder = adapted(base, extractor)
    found = []
    for one in (encoder, merged(encoder)):
        values, lengths = features(extractor)
        values.requires_grad_()
        pooled, _ = make_adapter(one).encode(values, lengths, 0.0, 0.0)
        (gradient,) = torch.autograd.grad((pooled * torch.linspace(-1, 1, pooled.shape[1])).sum(), values)
        found.append((pooled.detach(), gradient))
    (pooled, gradient), (merged_pooled, merged_gradient) = found
    torch.testing.assert_close(merged_pooled, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged_gradient, gradient, atol=1e-5, rtol=1e-4)
    assert gradient.abs().max() > 1e-3
    assert not torch.allclose(pooled, embeddings(base, extractor), atol=1e-3)


def test_merged_weights_are_those_of_the_formula(base, extractor) -> None:
    encoder = adapted(base, extractor)
    plain = merged(encoder)
    assert type(plain) is type(base)
    parameters = dict(encoder.base_model.model.named_parameters())
    for name, value in plain.named_parameters():
        expected, module = base.get_parameter(name), name.removesuffix(".weight")
        if f"{module}.lora_A.default.weight" in parameters:
            lower, upper = (parameters[f"{module}.lora_{part}.default.weight"] for part in "AB")
            expected = expected + 6 / RANK * upper @ lower
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_a_step_changes_the_adapters_and_the_heads_alone(base, extractor) -> None:
    encoder = adapted(base, extractor, learnt=False)
    model = UaMixForContrastiveTuning.from_encoder(encoder, **HEADS).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    learnt = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=1e-2, eps=1e-30)  # moves whatever has a gradient, however small
    values, lengths = features(extractor, 4)
    for _ in range(2):  # the first step changes B, which is 0, and the next A
        optimizer.zero_grad()
        mask = (torch.arange(64) < lengths[:, None]).long()
        loss = model(values, mask, torch.arange(4)).loss
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    adapters = {name for name in before if "lora_" in name}
    assert {name for name in changed if name.startswith("encoder.")} == adapters and len(changed) > len(adapters)


@pytest.mark.parametrize("whitened", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_folder_holds_the_merged_encoder_and_the_adapter_alone(base, extractor, tmp_path, whitened) -> None:
    encoder = adapted(base, extractor)
    kind = adapter_class(base.config)
    if whitened:
        width = make_adapter(base).embedding_size
        kind.set_whitening(encoder.base_model.model, (torch.randn(width), torch.randn(width, 5)))
    expected = embeddings(encoder, extractor)
    assert expected.shape[1] == (5 if whitened else make_adapter(base).embedding_size)
    folder = tmp_path / "tuned"
    save_encoder(encoder, folder)
    assert type(encoder) is PeftModel and torch.equal(embeddings(encoder, extractor), expected)
    assert not {path.name for path in folder.iterdir()} & {"adapter_config.json", "adapter_model.safetensors"}
    files = {path.name for path in (folder / "adapter").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "embedding_config.json"}
    assert not files & {"model.safetensors", "README.md"}
    for place in (folder, folder / "adapter"):
        loaded = load_encoder(place)
        AudioEmbedder(loaded, extractor)
        assert type(loaded) is type(base)
        torch.testing.assert_close(embeddings(loaded, extractor), expected, atol=1e-5, rtol=1e-5)
    wave = torch.randn(9000, generator=torch.Generator().manual_seed(1)).numpy() / 10
    vector = AudioEmbedder.from_pretrained(str(folder / "adapter"), device="cpu").encode(wave)
    torch.testing.assert_close(
        torch.from_numpy(vector), torch.from_numpy(AudioEmbedder(encoder, extractor).encode(wave)), atol=1e-4, rtol=1e-4
    )
    # Another layer or pooling than the adapter's has no whitening.
    same = (kind.read_settings(base).pooling or kind.poolings[0]) == "mean"
    other = load_encoder(folder / "adapter", pooling="mean")
    assert make_adapter(other).embedding_size == (expected.shape[1] if same else make_adapter(base).embedding_size)


def test_transformers_alone_loads_the_merged_encoder(kind, base, extractor, tmp_path) -> None:
    encoder = adapted(base, extractor)
    save_encoder(encoder, tmp_path / "tuned")
    auto = type(base) if kind in ("whisper", "clap") else AutoModel
    loaded = auto.from_pretrained(tmp_path / "tuned")
    assert type(loaded) is type(base)
    for name, value in merged(encoder).named_parameters():
        assert torch.equal(loaded.get_parameter(name), value), name


# --- one kind stands for all


@pytest.fixture
def mae(tmp_path: Path) -> AudioMAEModel:
    torch.manual_seed(0)
    AudioMAEModel(AudioMAEConfig(**SIZES, **MEL)).save_pretrained(tmp_path / "base")
    return AudioMAEModel.from_pretrained(tmp_path / "base")


def test_adapters_are_put_where_they_are_asked_for(mae) -> None:
    def targets(lora: Any, frozen: int = 0) -> set[str]:
        encoder = add_lora(copy.deepcopy(mae), lora, EXTRACTOR, frozen=frozen)
        names = {name.rpartition(".lora_A")[0] for name, _ in encoder.named_parameters()} - {""}
        return {name.removeprefix("base_model.model.") for name in names}

    queries = {f"layers.{layer}.attention.q_proj" for layer in range(3)}
    assert targets(LoraArguments(2, lora_target_modules=["q_proj"]).config()) == queries
    assert targets(LoraArguments(2, lora_target_modules=["attention.q_proj"]).config(), 1) == queries - {
        "layers.0.attention.q_proj"
    }
    assert len(targets(LoraConfig(r=2), frozen=2)) == 6
    assert len(targets(LoraConfig(r=2, target_modules="all-linear"))) == 18
    assert targets(LoraConfig(r=2, target_modules=r".*layers\.2\.mlp\.fc1")) == {"layers.2.mlp.fc1"}
    given = LoraConfig(r=2)
    add_lora(mae, given, EXTRACTOR)
    assert given.target_modules is None


def test_scale_is_one_by_default() -> None:
    config = LoraArguments(4).config()
    assert config.lora_alpha == config.r == 4 and LoraArguments().config() is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lora_alpha": 16}, "lora_alpha: without effect here, goes with lora_r"),
        ({"lora_dropout": 0.1, "lora_target_modules": ["fc1"]}, "lora_dropout, lora_target_modules: without effect"),
        ({"lora_r": 0}, "lora_r=0"),
        ({"lora_r": 2, "lora_alpha": 0}, "lora_alpha=0"),
        ({"lora_r": 2, "lora_dropout": 1.0}, "lora_dropout=1.0 is outside"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        LoraArguments(**fields)


def test_what_is_no_target_is_refused_with_those_that_are(mae) -> None:
    config = LoraArguments(2, lora_target_modules=["query", "fc1"]).config()
    with pytest.raises(LoraError, match="AudioMAEModel has no linear layer query .*only fc1, fc2, k_proj, o_proj"):
        add_lora(copy.deepcopy(mae), config, EXTRACTOR)
    with pytest.raises(LoraError, match="no linear layers above the 3 frozen layers"):
        add_lora(copy.deepcopy(mae), LoraConfig(), EXTRACTOR, frozen=3)
    encoder = add_lora(mae, LoraConfig(), EXTRACTOR)
    with pytest.raises(LoraError, match="has adapters already"):
        add_lora(encoder, LoraConfig(), EXTRACTOR)


class ReadWeights(nn.Module):
    """Linear layers whose weights are read, as in WavLM's attention and torch's `MultiheadAttention`."""

    def __init__(self):
        super().__init__()
        self.read, self.called = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.called(F.linear(hidden, self.read.weight, self.read.bias))


def test_layers_that_are_never_called_have_no_adapters(mae) -> None:
    mae.layers[1].mlp = ReadWeights()
    encoder = add_lora(copy.deepcopy(mae), LoraConfig(r=2), EXTRACTOR)
    names = {name for name, _ in encoder.named_parameters() if "lora_A" in name}
    assert any("layers.1.mlp.called" in name for name in names) and not any("mlp.read" in name for name in names)
    with pytest.raises(LoraError, match="no linear layer read .*only called, fc1"):
        add_lora(copy.deepcopy(mae), LoraConfig(target_modules=["read"]), EXTRACTOR)
    with pytest.raises(LoraError, match=r"does not call layers\.1\.mlp\.read: it reads.*it calls k_proj"):
        add_lora(mae, LoraConfig(target_modules=r".*(read|k_proj)"), EXTRACTOR)


def test_adapters_above_the_embeddings_layer_are_refused_or_left_out() -> None:
    encoder = make_encoder("whisper", max_source_positions=48)
    encoder.embedding_settings = EmbeddingSettings(2)
    extractor = front_end("whisper", max_length=96)
    names = [name for name, _ in add_lora(copy.deepcopy(encoder), LoraConfig(), extractor).named_parameters()]
    assert any("layers.1." in name and "lora_" in name for name in names)
    assert not any("layers.2." in name and "lora_" in name for name in names)
    with pytest.raises(LoraError, match=r"does not call layers\.2\.fc1"):
        add_lora(encoder, LoraConfig(target_modules=r".*fc1"), extractor)


def test_adapters_by_transformers_are_merged_and_saved_as_well(mae, tmp_path) -> None:
    encoder = copy.deepcopy(mae)
    encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["fc1"], init_lora_weights=False))
    for name, value in encoder.named_parameters():
        if "modules_to_save" in name:
            value.data += 0.1
    expected = embeddings(encoder, EXTRACTOR)
    save_encoder(encoder, tmp_path / "tuned")
    loaded = AudioMAEModel.from_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(embeddings(loaded, EXTRACTOR), expected, atol=1e-5, rtol=1e-5)
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in mae.named_parameters()}
    torch.testing.assert_close(
        embeddings(load_encoder(tmp_path / "tuned" / "adapter"), EXTRACTOR), expected, atol=1e-5, rtol=1e-5
    )


def test_a_folder_that_peft_wrote_loads_with_what_its_base_has(mae, tmp_path) -> None:
    EXTRACTOR.save_pretrained(tmp_path / "base")
    encoder = adapted(mae, EXTRACTOR)
    encoder.save_pretrained(tmp_path / "adapter")
    expected = embeddings(encoder, EXTRACTOR)
    torch.testing.assert_close(
        embeddings(load_encoder(tmp_path / "adapter"), EXTRACTOR), expected, atol=1e-5, rtol=1e-5
    )
    assert load_feature_extractor(tmp_path / "adapter").to_dict() == EXTRACTOR.to_dict()


def test_adapters_on_an_adapters_folder_need_both(mae, tmp_path) -> None:
    save_encoder(adapted(mae, EXTRACTOR), tmp_path / "one", EXTRACTOR)
    first = load_encoder(tmp_path / "one" / "adapter")
    second = adapted(first, EXTRACTOR)
    expected = embeddings(second, EXTRACTOR)
    save_encoder(second, tmp_path / "two", EXTRACTOR)
    assert (expected - embeddings(first, EXTRACTOR)).abs().max() > 0.01
    for folder in (tmp_path / "two", tmp_path / "two" / "adapter"):
        torch.testing.assert_close(embeddings(load_encoder(folder), EXTRACTOR), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("target", ["base", "base/../base/", "one"])
def test_adapters_are_not_saved_over_their_encoder(mae, tmp_path, target: str) -> None:
    save_encoder(adapted(mae, EXTRACTOR), tmp_path / "one", EXTRACTOR)
    encoder = load_encoder(tmp_path / ("base" if "base" in target else "one/adapter"))
    with pytest.raises(EncoderError, match="has the encoder that the adapters belong to"):
        save_encoder(adapted(encoder, EXTRACTOR), tmp_path / target)
    assert (tmp_path / "one" / "adapter" / "adapter_config.json").is_file()


def test_an_adapter_without_its_base_says_what_is_missing(mae, tmp_path) -> None:
    adapted(mae, EXTRACTOR).save_pretrained(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(OSError, match="adapter holds adapters of .*base, which does not load"):
        load_encoder(tmp_path / "adapter")
    fresh = AudioMAEModel(AudioMAEConfig(**SIZES, **MEL))
    adapted(fresh, EXTRACTOR).save_pretrained(tmp_path / "nameless")
    with pytest.raises(EncoderError, match="loaded from nowhere"):
        load_encoder(tmp_path / "nameless")
    AudioMAEModel(AudioMAEConfig(**SIZES | {"hidden_size": 64}, **MEL)).save_pretrained(tmp_path / "base")
    with pytest.raises(EncoderError, match="do not fit AudioMAEModel"):
        load_encoder(tmp_path / "adapter")


def test_what_an_earlier_run_left_is_not_added_to_the_weights(mae, tmp_path) -> None:
    encoder = adapted(mae, EXTRACTOR)
    encoder.save_pretrained(tmp_path / "tuned")  # as version 0.1.0 did
    save_encoder(encoder, tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "adapter_config.json").exists()
    save_encoder(mae, tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "adapter").exists()


def test_peft_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setattr("uamix_hf.embedding.peft_folders.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"lora_r needs peft: pip install 'uamix_hf\[peft\]'"):
        LoraArguments(8).config()


def test_weights_of_attention_pooling_are_trained_themselves(mae, tmp_path) -> None:
    encoder = load_encoder(mae.name_or_path, pooling="attention")
    wrapped = adapted(encoder, EXTRACTOR)
    model = UaMixForContrastiveTuning.from_encoder(wrapped, **HEADS)
    values, lengths = features(EXTRACTOR, 4)
    model(values, (torch.arange(64) < lengths[:, None]).long(), torch.arange(4)).loss.backward()
    ((name, weight),) = [
        (name, value)
        for name, value in wrapped.named_parameters()
        if "attention_pooling" in name and value.requires_grad
    ]
    assert weight.grad.any() and make_adapter(wrapped).layer_ids()[name] == 4
    with torch.no_grad():
        weight += torch.randn(weight.shape)
    expected = embeddings(wrapped, EXTRACTOR)
    save_encoder(wrapped, tmp_path / "tuned")
    assert (expected - embeddings(adapted(encoder, EXTRACTOR), EXTRACTOR)).abs().max() > 0.01
    for folder in (tmp_path / "tuned", tmp_path / "tuned" / "adapter"):
        loaded = load_encoder(folder)
        assert loaded.config.pooling == "attention"
        torch.testing.assert_close(embeddings(loaded, EXTRACTOR), expected, atol=1e-5, rtol=1e-5)
