"""Other systems' checkpoints, converted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from uamix_hf.__main__ import main


@pytest.fixture(scope="session")
def folder(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Converts a fixture with the command, with the head counts of its .json; once for each set of options."""
    done: dict[tuple, Path] = {}

    def run(system: str, file: str, **options) -> Path:
        key = (system, file, *sorted(options.items()))
        if key not in done:
            source = next((fixtures / system).glob(f"{file}.[ps][ta]*"))
            sizes = json.loads((fixtures / system / f"{file}.json").read_text())
            target = tmp_path_factory.mktemp(f"{system}_{file}")
            options = {"num_attention_heads": sizes["num_heads"]} | options
            if "decoder_num_heads" in sizes:
                options["decoder_num_attention_heads"] = sizes["decoder_num_heads"]
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            assert main(["convert", system, str(source), str(target), *flags]) == 0
            done[key] = target
        return done[key]

    return run


@pytest.fixture(scope="session")
def official(fixtures: Path):
    return lambda system, file: load_file(fixtures / system / f"{file}_io.safetensors")
