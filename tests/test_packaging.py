"""What is built: every file of the package and nothing else, and it works where the checkout is not."""

import configparser
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from uamix_hf.version import __version__

ROOT = Path(__file__).parents[1]
# Imports everything that is installed, and loads each metric by the package's own function.
USE = """
import importlib, json, pathlib, pkgutil
import uamix_hf

folder = pathlib.Path(uamix_hf.__file__).parent
names = [module.name for module in pkgutil.walk_packages([folder], "uamix_hf.")]
modules = [importlib.import_module(name) for name in names]
(load_metric,) = {module.load_metric for module in modules if hasattr(module, "load_metric")}
metrics = {path.parent.name: load_metric(path.parent.name).name for path in folder.rglob("app.py")}
files = {importlib.import_module(name.split(".")[0]).__file__ for name in names}
public = {name: getattr(uamix_hf, name) is not None for name in uamix_hf.__all__}
print(json.dumps({"files": sorted(files), "modules": names, "metrics": metrics, "public": public}))
"""


def checkout_files() -> list[Path]:
    """Files that are under version control or about to be, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    return sorted({Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()})


def package_files() -> set[str]:
    return {path.as_posix() for path in checkout_files() if path.parts[0] == "uamix_hf"}


def is_package(folder: Path) -> bool:
    return all((ROOT / one / "__init__.py").is_file() for one in [folder, *folder.parents][:-1])


def module_files() -> set[str]:
    return {name for name in package_files() if name.endswith(".py") and is_package(Path(name).parent)}


def test_package_data_covers_every_file_that_is_no_module() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = {
        (package, pattern.strip()): {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package.replace(".", "/")).glob(pattern.strip())
            if path.is_file() and "__pycache__" not in path.parts
        }
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.replace("\n", ",").split(",")
        if pattern.strip()
    }
    assert all(found.values()), f"nothing matches {[key for key, files in found.items() if not files]}"
    assert all(is_package(Path(package.replace(".", "/"))) for package, _ in found)
    assert package_files() - module_files() == set().union(*found.values())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the checkout, and a wheel that is built from the sdist."""
    source = tmp_path_factory.mktemp("source")
    for path in checkout_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=source)
    return source / "dist"


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf_home")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_the_archives_hold_the_package_and_nothing_else(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {
        f"uamix_hf-{__version__}.tar.gz",
        f"uamix_hf-{__version__}-py3-none-any.whl",
    }
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert files == package_files()
        assert all(wheel.read(name) == (ROOT / name).read_bytes() for name in files)
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        names = {"/".join(Path(member.name).parts[1:]) for member in sdist if member.isfile()}
    assert package_files() <= names and not [name for name in names if name.startswith("tests/")]


def test_the_index_would_take_the_archives(built: Path) -> None:
    printed = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built.iterdir(), cwd=built)
    assert printed.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_works_where_the_checkout_is_not(built: Path, tmp_path: Path) -> None:
    """In an environment of its own, which finds the dependencies in that of the tests."""
    venv.create(tmp_path / "clean", with_pip=False, symlinks=True)
    programs = tmp_path / "clean" / "bin"
    install = ["install", "--quiet", "--no-deps", "--no-index", *built.glob("*.whl")]
    run(sys.executable, "-m", "pip", "--python", programs / "python", *install, cwd=tmp_path)
    (packages,) = (tmp_path / "clean" / "lib").glob("*/site-packages")
    # Folders that a .pth file names come last; their own .pth files, such as an editable install's, are not read.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")

    assert f"uamix_hf {__version__}\n" in run(programs / "uamix-hf", "env", cwd=tmp_path)
    used = json.loads(run(programs / "python", "-c", USE, cwd=tmp_path).splitlines()[-1])
    assert used["files"] == [str(packages / "uamix_hf" / "__init__.py")]
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in module_files()}
    assert {*used["modules"], "uamix_hf"} == modules
    assert used["metrics"] and all(name == metric for name, metric in used["metrics"].items())
    assert used["public"]["AudioMAEModel"] and all(used["public"].values())
