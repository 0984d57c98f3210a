"""Batches hold every row once, clips of like length together, padded and masked; the seed decides their order."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.data import FeatureCollator, LengthBucketSampler, VisitedRows

MEAN, STD = -4.0, 3.0
PADDING = (0 - MEAN) / (2 * STD)


def order(lengths: list[int], batch_size: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthBucketSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.fixture
def lengths() -> list[int]:
    return np.random.default_rng(0).integers(10, 1000, 403).tolist()


def test_every_row_comes_once(lengths: list[int]) -> None:
    assert len(LengthBucketSampler(lengths, 8)) == 403
    for rows in (403, 400, 8, 7, 1):
        for batch_size in (1, 8, 500):
            assert sorted(order(lengths[:rows], batch_size)) == list(range(rows))
    assert order([], 8) == []


def test_long_rows_come_once_for_each_visit() -> None:
    lengths = [50, 100, 199, 200, 500] * 40
    sampler = LengthBucketSampler(lengths, 8, visit_frames=100)
    counts = np.bincount(list(sampler), minlength=200).reshape(40, 5)
    assert (counts == [1, 1, 1, 2, 5]).all() and len(sampler) == len(list(sampler)) == 400
    rows = list(sampler)
    assert Counter((int(place), place.visit) for place in rows) == Counter(
        (place, (0, time)) for place, length in enumerate(lengths) for time in range(max(1, length // 100))
    )
    twice = [len(set(rows[start : start + 8])) < 8 for start in range(0, 400, 8)]
    assert np.mean(twice) < 0.2
    assert list(LengthBucketSampler(lengths, 8, visit_frames=0)) == order(lengths, 8)


def test_the_order_depends_on_seed_and_epoch_alone(lengths: list[int]) -> None:
    first = order(lengths, 8, seed=3, epoch=2)
    torch.manual_seed(99)
    random.seed(99)
    assert order(lengths, 8, seed=3, epoch=2) == first
    others = [order(lengths, 8, seed, epoch) for seed, epoch in ((3, 3), (4, 2), (2, 3), (0, 0), (1, 0), (0, 1))]
    assert len({tuple(rows) for rows in [first, *others]}) == 7
    sampler = LengthBucketSampler(lengths, 8, seed=3)
    assert list(sampler) == list(sampler) != first  # epoch 0 twice


def test_whole_batches_hold_neighbours_in_length(lengths: list[int]) -> None:
    rows = order(lengths, 8, seed=1)
    batches = [sorted(lengths[row] for row in rows[start : start + 8]) for start in range(0, 400, 8)]
    by_length = sorted(batches)
    assert all(shorter[-1] <= longer[0] for shorter, longer in zip(by_length, by_length[1:], strict=False))
    assert by_length != batches  # but they come in no order of length


def test_the_short_batch_is_last_and_not_always_the_same_clips(lengths: list[int]) -> None:
    """Trainers may drop it: a clip that is always in it would never be heard."""
    clips = lengths[:43]
    dropped = [set(order(clips, 8, epoch=epoch)[40:]) for epoch in range(200)]
    times = np.bincount([row for rows in dropped for row in rows], minlength=43)
    assert times.sum() == 600
    assert 0 < times.min() and times.max() < 40  # 14 expected, binomial


@pytest.fixture
def extractor() -> AudioMAEFeatureExtractor:
    return AudioMAEFeatureExtractor(mean=MEAN, std=STD, num_mel_bins=4, patch_size=16)


def row(sample: int, frames: int, **more) -> dict:
    """A log-mel whose values say which frame they are: sample * 1000 + frame + bin / 10."""
    log_mel = sample * 1000 + torch.arange(frames)[:, None] + torch.arange(4) / 10
    return {"features": log_mel, "length": torch.tensor(frames), "sample_id": torch.tensor(sample), **more}


def dataset(rows: list[dict]) -> Dataset:
    columns = {name: [entry[name] for entry in rows] for name in rows[0]}
    return Dataset.from_dict(columns).with_format("torch")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("frames", "padded"), [([5, 33, 48], 48), ([33, 7], 48), ([1], 16), ([16, 16], 16)])
def test_batches_are_padded_to_whole_patches_and_masked(extractor, normalize: bool, frames, padded: int) -> None:
    rows = [row(sample + 5, count) for sample, count in enumerate(frames)]
    batch = FeatureCollator(extractor, max_frames=100, normalize=normalize)(rows)
    assert set(batch) == {"input_values", "attention_mask", "sample_id"}
    values, mask = batch["input_values"].numpy(), batch["attention_mask"].numpy()
    assert values.shape == (len(frames), padded, 4) and values.dtype == np.float32
    assert mask.shape == (len(frames), padded) and np.issubdtype(mask.dtype, np.integer)
    assert batch["sample_id"].tolist() == [5 + sample for sample in range(len(frames))]
    assert batch["sample_id"].dtype == torch.int64
    for number, count in enumerate(frames):
        raw = rows[number]["features"].numpy()
        expected = (raw - MEAN) / (2 * STD) if normalize else raw
        np.testing.assert_allclose(values[number, :count], expected, rtol=1e-6)
        np.testing.assert_allclose(values[number, count:], PADDING if normalize else 0.0, rtol=1e-6)
        assert mask[number].tolist() == [1] * count + [0] * (padded - count)


def test_labels_go_along(extractor) -> None:
    collator = FeatureCollator(extractor, 100, normalize=True)
    assert collator([row(0, 5, labels=2), row(1, 5, labels=0)])["labels"].tolist() == [2, 0]
    several = collator([row(0, 5, labels=torch.tensor([0.0, 1.0])), row(1, 5, labels=[1.0, 1.0])])["labels"]
    assert torch.equal(several, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))


def test_a_long_recording_gives_a_stretch_of_it(extractor) -> None:
    collator = FeatureCollator(extractor, max_frames=32, normalize=False)
    starts = []
    for epoch in range(200):
        rows = [row(1, 100, visit=(epoch, 0)), row(2, 20, visit=(epoch, 0))]
        batch = collator(rows)
        window = batch["input_values"][0]
        assert batch["attention_mask"].sum(1).tolist() == [32, 20]
        starts.append(round(window[0, 0].item()) - 1000)
        torch.testing.assert_close(window, rows[0]["features"][starts[-1] : starts[-1] + 32])
    assert min(starts) < 5 and max(starts) > 63 and max(starts) <= 68  # all of the recording is reached
    whole = collator([row(1, 32)])["input_values"][0]
    torch.testing.assert_close(whole, row(1, 32)["features"])


def drawn(extractor, rows: list[dict], seed: int = 0) -> dict[int, list[float]]:
    """What is drawn for each clip of a batch, by its id: window, roll and gain show in its values."""
    collator = FeatureCollator(extractor, 32, normalize=False, roll=True, gain_alpha=10.0, seed=seed)
    batch = collator(rows)
    return dict(zip(batch["sample_id"].tolist(), batch["input_values"].flatten(1).tolist(), strict=True))


def test_seed_clip_and_visit_decide_what_is_drawn_and_nothing_else(extractor) -> None:
    """Neither the global state nor other clips of the batch nor their order."""
    alone = drawn(extractor, [row(3, 90, visit=(1, 0))])[3]
    torch.manual_seed(99)
    several = [row(sample, 60 + 10 * sample, visit=(1, 0)) for sample in range(5)]
    for rows in ([row(3, 90, visit=(1, 0))], several, several[::-1]):
        assert drawn(extractor, rows)[3] == alone
    changed = [
        drawn(extractor, [row(3, 90, visit=visit)], seed)[3]
        for seed, visit in ((0, (2, 0)), (0, (1, 1)), (1, (1, 0)), (1, (0, 0)), (0, (0, 1)))
    ]
    assert len({tuple(values) for values in [alone, *changed]}) == 6
    other = [value - 1000 for value in drawn(extractor, [row(4, 90, visit=(1, 0))])[4]]
    assert np.abs(np.array(other) - alone).max() > 0.5
    # What is only looked at comes without visits, and the same each time.
    assert drawn(extractor, [row(3, 90)]) == drawn(extractor, [row(3, 90)])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_recording_gives_other_stretches_each_time_it_comes(extractor, batch_size: int) -> None:
    """Several times in an epoch, too, and where every epoch has the same rows together."""
    rows = VisitedRows(dataset([row(sample, frames) for sample, frames in enumerate((100, 120, 140, 500))]))
    sampler = LengthBucketSampler([100, 120, 140, 500], batch_size, visit_frames=100)
    collator = FeatureCollator(extractor, max_frames=32, normalize=False)

    def starts(epoch: int) -> list[float]:
        sampler.set_epoch(epoch)
        places = list(sampler)
        batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
        found = [collator(rows.__getitems__(batch)) for batch in batches]
        return sorted(v[0, 0].item() for batch in found for v in batch["input_values"] if v[0, 0] >= 3000)

    epochs = [starts(epoch) for epoch in range(4)]
    assert [len(set(found)) for found in epochs] == [5] * 4  # of 469 stretches
    assert len(set(sum(epochs, []))) > 15
    assert starts(2) == epochs[2]


def test_rows_know_their_visit_in_other_processes_too(extractor) -> None:
    """A loader's workers, which are told the row numbers."""
    lengths = [100, 120, 140, 500]
    rows = VisitedRows(dataset([row(sample, frames) for sample, frames in enumerate(lengths)]))
    sampler = LengthBucketSampler(lengths, 2, visit_frames=100)
    sampler.set_epoch(3)
    collator = FeatureCollator(extractor, max_frames=32, normalize=False)
    loaders = [DataLoader(rows, 2, sampler=sampler, num_workers=n, collate_fn=collator) for n in (0, 2)]
    one, two = (torch.cat([batch["input_values"] for batch in loader]) for loader in loaders)
    assert torch.equal(one, two) and len(one) == 8


def test_a_roll_turns_each_clip_round_and_a_gain_lifts_it(extractor) -> None:
    turned = FeatureCollator(extractor, max_frames=100, normalize=False, roll=True)
    louder = FeatureCollator(extractor, max_frames=100, normalize=False, gain_alpha=10.0)
    offsets, gains = set(), []
    for epoch in range(100):
        rows = [row(1, 20, visit=(epoch, 0)), row(2, 30, visit=(epoch, 0))]
        values = turned(rows)["input_values"]
        offset = round(values[0, 0, 0].item()) - 1000
        torch.testing.assert_close(values[0, :20], rows[0]["features"].roll(-offset, dims=0))
        assert (values[0, 20:] == 0).all()
        offsets.add(offset)
        change = louder(rows)["input_values"][0, :20] - rows[0]["features"]
        torch.testing.assert_close(change, change[:1, :1].expand_as(change), atol=1e-3, rtol=0)
        gains.append(np.exp(change[0, 0].item() / 2))
    assert offsets <= set(range(20)) and len(offsets) > 15
    assert 0.5 < min(gains) < 0.9 and 1.1 < max(gains) < 1.5
    assert np.mean(gains) == pytest.approx(1, abs=4 * (1 / 84 / 100) ** 0.5)
