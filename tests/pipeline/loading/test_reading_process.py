"""A stream read by another process: the same batches, states, damage and errors; it never outlives the reader."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.jobs.training.small_runs import damage_first_sample
from whisper_gpt.pipeline.child_process import ChildDied
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.reading_process import ReadingProcess, _picklable
from whisper_gpt.pipeline.loading.stream import StreamConfig, stream

PACKED = StreamConfig(context=40, batch=3, seed=1, pack=True, pad=True, narrow=True)


def assert_same(actual: Batch, expected: Batch) -> None:
    assert (actual.keys, actual.starts) == (expected.keys, expected.starts)
    for name in ("codes", "mel", "mask", "doc_ids"):
        tensor, other = getattr(actual, name), getattr(expected, name)
        assert (tensor is other is None) or (tensor.dtype == other.dtype and torch.equal(tensor, other))


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


def test_errors_arrive_with_their_type_and_traceback(dataset: Path) -> None:
    with closing(ReadingProcess(dataset, "train", PACKED)) as read:
        read._opened_with = (dataset, "train", "no options")  # type: ignore[assignment]
        with pytest.raises(TypeError, match="dataclass instance") as raised:
            next(read)
    assert "reading_process.py" in raised.value.__notes__[0]


class Unpicklable(Exception):
    def __init__(self, first: str, second: str):
        super().__init__(first + second)


def test_an_error_that_cannot_be_pickled_keeps_its_words() -> None:
    error = _picklable(Unpicklable("the store ", "is closed"))
    assert isinstance(error, RuntimeError) and str(error) == "Unpicklable: the store is closed"


def test_a_process_that_was_killed_is_an_error(dataset: Path) -> None:
    with closing(ReadingProcess(dataset, "train", PACKED)) as read:
        next(read)
        [process] = multiprocessing.active_children()
        process.kill()
        with pytest.raises(ChildDied):
            list(islice(read, 10))


@pytest.mark.parametrize(
    "last", ["os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGTERM)", "raise ValueError"]
)
def test_it_ends_with_this_process(dataset: Path, last: str) -> None:
    """However this one ends: killed, with all processes of its group, or by an error that leaves it open."""
    script = (
        "import multiprocessing, os, signal, sys\nfrom pathlib import Path\n"
        "from tests.pipeline.loading.test_reading_process import PACKED, ReadingProcess\n"
        "if __name__ == '__main__':\n"
        "    read = ReadingProcess(Path(sys.argv[1]), 'train', PACKED)\n    next(read)\n"
        f"    print(multiprocessing.active_children()[0].pid, flush=True)\n    {last}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(dataset)], capture_output=True, text=True, timeout=60, start_new_session=True
    )
    deadline = time.monotonic() + 10
    while _is_alive(int(ended.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
