"""Uploads to the Hub: finished models, without the files of their run, and metrics."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..metrics.modules import metric_folder
from .cards import placed_at

# Without optimiser and random states, which the folder of a run holds beside these, and without pickles.
PUBLISHED = ("README.md", "*.json", "*.safetensors", "*.py", "adapter/*.json", "adapter/*.safetensors")


def published_files(folder: str | Path) -> list[str]:
    """Paths of the files in a folder that belong on the Hub; sub-folders but that of adapters (checkpoints) do not."""
    path = Path(folder)
    found = [file for pattern in PUBLISHED for file in path.glob(pattern) if file.is_file()]
    return sorted(file.relative_to(path).as_posix() for file in found)


def push_folder(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload the tuned encoder",
) -> str:
    """Uploads model, preprocessor, code and card in one commit; the repository is created if need be.

    The Python code of the uploaded card loads from the repository; the folder's own card stays as it is.

    Args:
        folder: Folder of a finished model.
        repo_id: Repository; without an owner, that of the token.
        private: Whether a new repository is private; the owner's default by default.
        token: Access token; that of the login by default.
        commit_message: Title of the commit.

    Returns:
        Address of the commit.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: no right to write, no such namespace, or no connection. The folder stays.
    """
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    operations = []
    for name in published_files(folder):
        path = Path(folder) / name
        content = placed_at(path.read_text("utf-8"), repo.repo_id).encode() if name == "README.md" else str(path)
        operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content))
    commit = api.create_commit(repo.repo_id, operations, commit_message=commit_message)
    return str(commit.commit_url)


def push_metric(
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload the metric",
) -> str:
    """Uploads an `evaluate` module of the package as a Space, for `evaluate.load(repo_id)`.

    Args:
        repo_id: The metric's name, such as `few_shot_accuracy`, with or without an owner: `evaluate` looks for a file
            of the repository's name.
        private: Whether a new Space is private; the owner's default by default.
        token: Access token; that of the login by default.
        commit_message: Title of the commit.

    Returns:
        Address of the commit.

    Raises:
        ValueError: no metric has that name.
        huggingface_hub.errors.HfHubHTTPError: no right to write, or no connection.
    """
    folder = metric_folder(repo_id.split("/")[-1])
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo.repo_id,
        repo_type="space",
        folder_path=folder,
        allow_patterns=["README.md", "requirements.txt", "*.py"],
        commit_message=commit_message,
    )
    return str(commit.commit_url)


__all__ = ["PUBLISHED", "published_files", "push_folder", "push_metric"]
