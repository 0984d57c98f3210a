"""One dataclass has the trainer's arguments and the method's: same defaults, checks and descriptions as UaMixConfig."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from uamix_hf import UaMixConfig, UaMixTrainingArguments
from uamix_hf.tuning import StageTrainer


def parse(folder: Path, *words: str) -> UaMixTrainingArguments:
    (args,) = HfArgumentParser(UaMixTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(folder), "--use_cpu", *words]
    )
    return args


def test_a_command_line_has_a_flag_for_each_setting_with_its_default(tmp_path: Path) -> None:
    assert parse(tmp_path).uamix_config().to_dict() == UaMixConfig().to_dict()
    assert UaMixConfig(noise_snr=10).noise_snr == 10
    words = "--noise_snr 7 --mix mixup --mix_alpha 0.4 --topk 3 --mix_dominant false --symmetric_mix"
    given = parse(tmp_path, *words.split(), "--layers_path", "encoder.blocks")
    assert (given.noise_snr, given.mix, given.mix_alpha, given.topk, given.mix_dominant) == (7, "mixup", 0.4, 3, False)
    assert given.symmetric_mix and given.layers_path == "encoder.blocks"
    config = given.uamix_config(input_mean=-3.0)
    assert (config.noise_snr, config.mix, config.input_mean) == (7, "mixup", -3.0)


def test_every_flag_is_described(tmp_path: Path) -> None:
    parser = HfArgumentParser(UaMixTrainingArguments)
    for action in parser._actions:
        assert action.help and len(action.help) > 8 and "see " not in action.help, action.option_strings
    text = " ".join(parser.format_help().split())
    assert "Temperature that divides the similarities." in text and "Keys in the neighbour queue." in text


@pytest.mark.parametrize(
    "given, message",
    [
        ({"temperature": 0.0}, "temperature=0.0 is outside"),
        ({"mix": "blend"}, "mix"),
        ({"mix": "none", "mix_alpha": 2.0, "pairing": "reverse"}, "mix_alpha, pairing: without effect here"),
    ],
)
def test_unusable_settings_of_the_method_are_refused_by_name(make_args, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_args(**given)


@pytest.mark.parametrize("given", [{"mix": "cutmix"}, {"queue_size": 9}, {"token_drop": 0.5}])
def test_arguments_that_contradict_the_model_are_refused(make_model, make_dataset, make_args, extractor, given) -> None:
    model, (name, value) = make_model(token_drop=0.25), next(iter(given.items()))
    with pytest.raises(ValueError, match=f"contradict the model: {name}={value!r} and the model has"):
        StageTrainer(model, make_args(**given), make_dataset([96] * 8), extractor)


def test_arguments_that_agree_with_the_model_are_taken_also_for_a_queue_that_was_shrunk(
    make_model, make_dataset, make_args, extractor
) -> None:
    model, args, data = make_model(queue_size=40), make_args(queue_size=40, topk=1), make_dataset([96] * 8)
    for stage in ("head", "tune"):
        StageTrainer(model, args, data, extractor, stage)
    assert model.config.queue_size == 8
