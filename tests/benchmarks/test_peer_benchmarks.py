"""The benchmarks against other libraries: they run, and the peers do what is said of them."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))
import peer_packages  # noqa: E402
import profile_jobs  # noqa: E402

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Start of the case: bar, whether more is better.
ROWS = {
    "audio_mae": {
        "pretraining, 2 clips of 10 s": (1.2, True),
        "pretraining, 5 of 50 batches of 2 clips of 1 to 10 s": (2.0, True),
        "pretraining, 5 of 50 batches of 2 clips of 1 to 5 s": (2.0, True),
        "fine-tuning, 2 clips of 1024 frames": (None, True),
        "operations of pretraining, 2 clips of 10 s": (None, True),
    },
    "lightly_nnclr": {
        "default recipe for an hour of audio, 6 clips of 10 s": (1.5, True),
        "default recipe for less audio, 6 clips of 10 s": (None, True),
        "peak memory": (None, False),
    },
    "embed_files": {
        "Audio-MAE against AST in sentence-transformers, 6 files of 1 to 10 s": (2.0, True),
        "Audio-MAE against AST in transformers' pipeline, 6 files of 1 to 10 s": (2.0, True),
        "Audio-MAE against AST in sentence-transformers, 4 files of 1 to 10 s": (2.0, True),
        "Audio-MAE against AST in transformers' pipeline, 4 files of 1 to 10 s": (2.0, True),
        "Audio-MAE against AST as released in sentence-transformers, 4 files of 1 to 10 s": (2.0, True),
        "the same AST as in sentence-transformers, 4 files of 1 to 10 s": (None, True),
        "the same AST as in transformers' pipeline, 4 files of 1 to 10 s": (None, True),
        "the same AST as in sentence-transformers, a file of 12 s": (None, True),
    },
}


def require_peers() -> None:
    if importlib.util.find_spec("timm") is None and not peer_packages.FOLDER.is_dir():
        pytest.skip("timm and lightly are not installed: make peers")
    (pin,) = re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if torch.__version__.partition("+")[0] != pin:
        pytest.skip(f"the torchvision of benchmarks/peers.txt is for torch {pin}, not {torch.__version__}")


@pytest.fixture(scope="module")
def values() -> dict[str, dict]:
    """What peer_values.py computed."""
    require_peers()
    command = [sys.executable, str(Path(__file__).with_name("peer_values.py"))]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True, timeout=600)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_peers_pretraining_is_ours_given_equal_weights_and_noise(values: dict[str, dict]) -> None:
    ours, peer = values["pretraining"]["losses"]
    assert ours == pytest.approx(peer, abs=1e-5) and 1 < ours < 10
    for own, theirs in values["pretraining"]["gradients"]:
        assert max(map(abs, theirs)) > 1e-5
        assert own == pytest.approx(theirs, abs=1e-5 + 1e-3 * max(map(abs, theirs)))


@pytest.mark.slow
def test_the_peers_fine_tuning_is_ours_given_equal_weights(values: dict[str, dict]) -> None:
    ours, peer = values["fine_tuning"]["losses"]
    assert ours == pytest.approx(peer, abs=1e-5) and abs(ours - math.log(2)) > 1e-3


@pytest.mark.slow
def test_each_side_encodes_as_many_tokens_as_said(values: dict[str, dict]) -> None:
    """A fifth, rounded down; in fine-tuning 51 columns x 6 bands. Each work is called twice."""
    tokens = values["tokens_of_steps"]
    assert tokens["names"] == ["10 s", "1 to 10 s", "1 to 5 s", "fine-tuning"]
    left, kept = 51 * 6, int(512 * (1 - 0.8))
    assert tokens["peer"] == [[2, 1 + kept]] * 22 + [[2, 1 + left]] * 2
    # Columns of 16 frames of the longest clip: of 998, and of what is 0.11, 0.31, ... 0.91 of the way along 100 clips.
    mixed = [[-(-round(98 + 11 / 99 * 900 + 20 / 99 * 900 * batch) // 16) for batch in range(5)]]
    mixed += [[-(-round(98 + 11 / 99 * 400 + 20 / 99 * 400 * batch) // 16) for batch in range(5)]]
    columns = [63] * 2 + mixed[0] * 2 + mixed[1] * 2
    assert tokens["ours"] == [[2, 1 + int(8 * count * (1 - 0.8))] for count in columns] + [[2, 1 + left]] * 2
    assert tokens["fell"] == [[True, True]] * 4


@pytest.mark.slow
def test_lightlys_modules_are_put_together_to_nnclr(values: dict[str, dict]) -> None:
    nnclr = values["nnclr"]
    assert nnclr["losses"][0] == pytest.approx(nnclr["losses"][1], abs=1e-5)
    assert nnclr["passes"] == [[6, 513]] * len(nnclr["passes"]) and len(nnclr["passes"]) == 2 * (1 + 4)
    assert nnclr["taken"] == [pytest.approx(0, abs=1e-6), 6]
    assert nnclr["steps"][-1] < nnclr["steps"][0]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what each script wrote; they run side by side, since no figure of theirs is looked at."""
    require_peers()
    folder = tmp_path_factory.mktemp("results")
    flags = ["--small", "--repeats", "2", "--threads", "1", "--output_dir", str(folder)]
    running = {
        name: subprocess.Popen([sys.executable, str(BENCHMARKS / f"{name}.py"), *flags], env=ENVIRONMENT)
        for name in (*ROWS, "profile_jobs")
    }
    try:
        assert {process.wait(timeout=600) for process in running.values()} == {0}
    finally:
        for process in running.values():
            process.kill()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_runs_and_writes_its_rows(written: Path, name: str) -> None:
    record = json.loads((written / f"{name}.json").read_text(encoding="utf-8"))
    assert re.search(r" \d+\.\d", record["against"])  # which version of the peer
    assert len(record["rows"]) == len(ROWS[name])
    for row, (case, (bar, at_least)) in zip(record["rows"], ROWS[name].items(), strict=True):
        assert row["case"].startswith(case) and "hidden size 48" in row["case"]
        assert (row["bar"], row["at_least"]) == (bar, at_least)
        assert 0 < row["low"] <= row["value"] <= row["high"] < math.inf
        assert all(float(row[side].split()[0].replace(",", "")) > 0 for side in ("ours", "peer"))


@pytest.mark.slow
def test_a_profile_has_each_job_and_shares_that_sum_to_1(written: Path) -> None:
    record = json.loads((written / "profile_jobs.json").read_text(encoding="utf-8"))
    profiles = {row["job"]: row["shares"] for row in record["rows"]}
    assert tuple(profiles) == profile_jobs.JOBS and record["versions"]["torch"] == torch.__version__
    for job, shares in profiles.items():
        assert tuple(shares) == profile_jobs.COLUMNS and sum(shares.values()) == pytest.approx(1)
        assert min(shares["matmul"], shares["attention"], shares["data"], shares["norms and activations"]) > 0
        assert (shares["front-end"] > 0) == (job == "embedding") != (shares["optimiser"] > 0)


# --- what needs no peer


def test_a_peer_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(peer_packages.PeerAbsentError, match="timm, lightly, torchvision.*make peers"):
        peer_packages.find_peers(tmp_path)


def test_shares_add_up_to_the_job() -> None:
    """Each operator counts once, with its own time; what is outside the job does not."""
    left = torch.randn(200, 200)
    weight = torch.nn.Parameter(torch.randn(200, 200))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = left.clone()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        left @ left  # not of the job
        with record_function(profile_jobs.JOB):
            for _ in range(20):
                torch.nn.functional.gelu(left @ left)
            with record_function("data"):
                left @ left
            optimizer.step()
    events = profiler.events()
    total, shares = profile_jobs.shares_of(events)
    (job,) = [event for event in events if event.name == profile_jobs.JOB]
    assert total == pytest.approx(job.cpu_time_total, rel=1e-3)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[kind] > 0 for kind in ("matmul", "norms and activations", "data", "optimiser"))
    products = [event for event in events if event.name == "aten::mm" and profile_jobs.kind_of(event) == "matmul"]
    assert len(products) == 21 and shares["attention"] == shares["front-end"] == 0


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::addmm", "job"], "matmul"),
        (["aten::_scaled_dot_product_flash_attention_for_cpu_backward", "job"], "attention"),
        (["aten::native_layer_norm", "aten::layer_norm", "job"], "norms and activations"),
        (["aten::mul", "Optimizer.step#AdamW.step", "job"], "optimiser"),
        (["aten::mm", "front-end", "job"], "front-end"),
        (["aten::copy_", "data", "job"], "data"),
        (["aten::copy_", "job"], profile_jobs.OTHER),
        (["job"], profile_jobs.OTHER),
    ],
)
def test_an_operator_counts_where_the_table_says(names: list[str], kind: str) -> None:
    event = None
    for name in reversed(names):
        event = SimpleNamespace(name=name, cpu_parent=event)
    assert profile_jobs.kind_of(event) == kind


def test_embedders_read_what_is_said_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips and tokens of the first layer: ours reads all of a long file, the peers its beginning, unless it is cut."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    import embed_files
    import numpy as np
    from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import ASTLayer

    from uamix_hf.models.audio_mae.layers_audio_mae import AudioMAELayer

    read: list[tuple[int, int]] = []
    for layer in (ASTLayer, AudioMAELayer):
        forward = layer.forward

        def watched(self, hidden_states, *rest, forward=forward, **named):
            read.append(tuple(hidden_states.shape[:2]))
            return forward(self, hidden_states, *rest, **named)

        monkeypatch.setattr(layer, "forward", watched)
    one_layer = embed_files.SMALL | {"num_hidden_layers": 1}
    embed = embed_files.embedders(*embed_files.save_models(tmp_path, one_layer))
    files = embed_files.write_files(tmp_path / "files", np.array([1.0, 12.0]))
    assert [len(wave) for wave in embed_files.read(files)] == [16_000, 12 * 16_000]
    seen = {}
    for name, work in embed.items():
        read.clear()
        assert len(work(files)) == (3 if name == "cut into windows" else 2)
        seen[name] = sorted(read)
    full = 2 + 8 * 64
    assert seen["sentence-transformers"] == seen["pipeline"] == [(2, full)]
    assert seen["AST as released"] == [(2, 2 + 12 * 101)]
    assert seen["ours, AST"] == seen["cut into windows"] == [(3, full)]
    assert sum(clips for clips, _ in seen["ours"]) == 3 and max(tokens for _, tokens in seen["ours"]) == full - 1
