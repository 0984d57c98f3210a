"""Other people's encoders: what the contract asks of them, and one of transformers tuned from end to end."""

import copy
import math

import pytest
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    ASTModel,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)
from transformers.modeling_outputs import BaseModelOutput

from uamix_hf import AudioMAEFeatureExtractor, AudioMAEForPreTraining, AudioMAEModel, UaMixTrainer
from uamix_hf.training.encoders import EncoderAdapter, EncoderError
from uamix_hf.tuning import train_stages

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@strict
class NestedConfig(PreTrainedConfig):
    model_type = "nested"

    hidden_size: int = 8
    max_length: int = 64
    patch_size: int = 8


class Trunk(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.positions = nn.Parameter(torch.zeros(64, width), requires_grad=False)
        self.before = nn.Linear(4, width)
        self.stages = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.after = nn.LayerNorm(width)


class NestedModel(PreTrainedModel):
    """Blocks two levels down, a fixed table of positions, and no pooled output."""

    config_class = NestedConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Linear(4, 4)
        self.trunk = Trunk(config.hidden_size)
        self.last = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_values):
        hidden = self.trunk.before(self.stem(input_values)) * self.trunk.scale
        hidden = hidden + self.trunk.positions[: hidden.shape[1]]
        for stage in self.trunk.stages:
            hidden = hidden + stage(hidden).tanh()
        return BaseModelOutput(last_hidden_state=self.last(self.trunk.after(hidden)))


def test_asts_blocks_tune_and_the_result_loads(make_ast, make_model, make_dataset, make_args, tmp_path):
    encoder = make_ast()
    before = copy.deepcopy(encoder)
    model = make_model(encoder=encoder, queue_size=8)
    data = make_dataset([60, 200, 128, 97, 128, 45, 300, 128, 110], mel=128)
    extractor = AudioMAEFeatureExtractor(max_length=128)
    args = make_args(max_steps=5, logging_steps=1, learning_rate=1e-3, freeze_blocks=1, warmup_steps=0)
    trainer = UaMixTrainer(model, args, data, extractor)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 5
    for entry in steps:
        for name in ("loss", "loss_clean", "loss_mixed", "embedding_std", "grad_norm"):
            assert 0 < entry[name] < math.inf
        assert 0.4 < entry["mix_lambda"] <= 1
    for name, value in encoder.named_parameters():
        frozen = name.startswith(("embeddings.", "layers.0."))
        # softmax takes no notice of k_proj.bias, whose gradient is mere rounding
        assert "k_proj.bias" in name or torch.equal(value, before.get_parameter(name)) == frozen, name

    model.encoder.save_pretrained(tmp_path / "tuned")
    loaded = AutoModel.from_pretrained(tmp_path / "tuned")
    assert type(loaded) is ASTModel
    sound = torch.randn(2, 128, 128)
    assert torch.equal(loaded(sound).pooler_output, encoder.eval()(sound).pooler_output)


def test_a_resumed_run_of_ast_finds_all_its_weights(make_ast, make_model, make_dataset, make_args, tmp_path):
    """Its blocks are saved under older names unless one says otherwise, and the Trainer would pass over these."""
    data, extractor = make_dataset([128] * 8, mel=128), AudioMAEFeatureExtractor(max_length=128)
    steps = {"max_steps": 3, "head_epochs": 0, "save_strategy": "steps", "save_steps": 2}
    whole, resumed = make_model(encoder=make_ast(0)), make_model(encoder=make_ast(7), seed=8)
    train_stages(whole, make_args(**steps), data, extractor)
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    train_stages(resumed, make_args(**steps, resume_from_checkpoint=checkpoint), data, extractor)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_short_input_is_padded_with_normalised_silence_to_asts_length(make_ast, make_model):
    model = make_model(encoder=make_ast()).eval()
    sound, lengths = torch.randn(2, 48, 128), torch.tensor([48, 40])
    padding = 4.2677393 / (2 * 4.5689974)
    pooled, visible = model.adapter.encode(sound, lengths, 0.5, padding)
    padded = torch.full((2, 128, 128), padding)
    padded[0, :48], padded[1, :40] = sound[0], sound[1, :40]
    assert visible is None  # such an encoder drops no tokens, and lambda is counted in frames
    torch.testing.assert_close(pooled, model.encoder(padded).pooler_output)


def test_lambda_is_counted_in_frames_where_tokens_cannot_be_dropped(make_ast, make_model):
    model = make_model(encoder=make_ast(), token_drop=0.5).train()
    views = torch.randn(2, 4, 128, 128)
    share = torch.ones(4, 128, 1)
    share[0, 16:64], share[1, :32], share[2, 96:112] = 0, 0, 0
    lengths = torch.tensor([128, 64, 120, 128])
    output = model.contrast(*views, lengths, torch.arange(4), torch.tensor([1, 2, 3, 0]), [share])
    expected = [1 - 48 / 128, 1 - 32 / 64, 1 - 16 / 120, 1.0]
    assert output.mix_lambda.item() == pytest.approx(sum(expected) / 4, abs=1e-6)


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(lambda: ViTModel(ViTConfig(**SIZES, image_size=32)), id="takes images"),
        pytest.param(lambda: Wav2Vec2Model(Wav2Vec2Config(**SIZES, num_conv_pos_embeddings=16)), id="takes waveforms"),
        pytest.param(lambda: NestedModel(NestedConfig()), id="blocks at no known place"),
    ],
)
def test_encoders_that_do_not_meet_the_contract_are_refused(encoder):
    with pytest.raises(EncoderError, match="Model"):
        EncoderAdapter(encoder())


def test_blocks_that_are_not_where_they_were_said_to_be_are_refused(make_ast, encoder_config):
    for path in ("encoder.blocks", "layernorm"):
        with pytest.raises(EncoderError, match=path):
            EncoderAdapter(make_ast(), path)
    with pytest.raises(EncoderError, match="layers_path"):  # the encoder is a part of this one
        EncoderAdapter(AudioMAEForPreTraining(encoder_config))


def assert_depths(adapter: EncoderAdapter, stem: tuple[str, ...], blocks: str, rest: tuple[str, ...]) -> None:
    """Every parameter once: 0 in the stem, i + 1 in block i, and the last depth in what follows."""
    ids = adapter.layer_ids()
    assert list(ids) == [name for name, _ in adapter.encoder.named_parameters()]
    for name, depth in ids.items():
        if name.startswith(blocks + "."):
            assert depth == int(name.removeprefix(blocks + ".").split(".")[0]) + 1, name
        else:
            assert name.startswith(stem if depth == 0 else rest), name
            assert depth in (0, len(adapter.layers) + 1), name
    assert set(ids.values()) == set(range(len(adapter.layers) + 2))


def test_depths_run_from_the_stem_to_the_final_norm(make_ast, encoder_config):
    assert_depths(EncoderAdapter(AudioMAEModel(encoder_config)), ("embeddings.",), "layers", ("layernorm.",))
    assert_depths(EncoderAdapter(make_ast()), ("embeddings.",), "layers", ("layernorm.",))


def test_blocks_two_levels_down_are_found_by_their_path(make_model, make_batch):
    encoder = NestedModel(NestedConfig())
    adapter = EncoderAdapter(encoder, "trunk.stages")
    assert adapter.layers == list(encoder.trunk.stages)
    assert (adapter.patch, adapter.max_frames) == (8, 64)
    stem = ("stem.", "trunk.scale", "trunk.positions", "trunk.before.")
    assert_depths(adapter, stem, "trunk.stages", ("trunk.after.", "last."))

    model = make_model(encoder=encoder, layers_path="trunk.stages", mix_align=8)
    model.set_stage("tune", 1)
    model.train()(**make_batch([64, 50, 40, 64], mel=4)).loss.backward()
    frozen = {name for name, value in encoder.named_parameters() if value.grad is None}
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith((*stem, "trunk.stages.0."))}
    # Without a pooled output of its own, an encoder's is the mean of its tokens.
    sound = torch.randn(2, 64, 4)
    pooled, _ = model.eval().adapter.encode(sound, torch.tensor([64, 64]), 0.0, 0.0)
    torch.testing.assert_close(pooled, encoder(sound).last_hidden_state.mean(1))


def test_no_stage_trains_a_table_that_the_encoders_class_keeps_fixed(make_model, tmp_path):
    """Loading from a folder makes every parameter trainable."""
    NestedModel(NestedConfig()).save_pretrained(tmp_path)
    encoder = NestedModel.from_pretrained(tmp_path)
    model = make_model(encoder=encoder, layers_path="trunk.stages")
    for stage, blocks in (("tune", 0), ("head", 0), ("tune", 1), ("tune", 0)):
        model.set_stage(stage, blocks)
        assert not encoder.trunk.positions.requires_grad
    assert encoder.trunk.scale.requires_grad


def test_tokens_of_any_encoder_are_averaged_in_float32(make_ast, make_model):
    """In float16 the sum over the tokens of such states is infinite, and in bfloat16 it is rounded at every step."""
    adapter = make_model(encoder=make_ast()).adapter
    hidden = 1000 + torch.rand(2, 200, 32)
    for dtype in (torch.float16, torch.bfloat16):
        pooled = adapter.pool(BaseModelOutput(last_hidden_state=hidden.to(dtype)))
        exact = hidden.to(dtype).double().mean(dim=1)
        torch.testing.assert_close(pooled.double(), exact, rtol=1e-6, atol=0)
