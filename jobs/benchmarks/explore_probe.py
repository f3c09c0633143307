"""Run the page of `explore` without a browser in a process of its own, for `bench scale`: prints JSON."""

import json
import resource
import sys
import time

import psutil
from streamlit.testing.v1 import AppTest

from whisper_gpt.jobs.benchmarks.timing import peak_mb
from whisper_gpt.jobs.exploring.settings import Settings


def script(settings: str) -> None:
    """What AppTest runs instead of `exploring/app.py`; it takes the function's source, so all imports are in it."""
    from whisper_gpt.jobs.exploring.page import show
    from whisper_gpt.jobs.exploring.settings import Settings

    show(Settings.from_json(settings))


def main(dataset: str, condition: str) -> None:
    """Print the seconds from the process's start to the first page, those of the page alone and of a filter, and the
    peak memory in MB."""
    begun = time.monotonic()
    page = AppTest.from_function(script, args=(Settings((dataset,)).to_json(),), default_timeout=600).run()
    page_s = time.monotonic() - begun
    first_s = time.time() - psutil.Process().create_time()
    begun = time.monotonic()
    page.text_input(f"sql {dataset}").input(condition).run()
    filter_s = time.monotonic() - begun
    assert not page.exception and not page.error and len(page.dataframe) == 1
    megabytes = peak_mb(resource.getrusage(resource.RUSAGE_SELF))
    result = {"first_s": first_s, "page_s": page_s, "filter_s": filter_s, "mb": megabytes}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
