"""The published archives of the corpora: names, sizes, checksums, and addresses.

LibriSpeech: https://www.openslr.org/12 (sizes; checksums as in torchaudio 2.9). MAESTRO:
https://magenta.tensorflow.org/datasets/maestro (sizes and checksums).
"""

from dataclasses import dataclass

_OPENSLR = (
    "https://www.openslr.org/resources/12",
    "https://openslr.trmal.net/resources/12",
    "https://openslr.elda.org/resources/12",
    "https://openslr.magicdatatech.com/resources/12",
)
_MAGENTA = ("https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0",)


@dataclass(frozen=True)
class Archive:
    """One part of a corpus: `file` is in every folder of `mirrors`, and holds `folder`, where `preprocess` looks for
    the corpus, with `content` in it. Sizes are in bytes, those of MAESTRO rounded up."""

    file: str
    size: int
    unpacked_size: int
    sha256: str
    mirrors: tuple[str, ...]
    folder: str
    content: str


def _librispeech(part: str, size: int, sha256: str) -> Archive:
    return Archive(f"{part}.tar.gz", size, int(1.05 * size), sha256, _OPENSLR, "LibriSpeech", part)


def _maestro(file: str, size: int, unpacked_size: int, sha256: str, content: str) -> Archive:
    return Archive(file, size, unpacked_size, sha256, _MAGENTA, "maestro-v3.0.0", content)


ARCHIVES: dict[str, dict[str, Archive]] = {
    "librispeech": {
        part: _librispeech(part, size, sha256)
        for part, size, sha256 in (
            ("dev-clean", 337_926_286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
            ("dev-other", 314_305_928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
            ("test-clean", 346_663_984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
            ("test-other", 328_757_843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
            ("train-clean-100", 6_387_309_499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
            ("train-clean-360", 23_049_477_885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
            ("train-other-500", 30_593_501_606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
        )
    },
    "maestro": {
        "audio": _maestro(
            "maestro-v3.0.0.zip",
            109_000_000_000,
            130_000_000_000,
            "6680fea5be2339ea15091a249fbd70e49551246ddbd5ca50f1b2352c08c95291",
            "2018",
        ),
        "midi": _maestro(
            "maestro-v3.0.0-midi.zip",
            60_000_000,
            90_000_000,
            "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c",
            "2018",
        ),
    },
}
