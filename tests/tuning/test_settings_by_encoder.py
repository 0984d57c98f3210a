"""Settings whose default depends on the encoder are resolved and saved; those without meaning for it are refused."""

import pytest
import torch
from toy_encoders import WaveConfig, WaveModel

from uamix_hf import UaMixForContrastiveTuning
from uamix_hf.tuning import UaMixConfig

FIELDS = ("resize_mel", "token_drop", "input_mean", "input_std", "input_std_factor")


def test_defaults_are_the_encoders(make_model, make_ast) -> None:
    found = {
        name: tuple(getattr(make_model(encoder=encoder).config, field) for field in FIELDS)
        for name, encoder in (("audio-mae", None), ("ast", make_ast()), ("waveform", WaveModel(WaveConfig())))
    }
    assert found == {
        "audio-mae": (1.15, None, -4.2677393, 4.5689974, 2.0),
        "ast": (1.15, 0.0, -4.2677393, 4.5689974, 2.0),
        "waveform": (1.0, 0.0, 0.0, 1.0, 1.0),
    }


def test_resolved_settings_are_saved_and_loaded(make_model, tmp_path) -> None:
    make_model().save_pretrained(tmp_path)
    config = UaMixConfig.from_pretrained(tmp_path)
    assert (config.resize_mel, config.input_mean, config.token_drop) == (1.15, -4.2677393, None)
    loaded = UaMixForContrastiveTuning.from_pretrained(tmp_path)
    assert all(getattr(loaded.config, field) == getattr(config, field) for field in FIELDS)


def test_given_settings_are_kept(make_model) -> None:
    given = {"resize_mel": 1.3, "input_mean": -3.0, "token_drop": 0.25}
    config = make_model(**given).config
    assert {name: getattr(config, name) for name in given} == given
    config = make_model(encoder=WaveModel(WaveConfig()), resize_mel=1.0, token_drop=0.0).config
    assert (config.resize_mel, config.token_drop) == (1.0, 0.0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"token_drop": 0.5}, r"token_drop=0\.5: WaveModel cannot drop tokens"),
        ({"resize_mel": 1.15}, r"resize_mel=1\.15: a waveform has no mel bins"),
        ({"mix": "cutmix"}, "mix='cutmix': its boxes .* WaveModel, which takes waveforms"),
    ],
)
def test_what_has_no_meaning_for_waveforms_is_refused_by_name(make_model, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(encoder=WaveModel(WaveConfig()), **given)


def test_an_encoder_of_log_mels_that_cannot_drop_tokens_is_not_asked_to(make_model, make_ast) -> None:
    with pytest.raises(ValueError, match=r"token_drop=0\.5: ASTModel cannot drop tokens"):
        make_model(encoder=make_ast(), token_drop=0.5)


@pytest.mark.parametrize("mix", ["t-cutmix", "mixup", "none"])
def test_a_step_on_waveforms(make_model, mix) -> None:
    """Lambda counts tokens of two frames, by hand here; padding and a partner's padding are left out."""
    encoder = WaveModel(WaveConfig())
    model = make_model(encoder=encoder, mix=mix).train()
    lengths = torch.tensor([300, 200, 131, 250])
    mask = (torch.arange(300) < lengths[:, None]).long()
    clips = 0.1 * torch.randn(4, 300, 160) * mask[..., None]
    output = model(clips, mask, torch.arange(4))
    output.loss.backward()
    assert output.loss.isfinite() and encoder.layers[0].weight.grad.abs().sum() > 0
    assert mix == "none" or 0.4 < output.mix_lambda <= 1


def test_lambda_of_waveforms_is_counted_in_tokens(make_model) -> None:
    model = make_model(encoder=WaveModel(WaveConfig())).train()
    views, lengths = torch.randn(2, 3, 96, 160), torch.tensor([96, 61, 96])
    mix_mask = torch.ones(3, 96, 1)
    mix_mask[0, 16:48], mix_mask[1, 32:48], mix_mask[2, 5:20] = 0, 0, 0
    output = model.contrast(*views, lengths, torch.arange(3), torch.tensor([1, 2, 0]), [mix_mask])
    # Tokens of 2 frames: 16 of 48; 8 of 31, the last of which has one frame of sound; 7 and a half of 48.
    expected = [1 - 16 / 48, 1 - 8 / 31, 1 - 7.5 / 48]
    assert output.mix_lambda.item() == pytest.approx(sum(expected) / 3, abs=1e-6)
