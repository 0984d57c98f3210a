"""The page of a few clips per class: its functions, its endpoints in this process, and all of it in a real browser."""

import shutil
import socket
import sys
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples" / name) for name in ("demo", "few_shot_app")]

import app  # noqa: E402
from charts import draw_map, draw_windows  # noqa: E402
from sound_events import render_event  # noqa: E402
from transformers import pipeline  # noqa: E402

from uamix_hf import AudioEmbedder  # noqa: E402
from uamix_hf.fine_tuning import FewClipsClassifier  # noqa: E402

LABELS = ("siren", "rain")
NO_GRADIO = "gradio is not installed: pip install 'uamix_hf[app]'"


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    return AudioEmbedder.from_pretrained(app.shipped_encoder(), "cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of each class, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("clips")
    for label in LABELS:
        for index in range(4):
            soundfile.write(folder / f"{label}-{index}.wav", render_event(label, 0, index), 16_000)
    (folder / "bad.wav").write_bytes(b"nothing")
    return folder


def of_class(clips: Path, label: str, count: int = 3) -> list[str]:
    return [str(clips / f"{label}-{index}.wav") for index in range(count)]


# --- functions


def test_clips_are_added_to_classes_and_listed(clips: Path) -> None:
    classes = app.add_clips({}, " siren ", of_class(clips, "siren", 2), None, 16_000)
    classes = app.add_clips(classes, "siren", None, str(clips / "siren-3.wav"), 16_000)
    classes = app.add_clips(classes, "rain", of_class(clips, "rain", 1), None, 16_000)
    assert app.listed(classes) == [["siren", 3, "siren-0.wav, siren-1.wav, siren-3.wav"], ["rain", 1, "rain-0.wav"]]


@pytest.mark.parametrize("name, files", [("", ["siren-0.wav"]), ("  ", ["siren-0.wav"]), ("siren", [])])
def test_a_class_without_name_or_clips_is_refused(clips: Path, name: str, files: list[str]) -> None:
    with pytest.raises(app.PageInputError, match="name, and one clip"):
        app.add_clips({}, name, [str(clips / file) for file in files], None, 16_000)


def test_an_unreadable_file_is_named_without_the_folder_it_was_uploaded_to(clips: Path) -> None:
    with pytest.raises(app.PageInputError, match=r"bad\.wav") as error:
        app.add_clips({}, "siren", [str(clips / "bad.wav")], None, 16_000)
    assert str(clips) not in str(error.value)


@pytest.mark.parametrize("per_class, seconds", [(1, 0.3), (1, 4.0), (3, 1.6)])
@pytest.mark.filterwarnings("error")
def test_charts_show_every_clip_and_every_window(embedder, clips: Path, per_class: int, seconds: float) -> None:
    classifier = FewClipsClassifier(embedder, {label: of_class(clips, label, per_class) for label in LABELS})
    samples = np.resize(render_event("siren", 0, 3), int(seconds * 16_000))
    samples[:2000] = 0
    prediction = classifier.predict(samples)
    above, below = draw_windows(samples, 16_000, prediction).axes
    assert above.images[0].get_array().std() > 1 and below.get_xlim() == pytest.approx((0, seconds))
    assert [line.get_label() for line in below.lines] == list(LABELS)
    for line in below.lines:
        assert line.get_ydata().tolist() == [one.probabilities[line.get_label()] for one in prediction.windows]
    assert len(below.patches) == len(prediction.windows)
    (axis,) = draw_map(classifier, prediction).axes
    points = [collection.get_offsets() for collection in axis.collections]
    assert [len(one) for one in points] == [per_class, per_class, 1]
    vectors = np.concatenate([classifier.vectors, prediction.embedding[None]])
    if per_class == 1:  # three points lie in a plane: their distances are the true ones
        flat = np.concatenate(points)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            expected = np.linalg.norm(vectors[one] - vectors[other])
            assert np.linalg.norm(flat[one] - flat[other]) == pytest.approx(expected, rel=1e-3)


def test_the_exported_folder_classifies_in_transformers(embedder, clips: Path, tmp_path: Path) -> None:
    classifier = FewClipsClassifier(embedder, {label: of_class(clips, label) for label in LABELS})
    check_export(app.export(classifier), clips, tmp_path, classifier)
    with pytest.raises(app.PageInputError, match="Train a classifier first"):
        app.export(None)


def check_export(archive: Any, clips: Path, folder: Path, classifier: FewClipsClassifier | None = None) -> None:
    zipfile.ZipFile(archive).extractall(folder)
    classify = pipeline("audio-classification", model=str(folder / "classifier"), device="cpu")
    for label in LABELS:
        clip = str(clips / f"{label}-3.wav")
        said = {one["label"]: one["score"] for one in classify(soundfile.read(clip, dtype="float32")[0])}
        assert max(said, key=said.__getitem__) == label
        if classifier is not None:
            assert said == pytest.approx(classifier.predict(clip).probabilities, abs=1e-3)


# --- the page


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Generator[list[Any], None, None]:
    """Connections of this process to other machines, which fail; there must be none."""
    reached: list[Any] = []
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            reached.append(address)
            raise OSError(f"no network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    yield reached
    assert reached == []


@pytest.fixture
def url(embedder, no_network: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str, None, None]:
    """Address of the page."""
    pytest.importorskip("gradio", reason=NO_GRADIO)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = app.make_page(embedder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, url, _ = app.launch(page, port, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.mark.extra
def test_the_page_adds_trains_classifies_and_exports(url: str, clips: Path, tmp_path: Path) -> None:
    gradio_client = pytest.importorskip("gradio_client", reason=NO_GRADIO)
    client = gradio_client.Client(url, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "got"))
    file = gradio_client.handle_file
    for label in LABELS:
        table = client.predict(label, [file(path) for path in of_class(clips, label)], None, api_name="/add")[0]
    assert table["data"] == [[label, 3, f"{label}-0.wav, {label}-1.wav, {label}-2.wav"] for label in LABELS]
    assert "Trained on 6 clips of 2 classes." in client.predict(api_name="/train")
    answer, windows, chart, *nearest = client.predict(file(str(clips / "siren-3.wav")), api_name="/classify")
    assert answer["label"] == "siren" and windows["plot"].startswith("data:image") and chart["plot"] != windows["plot"]
    assert all(Path(one["value"]).read_bytes()[:4] == b"RIFF" and "siren" in one["label"] for one in nearest[:2])
    exported = client.predict(api_name="/save")[1]
    check_export(exported["value"], clips, tmp_path / "folder")


@pytest.mark.slow
def test_all_of_it_in_a_browser(url: str, clips: Path, tmp_path: Path) -> None:
    """Chromium, with a microphone that beeps; page.png is what it shows in the end."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'uamix_hf[browser]'"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: apt install chromium")
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        served: list[str] = []
        page.on("response", lambda response: served.append(response.url) if response.ok else None)
        page.goto(url)

        def choose(name: str, files: list[str]) -> None:
            page.get_by_label("Name of the class").fill(name)
            page.locator("input[type=file]").first.set_input_files(files)
            page.locator(".file-preview tr").nth(len(files) - 1).wait_for()

        choose("siren", [str(clips / "bad.wav")])
        page.get_by_role("button", name="Add clips").click()
        message = page.locator(".toast-body")
        message.wait_for()
        assert "bad.wav:" in message.inner_text() and str(tmp_path) not in message.inner_text()
        assert page.get_by_label("Name of the class").input_value() == "siren"  # the inputs stay, uncovered
        assert page.get_by_text("Error", exact=True).count() == 0
        page.screenshot(path=tmp_path / "bad.png")
        page.reload()
        for label in LABELS:
            choose(label, of_class(clips, label))
            page.get_by_role("button", name="Add clips").click()
            page.get_by_text(f"{label}-0.wav, {label}-1.wav").locator("visible=true").first.wait_for()
        page.get_by_label("Name of the class").fill("beep")
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Stop", exact=True).wait_for()
        page.wait_for_timeout(2000)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator(".component-wrapper[data-testid='waveform-Or record one']").wait_for()
        page.get_by_role("button", name="Add clips").click()
        page.get_by_text("audio.wav").locator("visible=true").first.wait_for()
        page.get_by_role("button", name="Train").click()
        page.get_by_text("Trained on 7 clips of 3 classes.").wait_for()
        page.locator("input[type=file]").last.set_input_files(str(clips / "siren-3.wav"))
        page.locator(".component-wrapper[data-testid='waveform-New clip']").wait_for()
        page.get_by_role("button", name="Classify").click()
        page.get_by_test_id("label-output-value").get_by_text("siren").wait_for()
        page.get_by_role("button", name="Export classifier").click()
        with page.expect_download() as download:
            page.locator(".file-preview a").last.click()
        page.wait_for_timeout(2000)  # pictures and waveforms
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert download.value.suggested_filename == "classifier.zip"
        check_export(download.value.path(), clips, tmp_path / "folder")
        assert sum(f"siren-{index}.wav" in one for index in range(3) for one in set(served)) >= 2  # playable
        browser.close()
    assert all(one.startswith((url, "data:", "blob:")) for one in asked), asked
