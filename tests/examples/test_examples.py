"""Every example runs, and does what it says."""

import importlib.util
import io
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import webdataset as wds

from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.pipeline.codec.loading import load_codec
from whisper_gpt.pipeline.corpora.registry import CORPORA

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a DataLoader's worker unpickles its classes by their module
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object, stdin: bytes = b"") -> str:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_every_example_is_listed() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in listed for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb"))


def test_own_corpus(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for name in ("ann_first", "ann_second", "bob_first"):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(8_000), 16_000)
    (tmp_path / "audio" / "texts.csv").write_text("file,text\nann_first.wav,HELLO\nann_lost.wav,GONE\n")
    run("own_corpus", tmp_path / "audio", tmp_path / "set", "--codec", "encodec_24khz_small", "--workers=0")
    rows = {row["key"]: row for row in read_samples(tmp_path / "set").to_pylist()}
    assert {key: row["split"] for key, row in rows.items()} == {
        "mine_ann-first_0000": "train", "mine_ann-second_0000": "train", "mine_bob-first_0000": "test",
    }  # fmt: skip
    assert rows["mine_ann-first_0000"]["text"] == "HELLO" and rows["mine_bob-first_0000"]["speaker"] == "bob"
    assert (tmp_path / "set" / "absent.txt").read_text() == "ann_lost.wav\n"
    assert "mine" not in CORPORA


def test_own_trainer_continues_exactly(dataset: Path, tmp_path: Path) -> None:
    train = example("own_trainer").train
    whole = train(str(dataset), 8, tmp_path / "whole.pt").state_dict()
    train(str(dataset), 4, tmp_path / "halves.pt")
    halves = train(str(dataset), 8, tmp_path / "halves.pt").state_dict()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_own_mel(dataset: Path, tmp_path: Path) -> None:
    rows = {row["key"]: row for row in read_samples(dataset, "test").to_pylist()}
    assert example("own_mel").write(dataset, "test", tmp_path) == len(rows)
    for sample in wds.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False).decode():
        assert sample["cqt.npy"].shape == (rows[sample["__key__"]]["frames"], 72)
        assert sample["codes.npy"].shape[1] == len(sample["cqt.npy"])


def test_live_codes() -> None:
    wav = np.random.default_rng(0).normal(0, 0.1, 10_000).astype(np.float32)
    blocks = np.split(wav, [17, 400, 3000, 3001, 9000])
    live = np.concatenate(list(example("live_codes").live_codes(blocks)), axis=1)
    assert np.array_equal(live, load_codec("encodec_24khz_small").encode(wav))
    pcm = (wav * 32768).astype(np.int16).tobytes()
    assert len(run("live_codes", stdin=pcm).splitlines()) == live.shape[1] == 32


def test_lightning_trainer(dataset: Path) -> None:
    train = example("lightning_trainer").train
    first, last = (train(str(dataset), steps).callback_metrics["nats"] for steps in (1, 30))
    assert last < first - 1
    run("lightning_trainer", dataset, 2)


def test_hf_trainer(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import torchaudio  # noqa: F401
    except OSError:  # a CUDA build without CUDA; transformers would import it too, and fail
        stub = ModuleType("torchaudio")
        stub.__spec__ = ModuleSpec("torchaudio", None)
        monkeypatch.setitem(sys.modules, "torchaudio", stub)
    nats = example("hf_trainer").train(str(dataset), 20, str(tmp_path))
    assert nats < np.log(1024)


def test_notebook(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs its cells one after the other; IPython's display of the last value is left out."""
    monkeypatch.setenv("DATASET", str(dataset))
    display = ModuleType("IPython.display")
    display.Audio = lambda wav, rate, normalize: wav  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads((FOLDER / "inspect.ipynb").read_text(encoding="utf-8"))
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None  # committed without results
            exec("".join(cell["source"]), names)
    assert len(names["samples"]) == read_samples(dataset).num_rows
    assert names["codes"].shape[1] == names["rows"]["frames"][0].as_py()
    names["sample_figure"](names["Example"](names["codes"], names["mel"], 75)).savefig(io.BytesIO())
