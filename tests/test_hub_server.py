"""The loopback Hub against the real clients, each in a process of its own that knows no other endpoint."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import LFS_THRESHOLD, HubServer

REMOTE_CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel


class WideConfig(PreTrainedConfig):
    model_type = "wide"
    width: int = 1700  # float32 weights above the LFS threshold


class WideModel(PreTrainedModel):
    config: WideConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(config.width, config.width)
        self.post_init()
"""

METRIC = b"""
import datasets
import evaluate


class Hits(evaluate.Metric):
    def _info(self):
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"hits": sum(p == r for p, r in zip(predictions, references))}
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
    assert server.unhandled == []


def run(hub: HubServer, home: Path, function: Callable[..., None], *arguments: object) -> None:
    """Call a function of this module in a new process, because the clients read their settings at import."""
    code = f"import sys, {Path(__file__).stem} as here; here.{function.__name__}(*sys.argv[1:])"
    environment = os.environ | hub.environment(home) | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def ask(hub: HubServer, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """The status and body of a single request, for what the clients never send or do not let through."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    try:
        connection.request(method, path, body, headers | {"Authorization": f"Bearer {hub.token}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def push_models(folder: str) -> None:
    from transformers import BertConfig, BertModel

    sys.path.insert(0, folder)
    from wide import WideConfig, WideModel

    WideConfig.register_for_auto_class()
    WideModel.register_for_auto_class("AutoModel")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for name, model in {"bert": BertModel(BertConfig(**sizes)), "wide": WideModel(WideConfig())}.items():
        model.save_pretrained(f"{folder}/{name}")
        model.push_to_hub(name)


def pull_models(folder: str) -> None:
    from transformers import AutoModel

    for name in ("bert", "wide"):
        model = AutoModel.from_pretrained(f"user/{name}", trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules") == (name == "wide")
        model.save_pretrained(f"{folder}/{name}")


@pytest.mark.slow
def test_models_pushed_by_one_process_are_pulled_by_another(hub: HubServer, tmp_path: Path) -> None:
    pushed = write(tmp_path / "pushed", {"wide.py": REMOTE_CODE.encode()})
    pulled = tmp_path / "pulled"
    run(hub, tmp_path / "home of the author", push_models, pushed)
    run(hub, tmp_path / "home of the user", pull_models, pulled)

    for name in ("bert", "wide"):
        files = hub.files(f"user/{name}")
        assert {"README.md", "config.json", "model.safetensors"} <= set(files)
        weights = files["model.safetensors"]
        assert weights == (pushed / name / "model.safetensors").read_bytes()
        assert weights == (pulled / name / "model.safetensors").read_bytes()
        assert f"PUT /lfs/{hashlib.sha256(weights).hexdigest()}" in hub.requests
    assert len(weights) > LFS_THRESHOLD
    assert files["wide.py"].decode() == REMOTE_CODE


def use_repos(first_folder: str, second_folder: str) -> None:
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    assert api.create_repo("things").repo_id == "user/things"
    assert api.create_repo("things", exist_ok=True).repo_id == "user/things"
    first = api.upload_folder(repo_id="user/things", folder_path=first_folder).oid
    second = api.upload_folder(repo_id="user/things", folder_path=second_folder, delete_patterns="old/*").oid
    assert api.repo_info("user/things").sha == second != first

    assert api.list_repo_files("user/things") == ["README.md", "new/c.txt"]
    assert api.list_repo_files("user/things", revision=first) == ["README.md", "old/a.txt", "old/b.bin"]
    downloaded = api.hf_hub_download("user/things", "old/b.bin", revision=first)
    assert Path(downloaded).read_bytes() == Path(first_folder, "old/b.bin").read_bytes()
    assert HfFileSystem().cat_file(f"user/things@{first}/old/b.bin", start=1, end=4) == b"\1\2\3"
    snapshot = Path(api.snapshot_download("user/things"))
    assert (snapshot / "new/c.txt").read_bytes() == Path(second_folder, "new/c.txt").read_bytes()
    readme = api.repo_info("user/things", files_metadata=True).siblings[0]
    assert readme.size == Path(second_folder, "README.md").stat().st_size

    unchanged = {"path_or_fileobj": f"{second_folder}/README.md", "path_in_repo": "README.md"}
    assert api.upload_file(repo_id="user/things", **unchanged).oid == second
    third = api.upload_file(repo_id="user/things", path_in_repo="new/d.txt", path_or_fileobj=b"d").oid
    tree = {entry.path: entry for entry in api.list_repo_tree("user/things", recursive=True, expand=True)}
    last_commits = {path: entry.last_commit.oid for path, entry in tree.items()}
    assert last_commits == {"README.md": second, "new": third, "new/c.txt": second, "new/d.txt": third}
    (folder,) = api.get_paths_info("user/things", ["new", "missing"])
    assert folder.tree_id == tree["new"].tree_id
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(repo_id="user/things", path_in_repo="x", path_or_fileobj=b"x", parent_commit=second)
    api.delete_folder("new", "user/things")

    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("user/missing")
    with pytest.raises(RepositoryNotFoundError):  # there is no dataset of that name
        api.upload_file(repo_id="user/things", repo_type="dataset", path_in_repo="x", path_or_fileobj=b"x")
    with pytest.raises(RevisionNotFoundError):
        api.snapshot_download("user/things", revision="missing")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("user/things", "missing 音.txt")
    with pytest.raises(EntryNotFoundError):
        api.delete_file("missing.txt", "user/things")
    stranger = HfApi(token="hf_wrong")
    for write_to_hub in (
        stranger.whoami,
        lambda: stranger.create_repo("others"),
        lambda: stranger.upload_file(repo_id="user/things", path_in_repo="x", path_or_fileobj=b"x"),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            write_to_hub()
        assert refusal.value.response.status_code == 401


def test_commits_revisions_and_refusals(hub: HubServer, tmp_path: Path) -> None:
    before = {"README.md": b"# before", "old/a.txt": b"a", "old/b.bin": bytes(range(256))}
    after = {"README.md": b"# after it", "new/c.txt": b"c" * (LFS_THRESHOLD + 1)}
    run(hub, tmp_path / "home", use_repos, write(tmp_path / "before", before), write(tmp_path / "after", after))
    assert hub.files("user/things") == {"README.md": b"# after it"}
    assert sum(line == "POST /api/models/user/things/commit/main" for line in hub.requests) == 6


def use_dataset_and_metric() -> None:
    import datasets
    import evaluate

    clips = [{"bytes": bytes([value]) * 100, "path": f"{value}.wav"} for value in range(3)]
    audio = datasets.Audio(decode=False)  # decoding needs torchcodec
    dataset = datasets.Dataset.from_dict({"audio": clips, "label": [0, 1, 0]}).cast_column("audio", audio)
    dataset.push_to_hub("user/clips")
    pulled = datasets.load_dataset("user/clips", split="train")
    assert pulled.features == dataset.features
    assert pulled.to_list() == dataset.to_list()
    assert next(iter(datasets.load_dataset("user/clips", split="train", streaming=True)))["audio"] == clips[0]

    assert evaluate.load("user/hits").compute(predictions=[1, 2], references=[1, 3]) == {"hits": 1}


@pytest.mark.slow
def test_dataset_and_metric(hub: HubServer, tmp_path: Path) -> None:
    hub.add("user/hits", {"hits.py": METRIC}, repo_type="space")
    run(hub, tmp_path / "home", use_dataset_and_metric)
    assert set(hub.files("user/clips", repo_type="dataset")) == {"README.md", "data/train-00000-of-00001.parquet"}


def test_add_keeps_old_revisions(hub: HubServer) -> None:
    first = hub.add("user/things", {"a": b"1", "b": b"1"})
    second = hub.add("user/things", {"a": b"2"})
    assert hub.files("user/things", revision=first) == {"a": b"1", "b": b"1"}
    assert hub.files("user/things", revision=second) == hub.files("user/things") == {"a": b"2", "b": b"1"}


def test_ranges(hub: HubServer) -> None:
    hub.add("user/things", {"ten": b"0123456789"})
    url = "/user/things/resolve/main/ten"
    assert ask(hub, "GET", url, Range="bytes=2-4") == (206, b"234")
    assert ask(hub, "GET", url, Range="bytes=7-") == (206, b"789")
    assert ask(hub, "GET", url, Range="bytes=8-99") == (206, b"89")
    assert ask(hub, "GET", url, Range="bytes=10-")[0] == 416
    assert ask(hub, "HEAD", url) == (200, b"")


def test_uploads_must_match_their_hash(hub: HubServer) -> None:
    hub.add("user/things", {})
    oid = hashlib.sha256(b"right").hexdigest()
    commit = json.dumps({"key": "lfsFile", "value": {"path": "x", "oid": oid}}).encode()
    batch = json.dumps({"objects": [{"oid": oid, "size": 5}]}).encode()
    assert ask(hub, "POST", "/user/things.git/info/lfs/objects/batch", batch)[0] == 200
    assert ask(hub, "PUT", f"/lfs/{oid}", b"wrong")[0] == 400
    assert ask(hub, "POST", "/api/models/user/things/commit/main", commit)[0] == 400
    assert ask(hub, "PUT", f"/lfs/{oid}", b"right")[0] == 200
    assert ask(hub, "POST", "/api/models/user/things/commit/main", commit)[0] == 200
    assert hub.files("user/things") == {"x": b"right"}


@pytest.mark.parametrize(
    ("method", "path", "status", "is_handled"),
    [
        ("GET", "/api/nothing", 501, False),
        ("POST", "/api/models/user/things/commit/main?create_pr=1", 501, False),
        ("POST", "/api/models/user/things/commit/main", 501, False),  # this body is not ndjson
        ("PUT", f"/lfs/{'0' * 64}", 403, True),
    ],
)
def test_unknown_requests(method: str, path: str, status: int, is_handled: bool) -> None:
    with HubServer(token="hf_other") as hub:
        hub.add("user/things", {})
        assert ask(hub, method, path, b"?")[0] == status
        assert hub.requests == [f"{method} {path}"]
        assert hub.unhandled == ([] if is_handled else hub.requests)
