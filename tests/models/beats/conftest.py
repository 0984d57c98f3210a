"""Tiny BEATs models."""

import pytest
import torch
from encoder_checks import scramble

from uamix_hf import BeatsConfig, BeatsForAudioClassification, BeatsModel


@pytest.fixture
def config() -> BeatsConfig:
    """Fast, and odd enough that swapped sizes show."""
    return BeatsConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, max_length=192,
        patch_embedding_size=40, num_conv_pos_embedding_groups=4, num_labels=5,
    )  # fmt: skip


@pytest.fixture
def model(config: BeatsConfig) -> BeatsModel:
    torch.manual_seed(0)
    model = BeatsModel(config)
    scramble(model)
    return model.eval()


@pytest.fixture
def classifier(config: BeatsConfig) -> BeatsForAudioClassification:
    torch.manual_seed(0)
    classifier = BeatsForAudioClassification(config)
    scramble(classifier)
    return classifier.eval()
