"""What a checkpoint is gone on with: anything that leaves its weights as they are, and nothing else."""

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from toy_sounds import EXTRACTOR

from uamix_hf import AudioMAEForPreTraining
from uamix_hf.pretraining import IncompatibleCheckpointError, PretrainingModelArguments, pretraining_model

OVERRIDES = [
    "num_hidden_layers=1",
    "hidden_size=48",
    "num_mel_bins=64",
    "max_length=128",
    "decoder_num_hidden_layers=1",
]


@pytest.fixture
def checkpoint(make_model, tmp_path: Path):
    """`checkpoint(**config)`: the model and the folder that it was saved to."""

    def save(**config) -> tuple[AudioMAEForPreTraining, str]:
        model = make_model(**config)
        model.save_pretrained(tmp_path / "saved")
        EXTRACTOR.save_pretrained(tmp_path / "saved")
        return model, str(tmp_path / "saved")

    return save


def test_a_preset_takes_flags_and_overrides_and_its_extractor_fits() -> None:
    args = PretrainingModelArguments(
        preset="tiny", mask_type="time_frequency", norm_pix_loss=False, contrastive_weight=0.1,
        config_overrides=[*OVERRIDES, "position_layout=time_freq", 'pooling="mean_time"', "mask_ratio=0.75"],
    )  # fmt: skip
    model, extractor = pretraining_model(args)
    config = model.config
    assert (config.mask_type, config.norm_pix_loss, config.contrastive_weight) == ("time_frequency", False, 0.1)
    assert (config.position_layout, config.pooling, config.mask_ratio) == ("time_freq", "mean_time", 0.75)
    assert (config.hidden_size, config.num_hidden_layers) == (48, 1)
    assert (config.decoder_type, config.intermediate_size) == ("global", 768)  # the preset's
    assert (extractor.num_mel_bins, extractor.max_length) == (64, 128)


@pytest.mark.parametrize(
    "item, message",
    [
        ("mask_raito=0.5", "no field 'mask_raito'"),
        ("mask_ratio", "not of the form NAME=VALUE"),
        ("mask_ratio=1.5", "mask_ratio"),
        ("norm_pix_loss=False", "norm_pix_loss"),  # JSON has false
        ("hidden_size=wide", "hidden_size"),
    ],
)
def test_overrides_that_mean_nothing_are_errors(item: str, message: str) -> None:
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        pretraining_model(PretrainingModelArguments(config_overrides=[item]))


def test_no_such_preset_is_an_error() -> None:
    with pytest.raises(ValueError, match="No preset 'huge'"):
        pretraining_model(PretrainingModelArguments(preset="huge"))


def test_a_checkpoint_goes_on_with_another_task_and_its_own_weights(checkpoint) -> None:
    model, folder = checkpoint()
    args = PretrainingModelArguments(
        model_name_or_path=folder, mask_type="time_frequency", norm_pix_loss=False, contrastive_weight=0.1,
        config_overrides=["mask_time_ratio=0.3", "decoder_bias_dropout_prob=0.0"],
    )  # fmt: skip
    again, extractor = pretraining_model(args)
    assert (again.config.mask_type, again.config.mask_time_ratio) == ("time_frequency", 0.3)
    assert (extractor.mean, extractor.std) == (EXTRACTOR.mean, EXTRACTOR.std)
    new = again.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in model.state_dict().items())
    assert new.keys() - model.state_dict().keys() == {"decoder.match.weight", "decoder.match.bias"}
    again.save_pretrained(folder)
    plain, _ = pretraining_model(PretrainingModelArguments(model_name_or_path=folder, contrastive_weight=0.0))
    assert plain.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"decoder_type": "local", "config_overrides": ["decoder_window_size=2"]}, "bias_fc1.weight is not in it"),
        ({"config_overrides": ["num_hidden_layers=2"]}, "layers.1"),
        ({"config_overrides": ["hidden_size=64"]}, "another shape"),
        ({"config_overrides": ["max_length=128"]}, "position_embeddings has another shape"),
        ({"config_overrides": ["decoder_num_hidden_layers=2"]}, "decoder.layers.1"),
        ({"config_overrides": ["position_layout=time_freq"]}, "position table"),
    ],
)
def test_what_would_change_the_checkpoints_weights_is_an_error(checkpoint, changes: dict, named: str) -> None:
    _, folder = checkpoint()
    with pytest.raises(IncompatibleCheckpointError, match=named):
        pretraining_model(PretrainingModelArguments(model_name_or_path=folder, **changes))


def test_fewer_blocks_than_the_checkpoint_has_are_an_error(checkpoint) -> None:
    _, folder = checkpoint(num_hidden_layers=2)
    with pytest.raises(IncompatibleCheckpointError, match="layers.1.* has no place"):
        pretraining_model(
            PretrainingModelArguments(model_name_or_path=folder, config_overrides=["num_hidden_layers=1"])
        )


def test_an_encoder_alone_gets_any_decoder(make_model, tmp_path: Path) -> None:
    encoder = make_model().audio_mae
    encoder.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    args = PretrainingModelArguments(
        model_name_or_path=str(tmp_path), decoder_type="local", config_overrides=["decoder_window_size=2"]
    )
    model, _ = pretraining_model(args)
    assert all(torch.equal(value, model.audio_mae.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert hasattr(model.decoder.layers[0].attention, "tau")
    assert all(value.isfinite().all() for value in model.state_dict().values())
