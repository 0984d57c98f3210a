"""The figures of the documentation are drawn by scripts that run."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


@pytest.fixture(scope="module")
def method() -> dict:
    return runpy.run_path(str(FIGURES / "method.py"))


def test_method_figure_is_drawn_from_a_real_mixture(method, tmp_path):
    method["draw"](tmp_path / "method.png")
    with Image.open(tmp_path / "method.png") as picture, Image.open(FIGURES / "method.png") as shipped:
        assert picture.size == shipped.size
        drawn, kept = (np.asarray(one.convert("L"), np.float32) for one in (picture, shipped))
    assert drawn.std() > 20  # not a white sheet
    assert (np.abs(drawn - kept) > 64).mean() < 0.02  # the one in the pages is what the script draws
    assert (FIGURES / "method.png").stat().st_size < 200_000


def test_mixtures_hold_whole_frames_of_both_clips(method):
    batch, partners = method["draw_batch"](), method["PARTNERS"]
    for number, partner in enumerate(partners):
        own = batch["mix_mask"][number] == 1
        assert 0 < own.float().mean() < 1
        assert (batch["mixtures"][number][own] == batch["a"][number][own]).all()
        assert (batch["mixtures"][number][~own] == batch["a"][partner][~own]).all()
        assert own.float().mean().item() == pytest.approx(batch["lambda"][number].item())
