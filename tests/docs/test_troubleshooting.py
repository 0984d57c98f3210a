"""Each error of docs/troubleshooting.md occurs, with the message on the page."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import ViTConfig, ViTModel

from uamix_hf import (
    AudioEmbedder,
    AudioMAEModel,
    UaMixForContrastiveTuning,
    UaMixTrainingArguments,
    load_audio,
)
from uamix_hf.data import LabelledClips, load_recordings
from uamix_hf.evaluation import ProtocolArguments, make_splits, protocol_splits
from uamix_hf.models.conversion import convert
from uamix_hf.tuning import StageTrainer

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VARIABLE = "…"
# The title of each part, the message under it.
ENTRIES = dict(re.findall(r"^## \d+\. (.+?)\n\n```text\n(.+?)\n```\n", PAGE, flags=re.MULTILINE | re.DOTALL))


def without_the_package(code: str, folder: Path) -> None:
    """Runs code in a process that has no `uamix_hf` and no connection; raises what it printed last."""
    code = f"import sys\nsys.modules['uamix_hf'] = None\nfrom transformers import AutoModel\n{code}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    last = list(re.finditer(r"^(ValueError|OSError): ", process.stderr, flags=re.MULTILINE))[-1]
    raise {"ValueError": ValueError, "OSError": OSError}[last[1]](process.stderr[last.end() :].strip())


def no_package(folder: Path) -> None:
    AudioMAEModel(CONFIG).save_pretrained(folder / "model")
    without_the_package("AutoModel.from_pretrained(sys.argv[1] + '/model')", folder)


def offline(folder: Path) -> None:
    without_the_package("AutoModel.from_pretrained('somebody/something')", folder)


def layout(folder: Path) -> None:
    save_file({"conv1.weight": torch.ones(3)}, folder / "resnet.safetensors")
    convert("audiomae", str(folder / "resnet.safetensors"), str(folder / "target"))


def unreadable(folder: Path) -> None:
    (folder / "clip.wav").write_bytes(b"<html>Not found</html>")
    load_audio(folder / "clip.wav")


def outside(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "clip.wav").touch()
    (folder / "data" / "metadata.csv").write_text("file_name,label\n../clip.wav,dog\n")
    load_recordings(folder / "data")


def rate(folder: Path) -> None:
    EXTRACTOR(np.zeros(8000, np.float32), sampling_rate=8000)


def too_long(folder: Path) -> None:
    model = AudioMAEModel(CONFIG)
    waves = [np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)]
    assert AudioEmbedder(model, EXTRACTOR).encode(waves, progress_bar=False).shape == (1, 32)  # the fix
    model(**EXTRACTOR(waves, sampling_rate=16_000, return_tensors="pt"))


def contract(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    UaMixForContrastiveTuning.from_encoder(ViTModel(ViTConfig(**sizes)))


def too_few_clips(folder: Path) -> None:
    model = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(CONFIG), topk=1, queue_size=4)
    StageTrainer(model, UaMixTrainingArguments(str(folder), use_cpu=True), log_mels(tones(1)[0]), EXTRACTOR)


def accumulation(folder: Path) -> None:
    UaMixTrainingArguments(str(folder), use_cpu=True, gradient_accumulation_steps=4)


def k_shot(folder: Path) -> None:
    labels = np.repeat(np.arange(6), 5)  # five clips a class: at k = 5, none is left to classify
    clips = LabelledClips(list("abcdef"), labels)
    protocol_splits(clips, ProtocolArguments(protocol=["few_shot"], n_way=5, k_shot=[1]))
    protocol_splits(clips, ProtocolArguments(protocol=["few_shot"], n_way=5, k_shot=[5]))


def both_sides(folder: Path) -> None:
    speakers = np.array(["ann", "ann", "bob", "bob"])
    make_splits(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), folds=["1", "2", "2", "1"], names=speakers)


PROVOKED: dict[str, Callable[[Path], None]] = {
    "A model asks to run its code": no_package,
    "A model is not found": offline,
    "The layout of a checkpoint is unknown": layout,
    "A recording cannot be read": unreadable,
    "metadata.csv names what is not in the folder": outside,
    "The sampling rate is another": rate,
    "A recording is longer than the model": too_long,
    "An encoder of another kind cannot be tuned": contract,
    "There are too few clips to contrast": too_few_clips,
    "Gradient accumulation is refused": accumulation,
    "No episode can be drawn": k_shot,
    "A speaker is on both sides of a split": both_sides,
}


def test_the_page_has_the_twelve_and_each_has_a_cause_and_a_fix() -> None:
    assert list(ENTRIES) == list(PROVOKED) and len(ENTRIES) == 12
    assert [int(number) for number in re.findall(r"^## (\d+)\.", PAGE, flags=re.MULTILINE)] == list(range(1, 13))
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert all(part.count("**Cause.**") == part.count("**Fix.**") == 1 for part in parts)


@pytest.mark.parametrize("title", PROVOKED)
def test_the_message_is_the_one_on_the_page(title: str, tmp_path: Path) -> None:
    wanted = " ".join(ENTRIES[title].split())  # the page breaks lines
    assert len(wanted.replace(VARIABLE, "")) > 50  # not just a place for anything
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        PROVOKED[title](tmp_path)
    actual = " ".join(f"{caught.type.__name__}: {caught.value}".split())
    assert re.fullmatch(".+?".join(map(re.escape, wanted.split(VARIABLE))), actual), actual
