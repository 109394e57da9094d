"""Golden cases: values and gradients of the authors' code or of the definition, read only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def arrays(name: str) -> dict[str, Tensor]:
    """Read the arrays of a case; a missing case fails the test."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def description(name: str) -> dict[str, Any]:
    """Read what the case is: origin, hyper-parameters, formula, deviations, results."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf8"))
