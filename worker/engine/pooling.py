"""From the hidden states of an input's tokens to its one vector, as a checkpoint's files say.

sentence-transformers' files are read where a checkpoint has them; where it has none, a vector is
the mean over all tokens, scaled to length 1. Knows nothing about models or batches.

Shape suffixes (this file): B = inputs; T = positions; D = numbers of a hidden state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils.hub import cached_file

from worker.engine.errors import ModelLoadError

PoolingMode = Literal["mean", "cls", "lasttoken"]
_MODES: tuple[PoolingMode, ...] = ("mean", "cls", "lasttoken")
_OLD_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the vector of an input is made.

    Attributes:
        mode: `mean` over all tokens, or the state of the first (`cls`) or the last one.
        is_normalized: The vector is scaled to length 1.
        is_stated: The checkpoint says so; else it is our default.
        max_tokens: Tokens of an input that the checkpoint allows; None where it does not say.
        subfolder: Where in the checkpoint the model itself is; empty: at its top.
    """

    mode: PoolingMode = "mean"
    is_normalized: bool = True
    is_stated: bool = False
    max_tokens: int | None = None
    subfolder: str = ""

    def __str__(self) -> str:
        """As a part of a revision, and for people."""
        return self.mode + ("+normalize" if self.is_normalized else "")

    def pool(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the vectors.

        Args:
            hidden_BTD: The last hidden states, any float dtype.
            mask_BT: int64, 1 at tokens and 0 at padding, which is on the right.

        Returns:
            fp32 of shape (B, D), on the same device.
        """
        hidden_BTD = hidden_BTD.float()
        if self.mode == "cls":
            vectors_BD = hidden_BTD[:, 0]
        elif self.mode == "lasttoken":
            rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
            vectors_BD = hidden_BTD[rows_B, mask_BT.sum(1) - 1]
        else:
            weights_BT1 = mask_BT.unsqueeze(-1).float()
            # By `where` and not by a product: what a model makes of padding may be NaN.
            summed_BD = torch.where(weights_BT1 > 0, hidden_BTD, 0.0).sum(1)
            vectors_BD = summed_BD / weights_BT1.sum(1)
        return functional.normalize(vectors_BD, dim=-1) if self.is_normalized else vectors_BD


def read_pooling(name: str) -> Pooling:
    """Read how a checkpoint wants its vectors made.

    Args:
        name: A directory or a hub name.

    Raises:
        ModelLoadError: It wants what is not here, or its files cannot be read.

    Source:
        sentence-transformers' `modules.json`, `1_Pooling/config.json` and
        `sentence_bert_config.json`.
    """
    modules = _read(name, "modules.json")
    if modules is None:
        pooling = _read(name, "1_Pooling/config.json")
        if pooling is None:
            return Pooling(max_tokens=_max_tokens(name, ""))
        return Pooling(_mode(name, pooling), is_stated=True, max_tokens=_max_tokens(name, ""))
    try:
        paths = {_kind(module): str(module.get("path") or "") for module in modules}
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"model {name!r} has a modules.json of an unknown form") from error
    unknown = [kind for kind in paths if kind not in _MODULES]
    if unknown or not {"Transformer", "Pooling"} <= set(paths):
        raise ModelLoadError(
            f"model {name!r} makes its embeddings by {', '.join(paths)}; only Transformer, Pooling "
            "and Normalize can be run"
        )
    config = _read(name, f"{paths['Pooling']}/config.json")
    if config is None:
        raise ModelLoadError(f"model {name!r} lacks {paths['Pooling']}/config.json")
    subfolder = paths["Transformer"]
    return Pooling(
        _mode(name, config), "Normalize" in paths, True, _max_tokens(name, subfolder), subfolder
    )


def _kind(module: Any) -> str:
    return str(module["type"]).rpartition(".")[2]


def _mode(name: str, config: Any) -> PoolingMode:
    stated = config.get("pooling_mode")
    if stated is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        stated = _OLD_NAMES.get(on[0], on[0]) if len(on) == 1 else on
    for mode in _MODES:
        if stated in (mode, [mode]):
            return mode
    raise ModelLoadError(
        f"model {name!r} pools by {stated!r}; only {', '.join(_MODES)}, one of them, can be run"
    )


def _max_tokens(name: str, subfolder: str) -> int | None:
    config = _read(name, f"{subfolder}/sentence_bert_config.json".lstrip("/"))
    stated = None if config is None else config.get("max_seq_length")
    return stated if isinstance(stated, int) and stated > 0 else None


def _read(name: str, file: str) -> Any:
    """The content of a JSON file of a checkpoint; None where there is no such file."""
    path = _find(name, file)
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"model {name!r}: {file} cannot be read: {error}") from error


def _find(name: str, file: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name) / file
    try:
        path = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None  # there is no such checkpoint; its config, which comes next, will tell why
    return None if path is None else Path(path)
