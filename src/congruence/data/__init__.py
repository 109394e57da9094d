"""Floor 2: named datasets as arrays of bytes or as files, keyed augmentation, and batches that resume bit for bit."""

from congruence.data.augment import Augment, normalize, pad_crop_flip
from congruence.data.batches import Loader, Sampler
from congruence.data.dataset import ArrayDataset, keep_labels
from congruence.data.facts import DataFacts, facts
from congruence.data.fetch import Available, available, fetch
from congruence.data.files import FileDataset
from congruence.data.images import ImageDataset
from congruence.data.indexed import indexed
from congruence.data.loader import loader
from congruence.data.photos import PhotoAugment
from congruence.data.reid import Reid, read_reid
from congruence.data.samplers import ClassUniformSampler, SuperclassUniformSampler
from congruence.data.sources import Splits, load
from congruence.data.store import data_root
from congruence.data.table import SOURCES, Source

__all__ = [
    "SOURCES",
    "ArrayDataset",
    "Augment",
    "Available",
    "ClassUniformSampler",
    "DataFacts",
    "FileDataset",
    "ImageDataset",
    "Loader",
    "PhotoAugment",
    "Reid",
    "Sampler",
    "Source",
    "Splits",
    "SuperclassUniformSampler",
    "available",
    "data_root",
    "facts",
    "fetch",
    "indexed",
    "keep_labels",
    "load",
    "loader",
    "normalize",
    "pad_crop_flip",
    "read_reid",
]
