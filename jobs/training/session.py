"""The objects of a training run: newly built, or restored from the newest intact checkpoint."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.run_folder import (
    TrainingState,
    checkpoint_folder,
    read_state,
    require_same_data,
    trained_on,
)
from whisper_gpt.jobs.training.checkpoints import newest_whole_checkpoint, restore_training
from whisper_gpt.jobs.training.config import Config, model_config
from whisper_gpt.jobs.training.distributed import Precision, Ranks, choose_precision, seed_everything
from whisper_gpt.jobs.training.optimizers import build_optimizers
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.manifests.location import location
from whisper_gpt.model.config import ModelConfig, fit_to_data
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.language_model import LanguageModel, build_model, load_model
from whisper_gpt.model.objective import Objective
from whisper_gpt.pipeline.loading.mixture import BLOCK, block_slots
from whisper_gpt.pipeline.loading.order import ORDER_VERSION
from whisper_gpt.pipeline.loading.reading_process import ReadingProcess
from whisper_gpt.pipeline.loading.stream import Stream, StreamConfig, stream


@dataclass
class Session:
    """A run while it trains; `state` is updated with every step."""

    config: Config
    ranks: Ranks
    model: LanguageModel
    objective: nn.Module
    optimizers: list[torch.optim.Optimizer]
    average: LanguageModel | None
    training: Stream | ReadingProcess
    validation: Stream | None
    state: TrainingState

    def close(self) -> None:
        """Stop the threads, or the process, that read ahead."""
        self.training.close()
        if self.validation is not None:
            self.validation.close()

    @property
    def damaged(self) -> dict[str, str]:
        """Samples of either split that this rank could not read, and why."""
        return self.training.damaged | (self.validation.damaged if self.validation is not None else {})

    @property
    def precision(self) -> Precision:
        """The precision that --precision resolves to on this device."""
        return choose_precision(self.config.precision, self.ranks.device)

    @property
    def scored_model(self) -> LanguageModel:
        """The model that is scored and saved: the weight average, if there is one."""
        return self.model if self.average is None else self.average

    @property
    def max_nats(self) -> float:
        """Divergence threshold: twice the cross-entropy of a uniform guess (2·ln V)."""
        return 2 * math.log(self.model.config.vocab)


def open_session(config: Config, ranks: Ranks, resume: bool, log: Callable[[str], None]) -> Session:
    """Return the session of a new run, or of the one in `config.out`.

    Raises `JobError` if that one was trained with another model or on other data (and says what differs), or if none of
    its checkpoints is intact.
    """
    infos = [read_info(location(dataset)) for dataset in config.datasets]
    weighted = list(zip(config.datasets, config.shares, strict=True))
    shape = _shape(config, infos[0])
    data = trained_on(infos[0], config.mel or _default_mel(shape))
    training = _training_stream(config, ranks, weighted, data.mel_variant)
    validated = [dataset for dataset, info in zip(weighted, infos, strict=True) if _has_samples(info, "validation")]
    in_order = replace(_stream_config(config, ranks, data.mel_variant), shuffle=False)
    validation = stream(validated, "validation", in_order) if validated else None
    seed_everything(config.seed, 0, 0)
    model = build_model(shape).to(ranks.device).train()
    if isinstance(model, HybridLM) and model.config.hybrid:
        variant = infos[0].mel["variants"].index(data.mel_variant)
        model.mel_encoder.set_statistics(*_mel_statistics(infos, config.shares, variant))
    state = TrainingState(0, 0.0, None, _order(config, training), data, config.optimizer)
    average = copy.deepcopy(model) if config.ema else None
    optimizers = build_optimizers(model, config)
    if resume:
        newest = read_state(newest_whole_checkpoint(config.out, log)).step if ranks.is_main else 0
        folder = checkpoint_folder(config.out, int(ranks.broadcast([newest])[0]))
        resumed = read_state(folder)
        require_same_data(resumed.data, state.data, config.out, config.datasets[0])
        _require_same_order(resumed.order, state.order, config)
        if resumed.optimizer != config.optimizer:
            raise JobError(f"{config.out} was trained with --optimizer {resumed.optimizer}, not {config.optimizer}")
        saved = load_model(folder)
        _require_same_shape(saved.config, model.config, config)
        model.load_state_dict(saved.state_dict())
        restore_training(folder, model, optimizers, average)
        training.damaged.update(resumed.damaged)
        training.reset(resumed.stream)
        state = resumed
        if ranks.is_main:
            log(f"resuming from step {state.step}")
    else:
        training.reset(None)  # reading starts while the model is compiled
    objective = ranks.wrap(Objective(model))
    if config.compile:
        objective.compile()
    return Session(config, ranks, model, objective, optimizers, average, training, validation, state)


def _has_samples(info: DatasetInfo, split: str) -> bool:
    return split in info.splits and info.splits[split].samples > 0


def _training_stream(
    config: Config, ranks: Ranks, weighted: list[tuple[UPath, float]], mel_variant: str
) -> Stream | ReadingProcess:
    gpu = ranks.device.type == "cuda"
    options = replace(
        _stream_config(config, ranks, mel_variant),
        pack=config.pack,
        narrow=True,
        # One shape: code compiled for several depends on which comes first, and so on where a run was resumed.
        pad=config.compile or _reads_in_a_process(ranks),
        pin=gpu,
    )
    return (ReadingProcess if _reads_in_a_process(ranks) else stream)(weighted, "train", options)


def _reads_in_a_process(ranks: Ranks) -> bool:
    """Return whether batches come from a process of their own: a thread would delay what is launched on a GPU."""
    return ranks.device.type == "cuda"


def _stream_config(config: Config, ranks: Ranks, mel_variant: str) -> StreamConfig:
    """Return how both splits are read."""
    return StreamConfig(
        context=config.context,
        batch=config.batch,
        seed=config.seed,
        mel_variant=mel_variant,
        rank=ranks.rank,
        world_size=ranks.world_size,
        max_damaged=config.max_damaged,
        cache_folder=config.cache,
        cache_gb=config.cache_gb,
    )


def _shape(config: Config, info: DatasetInfo) -> ModelConfig:
    vocab, bands = info.codec["codebook_size"], info.mel["bands"]
    shape = fit_to_data(model_config(config), vocab=vocab, context=config.context, mel_bands=bands)
    needed, available = max(shape.input_codebooks, shape.output_codebooks), info.codec["codebooks"]
    if needed > available:
        raise JobError(
            f"{config.datasets[0]} has {available} codebooks, and {shape.name} needs {needed}; pass --input-codebooks "
            "and --output-codebooks, or preprocess with more --codebooks"
        )
    return shape


def _default_mel(shape: ModelConfig) -> str | None:
    """Return the mel variant that a model reads by default: None, the dataset's first, if it predicts one codebook.

    Otherwise that of the decoded codes: in generation there is no other, and in training it is the same.
    """
    return f"codes-{shape.output_codebooks}" if shape.hybrid and shape.output_codebooks > 1 else None


def _mel_statistics(
    infos: list[DatasetInfo], weights: tuple[float, ...], variant: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `[M]` of each band of a mel variant over the mixture of the datasets."""
    shares = block_slots(weights) / BLOCK
    means = np.array([info.mel_mean[variant] for info in infos])
    squares = np.array([info.mel_std[variant] for info in infos]) ** 2 + means**2
    mean = shares @ means
    deviation = np.sqrt(shares @ squares - mean**2)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)


def _order(config: Config, training: Stream | ReadingProcess) -> dict[str, Any]:
    """All that the order of the windows depends on: a position is valid only within the same order."""
    return {
        "version": ORDER_VERSION,
        "seed": config.seed,
        "context": config.context,
        "pack": config.pack,
        "weights": list(config.shares),
        "samples_sha256": list(training.samples_sha256),
    }


def _require_same_order(before: dict[str, Any], now: dict[str, Any], config: Config) -> None:
    if before.get("samples_sha256") != now["samples_sha256"]:
        datasets = ", ".join(map(str, config.datasets))
        raise JobError(f"{config.out} was trained on other samples than {datasets} holds now; pass that dataset")
    if before.get("version") != now["version"]:
        raise JobError(f"{config.out} was trained by a version that orders windows differently; pass another --out")
    for name in now:
        if before.get(name) != now[name]:
            raise JobError(
                f"{config.out} was trained with {name} {before.get(name)}, not {now[name]}; the order would differ"
            )


def _require_same_shape(before: ModelConfig, now: ModelConfig, config: Config) -> None:
    old, new = asdict(before), asdict(now)
    changes = "; ".join(f"{name} {old[name]} / {new[name]}" for name in old if old[name] != new[name])
    if changes:
        raise JobError(f"{config.out} holds another model: {changes}; pass its original options, or another --out")
