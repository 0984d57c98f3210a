"""The neighbour queue against a list that is written and searched one entry at a time."""

import pytest
import torch
from torch.nn import functional as F

from uamix_hf.tuning.neighbour_queue import NeighbourQueue

WIDTH = 6


class ListQueue:
    """Places hold (key, id, label) or None."""

    def __init__(self, size: int):
        self.places: list = [None] * size
        self.pointer = 0

    def enqueue(self, keys, ids, labels) -> None:
        for key, number, label in zip(keys, ids.tolist(), labels.tolist(), strict=True):
            self.places[self.pointer] = (key, number, label)
            self.pointer = (self.pointer + 1) % len(self.places)

    def nearest(self, query, number: int, topk: int) -> list[int]:
        """Places of the nearest keys of other clips, nearest first."""
        usable = [place for place, entry in enumerate(self.places) if entry is not None and entry[1] != number]
        return sorted(usable, key=lambda place: -float(query @ self.places[place][0]))[:topk]


def unit(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, WIDTH), dim=-1)


@pytest.mark.parametrize(
    "size, batches", [(10, [4] * 9), (10, [3, 7, 1, 9, 2, 10, 5]), (5, [8, 3, 12, 5, 6]), (1, [2, 1])]
)
def test_writing_and_finding_equal_a_plain_list(size, batches):
    torch.manual_seed(0)
    queue, plain = NeighbourQueue(size, WIDTH), ListQueue(size)
    for batch in batches:
        queries, wanted = unit(6), torch.randint(12, (6,))
        keys, places = queue.lookup(queries, wanted, 1)
        for row in range(6):
            expected = plain.nearest(queries[row], int(wanted[row]), 1)
            assert places[row].item() == (expected[0] if expected else -1)
            assert torch.equal(keys[row], plain.places[expected[0]][0] if expected else queries[row])

        new, ids, labels = unit(batch), torch.randint(12, (batch,)), torch.randint(3, (batch,))
        queue.enqueue(new, ids, labels)
        plain.enqueue(new, ids, labels)
        assert queue.pointer.item() == plain.pointer
        for place, entry in enumerate(plain.places):
            assert queue.valid[place].item() == (entry is not None)
            if entry is not None:
                assert torch.equal(queue.keys[place], entry[0])
                assert (queue.ids[place].item(), queue.labels[place].item()) == entry[1:]


def test_a_clip_never_finds_itself():
    torch.manual_seed(0)
    queue = NeighbourQueue(40, WIDTH)
    keys, ids = unit(40), torch.arange(40) % 8  # five keys of each clip, as after five epochs
    queue.enqueue(keys, ids)
    for topk in (1, 5, 40, 60):
        for _ in range(20):
            found, places = queue.lookup(keys[:8], ids[:8], topk)  # the best match would be itself
            assert (places >= 0).all() and (queue.ids[places] != ids[:8]).all()
            assert torch.equal(found, queue.keys[places])


@pytest.mark.parametrize("fill", [0, 6])
def test_where_no_other_clip_is_known_the_key_is_the_query(fill):
    torch.manual_seed(0)
    queue = NeighbourQueue(10, WIDTH)
    queue.enqueue(unit(fill), torch.full((fill,), 3))
    queries = unit(5)
    keys, places = queue.lookup(queries, torch.full((5,), 3), 4)
    assert torch.equal(keys, queries)
    assert (places == -1).all()


@pytest.mark.parametrize("topk", [1, 3, 7])
def test_neighbours_are_drawn_evenly_among_the_nearest_alone(topk):
    torch.manual_seed(0)
    queue, plain = NeighbourQueue(20, WIDTH), ListQueue(20)
    keys, ids = unit(20), torch.arange(20)
    queue.enqueue(keys, ids)
    plain.enqueue(keys, ids, ids)
    query, draws = unit(1), 7000
    _, places = queue.lookup(query.expand(draws, -1), torch.full((draws,), 4), topk)
    allowed = plain.nearest(query[0], 4, topk)
    count = torch.bincount(places, minlength=20)
    assert count.nonzero().flatten().tolist() == sorted(allowed)
    assert (count[allowed] - draws / topk).abs().max() <= 5 * (draws / topk) ** 0.5


def test_empty_places_are_never_drawn_when_fewer_keys_are_usable_than_asked_for():
    torch.manual_seed(0)
    queue, draws = NeighbourQueue(50, WIDTH), 3000
    queue.enqueue(unit(4), torch.arange(4))
    _, places = queue.lookup(unit(1).expand(draws, -1), torch.full((draws,), 2), 20)
    count = torch.bincount(places, minlength=50)
    assert count.nonzero().flatten().tolist() == [0, 1, 3]
    assert (count[[0, 1, 3]] - draws / 3).abs().max() < 5 * (draws / 3) ** 0.5


def test_labels_are_unknown_unless_given():
    queue = NeighbourQueue(4, WIDTH)
    queue.enqueue(unit(2), torch.tensor([5, 6]), torch.tensor([1, 2]))
    queue.enqueue(unit(1), torch.tensor([7]))
    assert queue.labels.tolist() == [1, 2, -1, -1]


def test_keys_carry_no_graph_and_are_no_window_into_the_queue():
    torch.manual_seed(0)
    queue = NeighbourQueue(4, WIDTH)
    queue.enqueue(unit(4).requires_grad_(), torch.arange(4))
    keys, _ = queue.lookup(unit(2).requires_grad_(), torch.tensor([8, 9]), 1)
    before = keys.clone()
    queue.enqueue(unit(4), torch.arange(4))
    assert not keys.requires_grad and not queue.keys.requires_grad
    assert torch.equal(keys, before)


def test_half_precision_queries_are_searched_in_float32():
    torch.manual_seed(0)
    queue = NeighbourQueue(8, WIDTH)
    queue.enqueue(unit(8), torch.arange(8))
    keys, places = queue.lookup(unit(3).bfloat16(), torch.tensor([20, 21, 22]), 1)
    assert keys.dtype == torch.float32
    assert torch.equal(keys, queue.keys[places])


def test_the_state_dict_is_the_whole_queue():
    torch.manual_seed(0)
    queue, copy = NeighbourQueue(7, WIDTH), NeighbourQueue(7, WIDTH)
    queue.enqueue(unit(10), torch.arange(10), torch.arange(10))
    copy.load_state_dict(queue.state_dict())
    queries, ids, new = unit(4), torch.arange(4), unit(3)
    for each in (queue, copy):
        each.enqueue(new, ids[:3])
    assert set(queue.state_dict()) == {"keys", "ids", "labels", "pointer"}
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in queue.state_dict().items())
    assert torch.equal(queue.lookup(queries, ids, 1)[1], copy.lookup(queries, ids, 1)[1])


def test_a_queue_of_size_zero_gives_the_queries_back():
    torch.manual_seed(0)
    queue = NeighbourQueue(0, WIDTH)
    queries = unit(3)
    queue.enqueue(queries, torch.arange(3))
    keys, places = queue.lookup(queries, torch.arange(3), 5)
    assert torch.equal(keys, queries) and places.tolist() == [-1] * 3
    assert len(queue) == 0
    NeighbourQueue(0, WIDTH).load_state_dict(queue.state_dict())
