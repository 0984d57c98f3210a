"""What every test may use: the shared fixtures and data, and tiny models."""

import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: two threads on tensors this small are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from transformers import ASTConfig, ASTModel, set_seed  # noqa: E402

from uamix_hf import AudioMAEConfig  # noqa: E402
from uamix_hf.tuning import UaMixTrainingArguments  # noqa: E402

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from shared_data import shared_path  # noqa: E402


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips has failed with UAMIX_REQUIRE_ALL, where all is installed that any test needs.

    With UAMIX_REQUIRE_SHARED too, unless it is marked `extra`, by which `make test-rest` finds it.
    """
    report = yield
    if report.skipped:
        names = ["UAMIX_REQUIRE_ALL"] + ([] if item.get_closest_marker("extra") else ["UAMIX_REQUIRE_SHARED"])
        for name in filter(os.environ.get, names):
            report.outcome, report.longrepr = "failed", f"Skipped, though {name} is set: {report.longrepr[2]}"
            break
    return report


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Checkpoints in other projects' layouts, with inputs and outputs of their official code."""
    return shared_path("fixtures")


@pytest.fixture(scope="session")
def esc10() -> Path:
    """400 real clips with labels, folds and sources."""
    return shared_path("data/esc10")


@pytest.fixture(scope="session")
def fsdd() -> Path:
    """2000 spoken digits of four speakers, 8 kHz."""
    return shared_path("data/fsdd")


@pytest.fixture(scope="session")
def whisper() -> Path:
    """Folder of the real encoder of Whisper tiny.en, float16, with its feature extractor."""
    return shared_path("weights/whisper-tiny.en-encoder")


@pytest.fixture(scope="session", autouse=True)
def padded_windows() -> Iterator[None]:
    """Windows of any lengths share a batch, so that tests of embeddings embed padding as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uamix_hf.embedding.windows.MOST_PADDING", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Log-mels of tests are cached in a folder of their own, also by the processes that tests start."""
    import datasets

    folder = str(tmp_path_factory.mktemp("datasets"))
    os.environ["HF_DATASETS_CACHE"] = folder
    datasets.config.HF_DATASETS_CACHE = Path(folder)


@pytest.fixture(autouse=True)
def unchanged_config() -> Generator[None, None, None]:
    """A test that changes the configuration that others share fails itself, not those that come after it."""
    from toy_sounds import CONFIG

    def sizes() -> dict[str, Any]:
        written = ("architectures", "dtype", "auto_map", "use_cache")  # by save_pretrained and the Trainer
        return {name: value for name, value in CONFIG.to_dict().items() if name not in written}

    before = sizes()
    yield
    assert sizes() == before, "toy_sounds.CONFIG was changed: give the model a copy"


@pytest.fixture
def tiny_config() -> AudioMAEConfig:
    """Fast, and odd enough that swapped sizes show: 12 x 8 tokens at most."""
    return AudioMAEConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        max_length=192,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )


@pytest.fixture
def encoder_config() -> AudioMAEConfig:
    """Three blocks, at most 6 x 2 tokens."""
    return AudioMAEConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        num_mel_bins=32,
        max_length=96,
    )


@pytest.fixture
def make_ast() -> Callable[[int], ASTModel]:
    """`make_ast(seed)`: transformers' own encoder of spectrograms, of fixed length and with two prefix tokens."""

    def make(seed: int = 0) -> ASTModel:
        set_seed(seed)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        return ASTModel(ASTConfig(**sizes, max_length=128, num_mel_bins=128))

    return make


@pytest.fixture
def make_args(tmp_path: Path) -> Callable[..., UaMixTrainingArguments]:
    """`make_args(**fields)`: arguments of a tuning run on the CPU that writes under `tmp_path` and draws no bars."""

    def make(**fields: Any) -> UaMixTrainingArguments:
        quiet = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
        quiet["recipe"] = "plastic"  # whose rates change small random weights, whatever the default
        return UaMixTrainingArguments(**{**quiet, "per_device_train_batch_size": 4, **fields})

    return make
