"""Other people's encoders: what the contract asks of them, and what is found in them."""

import pytest
import torch
from toy_encoders import NestedConfig, NestedModel
from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model
from transformers.modeling_outputs import BaseModelOutput

from uamix_hf import AudioMAEConfig, AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.training.encoders import EncoderAdapter, EncoderError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def test_short_input_is_padded_with_normalised_silence_to_asts_length(make_ast):
    adapter = EncoderAdapter(make_ast().eval())
    sound, lengths = torch.randn(2, 48, 128), torch.tensor([48, 40])
    padding = 4.2677393 / (2 * 4.5689974)
    pooled, visible = adapter.encode(sound, lengths, 0.5, padding)
    padded = torch.full((2, 128, 128), padding)
    padded[0, :48], padded[1, :40] = sound[0], sound[1, :40]
    assert visible is None  # such an encoder drops no tokens, and lambda is counted in frames
    torch.testing.assert_close(pooled, adapter.encoder(padded).pooler_output)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 96}, {"max_length": 96, "num_prefix_tokens": 2},
        {"max_length": 96, "patch_size": 2, "patch_mel_bins": 128},
        {"max_length": 96, "time_stride": 10, "mel_stride": 10}, {"max_length": 96, "num_mel_bins": 80},
    ],
)  # fmt: skip
def test_seen_tokens_are_the_models_whatever_its_patches(fields):
    model = AudioMAEModel(AudioMAEConfig.preset("tiny", num_hidden_layers=1, **fields)).eval()
    adapter, lengths = EncoderAdapter(model), torch.tensor([96, 41, 7])
    clips = torch.randn(3, 96, model.config.num_mel_bins)
    with torch.no_grad():
        pooled, visible = adapter.encode(clips, lengths, 0.0, 0.0)
        mask = (torch.arange(96) < lengths[:, None]).long()
        assert torch.equal(visible.flatten(1), model.token_mask(mask, clips).float())
        model.train()
        _, visible = adapter.encode(clips, lengths, 0.5, 0.0)
    kept = visible.flatten(1).sum(1) / model.token_mask(mask, clips).sum(1)
    assert pooled.isfinite().all() and (kept <= 0.6).all() and (kept > 0.2).all()


def test_frames_after_the_last_whole_patch_of_overlapping_ones_are_cut_off():
    config = AudioMAEConfig.preset("tiny", num_hidden_layers=1, max_length=96, time_stride=10, mel_stride=10)
    adapter, lengths = EncoderAdapter(AudioMAEModel(config).eval()), torch.tensor([80, 80])
    clips = torch.randn(2, 80, 128)
    with torch.no_grad():
        pooled, visible = adapter.encode(clips, lengths, 0.0, 0.0)
        expected = adapter.encoder(clips[:, :76]).pooler_output
    assert visible.shape == (2, 7, 12) and visible.all()
    torch.testing.assert_close(pooled, expected)


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
    adapter = EncoderAdapter(NestedModel(NestedConfig()), "trunk.stages")
    assert adapter.layers == list(adapter.encoder.trunk.stages)
    assert (adapter.patch, adapter.max_frames, adapter.patch_shape) == (1, 64, (1, 4))
    stem = ("stem.", "trunk.scale", "trunk.positions", "trunk.before.")
    assert_depths(adapter, stem, "trunk.stages", ("trunk.after.", "last."))


def test_tokens_of_any_encoder_are_averaged_in_float32(make_ast):
    """In float16 the sum over the tokens of such states is infinite, and in bfloat16 it is rounded at every step."""
    adapter = EncoderAdapter(make_ast())
    hidden = 1000 + torch.rand(2, 200, 32)
    for dtype in (torch.float16, torch.bfloat16):
        output, lengths = BaseModelOutput(last_hidden_state=hidden.to(dtype)), torch.tensor([128, 128])
        pooled = adapter.pool(output, lengths, torch.ones(2, 20, 10))
        exact = hidden.to(dtype).double().mean(dim=1)
        torch.testing.assert_close(pooled.double(), exact, rtol=1e-6, atol=0)
