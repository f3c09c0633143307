"""The command line: help, exit codes, error messages, YAML configs."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from upath import UPath

from whisper_gpt.jobs import cli, plan
from whisper_gpt.jobs.common.config_files import default_from_file, local_word, save_config
from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.jobs.common.verbs import VERBS
from whisper_gpt.jobs.preprocess import Config as PreprocessConfig
from whisper_gpt.jobs.train import Config as TrainConfig


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([verb, "--help"])
    assert exit_info.value.code == 0
    assert f"whisper-gpt {verb}" in capsys.readouterr().out


def test_closed_output_pipe_has_its_own_exit_code(dataset: Path) -> None:
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "inspect", str(dataset), "--json"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    completed = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (completed.returncode, completed.stderr) == (cli.EXIT_CLOSED_PIPE, "")


@pytest.mark.parametrize("words", ["--help", "train --help", "inspect DATASET", "inspect DATASET --json"])
def test_closed_output_pipe_prints_no_error(
    words: str, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(words.replace("DATASET", str(dataset)).split()) == cli.EXIT_CLOSED_PIPE
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_broken_socket_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "a socket")

    monkeypatch.setattr("whisper_gpt.jobs.inspect.run", broken)
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert capfd.readouterr().err == "whisper-gpt inspect: a socket: Broken pipe\n"


def test_full_disk_for_stdout_is_a_one_line_error(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["inspect", str(dataset), "--json"]) == 1
        monkeypatch.undo()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_file_urls_are_local_paths_in_arguments_and_configs(tmp_path: Path) -> None:
    address = f"file://{tmp_path}"
    assert local_word(f"{address}/a b") == f"{tmp_path}/a b" and local_word(f"--out={address}") == f"--out={tmp_path}"
    assert local_word("s3://bucket/a") == "s3://bucket/a" and local_word("--name=file") == "--name=file"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.yaml").write_text(yaml.safe_dump({"datasets": [f"{address}/data"], "steps": 7}))
    # The saved options of a run are found, and values in a file mean the same as on the command line.
    assert cli.main(["train", "--out", f"{address}/run", "--resume"]) == 1
    default, _ = default_from_file(TrainConfig, ["--config", f"{tmp_path}/run/train.yaml"])
    assert default is not None and default.datasets == (UPath(tmp_path / "data"),)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"out": f"{address}/run", "cache": None}))
    default, _ = default_from_file(TrainConfig, ["--config", str(tmp_path / "c.yaml")])
    assert default is not None and default.out == tmp_path / "run"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"out": "s3://bucket/run"}))
    with pytest.raises(UsageError, match="s3://bucket/run"):
        default_from_file(TrainConfig, ["--config", str(tmp_path / "c.yaml")])


def test_file_urls_work_and_stores_are_refused_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).standard_normal(24_000) * 0.1
    (tmp_path / "in").mkdir()
    soundfile.write(str(tmp_path / "in" / "a.wav"), noise, 24_000)
    address = f"file://{tmp_path}"
    arguments = ["plan", "folder", f"{address}/in", "--out", f"{address}/out", "--codec=encodec_24khz_small"]
    monkeypatch.setattr(plan, "MEASURE_S", 0.1)
    assert cli.main(arguments) == 0
    assert (tmp_path / "out" / "plan.parquet").is_file()
    assert cli.main(["train", f"{address}/out", "--out", f"{address}/run", "--steps=1"]) == 1
    assert f"{tmp_path}/out" in capsys.readouterr().err and not Path("file:").exists()
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", f"{address}/out", "--out", "s3://bucket/run"])
    assert exit_info.value.code == 2


@pytest.mark.parametrize("arguments", [[], ["fly"]])
def test_missing_or_unknown_verb_exits_2(arguments: list[str]) -> None:
    assert cli.main(arguments) == 2


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["train", "x", "--out", "y", "--precision", "fp4"], ["inspect", "x", "--no-such-option"]],
)
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2


@pytest.mark.parametrize(
    "option", ["steps", "batch", "context", "eval-every", "save-every", "minutes", "learning-rate"]
)
def test_zero_values_are_usage_errors(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "x", "--out", str(tmp_path / "run"), f"--{option}=0"]) == 2
    assert f"--{option} 0" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["inspect", "verify", "evaluate"])
def test_folder_without_dataset_is_a_one_line_error(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([verb, str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"whisper-gpt {verb}: {tmp_path}/dataset.json: no such file; is this the folder of a dataset?\n"
    )


def test_config_round_trip(tmp_path: Path) -> None:
    config = PreprocessConfig(
        "folder", Path("a"), out=Path("b"), codec="encodec_24khz_small", splits=("train",), max_failed=0.5
    )
    save_config(config, tmp_path / "c.yaml")
    default, rest = default_from_file(PreprocessConfig, ["--config", str(tmp_path / "c.yaml"), "--mels", "80"])
    # It may be read from another working directory.
    assert default == replace(config, source=Path("a").absolute(), out=Path("b").absolute())
    assert rest == ["--mels", "80"]


@pytest.mark.parametrize("name", ["live::takes", "Mozart:/Requiem", "s3:x"])
def test_colon_in_a_path_is_not_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    arguments = ["folder", name, "--out", f"{name}/out", "--codec=encodec_24khz_small"]
    monkeypatch.setattr(plan, "MEASURE_S", 0.1)
    assert cli.main(["plan", *arguments]) == 1
    assert f"{tmp_path / name}: no audio file" in capsys.readouterr().err
    soundfile.write(str(tmp_path / name / "a.wav"), np.zeros(8_000), 16_000)
    assert cli.main(["plan", *arguments]) == 0
    assert (tmp_path / name / "out" / "plan.parquet").is_file()


def test_config_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfsteps: 7\n")
    default, _ = default_from_file(TrainConfig, ["--config", str(tmp_path / "c.yaml")])
    assert default is not None and default.steps == 7


def test_arguments_override_the_config_and_stay_required(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"datasets": ["/nowhere"], "steps": 7}))
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(path)])  # --out is in neither
    default, _ = default_from_file(TrainConfig, ["--config", str(path)])
    assert default is not None and default.datasets == (UPath("/nowhere"),) and default.steps == 7
    assert cli.main(["train", "--config", str(path), "--out", str(tmp_path / "run")]) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("steps: 5\nstepps: 6\n", "no option stepps"),
        ("steps: many\n", "steps: .* found 'many'"),
        ("precision: fp4\n", "precision: .* found 'fp4'"),
        ("- 1\n", "expected"),
        ("a: [", "not a readable"),
        (None, "not a"),
    ],
)
def test_invalid_config_files_are_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=words):
        default_from_file(TrainConfig, [f"--config={path}"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_options_and_choices(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(
        word in script for word in ("preprocess", "hold-out", "loader", "retry-failed", "bf16", "no-retry-failed")
    )


def test_bash_completes_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    completed = {}
    for line in (
        "whisper-gpt prep",
        "whisper-gpt bench load",
        "whisper-gpt preprocess --retry",
        "whisper-gpt train --prec",
    ):
        words = line.split()
        quoted = " ".join(map(repr, words))
        code = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _shtab_whisper_gpt; echo ${{COMPREPLY[@]}}"
        command = ["bash", "-c", f"source {tmp_path / 'script'}; {code}"]
        completed[line] = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert list(completed.values()) == [["preprocess"], ["loader"], ["--retry-failed"], ["--precision"]]


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_is_respected_on_a_terminal(no_color: bool) -> None:
    terminal, end = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "query", "--help"]
    process = subprocess.Popen(command, stdout=end, env=environment)
    os.close(end)
    text = b""
    while True:
        try:
            text += os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    assert process.wait() == 0 and b"--limit" in text
    assert (b"\x1b[36m" not in text) == no_color
