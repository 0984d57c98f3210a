"""Where the data are that tests share and that are not a part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("UAMIX_SHARED", ROOT / ".." / "shared"))
if not SHARED.is_absolute():
    SHARED = ROOT / SHARED


def shared_path(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        message = f"{name} is not under {SHARED}: set UAMIX_SHARED to the folder that holds fixtures/ and data/"
        if os.environ.get("UAMIX_REQUIRE_SHARED"):
            pytest.fail(message)
        pytest.skip(message)
    return path
