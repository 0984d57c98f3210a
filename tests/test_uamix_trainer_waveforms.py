"""UaMixTrainer tunes encoders of waveforms: what changes, what is saved, and that a resumed run is the same."""

import copy
import math
import shutil
from pathlib import Path

import pytest
import torch
from all_encoders import as_published, make_encoder, slow_but, write_encoder
from toy_sounds import write_tones
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import UaMixForContrastiveTuning, UaMixTrainer, UaMixTrainingArguments
from uamix_hf.embedding import load_feature_extractor
from uamix_hf.models.waveform_frames import WaveformFrames

HEADS = {"projector_hidden_size": 16, "projection_size": 8, "predictor_hidden_size": 16, "queue_size": 8, "topk": 1}
FAST = "wav2vec2"
KINDS = slow_but([FAST], [FAST, "hubert", "wavlm", "data2vec-audio", "sew"])
# Before the layers: the convolutions, their projection, positions, and the norm that is applied before the layers.
STEM = ("feature_extractor.", "layer_norm.", "feature_projection", "encoder.pos_conv_embed.", "encoder.layer_norm.")


def arguments(folder: Path, **more) -> UaMixTrainingArguments:
    fixed = {
        "use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 4, "max_steps": 1,
        "head_steps": 1, "logging_steps": 1, "recipe": "plastic", "warmup_steps": 0, "whiten": False,
    }  # fmt: skip
    return UaMixTrainingArguments(str(folder), **{**fixed, **HEADS, **more})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("waveforms") / "recordings", 8)


@pytest.mark.parametrize("freeze_blocks", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_what_is_not_frozen_and_is_saved(kind, freeze_blocks, recordings, tmp_path) -> None:
    base = write_encoder(kind, tmp_path / "base")
    args = arguments(tmp_path / "tuned", save_strategy="no", freeze_blocks=freeze_blocks)
    trainer = UaMixTrainer(base, args, recordings)
    trainer.train()
    step = trainer.state.log_history[0]
    assert all(0 < step[name] < math.inf for name in ("loss_clean", "loss_mixed", "embedding_std", "grad_norm"))
    assert 0.4 < step["mix_lambda"] <= 1

    before, after = AutoModel.from_pretrained(base).state_dict(), trainer.encoder.state_dict()
    assert before.keys() == after.keys() and any(name.startswith(STEM) for name in before)
    frozen = (*STEM, "encoder.layers.0.") if freeze_blocks else ()
    for name, value in after.items():
        # Masked tokens are off in tuning; softmax takes no notice of a bias of the keys.
        if "k_proj.bias" not in name:
            assert torch.equal(value, before[name]) == name.startswith((*frozen, "masked_spec_embed")), name

    loaded = AutoModel.from_pretrained(args.output_dir)
    assert type(loaded) is type(AutoModel.from_pretrained(base)) and loaded.state_dict().keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in loaded.state_dict().items())
    own, saved = (AutoFeatureExtractor.from_pretrained(folder) for folder in (base, args.output_dir))
    assert type(saved) is type(own) and saved.do_normalize == own.do_normalize
    method = trainer.model.config
    assert (method.resize_mel, method.token_drop, method.input_mean, method.input_std) == (1.0, 0.0, 0.0, 1.0)


def test_the_head_stage_leaves_the_encoder_as_it_is(recordings, tmp_path) -> None:
    base = write_encoder(FAST, tmp_path / "base")
    trainer = UaMixTrainer(base, arguments(tmp_path / "tuned", save_strategy="no"), recordings)
    trainer.model.set_stage("head")
    encoder, heads = copy.deepcopy(trainer.encoder.state_dict()), copy.deepcopy(trainer.model.heads.state_dict())
    clips = 0.1 * torch.randn(4, 120, 160)
    loss = trainer.model.train()(clips, torch.ones(4, 120, dtype=torch.long), torch.arange(4)).loss
    loss.backward()
    assert all(value.grad is None for value in trainer.encoder.parameters())
    torch.optim.SGD([value for value in trainer.model.parameters() if value.requires_grad], lr=0.1).step()
    assert all(torch.equal(value, trainer.encoder.state_dict()[name]) for name, value in encoder.items())
    assert any(not torch.equal(value, trainer.model.heads.state_dict()[name]) for name, value in heads.items())


def run(base: Path, recordings: Path, folder: Path, **more) -> UaMixForContrastiveTuning:
    trainer = UaMixTrainer(base, arguments(folder, save_strategy="steps", save_steps=1, **more), recordings)
    trainer.train()
    return trainer.model


@pytest.mark.parametrize(
    "kind, checkpoint",
    [
        (FAST, "checkpoint-2"),
        pytest.param("wav2vec2-layer-norm", "checkpoint-1", marks=pytest.mark.slow),
        pytest.param("sew", "head/checkpoint-1", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(kind, checkpoint, recordings, tmp_path) -> None:
    base = write_encoder(kind, tmp_path / "base")
    in_head = checkpoint.startswith("head")
    steps = {"max_steps": 3, "head_steps": 2 if in_head else -1, "head_epochs": 0}
    whole = run(base, recordings, tmp_path / "run", **steps)
    shutil.copytree(tmp_path / "run" / checkpoint, tmp_path / "again" / checkpoint)
    stopped = str(tmp_path / "again" / checkpoint)
    again = run(base, recordings, tmp_path / "again", **steps, resume_from_checkpoint=stopped)
    assert whole.state_dict().keys() == again.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-layer-norm"])
def test_small_encoder_batches_have_the_gradients_of_the_whole_batch(kind, recordings, tmp_path) -> None:
    """Clips of unequal length, which pass one of these encoders apart from each other, the other with a mask."""
    base = write_encoder(kind, tmp_path / "base")
    model = UaMixTrainer(base, arguments(tmp_path / "tuned"), recordings).model
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of attention
            module.dropout = 0.0
    views, lengths = 0.1 * torch.randn(2, 4, 96, 160), torch.tensor([96, 80, 96, 50])
    mix_mask = torch.ones(4, 96, 1)
    mix_mask[:, 16:32] = 0
    gradients = []
    for size in (None, 5):
        one = copy.deepcopy(model).train()
        one.encoder_batch_size = size
        one.contrast(*views, lengths, torch.arange(4), torch.tensor([1, 2, 3, 0]), [mix_mask]).loss.backward()
        gradients.append({name: value.grad for name, value in one.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("feature_extractor" in name for name in gradients[0])
    largest = max(value.abs().max().item() for name, value in gradients[0].items() if name.startswith("encoder."))
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5 * largest, rtol=1e-3)


@pytest.mark.parametrize("kind", ["wav2vec2-layer-norm", "data2vec-audio", "sew"])
def test_clips_shorter_than_a_token_are_tuned_as_one(kind: str) -> None:
    encoder = make_encoder(kind, **as_published(kind))
    encoder.config.do_normalize = True
    model = UaMixForContrastiveTuning.from_encoder(encoder, **HEADS).train()
    lengths = torch.tensor([2, 2, 1, 1])
    valid = torch.arange(2) < lengths[:, None]
    output = model(torch.randn(4, 2, 160) * valid[..., None], valid.long(), torch.arange(4))
    assert output.loss.isfinite() and output.mix_lambda == 1


def test_a_given_model_takes_windows_of_the_front_end(recordings, tmp_path) -> None:
    base = write_encoder(FAST, tmp_path / "base")
    model = UaMixForContrastiveTuning.from_encoder(AutoModel.from_pretrained(base), **HEADS)
    trainer = UaMixTrainer(model, arguments(tmp_path), recordings, load_feature_extractor(base, max_length=200))
    assert trainer.model is model and model.adapter.max_frames == 200
    with pytest.raises(ValueError, match="frame_shift=320 and the encoder 160"):
        UaMixTrainer(model, arguments(tmp_path), recordings, WaveformFrames(frame_shift=320, do_normalize=False))
