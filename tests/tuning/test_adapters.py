"""Encoders with LoRA: what is trained, at which rates, and what of it is saved, loaded and merged."""

import copy
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from uamix_hf import AnotherRunError, AudioMAEModel, UaMixForContrastiveTuning
from uamix_hf.training.encoders import EncoderAdapter, EncoderError
from uamix_hf.tuning import StageTrainer, train_stages

TARGETS = ["q_proj", "v_proj"]
LENGTHS = [96, 80, 96, 41, 64, 33, 96, 77]


@pytest.fixture
def base(encoder_config, tmp_path) -> AudioMAEModel:
    """Loaded from a folder, as users' encoders are."""
    torch.manual_seed(0)
    AudioMAEModel(encoder_config).save_pretrained(tmp_path / "base")
    return AudioMAEModel.from_pretrained(tmp_path / "base")


def wrapped(base: AudioMAEModel, **settings) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules=TARGETS, **settings))


def added(base: AudioMAEModel) -> AudioMAEModel:
    """By transformers itself, which changes the model in place."""
    torch.manual_seed(1)
    encoder = copy.deepcopy(base)
    encoder.add_adapter(LoraConfig(r=4, target_modules=TARGETS))
    return encoder


def embeddings(encoder) -> torch.Tensor:
    sounds = torch.randn(3, 96, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return encoder.eval()(input_values=sounds).pooler_output


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    mine, its = before.state_dict(), after.state_dict()
    assert mine.keys() == its.keys()
    return {name for name, value in mine.items() if not torch.equal(value, its[name])}


@pytest.fixture
def run(make_model, make_dataset, make_args, extractor):
    """`run(encoder, **arguments)`: a trainer of both stages that has run on it."""

    def run(encoder, **arguments):
        model = make_model(encoder=encoder, queue_size=8)
        settings = {"max_steps": 3, "head_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0, **arguments}
        return train_stages(model, make_args(**settings), make_dataset(LENGTHS), extractor)

    return run


@pytest.mark.parametrize("make", [wrapped, added])
def test_only_adapters_and_heads_are_tuned(base, run, make) -> None:
    encoder = make(base)
    before, untouched = embeddings(encoder), copy.deepcopy(encoder)
    assert torch.equal(before, embeddings(base))  # a fresh LoRA changes nothing
    model = run(encoder).model
    assert model.encoder is encoder
    trained = changed(untouched, encoder)
    assert trained == {name for name in encoder.state_dict() if "lora_" in name} and len(trained) == 3 * 2 * 2
    assert not torch.allclose(embeddings(encoder), before, atol=1e-3)
    learnt = [name for name, value in model.named_parameters() if value.requires_grad]
    assert all("lora_" in name or name.startswith("heads.") for name in learnt)


def test_wrapping_leaves_weights_and_adapters_as_they_are(base, make_model) -> None:
    for encoder in (wrapped(base), wrapped(base, init_lora_weights=False), added(base)):
        before = copy.deepcopy(encoder)
        make_model(encoder=encoder)
        assert not changed(before, encoder)


def test_a_tuned_adapter_is_saved_alone_loads_onto_the_base_and_merges(base, run, tmp_path) -> None:
    encoder = run(wrapped(base)).model.encoder
    expected = embeddings(encoder)
    encoder.save_pretrained(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json"}
    assert not list((tmp_path / "adapter").glob("model*"))
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "adapter"))
    assert torch.equal(embeddings(loaded), expected)
    merged = encoder.merge_and_unload()
    assert type(merged) is AudioMAEModel
    torch.testing.assert_close(embeddings(merged), expected, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(embeddings(AudioMAEModel.from_pretrained(tmp_path / "merged")), embeddings(merged))


@pytest.mark.parametrize("frozen", [0, 1])
def test_adapters_have_the_learning_rate_of_their_layer(base, make_model, make_args, make_dataset, extractor, frozen):
    model = make_model(encoder=wrapped(base, modules_to_save=["patch_embeddings", "layernorm"]), queue_size=8)
    args = make_args(learning_rate=1e-3, layer_decay=0.5, freeze_blocks=frozen)
    trainer = StageTrainer(model, args, make_dataset(LENGTHS), extractor)
    rates = {id(value): group["lr"] for group in trainer.parameter_groups() for value in group["params"]}
    found = set()
    for name, value in model.encoder.named_parameters():
        block = re.search(r"layers\.(\d+)\.", name)
        depth = int(block[1]) + 1 if block else 0 if "embeddings." in name else 4
        learnt = ("lora_" in name or "modules_to_save" in name) and not (frozen and depth <= frozen)
        assert rates.get(id(value)) == (pytest.approx(1e-3 * 0.5 ** (4 - depth)) if learnt else None), name
        found |= {depth} if learnt else set()
    assert found == set(range(frozen + 1 if frozen else 0, 5))


def test_a_run_with_adapters_resumes_as_if_never_stopped_and_its_checkpoint_does_not_load_without_them(
    base, run, tmp_path
) -> None:
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    whole = run(wrapped(base, lora_dropout=0.2), **steps).model
    checkpoint = tmp_path / "run" / "checkpoint-2"
    resumed = run(wrapped(base, lora_dropout=0.2), **steps, resume_from_checkpoint=str(checkpoint)).model
    assert not changed(whole, resumed)
    for settings, name in (({"lora_dropout": 0.2, "lora_alpha": 4}, "lora_alpha"), ({}, "lora_dropout")):
        with pytest.raises(AnotherRunError, match=f"adapters.default.{name}: checkpoint "):
            run(wrapped(base, **settings), **steps, resume_from_checkpoint=str(checkpoint))
    with pytest.raises(EncoderError, match="checkpoint-2 holds weights .*from_encoder"):
        UaMixForContrastiveTuning.from_pretrained(checkpoint)


def test_tasks_that_peft_has_wrappers_for_make_no_difference(base, make_model, make_batch) -> None:
    """Such a wrapper's forward takes words."""
    one, two = (
        make_model(encoder=wrapped(base, **task), token_drop=0).eval()
        for task in ({}, {"task_type": "FEATURE_EXTRACTION"})
    )
    losses = []
    for model in (one, two):
        torch.manual_seed(0)
        losses.append(model(**make_batch(LENGTHS)).loss.item())
    assert losses[0] == losses[1]


def test_prompts_are_refused(base) -> None:
    prompts = PromptTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=2, token_dim=32, num_attention_heads=2, num_layers=3
    )
    adapted = wrapped(base)
    adapted.peft_config = {"default": prompts}
    with pytest.raises(EncoderError, match="PROMPT_TUNING"):
        EncoderAdapter(adapted)
