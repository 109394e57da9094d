"""The rows of the catalogue as the contract runs them."""

from __future__ import annotations

from dataclasses import replace

from congruence.methods import row
from congruence.methods.catalogue import ROWS
from congruence.methods.changed_logits import ChangedLogits
from congruence.methods.prefixes import Prefixes
from congruence.testing import Case

# Tests speak of these: `keys()` also has the rows of packages that happen to be installed.
OWN_KEYS = tuple(row.key for row in ROWS)
# A student equal to the teacher gives 0 for all but these, by definition.
NOT_ZERO_AT_EQUAL = {
    "adv": "the discriminator guesses, whatever it is shown",
    "arcface": "it compares with the labels",
    "bce": "it compares with the labels",
    "ce": "it compares with the labels",
    "crd": "its projections are trained, and it compares with the bank",
    "dist": "the ε beside its norms leaves about 1e-6",
    "dist_plus": "the ε beside its norms leaves about 1e-7",
    "dml": "it has no teacher",
    "fitnet": "its regressor is trained",
    "ickd": "its convolution is trained",
    "inter_class": "it has no teacher",
    "intra_class": "it has no teacher",
    "mlld": "it compares with the labels",
    "nkd": "it is a cross-entropy",
    "norm": "its convolution is trained",
    "ofd": "its connectors are trained",
    "pefd": "its linear maps are trained",
    "perception_coherence": "its default temperatures differ",
    "reviewkd": "its fusions are trained",
    "radio": "its heads are trained",
    "rld": "it moves the teacher's confidence to the label where the teacher errs",
    "simkd": "its projector is trained",
    "similarity": "its relative part wants a margin",
    "srd": "its linear map is trained, and its floor is a logarithm",
    "ttm": "a power of the teacher is another distribution",
    "vid": "its regressors are trained, and a likelihood is not 0",
    "vitkd": "its generator is trained",
    "vkd": "it compares with the layer-normalised teacher, through a trained map",
    "wkd_f": "its convolution is trained",
    "wkd_l": "it compares with the labels, and Sinkhorn's ε spreads the plan",
}
# What a few steps of a small model need to come to a loss at all.
HYPERPARAMETERS = {"intra_class": {"margin_threshold": -0.9, "pipeline_size": 3}, "kda": {"warmup": 1}}
# Layers (of both sides) for what the usual ones do not fit: behind the teacher's batch norm; in the place of queries,
# keys and values; of two sizes.
LAYERS = {
    "ofd": {"maps": "norm"},
    "minilm": {"tokens": ["first", "norm", "relu"]},
    "vitkd": {"tokens": ["first", "relu", "second"]},
    **{key: {"maps": "second"} for key in ("catkd", "sdd")},  # what the classifier gets, pooled
}
CASES = [
    Case(key, HYPERPARAMETERS.get(key, {}), *[LAYERS.get(key)] * 2, zero_at_equal=key not in NOT_ZERO_AT_EQUAL)
    for key in OWN_KEYS
]


CHANGES = {"standardize": True, "regions": True, "uncertainty": 0.3}


class ChangedDkd(ChangedLogits):
    """What `Term("dkd", **CHANGES)` makes."""

    def __init__(self) -> None:
        super().__init__(row("dkd").make(), **CHANGES)


class StandardizedMlld(ChangedLogits):
    """What `Term("mlld", standardize=True)` makes."""

    def __init__(self) -> None:
        super().__init__(row("mlld").make(), standardize=True)


class CrdOfPrefixes(Prefixes):
    """What `Term("crd", dims=(2, 4))` makes."""

    def __init__(self) -> None:
        super().__init__([row("crd").make() for _ in range(2)], (2, 4))


# Two terms that change their logits, and one with several memories.
CHANGED = [
    Case(replace(row("dkd"), part=ChangedDkd, needs=ChangedDkd().needs), {}, *[{"maps": "second"}] * 2),
    Case(replace(row("mlld"), part=StandardizedMlld)),
    Case(replace(row("crd"), part=CrdOfPrefixes)),
]
