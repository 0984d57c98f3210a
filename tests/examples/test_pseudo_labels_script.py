"""examples/pseudo_labels.py in short runs, in this process."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import AutoModel, HfArgumentParser

from uamix_hf import AudioMAEModel

SCRIPT = Path(__file__).parents[2] / "examples" / "pseudo_labels.py"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an encoder and of twelve short clips of three classes."""
    base, sounds = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(base)
    EXTRACTOR.save_pretrained(base)
    lines = ["file_name,label"]
    for number, (wave, label) in enumerate(zip(*tones(12), strict=True)):
        soundfile.write(sounds / f"{number}.wav", wave, 16_000)
        lines.append(f"{number}.wav,{'abc'[label]}")
    (sounds / "metadata.csv").write_text("\n".join(lines))
    return base, sounds


@pytest.fixture
def run(inputs: tuple[Path, Path], tmp_path: Path, monkeypatch, capsys):
    """`run(*flags)`: weights of the tuned encoder and of the base, the card, and what was printed."""

    def run(*flags: object) -> tuple[dict, dict, str, str]:
        fixed = [
            "--model_name_or_path", inputs[0], "--train_dir", inputs[1], "--output_dir", tmp_path, "--use_cpu",
            "--per_device_train_batch_size", 6, "--max_steps", 2, "--report_to", "none", "--clusters", 3,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["pseudo_labels.py", *map(str, [*fixed, *flags])])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        weights = [load_file(folder / "model.safetensors") for folder in (tmp_path, inputs[0])]
        return *weights, (tmp_path / "README.md").read_text(), capsys.readouterr().out

    return run


def changed(tuned: dict, given: dict) -> set[str]:
    """Names of the weights that differ; but for the bias of keys, which has no gradient."""
    return {name for name, value in given.items() if not torch.equal(value, tuned[name]) and "k_proj.bias" not in name}


def test_the_encoder_is_tuned_and_the_card_has_the_settings_that_were_used(run) -> None:
    flags = ["--label_column", "label", "--whiten", "false"]
    tuned, given, card, printed = run(*flags, "--rounds", 2, "--freeze_blocks", 0.5)
    assert tuned.keys() == given.keys()
    assert changed(tuned, given) == {
        name for name in given if name.startswith(("layers.1.", "layernorm.")) and "k_proj.bias" not in name
    }
    assert "on pseudo-labels" in card and "random weights" not in card + printed
    for part in ("| clusters | 3 |", "| rounds | 2 |", "| token_drop | 0.0 |", "| freeze_blocks | 0.5 |",
                 "| whiten | False |", "| recipe | plastic |", "| updates | 2 |", "| knn_accuracy |"):  # fmt: skip
        assert part in card, part
    assert "| mix |" not in card and "| head_epochs |" not in card
    still, given, _, _ = run(*flags, "--learning_rate", 0)
    assert changed(still, given) == set()


def test_the_embedding_is_whitened_unless_that_is_left_out(run, tmp_path: Path) -> None:
    tuned, given, _, _ = run()
    assert tuned.keys() - given.keys() == {"whitening.mean", "whitening.matrix"}
    assert AutoModel.from_pretrained(tmp_path).config.whitening_size == CONFIG.hidden_size
    assert (tmp_path / "modules.json").is_file()  # for sentence-transformers


def test_random_weights_have_nothing_of_the_given_ones_but_their_shapes(run) -> None:
    tuned, given, card, printed = run("--random_weights", "true", "--whiten", "false")
    assert "random weights" in printed and "training started from **random weights**" in card
    matrices = [name for name, value in tuned.items() if name.startswith("layers.") and value.ndim == 2]
    assert len(matrices) >= 2 * 4
    for name in matrices:
        assert abs(np.corrcoef(tuned[name].flatten(), given[name].flatten())[0, 1]) < 0.15, name


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mix", "none", "--head_steps", 3], "does not use mix, head_steps"),
        (["--recipe", "gentle"], "does not use layer_decay and guard: choose recipe=plastic"),
        (["--group_column", "label"], "takes label_column, and which clips guards hold out"),
    ],
)
def test_settings_without_effect_are_refused(run, flags, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(*flags)


@pytest.mark.parametrize("script", ["tune.py", "pseudo_labels.py"])
def test_every_flag_is_described(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[HfArgumentParser] = []

    def parse(parser: HfArgumentParser):
        seen.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(HfArgumentParser, "parse_args_into_dataclasses", parse)
    with pytest.raises(KeyboardInterrupt):
        runpy.run_path(str(SCRIPT.with_name(script)), run_name="__main__")
    for action in seen[0]._actions:
        assert action.help and len(action.help) > 8 and "see UaMixConfig" not in action.help, action.option_strings
