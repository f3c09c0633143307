"""The script that Streamlit runs for `whisper-gpt explore`; its one argument is the settings as JSON."""

import sys

from whisper_gpt.jobs.exploring.page import show
from whisper_gpt.jobs.exploring.settings import Settings

show(Settings.from_json(sys.argv[1]))
