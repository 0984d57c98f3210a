"""Bird-MAE's checkpoints as Audio-MAE models, against outputs of the official code."""

import torch
from converted import assert_official, logits, outputs

from uamix_hf import AudioMAEForPreTraining


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
