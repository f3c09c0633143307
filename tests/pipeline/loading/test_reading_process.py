"""A stream read by another process: the same batches, states, damage and errors; it never outlives the reader."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.jobs.training.small_runs import damage_first_sample
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.reading_process import ReadingProcess
from whisper_gpt.pipeline.loading.stream import StreamConfig, stream

PACKED = StreamConfig(context=40, batch=3, seed=1, pack=True, pad=True, narrow=True)


def assert_same(actual: Batch, expected: Batch) -> None:
    assert (actual.keys, actual.starts) == (expected.keys, expected.starts)
    for tensor, other in zip(actual.tensors(), expected.tensors(), strict=True):
        assert tensor.dtype == other.dtype and torch.equal(tensor, other)


def test_batches_and_states_are_those_of_the_stream_also_after_a_restart(dataset: Path) -> None:
    with (
        closing(stream(dataset, "train", PACKED)) as expected,
        closing(ReadingProcess(dataset, "train", PACKED)) as read,
    ):
        assert read.samples_sha256 == expected.samples_sha256
        kept = []
        for _ in range(7):  # more than fit into the shared memory
            kept.append((next(read), next(expected)))
            state = read.state_dict()
            assert state == expected.state_dict()
        for actual, other in kept:  # also those whose room was taken by later ones
            assert_same(actual, other)
        later = [next(expected) for _ in range(2)]
        read.reset(state)
        for other in later:
            assert_same(next(read), other)


def test_a_pass_in_order_ends_with_its_last_shorter_batch(dataset: Path) -> None:
    in_order = StreamConfig(context=40, batch=4, shuffle=False, pad=True, narrow=True)
    with closing(stream(dataset, "validation", in_order)) as expected:
        batches = list(expected)
    with closing(ReadingProcess(dataset, "validation", in_order)) as read:
        actual = list(read)
    assert len(actual[-1].keys) < 4
    for batch, other in zip(actual, batches, strict=True):
        assert_same(batch, other)


def test_damage_is_known_and_counted_with_what_was_left_out_before(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    _, key = damage_first_sample(copy, "train")
    tolerant = StreamConfig(context=40, batch=3, shuffle=False, pad=True, narrow=True, max_damaged=1)
    with closing(ReadingProcess(copy, "train", tolerant)) as read:
        assert not next(read).mask.all(dim=1)[0] and list(read.damaged) == [key]
    with closing(ReadingProcess(copy, "train", tolerant)) as read:
        read.damaged["another"] = "unreadable"
        read.reset(None)
        with pytest.raises(PipelineError, match=f"{key} cannot be read.*1 damaged samples before it"):
            next(read)


def test_an_error_of_a_library_becomes_a_line(dataset: Path, capfd: pytest.CaptureFixture) -> None:
    with closing(ReadingProcess(dataset, "train", PACKED)) as read:
        read._opened_with = (dataset, "train", "no options")  # type: ignore[assignment]
        with pytest.raises(PipelineError, match="TypeError: "):
            next(read)
    assert "Traceback" in capfd.readouterr().err


def test_a_process_that_was_killed_is_an_error(dataset: Path) -> None:
    with closing(ReadingProcess(dataset, "train", PACKED)) as read:
        next(read)
        assert read._process is not None
        read._process.kill()
        with pytest.raises(PipelineError, match="has died"):
            list(islice(read, 10))


def test_it_ends_with_a_reader_that_was_killed(dataset: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from tests.pipeline.loading.test_reading_process import PACKED, ReadingProcess\n"
        "if __name__ == '__main__':\n"
        "    read = ReadingProcess(Path(sys.argv[1]), 'train', PACKED)\n    next(read)\n"
        "    print(read._process.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(dataset)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deadline = time.monotonic() + 30
    while _is_alive(int(killed.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("options", [{"narrow": False}, {"pad": False}])
def test_batches_of_several_shapes_or_types_are_refused(dataset: Path, options: dict) -> None:
    with pytest.raises(PipelineError, match="pass narrow and pad"):
        ReadingProcess(dataset, "train", StreamConfig(**(vars(PACKED) | options)))
