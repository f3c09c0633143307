"""The corpora that `preprocess` supports, by name. A new one needs a file in this folder and a line here."""

from collections.abc import Callable, Sequence

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.corpora import folder, librispeech, maestro, synthetic
from whisper_gpt.pipeline.corpora.recording import Scan

# (root, the corpus's name in keys and in the manifest, patterns of paths to exclude) -> its recordings
CORPORA: dict[str, Callable[[Location, str, Sequence[str]], Scan]] = {
    "librispeech": librispeech.scan,
    "maestro": maestro.scan,
    "folder": folder.scan,
    "synthetic": synthetic.scan,
}
