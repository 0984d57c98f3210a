"""The model as a whole: against the method written out clip by clip, and what each stage may change."""

import copy
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoModel

from uamix_hf import AudioMAEConfig, AudioMAEModel, UaMixConfig, UaMixForContrastiveTuning
from uamix_hf.tuning import mixing
from uamix_hf.tuning.neighbour_queue import NeighbourQueue

LENGTHS = [96, 80, 96, 41, 64, 33]
PARTNER = torch.tensor([1, 2, 3, 4, 5, 0])
PADDING = 4.2677393 / (2 * 4.5689974)


def given_views(model, views=1, seed=5):
    """Arguments of `contrast`, drawn once: (view a, view b, lengths, ids, partner, mix_masks)."""
    torch.manual_seed(seed)
    lengths = torch.tensor(LENGTHS)
    view_a, view_b = torch.randn(2, 6, 96, 32).cumsum(2) / 3
    mix_masks = [mixing.draw_mix_mask(model.config, lengths, PARTNER, 96, 32) for _ in range(views)]
    return view_a, view_b, lengths, torch.arange(6), PARTNER, mix_masks


def fill_queue(model, count, seed=6):
    """Keys of the clips 0 to 3 and of others, with labels."""
    torch.manual_seed(seed)
    keys = F.normalize(torch.randn(count, 16), dim=-1)
    model.neighbour_queue.enqueue(keys, torch.arange(count) % 7, torch.arange(count) % 3)


def states_equal(one, two) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def written_out(model, view_a, view_b, lengths, ids, partner, mix_masks, labels=None) -> dict:
    """One step (docs/concepts/method.md) with one view after the other, one clip after the other."""

    def pool(view):
        frames = torch.arange(view.shape[1]) < lengths[:, None]
        view = torch.where(frames[..., None], view, torch.tensor(PADDING))
        return model.encoder(input_values=view, attention_mask=frames.long()).pooler_output

    def neighbours(targets):
        queue, keys, places = model.neighbour_queue, [], []
        for target, number in zip(targets, ids.tolist(), strict=True):
            usable = [i for i in range(len(queue)) if queue.ids[i] >= 0 and queue.ids[i] != number]
            best = max(usable, key=lambda i: float(target @ queue.keys[i]), default=None)
            keys.append(target if best is None else queue.keys[best])
            places.append(best)
        return torch.stack(keys).detach(), places

    def loss(queries, keys, labels):
        return -(labels * (queries @ keys.T / model.config.temperature).log_softmax(1)).sum(1).mean()

    heads = model.heads
    embeddings = [pool(view_a), pool(view_b)]
    queries = [F.normalize(heads.predictor(heads.projector(pooled)), dim=-1) for pooled in embeddings]
    targets = [F.normalize(heads.target_projector(pooled), dim=-1).detach() for pooled in embeddings]
    (keys_a, places), (keys_b, _) = (neighbours(target) for target in targets)
    one_hot = torch.eye(len(ids))
    ab, ba = loss(queries[0], keys_b, one_hot), loss(queries[1], keys_a, one_hot)
    mixed, lams = [], []
    for view, keys, mix_mask in zip((view_a, view_b), (keys_b, keys_a), mix_masks, strict=False):
        mixture, virtual, lam = view.clone(), torch.zeros(len(ids), len(ids)), []
        for row, other in enumerate(partner.tolist()):
            weight = mix_mask[row].expand(-1, view.shape[2])
            mixture[row] = weight * view[row] + (1 - weight) * view[other]
            columns = math.ceil(int(lengths[row]) / 16)  # a token is valid if any of its frames is
            lam.append(float(weight[: 16 * columns].mean()))
            virtual[row, row] += lam[-1]
            virtual[row, other] += 1 - lam[-1]
        query = F.normalize(heads.predictor(heads.projector(pool(mixture))), dim=-1)
        mixed.append(loss(query, keys, virtual))
        lams += lam
    unit = F.normalize(embeddings[0], dim=-1).detach().double().numpy()
    found = {
        "loss_clean": (ab + ba) / 2,
        "loss_mixed": sum(mixed) / len(mixed) if mixed else None,
        "mix_lambda": torch.tensor(lams).mean() if lams else None,
        "embedding_std": torch.tensor(unit.std(axis=0, ddof=1).mean() * unit.shape[1] ** 0.5).float(),
        "neighbour_purity": None,
    }
    if labels is not None:
        known = [(i, p) for i, p in enumerate(places) if p is not None and labels[i] >= 0]
        same = [float(model.neighbour_queue.labels[p] == labels[i]) for i, p in known]
        found["neighbour_purity"] = torch.tensor(sum(same) / len(same))
    found["loss"] = found["loss_clean"] + (model.config.mix_weight * found["loss_mixed"] if mixed else 0)
    return {"targets": targets, "clean_ab": ab, **found}


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup", "none"])
@pytest.mark.parametrize("filled", [0, 9])
def test_a_step_equals_the_method_written_out(make_model, kind, filled):
    """With an empty neighbour queue too: there a clip that is looked up after being stored would find another one."""
    mixing = {} if kind == "none" else {"mix_weight": 0.7, "mix_align": 4}
    model = make_model(mix=kind, token_drop=0, **mixing).train()
    fill_queue(model, filled)
    reference = copy.deepcopy(model)
    given = given_views(model, views=0 if kind == "none" else 1)
    labels = torch.tensor([0, 1, 2, -1, 1, 2]) if filled else None
    output, expected = model.contrast(*given, labels), written_out(reference, *given, labels)
    for name in ("loss", "loss_clean", "loss_mixed", "mix_lambda", "embedding_std", "neighbour_purity"):
        if expected[name] is None:
            assert output.get(name) is None
        else:
            torch.testing.assert_close(output[name], expected[name].detach(), msg=lambda text, n=name: f"{n}: {text}")
    output.loss.backward()
    expected["loss"].backward()
    for name, parameter in model.named_parameters():
        other = reference.get_parameter(name).grad
        assert (parameter.grad is None) == (other is None), name
        if other is not None:
            torch.testing.assert_close(parameter.grad, other, atol=2e-5 * max(1, other.abs().max()), rtol=0)


def test_symmetric_mixing_uses_both_views(make_model):
    model = make_model(symmetric_mix=True, token_drop=0).train()
    fill_queue(model, 9)
    assert model.mixed_views == 2
    given = given_views(model, views=2)
    expected = written_out(copy.deepcopy(model), *given)
    output = model.contrast(*given)
    torch.testing.assert_close(output.loss_mixed, expected["loss_mixed"].detach())
    torch.testing.assert_close(output.mix_lambda, expected["mix_lambda"])


def test_a_mixture_that_is_the_clip_costs_what_the_clip_costs(make_model):
    """With lambda = 1 throughout, the mixtures' loss is the clean loss with view a as the query."""
    model = make_model(token_drop=0, symmetric_mix=True).train()
    fill_queue(model, 9)
    *given, _ = given_views(model)
    ones = torch.ones(6, 96, 1)
    one_view, both = copy.deepcopy(model).contrast(*given, [ones]), copy.deepcopy(model).contrast(*given, [ones, ones])
    torch.testing.assert_close(one_view.loss_mixed, written_out(model, *given, [ones])["clean_ab"].detach())
    torch.testing.assert_close(both.loss_mixed, both.loss_clean)
    assert one_view.mix_lambda == 1
    assert not torch.isclose(one_view.loss_mixed, one_view.loss_clean)


@pytest.mark.parametrize("source", ["fresh", "loaded", "ast"])
def test_wrapping_leaves_the_encoder_as_it_is(make_model, make_ast, encoder_config, tmp_path, source):
    encoder = make_ast() if source == "ast" else AudioMAEModel(encoder_config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    if source == "loaded":
        encoder.save_pretrained(tmp_path)
        encoder = AutoModel.from_pretrained(tmp_path)
    before, config = copy.deepcopy(encoder), encoder.config.to_dict()
    model = make_model(encoder=encoder)
    assert model.encoder is encoder
    assert states_equal(encoder, before)
    assert encoder.config.to_dict() == config
    assert encoder.config._attn_implementation == before.config._attn_implementation


def test_the_heads_start_as_torchs_linears_with_the_target_a_copy(make_model):
    model = make_model(projector_hidden_size=256, queue_size=5)
    projector, target = model.heads.projector, model.heads.target_projector
    assert states_equal(projector, target)
    for layer in (projector[0], projector[3], model.heads.predictor[0]):
        bound = layer.in_features**-0.5  # uniform in +- 1 / sqrt(fan-in)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not model.neighbour_queue.valid.any() and model.neighbour_queue.pointer == 0


def test_saving_and_loading_keeps_every_bit(make_model, make_batch, tmp_path):
    model = make_model(queue_size=9).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for seed in range(2):
        model(**make_batch(LENGTHS, seed), labels=torch.arange(6)).loss.backward()
        optimizer.step()
        model.update_target()
    assert model.neighbour_queue.pointer == 3 and model.neighbour_queue.valid.all()
    assert not states_equal(model.heads.projector, model.heads.target_projector)

    model.save_pretrained(tmp_path)
    loaded = UaMixForContrastiveTuning.from_pretrained(tmp_path)
    assert states_equal(model, loaded)
    assert type(loaded.encoder) is AudioMAEModel
    mine, its = model.config.to_diff_dict(), loaded.config.to_diff_dict()
    for entry in (mine, its):
        entry.pop("transformers_version", None), entry.pop("dtype", None), entry.pop("architectures", None)
        entry.pop("encoder_config")
    assert mine == its
    frozen = [name for name, value in loaded.named_parameters() if not value.requires_grad]
    assert frozen == [name for name, value in model.named_parameters() if not value.requires_grad]
    given = given_views(model)
    assert model.eval().contrast(*given).loss == loaded.contrast(*given).loss


def test_the_encoder_alone_is_an_ordinary_model(make_model, make_batch, tmp_path):
    model = make_model().eval()
    model.encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is AudioMAEModel and states_equal(loaded, model.encoder)
    batch = make_batch([96, 96])
    with torch.no_grad():
        one, two = (each(batch["input_values"]).pooler_output for each in (loaded, model.encoder))
    assert torch.equal(one, two)


def trained(model) -> set[str]:
    return {name for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_frozen_blocks_have_no_gradient_no_graph_and_no_noise(make_model, encoder_config, make_batch, blocks):
    encoder_config.hidden_dropout_prob = 0.3
    model = make_model(token_drop=0.25)
    model.set_stage("tune", blocks)
    model.eval()
    model.train()
    layers = model.encoder.layers
    assert [layer.training for layer in layers] == [False] * blocks + [True] * (3 - blocks)
    assert not any(module.training for layer in layers[:blocks] for module in layer.modules())
    assert not any(module.training for module in model.encoder.embeddings.modules())
    assert model.heads.training and model.encoder.layernorm.training

    graphs = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model(**make_batch(LENGTHS)).loss.backward()
    optimizer.step()
    assert graphs == [False] * blocks + [True] * (3 - blocks)
    frozen = ("encoder.embeddings.", *(f"encoder.layers.{i}." for i in range(blocks)), "heads.target_projector.")
    for name, parameter in model.named_parameters():
        fixed = name.startswith(frozen)
        assert (parameter.grad is None) == fixed, name
        if fixed:
            assert torch.equal(parameter, before.get_parameter(name)), name
        elif "k_proj.bias" not in name:  # softmax takes no notice of it
            assert not torch.equal(parameter, before.get_parameter(name)), name


def test_without_frozen_blocks_everything_learns_but_the_target(make_model, make_batch):
    model = make_model()
    model.set_stage("tune", 0)
    model.train()(**make_batch(LENGTHS)).loss.backward()
    left = {name for name, _ in model.named_parameters()} - trained(model)
    assert left == {f"heads.target_projector.{name}" for name, _ in model.heads.target_projector.named_parameters()}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("loaded", [False, True])
def test_no_stage_thaws_what_the_encoder_never_trains(make_model, encoder_config, tmp_path, loaded):
    """The table of positions, fixed by the class although loading makes it trainable, and what the user froze."""
    encoder = AudioMAEModel(encoder_config)
    if loaded:
        encoder.save_pretrained(tmp_path)
        encoder = AutoModel.from_pretrained(tmp_path)
    encoder.layers[2].mlp.requires_grad_(False)
    model = make_model(encoder=encoder)
    assert not encoder.embeddings.position_embeddings.requires_grad  # even before a stage is chosen
    for stage, blocks in [("head", 0), ("tune", 0), ("tune", 2), ("tune", 0), ("head", 1), ("tune", 3)]:
        model.set_stage(stage, blocks)
        assert not encoder.embeddings.position_embeddings.requires_grad
        assert not any(value.requires_grad for value in encoder.layers[2].mlp.parameters())
        assert not any(value.requires_grad for value in model.heads.target_projector.parameters())
    model.set_stage("tune", 0)
    assert encoder.layers[0].mlp.fc1.weight.requires_grad  # and a later stage does thaw the others


def test_the_head_stage_trains_heads_alone_without_mixtures(make_model, make_batch, monkeypatch):
    asked = []
    lookup = NeighbourQueue.lookup
    monkeypatch.setattr(
        NeighbourQueue, "lookup", lambda self, q, ids, topk: asked.append(topk) or lookup(self, q, ids, topk)
    )
    model = make_model(topk=5, mix="t-cutmix")
    model.set_stage("head")
    model.train()
    assert not any(module.training for module in model.encoder.modules()) and model.heads.training
    output = model(**make_batch(LENGTHS))
    assert output.loss_mixed is None and output.mix_lambda is None and output.loss == output.loss_clean
    assert asked == [1]  # for both views at once
    output.loss.backward()
    assert trained(model) == {
        name for name, _ in model.named_parameters() if name.startswith(("heads.projector.", "heads.predictor."))
    }
    with torch.no_grad():
        for parameter in model.heads.projector.parameters():
            parameter.add_(1)
    model.update_target()
    assert states_equal(model.heads.projector, model.heads.target_projector)
    model.set_stage("tune")
    model.train()(**make_batch(LENGTHS))
    assert asked[1:] == [5]


def test_evaluation_neither_stores_nor_drops(make_model, make_batch):
    model = make_model(token_drop=0.5)
    masks = []
    model.encoder.register_forward_hook(lambda module, inputs, output: masks.append(output.mask))
    fill_queue(model, 5)
    before = copy.deepcopy(model)
    model.eval()(**make_batch(LENGTHS))
    assert masks == [None]
    assert states_equal(model, before)
    model.train()(**make_batch(LENGTHS))
    assert masks[1] is not None
    assert model.neighbour_queue.pointer == 11


def test_the_neighbour_queue_takes_in_view_a_alone(make_model):
    model = make_model(token_drop=0, symmetric_mix=True, queue_size=20).train()
    given = given_views(model, views=2)
    expected = written_out(copy.deepcopy(model), *given)
    model.contrast(*given, labels=torch.arange(6) + 20)
    queue = model.neighbour_queue
    assert queue.valid.sum() == 6 == queue.pointer
    assert queue.ids[:6].tolist() == list(range(6)) and queue.labels[:6].tolist() == list(range(20, 26))
    torch.testing.assert_close(queue.keys[:6], expected["targets"][0])
    assert not torch.allclose(queue.keys[:6], expected["targets"][1], atol=1e-2)


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_lambda_counts_the_tokens_that_were_really_seen(make_model, make_batch, monkeypatch, kind):
    model = make_model(token_drop=0.5, mix=kind, min_crop=1, mix_align=8).train()
    drawn, masks = [], []
    draw_mix_mask = mixing.draw_mix_mask

    def spy(config, lengths, *rest):
        drawn.append((draw_mix_mask(config, lengths, *rest), lengths))
        return drawn[-1][0]

    monkeypatch.setattr(mixing, "draw_mix_mask", spy)
    model.encoder.register_forward_hook(lambda module, inputs, output: masks.append(output.mask))
    output = model(**make_batch(LENGTHS))
    ((mix_mask, lengths),), removed = drawn, masks[0][12:]  # rows of view a, view b, mixtures
    lams, seen = [], 0
    for row in range(6):
        values = mix_mask[row].expand(-1, 32).numpy()
        valid = [(t, f) for t in range(6) for f in range(2) if 16 * t < lengths[row]]
        visible = [(t, f) for t, f in valid if removed[row, 2 * t + f] == 0]
        assert len(visible) == max(1, len(valid) // 2)
        lams.append(np.mean([values[16 * t : 16 * t + 16, 16 * f : 16 * f + 16].mean() for t, f in visible]))
        seen += len(visible)
    assert seen < 36 and np.mean(lams) < 1
    assert output.mix_lambda.item() == pytest.approx(np.mean(lams), abs=1e-6)


def test_one_clip_has_nothing_to_contrast_with(make_model, make_batch):
    with pytest.raises(ValueError, match="at least 2"):
        make_model()(**make_batch([96]))


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
@pytest.mark.parametrize("sound", ["silent", "identical", "short"])
def test_degenerate_batches_have_finite_losses_and_gradients(make_model, make_batch, sound, kind):
    model = make_model(mix=kind).train()
    batch = make_batch([3, 1, 15, 2] if sound == "short" else [96, 96, 96, 96])
    if sound == "silent":
        batch["input_values"].fill_(-15.942385)  # log of the float32 epsilon
    elif sound == "identical":
        batch["input_values"][:] = batch["input_values"][0]
        model = make_model(
            mix=kind, min_crop=1, gain_alpha=0, equalizer_db=0, token_drop=0, resize_time=1, resize_mel=1
        ).train()
    for _ in range(2):  # with an empty neighbour queue and with a filled one
        output = model(**batch)
        output.loss.backward()
        for name in ("loss", "loss_clean", "loss_mixed", "mix_lambda", "embedding_std"):
            assert output[name].isfinite(), name
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    assert model.neighbour_queue.keys.isfinite().all()
    if sound == "identical":
        assert output.embedding_std == pytest.approx(0, abs=1e-4)


def test_views_are_made_of_raw_log_mels_and_normalised_afterwards(make_model, make_batch):
    model = make_model(
        input_mean=-5.0,
        input_std=3.0,
        input_std_factor=2,
        min_crop=1,
        gain_alpha=0,
        equalizer_db=0,
        token_drop=0,
        resize_time=1,
        resize_mel=1,
    )
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    batch = make_batch([96, 80], seed=3)
    model.set_stage("head")
    model.train()(**batch)
    expected = (batch["input_values"] + 5) / 6  # raw padding of 0 becomes 5 / 6 as in Audio-MAE
    torch.testing.assert_close(seen[0]["input_values"], torch.cat([expected, expected]))
    assert torch.equal(seen[0]["attention_mask"], torch.cat([batch["attention_mask"]] * 2))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # renamed in later versions
def test_gradient_checkpointing_changes_nothing(make_model):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(token_drop=0)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.set_stage("tune", 1)
        model.train()
        assert [layer.gradient_checkpointing for layer in model.encoder.layers] == [checkpointing] * 3
        model.contrast(*given_views(model)).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
        assert model.neighbour_queue.pointer == 6
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


HALVES = [torch.bfloat16, torch.float16]


def recorded(function, found: list):
    """The function, whose results are put into a list."""

    def call(*args):
        found.append(function(*args))
        return found[-1]

    return call


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_leaves_heads_neighbour_queue_and_loss_in_float32(make_model, dtype):
    """What comes after the encoder is exact: fed with the embeddings of half precision, it gives the same loss."""
    model = make_model(token_drop=0).train()
    fill_queue(model, 9)
    given = given_views(model)
    reference, pooled = copy.deepcopy(model), []
    encode = model.adapter.encode
    model.adapter.encode = recorded(encode, pooled)
    with torch.autocast("cpu", dtype):
        output = model.contrast(*given)
    reference.adapter.encode = lambda *args: pooled[0]
    expected = reference.contrast(*given)
    assert output.loss.dtype == pooled[0][0].dtype == model.neighbour_queue.keys.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-3)
    assert not torch.equal(pooled[0][0], encode(torch.cat(given[:2]), given[2].repeat(2), 0.0, PADDING)[0])


def gradients(model) -> list[tuple[str, torch.Tensor]]:
    found = [
        (name, value.grad.double().flatten()) for name, value in model.named_parameters() if value.grad is not None
    ]
    assert all(value.isfinite().all() for _, value in found)
    return found


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["audio_mae", "ast"])
def test_a_model_in_half_precision_learns_nearly_the_same(make_model, make_ast, dtype, kind):
    """What comes after the encoder is exact; its embeddings and gradients differ by the encoder's own rounding."""
    encoder, sizes = (make_ast(), (128, 128)) if kind == "ast" else (None, (96, 32))
    model = make_model(encoder=encoder, token_drop=0).train()
    with torch.no_grad():  # untrained prefix tokens of zeros have no direction to normalise
        for parameter in model.encoder.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    fill_queue(model, 9)
    half, exact, embeddings = copy.deepcopy(model).to(dtype), copy.deepcopy(model), []
    for each in (model, half):
        each.adapter.encode = recorded(each.adapter.encode, embeddings)
    torch.manual_seed(3)
    views, lengths = torch.randn(2, 6, *sizes).cumsum(2) / 3, torch.tensor(LENGTHS)
    mix_mask = mixing.draw_mix_mask(model.config, lengths, PARTNER, *sizes)
    given = (*views, lengths, torch.arange(6), PARTNER, [mix_mask])
    for each in (model, half):
        output = each.contrast(*given)
        output.loss.backward()
    (one, _), (two, visible) = embeddings
    one, two = one.detach(), two.detach().requires_grad_()
    assert two.dtype == torch.float32 and not torch.equal(one, two)
    torch.testing.assert_close(two, one, rtol=0, atol=0.05 * one.std().item())
    exact.adapter.encode = lambda *args: (two, visible)
    expected = exact.contrast(*given)
    for name, value in expected.items():
        assert output[name].dtype == torch.float32 and torch.equal(output[name], value), name

    # What the loss's gradient is of the same embeddings, the encoder passes on but for its rounding.
    towards = torch.autograd.grad(exact.contrast(*given).loss, two)[0]
    assert {name for name, _ in gradients(half)} == {name for name, _ in gradients(model)}
    passed_on = []
    for each in (model, half):
        each.zero_grad()
        each.adapter.encode(views.flatten(0, 1), lengths.repeat(2), 0.0, PADDING)[0].backward(towards[:12])
        passed_on.append(torch.cat([value for _, value in gradients(each)]))
    assert F.cosine_similarity(*passed_on, dim=0) > 0.99
    before = copy.deepcopy(half.encoder.layers[0].mlp.fc1.weight)
    torch.optim.SGD([value for value in half.parameters() if value.requires_grad], lr=0.1).step()
    half.update_target()
    assert not torch.equal(half.encoder.layers[0].mlp.fc1.weight, before)
    assert all(value.isfinite().all() for value in half.state_dict().values())


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_heads_and_neighbour_queue_stay_float32_to_the_last_bit(make_model, make_batch, dtype, tmp_path):
    """Cast, loaded so, saved so, or around an encoder that is so already."""
    model = make_model()
    fill_queue(model, 9)
    model.save_pretrained(tmp_path / "float32")
    copy.deepcopy(model).to(dtype).save_pretrained(tmp_path / "half")
    kinds = {
        "cast": copy.deepcopy(model).to(dtype),
        "loaded": UaMixForContrastiveTuning.from_pretrained(tmp_path / "float32", dtype=dtype),
        "saved": UaMixForContrastiveTuning.from_pretrained(tmp_path / "half", dtype="auto"),
        "wrapped": make_model(encoder=AudioMAEModel(model.encoder.config).to(dtype)),
    }
    for name, each in kinds.items():
        assert {value.dtype for value in each.encoder.parameters()} == {dtype}, name
        for part, reference in ((each.heads, model.heads), (each.neighbour_queue, model.neighbour_queue)):
            assert all(v.dtype in (torch.float32, torch.int64) for v in part.state_dict().values()), name
            if name != "wrapped":
                assert states_equal(part, reference), name
        output = each.train()(**make_batch(LENGTHS))
        output.loss.backward()
        assert output.loss.dtype == torch.float32 and output.loss.isfinite(), name
        assert each.neighbour_queue.keys[each.neighbour_queue.valid].norm(dim=1).sub(1).abs().max() < 1e-5, name


def test_the_seed_alone_decides(make_model, make_batch):
    def losses(seed):
        model = make_model(topk=3).train()
        torch.manual_seed(seed)
        return [model(**make_batch(LENGTHS)).loss.item() for _ in range(3)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix": "tcutmix"},
        {"mix_position": "middle"},
        {"pairing": "flip"},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"mix_alpha": 0},
        {"mix_probability": 1.5},
        {"token_drop": 1},
        {"min_crop": 0},
        {"ema_momentum": -0.1},
        {"topk": 0},
        {"queue_size": -1},
        {"mix_align": 0},
        {"gain_alpha": -1},
        {"mix_weight": -1},
        {"input_std": 0},
        {"queue_size": 10.5},
        {"equalizer_db": -1},
        {"noise_snr": float("nan")},
    ],
)
def test_unusable_settings_are_refused_by_name(wrong):
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        UaMixConfig(**wrong)


@pytest.mark.parametrize("blocks", [-1, 4])
def test_more_frozen_blocks_than_there_are_are_refused(make_model, blocks):
    with pytest.raises(ValueError, match="3 layers"):
        make_model().set_stage("tune", blocks)


def test_a_misspelt_setting_is_refused_by_name(encoder_config: AudioMAEConfig) -> None:
    with pytest.raises(TypeError, match="mix_alfa"):
        UaMixForContrastiveTuning.from_encoder(AudioMAEModel(encoder_config), mix_alfa=2.0)
