"""The command `whisper-gpt`: finds the verb, parses its dataclass, turns errors into one line and an exit code."""

import importlib
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo
from upath import UPath

from whisper_gpt.jobs.common.config_files import default_from_file, local_path, local_word
from whisper_gpt.jobs.common.errors import USERS_ERRORS, UsageError

# Verb → module of whisper_gpt and what `--help` says. A verb's own imports (torch, Ray) are made only when it runs.
VERBS = {
    "plan": ("jobs.plan", "what preprocess would make of a corpus, and how long that will take"),
    "preprocess": ("jobs.preprocess", "audio → shards of mel frames and codec tokens, with manifests"),
    "inspect": (
        "jobs.inspect",
        "what a dataset holds: totals, levels, code usage, failures; as text, JSON or HTML",
    ),
    "query": ("jobs.query", "ask the manifest in SQL: the samples that meet a condition, or any SELECT"),
    "merge": ("jobs.merge", "join datasets of one codec and mel, without rewriting a tar"),
    "verify": ("jobs.verify", "check every shard and sample of a dataset against its manifest"),
    "audit": ("jobs.audit", "whether codec, mel or model see the future, and how far; exit 1 if anything does"),
    "train": ("jobs.train", "train a hybrid or a token-only model from a dataset's shards"),
    "evaluate": ("jobs.evaluate", "NLL, perplexity and accuracy of trained models, beside the floors"),
    "reproduce": ("jobs.reproduce", "the paper's table on your data: every row under one budget, with intervals"),
    "generate": ("jobs.generate", "continue a recording, or start from nothing, into a WAV"),
    "train-codec": ("jobs.train_codec", "train a codec of any size on folders of audio"),
    "evaluate-codec": ("jobs.evaluate_codec", "how well a codec reproduces recordings, and how it uses its codebooks"),
    "bench": ("jobs.bench", "measure this machine: codec and mel against the packages they stand in for"),
    "bench loader": ("jobs.benchmarks.loader_speed", "our stream against other loaders over the same samples"),
    "bench manifest": ("jobs.benchmarks.manifest_scale", "inspect and query on a manifest of a million rows"),
    "bench train": ("jobs.benchmarks.train_speed", "training steps, against a plain loop over tokens alone"),
    "bench preprocess": ("jobs.benchmarks.preprocess_overhead", "what preprocess costs beside decoding and encoding"),
    "demo": ("jobs.demo", "all of the above on made audio, in a few minutes"),
}

EXIT_CLOSED_PIPE = 141  # as the shell says of a program that SIGPIPE ends

# Packages of the object stores' clients, whose errors are not of Python's own kinds.
_STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb → its exit code: 0 done, 2 wrong usage, 3 too many inputs failed, 1 anything else."""
    arguments = [local_word(word) for word in (sys.argv[1:] if argv is None else argv)]
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    verb, rest = " ".join(arguments[:words]), arguments[words:]
    try:
        try:
            return _answer(verb, rest)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, because at its end the interpreter could only complain
    except KeyboardInterrupt:
        print("whisper-gpt: interrupted", file=sys.stderr)
        return 1
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich's way to end
            return EXIT_CLOSED_PIPE
        raise
    except Exception as error:
        reader_gone = isinstance(error, BrokenPipeError) and _reader_is_gone()
        _drop_unwritten()
        if reader_gone:
            return EXIT_CLOSED_PIPE
        message = _user_message(error)
        if message is None:
            raise
        print(f"whisper-gpt {verb}: {message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _answer(verb: str, rest: list[str]) -> int:
    """Run a verb, or say which there are → the exit code."""
    if verb in ("", "-h", "--help", "help"):
        print(_usage())
        return 0 if verb else 2
    if verb not in VERBS:
        print(f"whisper-gpt: {verb!r} is not a verb; use one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return run_verb(verb, rest)


def run_verb(verb: str, arguments: list[str]) -> int:
    """Parse `arguments` into the verb's dataclass (a `--config FILE` gives its defaults) and run it."""
    module = importlib.import_module(f"whisper_gpt.{VERBS[verb][0]}")
    if hasattr(module, "with_saved_options"):
        arguments = module.with_saved_options(arguments)
    default, rest = default_from_file(module.Config, arguments)
    parsed: Any = tyro.cli(
        module.Config,
        prog=f"whisper-gpt {verb}",
        description=module.__doc__,
        args=rest,
        default=default,
        registry=_registry(),
    )
    return module.run(parsed)


def _registry() -> ConstructorRegistry:
    """How options are parsed: tyro's way, but that only `://` makes a path a store's, not any colon in a name, and
    that a store's prefix is refused where a folder of this machine is needed."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: local_path(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda path: [str(path)],
        )

    @registry.primitive_rule
    def _(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not UPath:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: UPath(words[0] if "://" in words[0] else Path(words[0])),
            is_instance=lambda value: isinstance(value, UPath | Path),
            str_from_instance=lambda path: [str(path)],
        )

    return registry


def _user_message(error: Exception) -> str | None:
    """One line for an error that a user can mend; None for a bug, which keeps its traceback."""
    if type(error).__name__.startswith("RayTaskError"):
        error = getattr(error, "cause", error)
    if isinstance(error, USERS_ERRORS):
        return " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in _STORE_CLIENTS:
        return f"the object store does not answer, or refuses: {' '.join(str(error).split())}"
    if isinstance(error, OSError):  # a full disk, a missing file, a folder or a bucket that may not be written
        words = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return f"{error.filename}: {words}" if error.filename else words
    return None


def _reader_is_gone() -> bool:
    """Whether what is printed goes to a pipe that nobody reads any more; a socket may break as well."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # an error is always reported
        return bool(poll.poll(0))
    except (AttributeError, OSError):  # no stdout, or one that is not a file
        return False


def _drop_unwritten() -> None:
    """Forget what could not be printed: the interpreter would try again at its end."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items())
    return (
        f"usage: whisper-gpt VERB … (whisper-gpt VERB --help for its options)\n\n{verbs}\n\n"
        "Every verb also takes --config FILE: a YAML file of its options, which options on the line override.\n"
        "Exit codes: 0 done, 2 wrong usage, 3 finished but too many inputs failed, 1 anything else."
    )


if __name__ == "__main__":
    sys.exit(main())
