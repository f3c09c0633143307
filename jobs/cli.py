"""The command `whisper-gpt`: dispatch to a verb, parse its options, turn errors into one line and an exit code."""

import importlib
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if os.environ.get("NO_COLOR"):  # https://no-color.org; tyro reads its own variable, when it is imported
    os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo
from upath import UPath

from whisper_gpt.jobs.common.config_files import default_from_file, local_path, local_word
from whisper_gpt.jobs.common.errors import USERS_ERRORS, UsageError
from whisper_gpt.jobs.common.verbs import VERBS

EXIT_CLOSED_PIPE = 141  # 128 + SIGPIPE: what a shell reports for a program killed by SIGPIPE

# Client packages of object stores; their errors do not derive from OSError.
_STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 2 wrong usage, 3 too many inputs failed, 1 anything else."""
    arguments = [local_word(word) for word in (sys.argv[1:] if argv is None else argv)]
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    verb, rest = " ".join(arguments[:words]), arguments[words:]
    try:
        try:
            return _answer(verb, rest)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here: at exit, the interpreter could only print the error
    except KeyboardInterrupt:
        print("whisper-gpt: interrupted", file=sys.stderr)
        return 1
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich exits like this if the pipe is closed
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
    """Run a verb, or print the list of verbs; return the exit code."""
    if verb in ("", "-h", "--help", "help"):
        print(_usage())
        return 0 if verb else 2
    if verb not in VERBS:
        print(f"whisper-gpt: {verb!r} is not a verb; use one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return run_verb(verb, rest)


def run_verb(verb: str, arguments: list[str]) -> int:
    """Parse `arguments` into the verb's dataclass (`--config FILE` sets its defaults), run it, return the exit code."""
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
    """tyro's parsing with two changes: only `://` marks an object store's address, not any colon in a name; and such
    an address is refused if the option needs a local path."""
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
    """Return one line for an error that the user can fix; None for a bug, which keeps its traceback."""
    if type(error).__name__.startswith("RayTaskError"):
        error = getattr(error, "cause", error)
    if isinstance(error, USERS_ERRORS):
        return " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in _STORE_CLIENTS:
        return f"the object store does not answer, or refuses access: {' '.join(str(error).split())}"
    if isinstance(error, OSError):  # a full disk, a missing file, no permission to write
        words = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return f"{error.filename}: {words}" if error.filename else words
    return None


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe without a reader. (A BrokenPipeError may also come from a socket.)"""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # event mask 0: only errors are reported
        return bool(poll.poll(0))
    except (AttributeError, OSError):  # no stdout, or one that is not a file
        return False


def _drop_unwritten() -> None:
    """Discard unwritten output: the interpreter would try to write it again at exit."""
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
        "Every verb also takes --config FILE, a YAML file of its options; options on the command line override it.\n"
        "Exit codes: 0 done, 2 wrong usage, 3 finished but too many inputs failed, 1 any other error."
    )


if __name__ == "__main__":
    sys.exit(main())
