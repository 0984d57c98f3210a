from pathlib import Path

import pytest
from toy_sounds import write_tones


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of four recordings."""
    return write_tones(tmp_path / "sounds", 4)
