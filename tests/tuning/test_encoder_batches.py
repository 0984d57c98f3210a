"""Views that take turns in the encoder: the whole batch's loss and gradients, in the memory of a part of it."""

import weakref

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from uamix_hf.tuning import mixing

LENGTHS = torch.tensor([96, 80, 96, 41, 64, 33])
PARTNER = torch.tensor([1, 2, 3, 4, 5, 0])


class LiveBytes(TorchDispatchMode):
    """`peak`: how many bytes of tensors that were made under it were alive at once."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                self.add(value.untyped_storage())
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self.alive:
            self.alive[id(storage)] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, id(storage))

    def remove(self, number: int) -> None:
        self.now -= self.alive.pop(number)


@pytest.fixture
def step(make_model):
    """`step(size, frozen=0, stage="tune", autocast=False, **config)`: a step of six clips, `size` views at once in the
    encoder, half of their tokens dropped. The model, what it gave, and how many views each call of the encoder had."""

    def step(size, frozen=0, stage="tune", autocast=False, **config):
        model = make_model(**{"token_drop": 0.5, **config}).train()
        model.set_stage(stage, frozen)
        model.encoder_batch_size = size
        calls = []
        model.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(len(kwargs["input_values"])), with_kwargs=True
        )
        torch.manual_seed(5)
        mel_bins = model.encoder.config.num_mel_bins
        views = torch.randn(2, 6, 96, mel_bins).cumsum(2) / 3
        mix_masks = [
            mixing.draw_mix_mask(model.config, LENGTHS, PARTNER, 96, mel_bins) for _ in range(model.mixed_views)
        ]
        model.neighbour_queue.enqueue(F.normalize(torch.randn(10, 16), dim=-1), torch.arange(10) % 5)
        torch.manual_seed(6)  # of the tokens that are dropped: a CPU draws them row by row, so in turns the same
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model.contrast(*views, LENGTHS, torch.arange(6), PARTNER, mix_masks)
        output.loss.backward()
        return model, output, calls

    return step


def assert_same(one, two, tolerance: float) -> None:
    """Loss, its parts, gradients and the neighbour queue; gradients are compared by their largest value."""
    (mine, output, _), (its, expected, _) = one, two
    for name in ("loss", "loss_clean", "loss_mixed", "mix_lambda", "embedding_std"):
        assert (output.get(name) is None) == (expected.get(name) is None), name
        if expected.get(name) is not None:
            torch.testing.assert_close(output[name], expected[name], atol=tolerance, rtol=0)
    for name, parameter in mine.named_parameters():
        other = its.get_parameter(name).grad
        assert (parameter.grad is None) == (other is None), name
        if other is not None:
            most = tolerance * max(1, float(other.abs().max()))
            torch.testing.assert_close(
                parameter.grad, other, atol=most, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
            )
    torch.testing.assert_close(mine.neighbour_queue.keys, its.neighbour_queue.keys, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size, turns", [(1, [1] * 18), (5, [5, 5, 5, 3]), (9, [9, 9]), (17, [17, 1])])
def test_loss_and_gradients_are_the_whole_batchs(step, size, turns):
    """With half of the tokens dropped: other tokens in the second forward pass would give other gradients."""
    whole, parts = step(None), step(size)
    assert whole[2] == [18]
    assert parts[2] == turns + turns[::-1]  # again for the backward pass, the last first
    assert_same(parts, whole, 1e-5)
    assert whole[0].encoder.layers[0].layernorm_before.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"symmetric_mix": True},
        {"mix": "none"},
        {"frozen": 2},
        {"frozen": 3},
        {"stage": "head"},
        {"token_drop": 0.0, "queue_size": 0},
    ],
    ids=str,
)
def test_whatever_is_mixed_dropped_or_frozen(step, settings):
    assert_same(step(4, **settings), step(None, **settings), 1e-5)


def test_an_encoder_of_fixed_length_takes_turns_too(step, make_ast):
    whole = step(None, encoder=make_ast(), token_drop=0)
    # Its views are alike, which batch norm enlarges, with rounding.
    assert_same(step(4, encoder=make_ast(), token_drop=0), whole, 1e-4)


def test_the_second_pass_is_under_the_same_autocast(step):
    """To what bfloat16 resolves: 8 bits of each value."""
    assert_same(step(4, autocast=True), step(None, autocast=True), 2**-6)


def test_no_second_pass_where_nothing_is_learnt_or_all_views_fit(step):
    assert step(4, stage="head")[2] == [4, 4, 4]
    assert step(18)[2] == step(100)[2] == [18]


def test_memory_falls_towards_that_of_one_turn(make_model, make_batch):
    """Of 64 views, 8 in turn: an eighth of the encoder's activations, beside views, heads and gradients as before."""
    peaks = []
    for size in (None, 8):
        model = make_model(mix="none", token_drop=0).train()
        model.encoder_batch_size = size
        batch = make_batch([96] * 32)
        with LiveBytes() as live:
            model(**batch).loss.backward()
        peaks.append(live.peak)
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("size", [0, -3])
def test_turns_of_no_view_are_refused(make_args, size):
    with pytest.raises(ValueError, match=f"encoder_batch_size={size}"):
        make_args(encoder_batch_size=size)
