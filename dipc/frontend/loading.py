"""Load a model's weights, and hold them to the model: every one is there, fits, and is a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dipc.errors import BadFile
from dipc.frontend.checkpoint import StoredTensor
from dipc.frontend.tracer import first_line, quiet

# Tensors that older checkpoints carry and that change no result: causal masks and positions, which models compute now,
# and heads that only training or speculative decoding reads.
_HARMLESS = re.compile(
    r"rotary_emb\.inv_freq$|(^|\.)(masked_bias|position_ids)$|(^|\.)(attn|attention)\.bias$|^v_head\.|(^|\.)mtp(_layers)?\."
)


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """BadFile unless the checkpoint held every weight of the model, in its shape, and no other.

    Args:
        name: what messages call the model.
        info: what transformers says of loading it; tied weights and those that a family lets go are not in it.
    """
    if wrong := sorted(info["mismatched_keys"]):
        tensor, stored, needed = wrong[0]
        raise BadFile(
            f"{name}: {tensor} is {list(stored)} in the checkpoint and {list(needed)} by config.json{_more(wrong)}"
        )
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not _HARMLESS.search(key))
    if missing:
        hint = f"; it holds {unexpected[0]}, which the model does not have" if unexpected else ""
        raise BadFile(f"{name}: the checkpoint lacks {missing[0]}{_more(missing)}{hint}")
    if unexpected:
        raise BadFile(
            f"{name}: the checkpoint holds {unexpected[0]}{_more(unexpected)}, and the model of config.json has none"
        )
    if info["error_msgs"]:
        raise BadFile(f"{name}: cannot be loaded: {first_line(RuntimeError(info['error_msgs'][0]))}")


def check_size(name: str, twin: nn.Module, tensors: Mapping[str, StoredTensor]) -> None:
    """BadFile where a config describes so much larger a model that loading would begin by allocating what is missing.

    Args:
        name: what messages call the model.
        twin: the model of the config, on the meta device.
        tensors: what the checkpoint holds.
    """
    needed = sum(p.numel() for p in twin.parameters())
    held = sum(t.numel for t in tensors.values())
    if needed > 2 * held + 1_000_000:
        absent = sorted(set(twin.state_dict()) - set(tensors))
        wrong = sorted(n for n, p in twin.named_parameters() if n in tensors and tensors[n].shape != tuple(p.shape))
        first = f"; it lacks {absent[0]}" if absent else f"; {wrong[0]} does not fit" if wrong else ""
        raise BadFile(f"{name}: config.json describes {needed:,} weights and the checkpoint holds {held:,}{first}")


def check_finite(name: str, model: nn.Module) -> None:
    """BadFile where a weight is NaN or infinite, or a buffer NaN: every number that comes of it would be none.

    One pass over the weights at the speed of memory: the extremes of a tensor that holds a NaN are NaN.
    """
    buffers = {name for name, _ in model.named_buffers()}  # masks may be of minus infinity
    for tensor, values in (*model.named_parameters(), *model.named_buffers()):
        if not values.is_floating_point() or values.device.type == "meta" or not values.numel():
            continue
        wide = values.detach().float() if values.element_size() == 1 else values.detach()
        extremes = torch.stack(wide.aminmax())
        if bool(extremes.isnan().any() if tensor in buffers else ~extremes.isfinite().all()):
            count = int((wide.isnan() if tensor in buffers else ~wide.isfinite()).sum())
            dtype = str(values.dtype).removeprefix("torch.")
            raise BadFile(
                f"{name}: {tensor} holds NaN or infinity: {count:,} of its {values.numel():,} values in {dtype}; the "
                "checkpoint is damaged, or its values overflow"
            )


def load(auto: Any, where: Any, **options: Any) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load by an auto class of transformers, quietly; the model, and what is to be said of its keys."""
    with quiet():
        model, info = auto.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    return model, info


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
