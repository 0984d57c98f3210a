"""MATPAC's checkpoints as Audio-MAE models, against outputs of the official code."""

import pytest
import torch
from converted import assert_official, frequency_major, logits, outputs
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioEmbedder


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
    found = [outputs(target, chunk) for chunk in chunks]
    bands = torch.cat([one.last_hidden_state[:, 1:].unflatten(1, (-1, 5)) for one in found], dim=1)
    frames = io["embedding_frames_long"]
    bands = bands.mean(dim=2) if frames.shape[2] == bands.shape[3] else bands.flatten(2)  # the AudioSet head's way
    assert_official(bands, frames)
    pooled = [one.pooler_output * chunk.shape[1] for one, chunk in zip(found, chunks, strict=True)]
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
