"""The corpora that `preprocess` supports, by name. A new one needs a file in this folder and a line here."""

from whisper_gpt.pipeline.corpora import folder, librispeech, maestro, synthetic
from whisper_gpt.pipeline.corpora.recording import Find

CORPORA: dict[str, Find] = {
    "librispeech": librispeech.find,
    "maestro": maestro.find,
    "folder": folder.find,
    "synthetic": synthetic.find,
}
