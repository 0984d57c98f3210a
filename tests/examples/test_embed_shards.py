"""embed.py in several processes, killed wherever and started again: each file once, with one process's vectors."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from processes import LAUNCH, ROOT, launch, run_example

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

CLIPS, UNREADABLE = 24, 7


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An encoder, and clips of which one cannot be read."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "max_length": 64}
    model = AudioMAEModel(AudioMAEConfig(**sizes))
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    model.save_pretrained(folder / "model")
    AudioMAEFeatureExtractor(max_length=64).save_pretrained(folder / "model")
    (folder / "clips").mkdir()
    for number in range(CLIPS):
        wave = np.random.default_rng(number).uniform(-0.5, 0.5, 4000 + 800 * number)
        soundfile.write(folder / "clips" / f"{number:02d}.wav", wave, 16_000)
    (folder / "clips" / f"{UNREADABLE:02d}.wav").write_bytes(b"no sound")
    return folder / "model", folder / "clips"


def flags(given: tuple[Path, Path], output: Path) -> list[object]:
    model, clips = given
    common = ["--model_name_or_path", model, "--data_dir", clips, "--output_dir", output]
    return [*common, "--on_error", "skip", "--shard_size", 3, "--batch_size", 2]


def check(given: tuple[Path, Path], output: Path) -> None:
    """Every file exactly once, with the vectors of the embedder alone."""
    model, clips = given
    assert not list(output.rglob("*.partial"))
    rows = [row for file in sorted((output / "vectors").iterdir()) for row in pq.read_table(file).to_pylist()]
    windows = [(row["file"], row["start"]) for row in rows]
    assert len(set(windows)) == len(windows)
    embedder = AudioEmbedder.from_pretrained(str(model), device="cpu")
    expected, samples = {}, {}
    for file in sorted(clips.iterdir()):
        if file.name == f"{UNREADABLE:02d}.wav":
            continue
        for _, window in embedder.windows([file]):
            start = samples.get(file.name, 0)
            expected[file.name, start / 16_000] = embedder.encode(window, progress_bar=False)
            samples[file.name] = start + len(window)
    assert windows == list(expected)
    np.testing.assert_allclose([row["vector"] for row in rows], list(expected.values()), atol=1e-5)
    failed = [row for file in (output / "failed").iterdir() for row in pq.read_table(file).to_pylist()]
    assert [row["file"] for row in failed] == [f"{UNREADABLE:02d}.wav"]


def kill(rank: int, writes: int, cut: bool) -> None:
    """Makes a process end by SIGKILL in its write number `writes`, after half of the file or before its first byte."""
    if os.environ.get("RANK", "0") != str(rank):
        return
    write_table, done = pq.write_table, []

    def write(table, path):
        done.append(path)
        write_table(table, path)
        if len(done) == writes:
            os.truncate(path, path.stat().st_size // 2 if cut else 0)
            os.kill(os.getpid(), signal.SIGKILL)

    pq.write_table = write


@pytest.mark.parametrize("cut", [True, False], ids=["half a file", "no byte"])
def test_two_processes_one_of_which_is_killed(given, tmp_path: Path, cut: bool) -> None:
    output = tmp_path / "out"
    ended = run_example("embed.py", *flags(given, output), fault=partial(kill, 1, 2, cut), world=2)
    assert ended.codes[1] == -signal.SIGKILL
    done = set((output / "vectors").glob("*.parquet"))
    assert 1 <= len(done) < 8 and list((output / "vectors").glob("*.partial"))
    times = {file: file.stat().st_mtime_ns for file in done}
    printed = run_example("embed.py", *flags(given, output), world=2).well()
    assert {file: file.stat().st_mtime_ns for file in done} == times  # not written again
    assert "Process 0 embedded" in printed and "Process 1 embedded" in printed
    check(given, output)


def test_one_process_continues_what_two_began(given, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_example("embed.py", *flags(given, output), fault=partial(kill, 0, 1, True)).codes == [-signal.SIGKILL]
    run_example("embed.py", *flags(given, output), world=2).well()
    check(given, output)
    other = run_example("embed.py", *flags(given, output), "--overlap", 0.1)
    assert (
        other.codes == [1]
        and "ShardSettingsError" in other.printed[0]
        and "overlap was 0.0, now 0.1" in other.printed[0]
    )


@pytest.mark.slow
def test_a_whole_launch_is_killed_from_outside(given, tmp_path: Path) -> None:
    """As a scheduler does: all processes of `accelerate launch` at once, whatever they are at."""
    output = tmp_path / "out"
    command = [*LAUNCH, "--multi_gpu", "--num_processes", "2", ROOT / "examples" / "embed.py", *flags(given, output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        started = subprocess.Popen(list(map(str, command)), env=environment, stderr=log)
        until = time.monotonic() + 200
        while not list((output / "vectors").glob("*.parquet")) and started.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.001)
        for process in [*psutil.Process(started.pid).children(recursive=True), started]:
            process.kill()
            process.wait()
    left = len(list((output / "vectors").glob("*.parquet")))
    assert 1 <= left < 8
    printed = launch(ROOT / "examples" / "embed.py", *flags(given, output), processes=2)
    assert "Process 0 embedded" in printed and "Process 1 embedded" in printed
    check(given, output)
