"""Floor 2: models: reading any layer, the frozen teacher, projectors, weights on disk, and a small zoo."""

from congruence.models.adapters import input_of, learn_tokenizer, save_native, without_adapters
from congruence.models.heads import Head, WithClassifier, WithHead, fit_classifier, fit_head
from congruence.models.named import load
from congruence.models.onnx_model import OnnxModel
from congruence.models.parameters import count_parameters, shares_parameters
from congruence.models.projectors import linear_projector, map_projector, rows
from congruence.models.reused import ReusedClassifier
from congruence.models.taps import LayerError, Taps, call
from congruence.models.teacher import Teacher
from congruence.models.weights import load_into, load_weights, save_weights, start_from
from congruence.models.zoo import ZOO, ZooEntry, build, names

__all__ = [
    "ZOO",
    "Head",
    "LayerError",
    "OnnxModel",
    "ReusedClassifier",
    "Taps",
    "Teacher",
    "WithClassifier",
    "WithHead",
    "ZooEntry",
    "build",
    "call",
    "count_parameters",
    "fit_classifier",
    "fit_head",
    "input_of",
    "learn_tokenizer",
    "linear_projector",
    "load",
    "load_into",
    "load_weights",
    "map_projector",
    "names",
    "rows",
    "save_native",
    "save_weights",
    "shares_parameters",
    "start_from",
    "without_adapters",
]
