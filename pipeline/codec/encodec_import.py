"""The only module that imports `encodec`, with a placeholder for torchaudio if that cannot be loaded.

`encodec` imports torchaudio for helpers that this project never calls, and torchaudio's wheel cannot be loaded with a
CPU-only torch (it needs CUDA libraries). If the real one cannot be loaded, an empty placeholder module exists during
the import only, so that no other library sees it.
"""

import sys
import types


def _import_encodec() -> None:
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        broken = [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]
        for name in broken:
            del sys.modules[name]
        sys.modules["torchaudio"] = types.ModuleType("torchaudio", "placeholder: the real one cannot be loaded")
        try:
            import encodec  # noqa: F401
        finally:
            del sys.modules["torchaudio"]


_import_encodec()

from encodec import EncodecModel  # noqa: E402
from encodec.modules.conv import SConv1d, SConvTranspose1d, pad1d  # noqa: E402
from encodec.modules.lstm import SLSTM  # noqa: E402
from encodec.modules.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock  # noqa: E402
from encodec.quantization import ResidualVectorQuantizer  # noqa: E402

__all__ = [
    "SLSTM",
    "EncodecModel",
    "ResidualVectorQuantizer",
    "SConv1d",
    "SConvTranspose1d",
    "SEANetDecoder",
    "SEANetEncoder",
    "SEANetResnetBlock",
    "pad1d",
]
