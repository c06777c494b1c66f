"""piq, whose import of torchvision fails where its compiled operators are absent unless their names are known."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def import_piq(module: str = "piq") -> ModuleType:
    """Import this module of piq, with the names of the operators made known first."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
    return importlib.import_module(module)
