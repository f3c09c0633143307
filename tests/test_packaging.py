"""The wheel is complete, and its packages never get mixed up with a user's own modules of the same names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
FOLDERS = ("jobs", "manifests", "model", "pipeline")


# Runs three verbs as the command does, but in one process and on one Ray cluster.
VERBS = """
import sys
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.ray_cluster import cluster

small = ["--steps", "2", "--batch", "1", "--context", "16", "--clip-s", "0", "--eval-batches", "1", "--model", "gpt-4m"]

if __name__ == "__main__":
    with cluster(None, 2):
        for verb in (
            ["preprocess", "folder", "sounds", "--out", "data", "--codec", "encodec_24khz_small", "--workers", "1"],
            ["train", "data", "--out", "run", "--workers", "2", *small],
            ["generate", "run", "--out", "more.wav", "--seconds", "0.1"],
        ):
            if cli.main(verb):
                sys.exit(" ".join(verb))
    print(cli.__file__)
"""


def write_name_clashes(folder: Path, *packages: str) -> Path:
    """Write a project folder with modules of all four names, as folders for those in `packages`, otherwise as files."""
    for name in FOLDERS:
        path = folder / name / "__init__.py" if name in packages else folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("MINE = True\n")
    return folder


def run_python(script: Path, code: str, folder: Path, **environment: str) -> str:
    """Write `code` to `script` and run it with `folder` as the working directory; return its stdout."""
    script.write_text(code)
    completed = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return completed.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, wheel_path from a copy of the sources because setuptools leaves a build folder behind."""
    source = tmp_path_factory.mktemp("wheel") / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(source.parent), str(source))
    (wheel_path,) = source.parent.glob("*.whl")
    return wheel_path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the wheel installed."""
    target = wheel.parent / "installed"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_wheel_is_complete(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert {f"whisper_gpt/{path.as_posix()}" for path in sources} <= set(names)
    codecs = {f"whisper_gpt/pipeline/codec/encodec_24khz_{size}.safetensors" for size in ("small", "medium")}
    assert codecs <= set(names)
    assert {
        f"whisper_gpt/model/speech_8m/{name}" for name in ("config.json", "model.safetensors", "state.json")
    } <= set(names)
    assert not [name for name in names if not name.startswith(("whisper_gpt/", "whisper_gpt-"))]


@pytest.mark.parametrize("packages", [(), FOLDERS])
def test_import_works_next_to_modules_of_the_same_names(
    packages: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    code = (
        "import jobs, manifests, model, pipeline\n"
        "import whisper_gpt.jobs.cli\n"
        "from whisper_gpt.model.hybrid import HybridLM\n"
        "assert model.MINE and pipeline.MINE and jobs.MINE and manifests.MINE\n"
        "print(HybridLM.__module__, whisper_gpt.jobs.cli.__file__)\n"
    )
    folder = write_name_clashes(tmp_path, *packages)
    module, file = run_python(folder / "script.py", code, folder, PYTHONPATH=str(installed)).split()
    assert module == "whisper_gpt.model.hybrid" and Path(file).is_relative_to(installed)


@pytest.mark.slow
def test_ray_workers_import_the_right_packages(installed: Path, tmp_path: Path) -> None:
    """Ray puts the driver's working directory first on every worker's path, though the command itself does not."""
    project = write_name_clashes(tmp_path / "project", "model", "jobs")
    (project / "sounds").mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).standard_normal(24_000) * 0.1
        soundfile.write(str(project / "sounds" / f"{i}.wav"), noise, 24_000)
    output = run_python(tmp_path / "script.py", VERBS, project, PYTHONPATH=str(installed))
    assert (project / "more.wav").is_file() and Path(output.split()[0]).is_relative_to(installed)
