"""Tuning on pseudo-labels: which clusters are learnt, from which views, and by which parameters."""

import copy
import inspect

import numpy as np
import pytest
import torch
from processes import run_processes
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import normalize
from toy_encoders import WaveConfig, WaveModel
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEModel
from uamix_hf.embedding.features import embed_features
from uamix_hf.fine_tuning import make_classifier, pseudo_labels
from uamix_hf.fine_tuning.labels import labelled_rows
from uamix_hf.fine_tuning.pseudo_labels import PSEUDO_LABELS_IGNORE, PseudoLabelTrainer, cluster, tune_on_pseudo_labels
from uamix_hf.models.waveform_frames import WaveformFrames
from uamix_hf.training import augmentations as views
from uamix_hf.tuning import METHOD_FIELDS, UaMixConfig, UaMixTrainingArguments

WAVES, LABELS = tones(60)
# The view is the clip itself.
PLAIN = {"min_crop": 1, "resize_time": 1, "resize_mel": 1, "gain_alpha": 0, "equalizer_db": 0, "token_drop": 0}


@pytest.fixture(scope="module")
def clips():
    """30 clips to tune on, which is all that the tests hand over, and 30 more."""
    return log_mels(WAVES)


@pytest.fixture
def encoder() -> AudioMAEModel:
    set_seed(0)
    return AudioMAEModel(CONFIG)


@pytest.fixture
def run(encoder, clips, make_args):
    """`run(config=UaMixConfig(), clusters=3, rounds=1, student=None, **arguments)`: a trainer that has run."""

    def run(config=None, clusters=3, rounds=1, student=None, encoder=encoder, dataset=None, **arguments):
        args = make_args(**{"max_steps": 3, "per_device_train_batch_size": 15, **arguments})
        data = clips.select(range(30)) if dataset is None else dataset
        return tune_on_pseudo_labels(encoder, EXTRACTOR, data, config or UaMixConfig(), args, clusters, rounds, student)

    return run


@pytest.fixture
def clustered(monkeypatch):
    """Vectors and numbers of each clustering, as they come."""
    seen, original = [], pseudo_labels.cluster

    def spy(vectors, clusters, seed):
        seen.append((vectors, original(vectors, clusters, seed)))
        return seen[-1][1]

    monkeypatch.setattr(pseudo_labels, "cluster", spy)
    return seen


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, its = one.state_dict(), two.state_dict()
    assert mine.keys() == its.keys()
    return all(torch.equal(value, its[name]) for name, value in mine.items())


def changed(encoder: AudioMAEModel, before: AudioMAEModel) -> set[str]:
    """Names of what differs; but for the bias of keys, which shifts all scores alike and gets no gradient."""
    return {
        name
        for name, value in encoder.state_dict().items()
        if not torch.equal(value, before.state_dict()[name]) and not name.endswith("k_proj.bias")
    }


# --- what is learnt


def test_clusters_come_apart_and_so_do_the_classes_of_new_clips(run, encoder, clustered):
    """Of sounds whose clusters are their classes, since they differ in little else: of one loudness and length."""
    waves, labels = tones(60, detuned=0.02, noise=(0.2, 0.2), level=(0.1, 0.1))
    clips = log_mels([wave[:3200] for wave in waves])
    before = embed_features(encoder, EXTRACTOR, clips)
    config = UaMixConfig(resize_time=1, resize_mel=1)  # classes differ in pitch
    trainer = run(config, dataset=clips.select(range(30)), max_steps=40, learning_rate=2e-3)
    after = embed_features(trainer.model.audio_mae, EXTRACTOR, clips)
    ((_, found),) = clustered
    old, new = (silhouette_score(vectors[:30], found, metric="cosine") for vectors in (before, after))
    assert 1 - new < (1 - old) / 2
    old, new = (silhouette_score(vectors[30:], labels[30:], metric="cosine") for vectors in (before, after))
    assert 1 - new < (1 - old) / 2  # 1 is perfect


def test_the_loss_is_cross_entropy_on_both_views(encoder, clips, make_args):
    """Where nothing is augmented each view is the clip itself, so a plain pass over the clips says what comes out."""
    numbers = np.arange(60) % 4
    set_seed(1)
    model = make_classifier(encoder, 4)
    torch.nn.init.normal_(model.classifier.weight)
    data = labelled_rows(clips, np.arange(60), numbers, 4)
    trainer = PseudoLabelTrainer(model, make_args(), data, EXTRACTOR, UaMixConfig(**PLAIN), [])
    rows = [row for row in range(60) if clips[row]["length"] % 16 == 0 or clips[row]["length"] > 48][:6]
    batch = trainer.data_collator([data[row] for row in rows])
    inputs = trainer.augment(batch)
    assert inputs["input_values"].shape[0] == inputs["attention_mask"].shape[0] == 12 and inputs["mask_ratio"] is None
    expected = []
    for row in rows:
        mel = EXTRACTOR.normalize(clips[row]["features"].float())[:64]
        mel = torch.nn.functional.pad(mel, (0, 0, 0, -len(mel) % 16), value=EXTRACTOR.padding_value)
        mask = (torch.arange(len(mel)) < clips[row]["length"]).long()
        with torch.no_grad():
            logits = model.eval()(mel[None], attention_mask=mask[None]).logits
        expected.append(-logits.log_softmax(1)[0, numbers[row]].item())
    loss = trainer.compute_loss(model, batch)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_views_of_encoders_with_overlapping_patches_end_with_a_whole_patch(clips, make_args):
    config = type(CONFIG)(**CONFIG.to_diff_dict() | {"time_stride": 10, "max_length": 56})
    extractor = copy.deepcopy(EXTRACTOR)
    extractor.time_stride, extractor.max_length = 10, 56
    data = labelled_rows(clips, np.arange(60), np.arange(60) % 4, 4)
    model = make_classifier(AudioMAEModel(config), 4)
    trainer = PseudoLabelTrainer(model, make_args(), data, extractor, UaMixConfig(**PLAIN), [])
    batch = trainer.data_collator([data[row] for row in range(4)])
    frames = trainer.augment(batch)["input_values"].shape[1]
    assert frames <= 56 and (frames - 16) % 10 == 0
    assert trainer.compute_loss(model, batch).isfinite()


@pytest.mark.parametrize("drop, ratio", [(0.5, 0.5), (0.25, 0.25), (0, None)])
def test_views_are_uamixs_and_the_encoder_drops_its_share(run, monkeypatch, drop, ratio):
    drawn, ratios = [], []

    def spy(*args):
        drawn.append(views.two_views(*args))
        return drawn[-1]

    monkeypatch.setattr(pseudo_labels, "two_views", spy)
    forward = AudioMAEModel.forward

    def watched(self, input_values, attention_mask=None, mask_ratio=None, **kwargs):
        if self.training:
            ratios.append(mask_ratio)
            for view, given in zip(drawn[-1][:2], input_values.chunk(2), strict=True):
                for clip, length in enumerate(drawn[-1][2]):
                    torch.testing.assert_close(given[clip, :length], EXTRACTOR.normalize(view[clip, :length]))
                    assert (given[clip, length:] == EXTRACTOR.padding_value).all()
            assert torch.equal(attention_mask.sum(1), drawn[-1][2].repeat(2))
        return forward(self, input_values, attention_mask, mask_ratio=mask_ratio, **kwargs)

    monkeypatch.setattr(AudioMAEModel, "forward", watched)
    run(UaMixConfig(token_drop=drop, min_crop=0.3, min_view_frames=0))
    assert ratios == [ratio] * 3


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_frozen_blocks_stay_and_all_else_is_trained(run, encoder, blocks):
    """With all of the blocks frozen, the last norm alone is trained, beside the linear layer."""
    before = copy.deepcopy(encoder)
    trainer = run(freeze_blocks=blocks, max_steps=6, learning_rate=1e-2)
    assert same_weights(encoder, before)  # a copy was trained
    frozen = ("embeddings.", *(f"layers.{block}." for block in range(blocks))) if blocks else ("embeddings.position",)
    expected = {name for name in before.state_dict() if not name.startswith(frozen) and "k_proj.bias" not in name}
    assert changed(trainer.model.audio_mae, before) == expected
    if blocks == 2:
        assert expected == {"layernorm.weight", "layernorm.bias"}


def test_frozen_blocks_run_without_dropout(run, encoder, monkeypatch):
    modes = []
    forward = type(encoder.layers[0]).forward

    def watched(self, *args, **kwargs):
        if torch.is_grad_enabled():
            modes.append(self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder.layers[0]), "forward", watched)
    run(freeze_blocks=1, max_steps=2)
    assert modes == [False, True] * 2


def test_two_stretches_of_a_long_recording_are_learnt_from(encoder, make_args):
    """A ramp in time: where a view was taken shows in its values."""
    ramp = torch.arange(300.0)[:, None].expand(-1, 32) / 100
    trainer = PseudoLabelTrainer(
        make_classifier(encoder, 3), make_args(), log_mels(WAVES[:2]), EXTRACTOR, UaMixConfig(**PLAIN), []
    )
    batch = trainer.data_collator([{"features": ramp, "sample_id": 0, "labels": 1}])
    assert batch["input_values"].shape[1] == 128  # twice of what the encoder takes
    starts = set()
    for _ in range(20):
        inputs = trainer.augment(batch)
        assert inputs["input_values"].shape == (2, 64, 32) and inputs["labels"].tolist() == [1, 1]
        starts |= set(inputs["input_values"][:, 0, 0].tolist())
    assert len(starts) > 10


def test_settings_without_meaning_for_an_encoder_are_refused(make_args):
    clips = log_mels(WAVES[:6], WaveformFrames(patch_size=2))
    for given, name in (({"token_drop": 0.5}, r"token_drop=0\.5: WaveModel"), ({"resize_mel": 1.2}, "resize_mel=1")):
        with pytest.raises(ValueError, match=name):
            tune_on_pseudo_labels(
                WaveModel(WaveConfig()), WaveformFrames(patch_size=2), clips, UaMixConfig(**given), make_args(), 2
            )


# --- where the clusters come from


def test_the_first_clusters_are_the_given_encoders_and_later_ones_the_tuned_ones(run, encoder, clips, clustered):
    one = run()
    two = run(rounds=2)
    data = clips.select(range(30))
    for (vectors, _), source in zip(clustered, (encoder, encoder, one.model.audio_mae), strict=True):
        assert np.array_equal(vectors, embed_features(source, EXTRACTOR, data, batch_size=15))
    assert not same_weights(one.model, two.model)
    assert same_weights(run(encoder=one.model.audio_mae).model, two.model)  # the second round goes on from the first


def test_a_student_is_trained_in_place_of_the_encoder_whose_clusters_it_learns(run, encoder, clustered):
    set_seed(9)
    student = AudioMAEModel(CONFIG)
    before = copy.deepcopy(student)
    still = run(student=student, learning_rate=0)
    assert same_weights(still.model.audio_mae, student) and not same_weights(still.model.audio_mae, encoder)
    assert same_weights(run(learning_rate=0).model.audio_mae, encoder)
    assert np.array_equal(clustered[0][0], clustered[1][0])
    moved = run(student=student)
    assert same_weights(student, before) and not same_weights(moved.model.audio_mae, student)


def test_the_seed_decides_everything(run):
    torch.manual_seed(5)
    first = run(rounds=2, seed=1)
    torch.manual_seed(6)
    assert same_weights(first.model, run(rounds=2, seed=1).model)
    assert not same_weights(first.model, run(rounds=2, seed=2).model)


def test_labels_of_the_data_are_not_looked_at(run, clips):
    data = clips.select(range(30))
    labelled = data.add_column("labels", list(LABELS[:30]))
    assert same_weights(run().model, run(dataset=labelled).model)


def test_nothing_is_saved_and_every_clip_is_seen_in_an_epoch(run, tmp_path):
    """Also the last ones that do not fill a batch, and where all together do not."""
    trainer = run(max_steps=-1, num_train_epochs=2, per_device_train_batch_size=20, save_strategy="epoch")
    assert trainer.state.global_step == 4
    assert run(max_steps=-1, num_train_epochs=2, per_device_train_batch_size=64).state.global_step == 2
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_clusters_are_directions_from_the_mean():
    """Three of them, from near to far, in a place so far off that all vectors point about the same way."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 30)
    angles = 2 * np.pi / 3 * truth + rng.normal(0, 0.1, 90)
    distances = np.tile(np.geomspace(0.2, 40, 30), 3)
    vectors = 50 + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = cluster(vectors, 3, seed=0)
    assert found.shape == (90,) and found.dtype == np.int64 and set(found) == {0, 1, 2}
    assert adjusted_rand_score(truth, found) == 1
    assert np.array_equal(found, cluster(vectors, 3, seed=0))
    for wrong in (vectors, normalize(vectors), vectors - vectors.mean(0)):
        assert adjusted_rand_score(truth, KMeans(3, n_init=10, random_state=0).fit_predict(wrong)) < 0.9


# --- what is refused


@pytest.mark.parametrize("clusters", [-1, 0, 1, 31])
def test_impossible_numbers_of_clusters_are_refused(run, clusters):
    with pytest.raises(ValueError, match=f"clusters={clusters}: between 2 and the number of clips, 30"):
        run(clusters=clusters)


def test_embeddings_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="only 1 different"):
        cluster(np.ones((10, 4)), 2, seed=0)
    with pytest.raises(ValueError, match="only 2 different"):
        cluster(np.repeat([[1.0, 0], [0, 1]], 5, axis=0), 3, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        cluster(np.full((10, 4), np.nan), 2, seed=0)


@pytest.mark.parametrize(
    "config, arguments, names",
    [
        ({"mix": "none"}, {}, "mix"),
        ({"queue_size": 3, "topk": 2}, {}, "queue_size, topk"),
        ({}, {"layer_decay": 0.5}, "layer_decay"),
        ({}, {"head_steps": 5}, "head_steps"),
        ({}, {"resume_from_checkpoint": "true"}, "resume_from_checkpoint"),
        ({}, {"enable_jit_checkpoint": True}, "enable_jit_checkpoint"),
    ],
)
def test_settings_without_a_part_in_it_are_refused_by_name(run, config, arguments, names):
    with pytest.raises(ValueError, match=f"does not use {names}:"):
        run(UaMixConfig(**config), **arguments)


def test_every_field_of_uamix_is_either_refused_or_read():
    source = inspect.getsource(views) + inspect.getsource(PseudoLabelTrainer).replace("self.views.", "config.")
    for name in METHOD_FIELDS:
        assert (f"config.{name}" in source) != (name in PSEUDO_LABELS_IGNORE), name


@pytest.mark.parametrize("blocks", [3, 7])
def test_more_frozen_blocks_than_there_are_and_no_round_are_refused(run, blocks):
    with pytest.raises(ValueError, match=f"freeze_blocks={blocks}: the encoder has 2 layers"):
        run(freeze_blocks=blocks)
    with pytest.raises(ValueError, match="rounds=0"):
        run(rounds=0)


# --- two processes


def work(rank: int, folder: str) -> dict:
    """A process that, left alone, would number the clusters in its own way."""
    original = pseudo_labels.cluster
    pseudo_labels.cluster = lambda *args: (original(*args) + rank) % 3
    set_seed(0)
    args = UaMixTrainingArguments(
        folder, recipe="plastic", use_cpu=True, disable_tqdm=True, max_steps=2, per_device_train_batch_size=8, seed=0
    )
    data = log_mels(WAVES[:30])
    trainer = tune_on_pseudo_labels(AudioMAEModel(CONFIG), EXTRACTOR, data, UaMixConfig(), args, 3)
    return {
        "labels": trainer.train_dataset["labels"][:],
        "weights": trainer.model.state_dict(),
        "size": args.world_size,
    }


@pytest.mark.slow
def test_two_processes_learn_the_same_clusters(tmp_path, encoder, clips):
    one, two = run_processes(work, tmp_path, 2)
    assert one["size"] == two["size"] == 2
    vectors = embed_features(encoder, EXTRACTOR, clips.select(range(30)))
    assert one["labels"].tolist() == two["labels"].tolist() == cluster(vectors, 3, seed=0).tolist()
    assert all(torch.equal(value, two["weights"][name]) for name, value in one["weights"].items())
