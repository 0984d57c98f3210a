"""The flags for an encoder load it as `from_pretrained` does, with its feature extractor."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, HfArgumentParser

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining
from uamix_hf.training import EncoderArguments


@pytest.fixture
def folder(tiny_config: AudioMAEConfig, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AudioMAEForPreTraining(tiny_config).save_pretrained(tmp_path)
    AudioMAEFeatureExtractor(max_length=tiny_config.max_length, mean=-3.5).save_pretrained(tmp_path)
    return tmp_path


def test_flags_load_the_encoder_and_its_feature_extractor(folder: Path) -> None:
    words = ["--model_name_or_path", str(folder), "--attn_implementation", "eager"]
    (args,) = HfArgumentParser(EncoderArguments).parse_args_into_dataclasses(words)
    encoder, expected = args.load_encoder(), AutoModel.from_pretrained(folder)
    assert encoder.config._attn_implementation == "eager"
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in expected.state_dict().items())
    assert args.load_feature_extractor().mean == -3.5
    assert args.load_encoder(pooling="mean_time").config.pooling == "mean_time"


def test_random_weights_keep_the_configuration_alone(folder: Path) -> None:
    args = EncoderArguments(str(folder), random_weights=True)
    given = AutoModel.from_pretrained(folder)
    one, two = args.load_encoder(), args.load_encoder()
    name = next(name for name, value in given.state_dict().items() if name.startswith("layers.0.") and value.ndim == 2)
    values = [model.state_dict()[name] for model in (given, one, two)]
    assert not any(torch.equal(left, right) for left, right in zip(values, values[1:] + values[:1], strict=True))
    assert one.config.hidden_size == given.config.hidden_size and one.config.name_or_path == ""


def test_what_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        EncoderArguments(str(tmp_path / "gone")).load_encoder()
