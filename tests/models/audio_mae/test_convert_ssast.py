"""SSAST's checkpoints as Audio-MAE models, against outputs of the official code."""

import json
from pathlib import Path

import pytest
import torch
from converted import assert_official, frequency_major, logits, outputs
from transformers import AutoModel

from uamix_hf.__main__ import main
from uamix_hf.models.audio_mae.convert_ssast import resize_positions
from uamix_hf.models.checkpoint import CheckpointError
from uamix_hf.models.conversion import convert

SSAST_PATCH = {
    "full": (lambda x: x, {}),
    "short": (lambda x: x[:1, :512], {"max_length": 512}),
    "odd": (lambda x: x[:1, :592], {"max_length": 600}),  # the official model ignores the last 8 frames
    "long": (lambda x: torch.cat([x[:1], x[1:2, :176]], dim=1), {"max_length": 1200}),
    "overlap": (lambda x: x[:1, :1016], {"time_stride": 10, "mel_stride": 10}),
    "overlap_short": (lambda x: x[:1, :506], {"time_stride": 10, "mel_stride": 10, "max_length": 512}),
}
SSAST_FRAME = {
    "full": (lambda x: x, {}),
    "short": (lambda x: x[:, :400], {"max_length": 400}),
    "overlap": (lambda x: x[:, :300], {"max_length": 300, "time_stride": 1}),
}


@pytest.mark.parametrize(
    "file,case",
    [*(("pretrained_patch", case) for case in SSAST_PATCH), *(("pretrained_frame", case) for case in SSAST_FRAME)],
)
def test_pretrained_ssast(folder, official, fixtures: Path, file: str, case: str) -> None:
    io = official("ssast", file)
    geometry = json.loads((fixtures / "ssast" / f"{file}.json").read_text())["cases"][case]
    part, options = (SSAST_PATCH if file == "pretrained_patch" else SSAST_FRAME)[case]
    inputs, prefix = part(io["input_values"]), "" if case == "full" else f"{case}."
    for pooling, name in (("mean", "embedding_avgtok"), ("mean_prefix", "embedding_cls")):
        output = outputs(folder("ssast", file, pooling=pooling, **options), inputs, output_hidden_states=True)
        assert_official(output.pooler_output, io[prefix + name])
    assert output.last_hidden_state.shape[1] == geometry["tokens"]
    tokens = frequency_major(output.last_hidden_state, 2, geometry["f_dim"])
    if f"{prefix}last_hidden_state" in io:
        assert_official(tokens, io[f"{prefix}last_hidden_state"])
    if f"{prefix}hidden_after_block0" in io:
        found = frequency_major(output.hidden_states[1], 2, geometry["f_dim"])
        assert_official(found, io[f"{prefix}hidden_after_block0"])
    if f"{prefix}pos_embed" in io:
        model = AutoModel.from_pretrained(folder("ssast", file, pooling=pooling, **options))
        table = frequency_major(model.embeddings.position_embeddings, 2, geometry["f_dim"])
        assert_official(table, io[f"{prefix}pos_embed"])


@pytest.mark.parametrize("pooling,name", [("mean", "avgtok"), ("mean_prefix", "cls")])
def test_fine_tuned_ssast(folder, official, pooling: str, name: str) -> None:
    io = official("ssast", "finetuned_patch")
    target = folder("ssast", "finetuned_patch", pooling=pooling, time_stride=10, mel_stride=10)
    output = outputs(target, io["input_values"][:, :506])  # the official model ignores the last 6 frames
    assert_official(frequency_major(output.last_hidden_state, 2, 12), io["last_hidden_state"])
    assert_official(output.pooler_output, io[f"embedding_{name}"])
    assert_official(logits(target, io["input_values"][:, :506]), io[f"logits_{name}"])


def test_ssast_options_that_contradict_the_file_are_refused(fixtures: Path, tmp_path: Path, capsys) -> None:
    fine_tuned, pretrained = (
        str(fixtures / "ssast" / f"{name}.pth") for name in ("finetuned_patch", "pretrained_patch")
    )
    for source, options, says in (
        (fine_tuned, {}, "does not record its strides.*--time_stride"),
        (fine_tuned, {"time_stride": 10, "mel_stride": 10, "max_length": 512}, "no --max_length"),
        (fine_tuned, {"time_stride": 10, "mel_stride": 9}, "600 positions of patches, not a positive multiple of 13"),
        (pretrained, {"time_stride": 17}, "Strides of \\(16, 17\\)"),
        (pretrained, {"max_length": 10}, "max_length=10 is less than a patch"),
        (pretrained, {"pooling": "cls"}, "pooling='cls'.*'mean' and 'mean_prefix'"),
        (pretrained, {"network": "teacher"}, "ssast does not take network"),
    ):
        with pytest.raises(CheckpointError, match=says):
            convert("ssast", source, str(tmp_path / "target"), **{"num_attention_heads": 4} | options)
    assert main(["convert", "ssast", pretrained, str(tmp_path / "target")]) == 1
    assert "--num_attention_heads" in capsys.readouterr().err and not (tmp_path / "target").exists()


def test_ssast_shorter_positions_are_the_centre() -> None:
    table = torch.arange(2 + 2 * 9, dtype=torch.float32)[None, :, None]  # 2 bands of 9 columns
    found = resize_positions(table, (2, 9), (2, 4))[0, :, 0]
    assert found.tolist() == [0, 1, 4, 5, 6, 7, 13, 14, 15, 16]  # from column 4 - 2
