"""Load a causal language model and its tokenizer, or say in one line why not.

Never runs code that comes with a checkpoint. Knows nothing about batches or the cache.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils.hub import cached_file

from worker.engine.errors import ModelLoadError
from worker.engine.fused_layer import fuse
from worker.engine.kernel_build import KernelsUnavailable
from worker.engine.kernels import Kernels
from worker.engine.kernels import load as load_kernels
from worker.engine.weights import make_int8, pack

logger = logging.getLogger(__name__)

FP32_BELOW_PARAMETERS = 200_000_000
"""On a CPU, `auto` keeps fp32 for models smaller than this."""

INT8 = "int8"
"""Weights of linear layers in int8, all that is computed in bf16; on a CPU only."""

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    INT8: torch.bfloat16,
}
_HASHED = ("*.safetensors", "*.bin", "*config.json", "tokenizer*", "*.model", "vocab*", "merges*")
_HASH_BLOCK_BYTES = 1 << 20
_COMMIT = re.compile("[0-9a-f]{40}")

UNSTATED_CONTEXT_TOKENS = 32_768
"""Context of a recurrent model of which neither config nor tokenizer states one: its state has no
length, but a job has to end somewhere."""

Progress = Callable[[str], None]

# transformers' annotations stop at its factories.
_CausalLM: Any = AutoModelForCausalLM


@dataclass
class LoadedModel:
    """A model ready to run, and what the engine needs to know of it.

    Attributes:
        model: In eval mode on `device`.
        tokenizer: A fast tokenizer; its `backend_tokenizer` does the work.
        device: Where the weights are.
        dtype: Of what is computed, and of the weights that are not int8.
        precision: Of the weights, for people and model cards: a dtype's name, or `int8`.
        context_length: Prompt and completion together, in tokens, at most.
        vocab_size: Rows of the embedding; token ids are below this.
        num_parameters: Of the checkpoint, tied ones counted once.
        eos_ids: Ids that end a sequence, as `generate` would.
        revision: The hub's commit, or a hash over weights, config and tokenizer.
        architecture: The model class's name.
        kernels: Ours, where a CPU runs the model and they could be compiled; None: torch's alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    device: torch.device
    dtype: torch.dtype
    precision: str
    context_length: int
    vocab_size: int
    num_parameters: int
    eos_ids: frozenset[int]
    revision: str
    architecture: str
    kernels: Kernels | None = None


def load_model(
    name_or_path: str,
    *,
    device: str,
    dtype: str,
    kernels: Literal["auto", "torch"] = "auto",
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a model from a local directory or from the Hugging Face hub or its cache.

    Args:
        name_or_path: A directory, which is read without any network, or a hub name.
        device: As torch names it: `cpu`, `cuda`, `cuda:1`.
        dtype: `auto`, `float32`, `bfloat16`, `float16` or `int8`. `auto` is the checkpoint's
            own on a GPU; on a CPU fp32 for small models, else bf16. `int8` is for a CPU.
        kernels: `auto`: on a CPU ours, compiled at first use, and torch's alone where that does
            not succeed, which is logged; `torch`: torch's alone.
        progress: Called with one line per stage.

    Raises:
        ModelLoadError: The model cannot be served; the message is one line.
    """
    report = progress or (lambda line: None)
    target = check_device(device, dtype)
    report(f"reading the config of {name_or_path}")
    config = load_config(name_or_path)
    _check_config(name_or_path, config)
    report("loading the tokenizer")
    tokenizer = load_tokenizer(name_or_path)
    chosen = choose_dtype(dtype, config, target)
    kind = INT8 if dtype == INT8 else str(chosen).removeprefix("torch.")
    report(f"loading the weights as {kind} onto {target}")
    model = load_weights(name_or_path, config, chosen, target)
    report("identifying the revision")
    loaded = describe(model, tokenizer, find_revision(name_or_path))
    if target.type == "cpu" and kernels == "auto":
        loaded.kernels = _compiled_kernels(report)
    if dtype == INT8:
        loaded.precision = INT8
        num_rounded = round_to_int8(name_or_path, model, loaded.kernels)
        report(f"rounded {num_rounded} linear layers to int8")
    elif num_packed := pack(model, loaded.kernels):
        report(f"laid out {num_packed} linear layers for this CPU")
    if num_fused := fuse(model):
        report(f"fused {num_fused} decoder layers")
    return loaded


def _compiled_kernels(report: Progress) -> Kernels | None:
    report("compiling the kernels for this CPU, unless they are")
    try:
        return load_kernels()
    except KernelsUnavailable as error:
        logger.warning("torch's own kernels run the model, which is slower: %s", error)
        return None


def round_to_int8(name: str, model: PreTrainedModel, kernels: Kernels | None = None) -> int:
    """Round the linear layers to int8; returns how many.

    Raises:
        ModelLoadError: Most of the weights are in layers of another kind.
    """
    try:
        return make_int8(model, kernels)
    except ValueError as error:
        raise ModelLoadError(f"model {name!r} cannot run in int8: {error}") from error


def describe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, revision: str
) -> LoadedModel:
    """Collect what the engine needs to know of a model that is in memory.

    Raises:
        ModelLoadError: The model does not say how long its context is.
    """
    embedding: Any = model.get_input_embeddings()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=model.device,
        dtype=model.dtype,
        precision=str(model.dtype).removeprefix("torch."),
        context_length=_context_length(model, tokenizer),
        vocab_size=int(embedding.weight.shape[0]),
        num_parameters=model.num_parameters(),
        eos_ids=_eos_ids(model, tokenizer),
        revision=revision,
        architecture=type(model).__name__,
    )


def one_line(error: Exception) -> str:
    """Return the first sentence or line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def check_device(device: str, dtype: str) -> torch.device:
    """Return the device of a name.

    Args:
        device: As `load_model` takes it.
        dtype: As there.

    Raises:
        ModelLoadError: It is not there, or the dtype is unknown or not for it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelLoadError(f"device {device!r} is not there: {one_line(error)}") from error
    target = torch.device(device)
    if dtype not in ("auto", *_DTYPES):
        raise ModelLoadError(f"dtype must be auto or one of {', '.join(_DTYPES)}, got {dtype!r}")
    if dtype == INT8 and target.type != "cpu":
        raise ModelLoadError(f"dtype int8 runs on a CPU only, got the device {device!r}")
    return target


def load_config(name: str) -> PreTrainedConfig:
    """Read a checkpoint's config.

    Raises:
        ModelLoadError: There is none, or none that can be read without running its code.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(_why_no_config(name, error)) from error
    return config


def _why_no_config(name: str, error: Exception) -> str:
    path = Path(name)
    if "trust_remote_code" in str(error):
        return f"model {name!r} needs remote code, which is never run"
    if path.is_dir() and not (path / "config.json").is_file():
        return f"model {name!r} was not found: the directory has no config.json"
    if _is_path(name):
        if not path.is_dir():
            return f"model {name!r} was not found: there is no such directory"
    elif isinstance(error, OSError) and "couldn't connect" in str(error):
        return f"model {name!r} is not in the local cache, and its hub cannot be reached"
    elif isinstance(error, OSError):
        return f"model {name!r} was not found: {one_line(error)}"
    return f"model {name!r} has a config that this version cannot read: {one_line(error)}"


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: a hub's names have one slash at most."""
    path = Path(name)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        return True
    return len(path.parts) == 2 and path.parent.is_dir()


def _check_config(name: str, config: PreTrainedConfig) -> None:
    """Refuse what is no causal LM."""
    classes: Any = _CausalLM._model_mapping.get(type(config), ())
    classes = classes if isinstance(classes, tuple) else (classes,)
    names = {cls.__name__ for cls in classes}
    stated = set(config.architectures or names)
    if not names & stated or config.is_encoder_decoder:
        what = ", ".join(sorted(stated)) or config.model_type
        raise ModelLoadError(f"model {name!r} is not a causal language model but {what}")


def unusual_layers(model: PreTrainedModel) -> frozenset[str]:
    """Return the kinds of layers whose cache is more, or less, than the keys and values of tokens.

    A model that keeps a state outside the layers of a cache has the kind `recurrent`.

    Raises:
        ModelLoadError: transformers makes no cache from its config.
    """
    try:
        layers = DynamicCache(config=model.config).layers
    except AttributeError as error:
        what = f"a {model.config.model_type} model does not say what its layers keep"
        raise ModelLoadError(f"{what}: {one_line(error)}") from error
    kinds = {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    names = {kind.__name__ for kind in kinds}
    return frozenset(names | ({"recurrent"} if model._is_stateful else set()))


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a checkpoint's tokenizer.

    Raises:
        ModelLoadError: It has no fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(
            f"model {name!r} has no usable tokenizer: {one_line(error)}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not len(tokenizer):
        raise ModelLoadError(
            f"model {name!r} has no fast tokenizer (a tokenizer.json or what makes one)"
        )
    return tokenizer


def choose_dtype(
    dtype: str, config: PreTrainedConfig, device: torch.device, factory: Any = _CausalLM
) -> torch.dtype | Literal["auto"]:
    """Return a dtype, or "auto" where the checkpoint itself has to be asked.

    Args:
        dtype: As `load_model` takes it.
        config: Of the checkpoint.
        device: Where it will run.
        factory: One of transformers' auto classes.
    """
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type != "cpu":
        return "auto"
    with torch.device("meta"):
        empty = factory.from_config(config)
    num_parameters = sum(parameter.numel() for parameter in empty.parameters())
    return torch.float32 if num_parameters < FP32_BELOW_PARAMETERS else torch.bfloat16


def load_weights(
    name: str,
    config: PreTrainedConfig,
    dtype: torch.dtype | Literal["auto"],
    device: torch.device,
    factory: Any = _CausalLM,
    may_lack: tuple[str, ...] = (),
) -> PreTrainedModel:
    """Load a checkpoint's weights, in eval mode.

    Args:
        name: A directory or a hub name.
        config: Of the checkpoint.
        dtype: From `choose_dtype`.
        device: Where they go.
        factory: One of transformers' auto classes.
        may_lack: Beginnings of the names of weights that nothing uses.

    Raises:
        ModelLoadError: They cannot be read, or some are missing.
    """
    try:
        loaded, info = factory.from_pretrained(
            name, config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
        model: PreTrainedModel = loaded.to(device).eval()
    except Exception as error:
        raise ModelLoadError(f"model {name!r} has no usable weights: {one_line(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(may_lack))
    if missing:
        raise ModelLoadError(
            f"model {name!r} lacks {len(missing)} of its weights, {missing[0]} the first"
        )
    return model


def _context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    text_config: Any = model.config.get_text_config(decoder=True)
    length = getattr(text_config, "max_position_embeddings", None)
    # A tokenizer that does not know its limit states one of 10**30.
    length = length or min(tokenizer.model_max_length, 10**9)
    if length < 10**9:
        return int(length)
    if not unusual_layers(model):
        raise ModelLoadError(
            f"a {model.config.model_type} model does not say how long its context is"
        )
    logger.warning(
        "%s states no context length: it is taken as %d tokens",
        type(model).__name__,
        UNSTATED_CONTEXT_TOKENS,
    )
    return UNSTATED_CONTEXT_TOKENS


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return frozenset(ids if isinstance(ids, list) else () if ids is None else (ids,))


def find_revision(name: str) -> str:
    """Return the hub's commit, or a hash over the files of any other directory."""
    directory = Path(name)
    if not directory.is_dir():
        directory = Path(str(cached_file(name, "config.json"))).parent
    if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name):
        return directory.name  # the hub's cache names a snapshot's folder by its commit
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in directory.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
