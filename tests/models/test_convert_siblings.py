"""Other systems' checkpoints as folders of Audio-MAE models, against outputs of their official code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from uamix_hf import (
    AudioEmbedder,
    AudioMAEConfig,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
)
from uamix_hf.__main__ import main
from uamix_hf.models.audio_mae.convert_ssast import resize_positions
from uamix_hf.models.checkpoint import CheckpointError
from uamix_hf.models.conversion import SYSTEMS, convert

TOLERANCE = 2e-5  # relative to the output's scale


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= TOLERANCE, error


def frequency_major(tokens: torch.Tensor, prefix: int, bands: int) -> torch.Tensor:
    """Our tokens (batch, prefix + columns * bands, width) in the official order."""
    rows = tokens[:, prefix:].unflatten(1, (-1, bands)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :prefix], rows], dim=1)


@pytest.fixture(scope="module")
def folder(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Converts a fixture with the command, with the head counts of its .json; once for each set of options."""
    done: dict[tuple, Path] = {}

    def run(system: str, file: str, **options) -> Path:
        key = (system, file, *sorted(options.items()))
        if key not in done:
            source = next((fixtures / system).glob(f"{file}.[ps][ta]*"))
            sizes = json.loads((fixtures / system / f"{file}.json").read_text())
            target = tmp_path_factory.mktemp(f"{system}_{file}")
            options = {"num_attention_heads": sizes["num_heads"]} | options
            if "decoder_num_heads" in sizes:
                options["decoder_num_attention_heads"] = sizes["decoder_num_heads"]
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            assert main(["convert", system, str(source), str(target), *flags]) == 0
            done[key] = target
        return done[key]

    return run


@pytest.fixture(scope="module")
def official(fixtures: Path):
    return lambda system, file: load_file(fixtures / system / f"{file}_io.safetensors")


@torch.no_grad()
def outputs(folder: Path, input_values: torch.Tensor, **options):
    return AutoModel.from_pretrained(folder).eval()(input_values.contiguous(), **options)


@torch.no_grad()
def logits(folder: Path, input_values: torch.Tensor) -> torch.Tensor:
    return AutoModelForAudioClassification.from_pretrained(folder).eval()(input_values.contiguous()).logits


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


def test_pretrained_matpac(folder, official) -> None:
    io, target = official("matpac", "pretrained"), folder("matpac", "pretrained")
    output = outputs(target, io["input_values"].transpose(1, 2), output_hidden_states=True)
    assert_official(frequency_major(output.last_hidden_state, 1, 5), io["last_hidden_state"])
    assert_official(frequency_major(output.hidden_states[1], 1, 5), io["hidden_after_block0"])
    assert_official(output.pooler_output, io["embedding"])
    bands = output.last_hidden_state[:, 1:].unflatten(1, (-1, 5)).flatten(2)
    assert_official(bands, io["embedding_frames"])


@pytest.mark.parametrize("file,limit", [("pretrained", 608), ("finetuned_as", 992)])
def test_short_and_long_matpac(folder, official, file: str, limit: int) -> None:
    io, target = official("matpac", file), folder("matpac", file)
    short = torch.nn.functional.pad(io["input_values_short"].transpose(1, 2), (0, 0, 0, 8))
    output = outputs(target, short, attention_mask=(torch.arange(short.shape[1]) < short.shape[1] - 8).long()[None])
    assert_official(frequency_major(output.last_hidden_state, 1, 5), io["last_hidden_state_short"])
    assert_official(output.pooler_output, io["embedding_short"])
    long = io["input_values_long"].transpose(1, 2)
    long = torch.nn.functional.pad(long, (0, 0, 0, -long.shape[1] % 16))
    chunks = long.split(limit, dim=1)
    pooled = [outputs(target, chunk).pooler_output * chunk.shape[1] for chunk in chunks]
    assert_official(sum(pooled) / long.shape[1], io["embedding_long"])


def test_matpac_from_waveforms(folder, official) -> None:
    io, target = official("matpac", "pretrained"), folder("matpac", "pretrained")
    extractor = AutoFeatureExtractor.from_pretrained(target)
    inputs = extractor(io["waveform"], 16_000, return_tensors="pt")
    output = outputs(target, **inputs)
    assert_official(output.pooler_output, io["embedding_waveform"])
    assert_official(output.pooler_output, io["layer_embeddings_waveform"][:, -1])
    embedder = AudioEmbedder(AutoModel.from_pretrained(target), extractor)
    assert_official(torch.from_numpy(embedder.encode(io["waveform"])), io["embedding_waveform"])


def test_fine_tuned_matpac(folder, official) -> None:
    io, target = official("matpac", "finetuned_as"), folder("matpac", "finetuned_as")
    output = outputs(target, io["input_values"].transpose(1, 2), output_hidden_states=True)
    assert_official(frequency_major(output.last_hidden_state, 1, 5), io["last_hidden_state"])
    assert_official(frequency_major(output.hidden_states[1], 1, 5), io["hidden_after_block0"])
    assert_official(output.pooler_output, io["embedding"])
    values = AutoFeatureExtractor.from_pretrained(target)(io["waveform"], 16_000, return_tensors="pt").input_values
    assert_official(outputs(target, values).pooler_output, io["embedding_waveform"])
    found = logits(target, values)
    assert_official(found, io["logits_waveform"])
    assert_official(found.softmax(dim=1), io["class_probabilities_waveform"])


PASST = {
    ("stride10", "full"): 996, ("stride10", "short"): 496, ("stride10", "long"): 996,
    ("stride16", "full"): 992, ("stride16", "short"): 304,
}  # fmt: skip


@pytest.mark.parametrize("file,case", PASST)
def test_passt(folder, official, file: str, case: str) -> None:
    """Of the official input, only frames that whole patches within the position table cover are used."""
    io, target = official("passt", file), folder("passt", file)
    inputs, prefix = io["input_values"].transpose(1, 2)[:, : PASST[file, case]], "" if case == "full" else f"{case}."
    bands = 12 if file == "stride10" else 8
    output = outputs(target, inputs, output_hidden_states=True)
    if f"{prefix}last_hidden_state" in io:
        assert_official(frequency_major(output.last_hidden_state, 2, bands), io[f"{prefix}last_hidden_state"])
    if case == "full":
        assert_official(frequency_major(output.hidden_states[1], 2, bands), io["hidden_after_block0"])
        assert AutoModel.from_pretrained(target).config.max_length == inputs.shape[1]
    assert_official(output.pooler_output, io[f"{prefix}embedding"])
    assert_official(logits(target, inputs), io[f"{prefix}logits"])


@pytest.mark.parametrize("file", ["stride10", "stride16"])
def test_passt_from_a_waveform(folder, official, fixtures: Path, file: str) -> None:
    waveform = load_file(fixtures / "passt" / "frontend_io.safetensors")["waveform"]
    target = folder("passt", file)
    inputs = AutoFeatureExtractor.from_pretrained(target)(waveform, 32_000, return_tensors="pt")
    found = torch.cat([logits(target, inputs.input_values), outputs(target, **inputs).pooler_output], dim=1)
    assert_official(found, official("passt", file)["from_waveform.embedding_hear"])


def test_pretrained_birdmae(folder, official) -> None:
    io, target = official("birdmae", "pretrained"), folder("birdmae", "pretrained")
    output = outputs(target, io["input_values"], output_hidden_states=True)
    assert_official(output.last_hidden_state, io["last_hidden_state"])
    assert_official(output.hidden_states[1], io["hidden_after_block0"])
    assert_official(output.hidden_states[3], io["hidden_after_last_block"])
    assert_official(output.pooler_output, io["embedding_mean_fc_norm"])
    assert_official(output.last_hidden_state[:, 0], io["embedding_cls"])
    assert_official(output.last_hidden_state[:, 1:].mean(1), io["embedding_mean_norm"])
    model = AudioMAEForPreTraining.from_pretrained(target).eval()
    with torch.no_grad():
        masked = model(io["input_values"], noise=io["noise"])
        visible = model.audio_mae(io["input_values"], noise=io["noise"], mask_ratio=0.75)
        assert torch.equal(masked.mask, io["mask"]) and torch.equal(masked.ids_restore, io["ids_restore"])
        assert_official(visible.last_hidden_state, io["latent"])
        assert_official(masked.logits, io["pred"])
        assert_official(masked.loss[None], io["loss_norm_pix"])
        model.config.norm_pix_loss = False
        assert_official(model(io["input_values"], noise=io["noise"]).loss[None], io["loss_raw"])


def test_released_and_fine_tuned_birdmae(folder, official) -> None:
    io = official("birdmae", "encoder_release")
    output = outputs(folder("birdmae", "encoder_release"), io["input_values"])
    assert_official(output.last_hidden_state, io["last_hidden_state"])
    assert_official(output.last_hidden_state[:, 0], io["embedding_cls"])
    assert_official(output.pooler_output, io["embedding_mean_fc_norm"])
    io, target = official("birdmae", "finetuned"), folder("birdmae", "finetuned")
    assert_official(outputs(target, io["input_values"]).pooler_output, io["embedding_mean_fc_norm"])
    assert_official(logits(target, io["input_values"]), io["logits"])


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_asit(folder, official, network: str) -> None:
    io = official("asit", "pretrained")
    output = outputs(folder("asit", "pretrained", network=network), io["input_values"], output_hidden_states=True)
    assert_official(output.last_hidden_state, io[f"{network}.last_hidden_state"])
    assert_official(output.pooler_output, io[f"{network}.embedding_cls"])
    assert_official(output.last_hidden_state[:, 1:].mean(1), io[f"{network}.embedding_mean"])
    if network == "student":
        assert_official(output.hidden_states[1], io["student.hidden_after_block0"])


def test_asit_has_two_networks(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="network='head'.*'teacher' and 'student'"):
        convert("asit", str(fixtures / "asit" / "pretrained.pth"), str(tmp_path / "target"), network="head")


ONE_OF_EACH = {
    "ssast": ("pretrained_patch", {}), "matpac": ("pretrained", {}), "passt": ("stride10", {}),
    "birdmae": ("encoder_release", {}), "asit": ("pretrained", {}),
}  # fmt: skip
CASES = [
    *((system, *case) for system, case in ONE_OF_EACH.items()),
    ("ssast", "pretrained_frame", {"time_stride": 1, "max_length": 300}),
    ("ssast", "finetuned_patch", {"time_stride": 10, "mel_stride": 10}),
]


@pytest.mark.parametrize("system,file,options", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_clip_has_the_same_embedding_alone_and_in_a_padded_batch(
    folder, system: str, file: str, options: dict
) -> None:
    target = folder(system, file, **options)
    model, extractor = AutoModel.from_pretrained(target).eval(), AutoFeatureExtractor.from_pretrained(target)
    rate, shift = extractor.sampling_rate, extractor.frame_shift
    lengths = [250 * shift, 131 * shift + 7, 20 * shift, 300]
    clips = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in lengths]
    with torch.no_grad():
        together = model(**extractor(clips, rate, return_tensors="pt")).pooler_output
        alone = [model(**extractor(clip, rate, return_tensors="pt")).pooler_output for clip in clips]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system,file,options", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_saved_and_loaded_models_are_bit_equal(folder, tmp_path: Path, system: str, file: str, options: dict) -> None:
    target = folder(system, file, **options)
    model = AutoModel.from_pretrained(target).eval()
    config, extractor = model.config, AutoFeatureExtractor.from_pretrained(target)
    assert type(model) is AudioMAEModel and extractor.time_stride == config.time_stride
    model.save_pretrained(tmp_path)
    values = torch.randn(1, config.max_length, config.num_mel_bins, generator=torch.Generator().manual_seed(0))
    first, second = (outputs(place, values).pooler_output for place in (target, tmp_path))
    assert torch.equal(first, second)


@pytest.mark.parametrize("system", ONE_OF_EACH)
def test_missing_keys_are_named_and_cards_state_licences(fixtures: Path, folder, tmp_path: Path, system: str) -> None:
    file, options = ONE_OF_EACH[system]
    card = (folder(system, file, **options) / "README.md").read_text()
    assert f"license: {SYSTEMS[system].licence}" in card and SYSTEMS[system].citation in card
    source = next((fixtures / system).glob(f"{file}.[ps][ta]*"))
    content = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=False)
    weights = content["teacher"] if system == "asit" else content
    for ending in ("blocks.1.norm2.bias", "pos_embed"):
        key = next(key for key in weights if key.endswith(ending))
        left = {name: value for name, value in weights.items() if name != key}
        torch.save({"teacher": left} if system == "asit" else left, tmp_path / "broken.pth")
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            convert(system, str(tmp_path / "broken.pth"), str(tmp_path / "target"), num_attention_heads=4)
    assert not (tmp_path / "target").exists()


def test_overlapping_patches_know_what_they_cover() -> None:
    config = AudioMAEConfig.preset("tiny", max_length=46, time_stride=10, mel_stride=10, num_prefix_tokens=2)
    assert config.grid_size == (4, 12)
    for fields, says in (
        ({"time_stride": 20}, "time_stride=20"),
        ({"time_stride": 0}, "time_stride=0"),
        ({"max_length": 50, "time_stride": 10}, "max_length=50 is not patch_size=16 plus a multiple of time_stride=10"),
        ({"patch_mel_bins": 48}, "num_mel_bins=128 is not a multiple of patch_mel_bins=48"),
        ({"num_prefix_tokens": 0}, "num_prefix_tokens=0"),
    ):
        with pytest.raises(StrictDataclassError, match=says):
            AudioMAEConfig.preset("tiny", **fields)
    with pytest.raises(ValueError, match="square patches that do not overlap"):
        AudioMAEForPreTraining(config)
    model = AudioMAEModel(config)
    with pytest.raises(ValueError, match="40 frames, not covered by patches"):
        model(torch.zeros(1, 40, 128))
    assert AudioMAEForAudioClassification(config).classifier_layernorm is not None
