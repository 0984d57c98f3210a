"""The benchmarks of pipeline, scaling and GPU run and compare what they say; the tables hold what they wrote."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil
import pytest
import soundfile
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))
import gpu  # noqa: E402
import pipeline  # noqa: E402
import scaling  # noqa: E402
import table  # noqa: E402
from compare import Row  # noqa: E402
from table import NAMES, PEERS, TableError, read, replace_between  # noqa: E402
from training_steps import make_model, training_step  # noqa: E402

# Start of the case: bar, whether more is better.
ROWS = {
    "pipeline": {
        "second epoch": (0.95, True),
        "first epoch, which decodes": (None, True),
        "fraction of time waiting for data": (0.05, False),
    },
    "scaling": {
        "exponent of s of audio": (None, True),
        "exponent of clips": (None, True),
        "exponent of tokens": (None, True),
        "exponent of processes": (None, True),
        "peak memory": (1.5, False),
    },
    "import_time": {
        "CPU time, against the base classes": (1.15, False),
        "wall time, against the base classes": (None, False),
        "CPU time, against torch": (None, False),
        "wall time, against torch": (None, False),
        "first use, CPU time, against the base classes": (1.15, False),
        "first use, wall time, against the base classes": (1.15, False),
        "first use, CPU time, against torch": (None, False),
        "first use, wall time, against torch": (None, False),
    },
    "gpu": {
        "encoder forward, fraction": (None, True),
        "encoder forward, compiled": (None, True),
        "pretraining step, fraction": (None, True),
        "pretraining step, compiled": (None, True),
        "tuning step, fraction": (0.45, True),
        "tuning step, compiled": (0.45, True),
        "log-mels on the device, of arrays": (50_000, True),
        "log-mels on the device, of tensors": (50_000, True),
        "fraction of time waiting for data": (0.05, False),
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Folder of what each script wrote, and what it printed; they run side by side, since no figure is looked at."""
    folder = tmp_path_factory.mktemp("results")
    flags = ["--small", "--repeats", "2", "--threads", "1", "--output_dir", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    running = {
        name: subprocess.Popen(
            [sys.executable, str(BENCHMARKS / f"{name}.py"), *flags], env=environment, stdout=subprocess.PIPE, text=True
        )
        for name in ROWS
    }
    try:
        printed = {name: process.communicate(timeout=300)[0] for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(ROWS, 0)
    return folder, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_runs_and_writes_its_rows(written: tuple[Path, dict[str, str]], name: str) -> None:
    rows = json.loads((written[0] / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len(ROWS[name])
    for row, (case, (bar, at_least)) in zip(rows, ROWS[name].items(), strict=True):
        assert row["case"].startswith(case)
        assert (row["bar"], row["at_least"]) == (bar, at_least)
        assert all(math.isfinite(row[part]) for part in ("value", "low", "high"))
        assert row["low"] <= row["value"] <= row["high"]
        assert row["low"] > 0 or "exponent" in case
        assert float(row["ours"].split()[0].replace(",", "")) > 0


@pytest.mark.slow
def test_scaling_draws_a_picture(written: tuple[Path, dict[str, str]]) -> None:
    with Image.open(written[0] / "scaling.png") as picture:
        assert min(picture.size) >= 600


@pytest.mark.slow
def test_without_a_gpu_figures_are_not_called_a_gpus(written: tuple[Path, dict[str, str]]) -> None:
    section = written[1]["gpu"].partition("### ")[2]
    assert "**These are not results of a GPU**" in section
    assert section.count("\n| ") == 1 + len(ROWS["gpu"])


def test_default_sizes_are_not_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--threads", "1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here.*add --small"):
        gpu.main()


def test_steps_from_files_and_from_memory_have_the_same_losses(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    pipeline.write_recordings(recordings, 6, 0.3, 1.0)
    assert [round(soundfile.info(recordings / f"{number}.flac").duration, 2) for number in (0, 5)] == [0.3, 1.0]
    losses = []
    for source in ("second", "memory", "first"):
        dataset = pipeline.read_recordings(recordings)
        model = make_model(True, layers=1)
        step = training_step(model, lambda batch, model=model: model(**batch).loss)
        trainer = pipeline.make_trainer(model, dataset, tmp_path / "run", per_device_train_batch_size=2)
        loader = pipeline.loader_of(trainer, dataset)
        batches = list(loader)
        assert sorted(sample for batch in batches for sample in batch["sample_id"].tolist()) == list(range(6))
        if source == "second":
            loader.set_epoch(0)
            batches = loader
        elif source == "first":
            batches = pipeline.loader_of(trainer, pipeline.read_recordings(recordings))
        losses.append(pipeline.run_epoch(step, batches).losses)
    assert len(losses[0]) == 3 and len(set(losses[0])) == 3
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(losses[2], losses[1], atol=1e-5, rtol=0)


def test_an_epoch_knows_how_long_it_waited() -> None:
    def slow() -> object:
        for number in range(3):
            time.sleep(0.05)
            yield number
        time.sleep(0.05)

    def step(batch: int) -> float:
        time.sleep(0.02)
        return float(batch)

    epoch = pipeline.run_epoch(step, slow())
    assert epoch.losses == [0.0, 1.0, 2.0]
    assert 0.2 <= epoch.waited <= epoch.seconds - 3 * 0.02


def test_exponents_are_those_of_a_power_law() -> None:
    curve = scaling.Curve("work", "clips", {size: [3 * size**1.5, 5 * size**0.5, 2 * size] for size in (1, 2, 8)})
    assert curve.exponents() == pytest.approx([1.5, 0.5, 1.0])
    row = curve.row()
    assert (row.value, row.low, row.high) == pytest.approx((1.0, 0.5, 1.5))
    assert row.ours == "1.6e+04 ms for 8 clips" and row.peer == "3000 ms for 1 clips"


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    """The process that starts it holds a gigabyte more."""
    held = bytearray(b"1") * 2**30
    model = tmp_path / "encoder"
    scaling.make_encoder(True, 1).save_pretrained(model)
    scaling.AudioMAEFeatureExtractor().save_pretrained(model)
    scaling.write_noise(tmp_path / "noise.flac", 0.05)
    assert soundfile.info(tmp_path / "noise.flac").duration == 3
    with scaling.ProcessPoolExecutor(1, scaling.processes()) as pool:
        peak = pool.submit(scaling.embed_file, str(model), str(tmp_path / "noise.flac"), 1).result()
    own = psutil.Process().memory_info().rss / 2**20
    assert len(held) == 2**30 and 100 < peak < own - 512


@pytest.mark.slow
def test_compiled_work_is_the_same_work() -> None:
    batch = gpu.make_clips(2, 1)
    encoder, pretraining, tuning = gpu.works(gpu.SMALL, True, torch.device("cpu"))
    assert gpu.operations(partial(encoder.run, batch)) == 2 * closed_form(tokens=56)
    losses = []
    for forward in (tuning.model, torch.compile(tuning.model, backend="eager")):
        tuning.model.load_state_dict(make_model(True, gpu.SMALL.layers, min_crop=1).state_dict())
        torch.manual_seed(0)
        losses.append(tuning.run(batch, forward=forward))
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)  # bfloat16
    assert pretraining.bar is None and tuning.bar == 0.45


def closed_form(tokens: int, width: int = 48, inner: int = 96) -> int:
    """Operations of one block on patches and a class token, with their embedding."""
    products = (tokens + 1) * (4 * width**2 + 2 * width * inner) + 2 * (tokens + 1) ** 2 * width
    return 2 * (products + tokens * 256 * width)


def test_what_does_not_compile_is_said() -> None:
    def run(batch: dict, forward: object = None) -> None:
        raise RuntimeError("no such kernel\nand more")

    work = gpu.Work("some step", torch.nn.Linear(1, 1), run)
    assert gpu.compiled(work, gpu.make_clips(1, 1)) == (
        None,
        "some step does not compile: RuntimeError: no such kernel",
    )


def record(name: str, **changes: object) -> dict:
    rows = [
        Row("faster | better", "20 clips/s", "10 clips/s", 2.0, 1.5, 2.25, 1.5),
        Row("smaller", "3 MiB", "2 MiB", 1.5, 1.5, 1.5, 0.6, at_least=False),
        Row("only told", "5 ms", "1 ms", 12345.6, 0.123456, 2e4),
    ]
    return {
        "benchmark": name,
        "against": "a peer",
        "processor": "Some Processor",
        "cores": 2,
        "versions": {"torch": "2.0", "numpy": "2.1"},
        "arguments": {"repeats": 7, "threads": 2, "small": False},
        "rows": [asdict(row) | {"reached": row.reached} for row in rows],
    } | changes


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.json").write_text(json.dumps(record(name)), encoding="utf-8")
    return folder


def test_the_tables_go_between_the_marks_and_stay_the_same(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n<!-- benchmarks -->\nof another day\n<!-- /benchmarks -->\n\n## Après\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "argv", ["table.py", "--results", str(results), "--page", str(page)])
    table.main()
    text = page.read_text(encoding="utf-8")
    measured = "Measured on: Some Processor, 2 cores, torch 2.0, numpy 2.1."
    first = "### encoder\n\nBaseline: a peer.\n\n| case | ours | baseline | ratio or value [min, max] | target | met |"
    assert text.startswith(f"# Title\n\n<!-- benchmarks -->\n\n{measured}\n\n{first}\n")
    assert text.endswith("|\n\n<!-- /benchmarks -->\n\n## Après\n")
    assert "another day" not in text
    assert re.findall(r"^### (\w+)$", text, flags=re.MULTILINE) == list(NAMES)
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if "| " in line
    ]
    assert len(cells) == 4 * len(NAMES)
    assert cells[1] == ["faster \\| better", "20 clips/s", "10 clips/s", "2 [1.5, 2.25]", "≥ 1.5", "yes"]
    assert cells[2][3:] == ["1.5 [1.5, 1.5]", "≤ 0.6", "no"]
    assert cells[3][3:] == ["12,346 [0.123, 20,000]", "", ""]
    assert replace_between(text, table.tables(read(results)), page) == text


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- benchmarks -->",
        "<!-- /benchmarks -->",
        "<!-- /benchmarks --> <!-- benchmarks -->",
        "<!-- benchmarks --> <!-- benchmarks --> <!-- /benchmarks -->",
        "<!-- benchmarks --> <!-- /benchmarks --> <!-- /benchmarks -->",
    ],
)
def test_without_a_pair_of_marks_the_file_is_named(text: str) -> None:
    with pytest.raises(TableError, match="some.md needs <!-- benchmarks -->"):
        replace_between(text, "table", Path("some.md"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "features.json is absent: run python benchmarks/features.py"),
        ("{", "features.json is not JSON"),
        (json.dumps(record("features", arguments={"small": True})), "features.json was made with --small"),
        (json.dumps(record("features", cores=8)), "features.json was measured elsewhere .*8 cores.*make bench"),
    ],
)
def test_results_that_make_no_table_are_named(results: Path, content: str | None, message: str) -> None:
    path = results / "features.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(TableError, match=message):
        read(results)


def test_peers_have_a_table_where_they_have_a_result(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    measured, *absent = PEERS
    (results / f"{measured}.json").write_text(json.dumps(record(measured)), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks --> <!-- /benchmarks -->", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["table.py", "--results", str(results), "--page", str(page)])
    table.main()
    assert re.findall(r"^### (\w+)$", page.read_text(), flags=re.MULTILINE) == [*NAMES, measured]
    assert re.findall(r"^No table of (\w+)", capsys.readouterr().out, flags=re.MULTILINE) == absent


def test_every_place_knows_the_same_benchmarks() -> None:
    """The tables, `make bench`, the folder, and the page on performance, which has the results that are there."""
    made = re.search(r"^BENCHMARKS = (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert made and made.group(1).split() == list(NAMES)
    peers = re.search(r"^PEERS = (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert peers and peers.group(1).split() == list(PEERS)
    path = ROOT / "docs" / "performance.md"
    page = path.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `benchmarks/(\w+)\.py` \|", page, flags=re.MULTILINE)
    assert listed == [*NAMES, *PEERS, "profile_jobs", "gpu"]
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in listed)
    assert replace_between(page, table.tables(read(BENCHMARKS / "results")), path) == page
