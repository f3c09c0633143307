"""Options of a training run."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import UsageError, require
from whisper_gpt.jobs.inference.run_folder import checkpoints
from whisper_gpt.jobs.training.distributed import DeviceChoice, PrecisionChoice
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.config import PRESETS, ModelConfig

# In the run's folder.
CONFIG_FILE = "train.yaml"
_MODEL_FILE = "model.json"
# The other fields of a model's configuration follow from the data and from --context.
_MODEL_FIELDS = [field.name for field in fields(ModelConfig) if field.name not in ("vocab", "context")]
_SIZES = ("width", "layers", "heads", "input_codebooks", "output_codebooks")


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt train`."""

    datasets: Positional[tuple[UPath, ...]]
    """Datasets made by `preprocess`: folders, or s3:// or gs:// prefixes; several are mixed by --weights."""
    out: Path
    """Folder of the run: checkpoints, TensorBoard logs, resolved options. All machines of a cluster must share it."""
    weights: tuple[float, ...] = ()
    """Share of the windows from each dataset; equal shares if not given."""
    model: str = "hybrid-4m"
    """A preset, or a JSON file with the fields of a configuration: missing fields keep their defaults, and `mel_bands`
    above 0 makes a hybrid. Presets: hybrid-1m, -4m, -12m, -40m, hybrid-paper, and gpt-1m, -4m, -12m, -40m predict one
    codebook; hybrid-8m and gpt-8m predict all eight."""
    width: int | None = None
    """Width of the decoder; by default that of --model."""
    layers: int | None = None
    """Number of decoder layers; by default that of --model."""
    heads: int | None = None
    """Number of attention heads per decoder layer; by default that of --model."""
    mel: str | None = None
    """Mel variant that the model reads, such as audio or codes-8 (see preprocess --mel-of). By default the first; for a
    hybrid that predicts several codebooks, that of the audio which those codes decode to."""
    input_codebooks: int | None = None
    """Number of codebooks per frame that the model reads, coarsest first, as a sum of embeddings; by default that of
    --model. 0: it reads the mel alone."""
    output_codebooks: int | None = None
    """Number of codebooks per frame that the model predicts, coarsest first; by default that of --model."""
    steps: int = 5000
    """Number of optimizer steps."""
    minutes: float | None = None
    """Stop after this many minutes, if that comes before --steps; the learning-rate schedule then follows the clock."""
    batch: int = 8
    """Windows per batch on each worker."""
    accumulate: int = 1
    """Batches whose gradients are accumulated for one step."""
    context: int = 512
    """Frames per window: 512 are 6.8 s."""
    pack: bool = True
    """Pack several samples into a window, without attention between them; --no-pack pads short samples instead."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """Optimizer: adamw for all parameters, or muon for the matrices of the blocks and adamw for the rest."""
    learning_rate: float = 4e-3
    """Peak learning rate, reached after the warm-up."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises; then it decays to a tenth along a cosine."""
    weight_decay: float = 0.1
    """Weight decay of matrices; vectors are not decayed."""
    clip: float = 1.0
    """Norm to which larger gradients are clipped."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999; the average is then what is evaluated and
    saved. 0: no average."""
    precision: PrecisionChoice = "auto"
    """Autocast precision; master weights stay in fp32. auto: bf16 on a GPU that computes in bfloat16, else fp32."""
    device: DeviceChoice = "auto"
    """Device to train on; auto takes a GPU if torch finds one."""
    compile: bool = False
    """Compile the model (torch.compile): slow to start, then faster; a hybrid then draws different random numbers."""
    deterministic: bool = False
    """Use only deterministic algorithms, on a GPU too; this costs speed there."""
    seed: int = 0
    """Random seed of the initial weights, the noise and the order of the data."""
    eval_every: int = 500
    """Steps between evaluations on the validation split."""
    eval_batches: int = 16
    """Batches of the validation split that each worker scores at an evaluation."""
    clip_s: float = 3.0
    """Seconds of audio to generate at each evaluation, for TensorBoard; 0: none."""
    codec_weights: Path | None = None
    """File with the weights of the datasets' codec, for --clip-s; only if it is not found without this option."""
    save_every: int = 500
    """Steps between checkpoints; one is also saved at the last step and at the best evaluation."""
    keep: int = 2
    """Number of newest checkpoints to keep, in addition to the best one."""
    max_damaged: int = 16
    """Unreadable samples that may be skipped before the run stops."""
    cache: Path | None = None
    """Cache folder for shards from object stores; by default $WHISPER_GPT_CACHE, else the user's cache folder."""
    cache_gb: float = 20.0
    """Size of the shard cache in GB; the least recently used shards are evicted first."""
    workers: int = 1
    """Number of data-parallel training processes, each on its own core or GPU; more than one run under Ray."""
    ray_address: str | None = None
    """Address of a Ray cluster for the workers, as HOST:PORT or auto; by default $RAY_ADDRESS, else this machine."""
    resume: bool = False
    """Resume from the newest checkpoint in --out, with the saved options unless they are given again."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each dataset."""
        return self.weights or (1.0,) * len(self.datasets)


def model_config(config: Config) -> ModelConfig:
    """Return the model's configuration, before it is fitted to the data.

    Raises `UsageError` if --model is neither a preset nor a readable file with a valid configuration.
    """
    sizes = {name: size for name in _SIZES if (size := getattr(config, name)) is not None}
    chosen = PRESETS[config.model] if config.model in PRESETS else _read_model(Path(config.model))
    sizes = {name: size for name, size in sizes.items() if size != getattr(chosen, name)}
    if not sizes:
        return chosen
    changed = "-".join(f"{name.replace('_codebooks', '')}{size}" for name, size in sizes.items())
    return replace(chosen, **sizes, name=f"{chosen.name}-{changed}")


def _read_model(path: Path) -> ModelConfig:
    if path.suffix != ".json":
        raise UsageError(f"--model {path}: use one of {', '.join(PRESETS)}, or a .json file")
    try:
        content = {"name": path.stem} | json.loads(path.read_text(encoding="utf-8-sig"))
        if unknown := sorted(content.keys() - _MODEL_FIELDS):
            raise UsageError(f"--model {path}: no field {', '.join(unknown)}; there are {', '.join(_MODEL_FIELDS)}")
        return TypeAdapter(ModelConfig).validate_json(json.dumps(content), strict=True)
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise UsageError(f"--model {path}: not a valid model configuration ({error})") from error


def with_own_model(config: Config) -> Config:
    """Copy the file of --model into the folder of a new run, which every worker and every resume can read."""
    if config.model in PRESETS or checkpoints(config.out):
        return config
    model, path = asdict(_read_model(Path(config.model))), config.out.absolute() / _MODEL_FILE
    publish_bytes(path, json.dumps({name: model[name] for name in _MODEL_FIELDS}, indent=1).encode())
    return replace(config, model=str(path))


def check(config: Config) -> None:
    """Raise `UsageError` for option values that are invalid for any data."""
    require(bool(config.datasets), "name at least one dataset")
    least = {"steps": 1, "batch": 1, "accumulate": 1, "context": 1, "eval_every": 1, "eval_batches": 1, "save_every": 1}
    least |= {"keep": 1, "workers": 1, "max_damaged": 0}
    least |= {"seed": 0, "clip_s": 0}
    for name, bound in least.items():
        value = getattr(config, name)
        require(value >= bound, f"--{name.replace('_', '-')} {value}: must be at least {bound}")
    require(
        not (config.deterministic and config.minutes),
        "--minutes depends on the clock: not with --deterministic",
    )
    for name in ("learning_rate", "clip", "cache_gb"):
        value = getattr(config, name)
        require(0 < value < math.inf, f"--{name.replace('_', '-')} {value}: must be above zero")
    require(config.minutes is None or config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    require(0 <= config.weight_decay < math.inf, f"--weight-decay {config.weight_decay}: must not be negative")
    require(0 <= config.warmup < 1, f"--warmup {config.warmup}: must be a share of the run, 0 to 1")
    require(0 <= config.ema < 1, f"--ema {config.ema}: must be a decay, 0 to 1")
    for name in _SIZES:
        size, bound = getattr(config, name), 0 if name == "input_codebooks" else 1
        require(size is None or size >= bound, f"--{name.replace('_', '-')} {size}: must be at least {bound}")
    model_config(config)
    require(len(config.shares) == len(config.datasets), "--weights: pass one for each dataset")
    cuda = config.device != "cuda" or config.workers > 1 or torch.cuda.is_available()
    require(cuda, "--device cuda: torch finds no CUDA device here")
