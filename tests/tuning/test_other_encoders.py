"""Other people's encoders are tuned: one of transformers from end to end, and one built unlike any other."""

import copy
import math

import pytest
import torch
from toy_encoders import NestedConfig, NestedModel
from transformers import ASTModel, AutoModel

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.tuning import StageTrainer, train_stages


def test_asts_blocks_tune_and_the_result_loads(make_ast, make_model, make_dataset, make_args, tmp_path):
    encoder = make_ast()
    before = copy.deepcopy(encoder)
    model = make_model(encoder=encoder, queue_size=8)
    data = make_dataset([60, 200, 128, 97, 128, 45, 300, 128, 110], mel=128)
    extractor = AudioMAEFeatureExtractor(max_length=128)
    args = make_args(max_steps=5, logging_steps=1, learning_rate=1e-3, freeze_blocks=1, warmup_steps=0)
    trainer = StageTrainer(model, args, data, extractor)
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


@pytest.mark.parametrize(
    "fields", [{"time_stride": 10, "mel_stride": 10, "num_prefix_tokens": 2}, {"patch_size": 2, "patch_mel_bins": 128}]
)
@pytest.mark.parametrize("mix", ["t-cutmix", "cutmix"])
def test_patches_that_overlap_or_are_not_square_are_mixed_and_dropped(make_model, make_batch, fields, mix):
    encoder = AudioMAEModel(AudioMAEConfig.preset("tiny", num_hidden_layers=2, max_length=96, **fields))
    model = make_model(encoder=encoder, token_drop=0.5, mix=mix)
    model.set_stage("tune", 0)
    output = model.train()(**make_batch([96, 50, 40, 64], mel=128))
    output.loss.backward()
    assert output.loss.isfinite() and 0.4 < output.mix_lambda.item() <= 1
    assert encoder.embeddings.cls_token.grad.abs().sum() > 0


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


def test_lambda_is_counted_in_frames_where_tokens_cannot_be_dropped(make_ast, make_model):
    model = make_model(encoder=make_ast()).train()
    views = torch.randn(2, 4, 128, 128)
    mix_mask = torch.ones(4, 128, 1)
    mix_mask[0, 16:64], mix_mask[1, :32], mix_mask[2, 96:112] = 0, 0, 0
    lengths = torch.tensor([128, 64, 120, 128])
    output = model.contrast(*views, lengths, torch.arange(4), torch.tensor([1, 2, 3, 0]), [mix_mask])
    expected = [1 - 48 / 128, 1 - 32 / 64, 1 - 16 / 120, 1.0]
    assert output.mix_lambda.item() == pytest.approx(sum(expected) / 4, abs=1e-6)


def test_blocks_two_levels_down_are_found_by_their_path(make_model, make_batch):
    encoder = NestedModel(NestedConfig())
    stem = ("stem.", "trunk.scale", "trunk.positions", "trunk.before.")
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
