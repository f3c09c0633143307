"""The packages are installed as whisper_gpt.*: complete in a wheel, and never mixed up with a user's own modules."""

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


# What the command does, but three times in one process and with one Ray.
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


def crowd(folder: Path, *packages: str) -> Path:
    """Make a project folder that has modules of all four names for itself, those in `packages` as folders."""
    for name in FOLDERS:
        path = folder / name / "__init__.py" if name in packages else folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("MINE = True\n")
    return folder


def run_python(script: Path, code: str, folder: Path, **environment: str) -> str:
    """Run `code` as `script` with `folder` as the working folder → what it prints."""
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the packages: setuptools leaves a build folder behind."""
    source = tmp_path_factory.mktemp("wheel") / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(source.parent), str(source))
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder that the wheel is installed into."""
    target = wheel.parent / "installed"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_a_wheel_is_complete(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert {f"whisper_gpt/{path.as_posix()}" for path in sources} <= set(names)
    assert "whisper_gpt/pipeline/codec/encodec_24khz_small.safetensors" in names
    assert not [name for name in names if not name.startswith(("whisper_gpt/", "whisper_gpt-"))]


@pytest.mark.parametrize("packages", [(), FOLDERS])
def test_a_library_import_beside_modules_of_the_same_names(
    packages: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    code = (
        "import jobs, manifests, model, pipeline\n"
        "import whisper_gpt.jobs.cli\n"
        "from whisper_gpt.model.hybrid import HybridLM\n"
        "assert model.MINE and pipeline.MINE and jobs.MINE and manifests.MINE\n"
        "print(HybridLM.__module__, whisper_gpt.jobs.cli.__file__)\n"
    )
    folder = crowd(tmp_path, *packages)
    module, file = run_python(folder / "script.py", code, folder, PYTHONPATH=str(installed)).split()
    assert module == "whisper_gpt.model.hybrid" and Path(file).is_relative_to(installed)


@pytest.mark.slow
def test_workers_of_ray_find_the_right_packages(installed: Path, tmp_path: Path) -> None:
    """Ray puts the driver's working folder first on every worker's path, though it is on no path of the command's."""
    crowded = crowd(tmp_path / "project", "model", "jobs")
    (crowded / "sounds").mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).standard_normal(24_000) * 0.1
        soundfile.write(str(crowded / "sounds" / f"{i}.wav"), noise, 24_000)
    said = run_python(tmp_path / "script.py", VERBS, crowded, PYTHONPATH=str(installed))
    assert (crowded / "more.wav").is_file() and Path(said.split()[0]).is_relative_to(installed)
