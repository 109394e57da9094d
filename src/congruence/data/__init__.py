"""Floor 3: named datasets as byte arrays or files, keyed augmentation, and batches that resume bit for bit."""

from congruence.data.augment.crops import Augment, normalize, pad_crop_flip
from congruence.data.augment.photos import PhotoAugment
from congruence.data.datasets.arrays import ArrayDataset, keep_labels
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.facts import DataFacts, facts
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.images import ImageDataset
from congruence.data.datasets.indexed import indexed
from congruence.data.datasets.texts import TextDataset
from congruence.data.loading.batches import Loader, Sampler
from congruence.data.loading.items import ItemDataset
from congruence.data.loading.loader import loader
from congruence.data.loading.samplers import ClassUniformSampler, SuperclassUniformSampler
from congruence.data.sources.fetch import Available, available, fetch
from congruence.data.sources.load import Splits, load
from congruence.data.sources.reid import Reid, read_reid
from congruence.data.sources.store import Arrays as Arrays
from congruence.data.sources.store import Files as Files
from congruence.data.sources.store import Lines as Lines
from congruence.data.sources.store import Part as Part
from congruence.data.sources.store import Texts as Texts
from congruence.data.sources.store import Tree as Tree
from congruence.data.sources.store import data_root
from congruence.data.sources.table import SOURCES, Source
from congruence.models.inputs import ImageInput, TextInput

__all__ = [
    "SOURCES",
    "ArrayDataset",
    "Augment",
    "Available",
    "BatchDataset",
    "ClassUniformSampler",
    "DataFacts",
    "FileDataset",
    "ImageDataset",
    "ImageInput",
    "ItemDataset",
    "Loader",
    "PhotoAugment",
    "Reid",
    "Sampler",
    "Source",
    "Splits",
    "SuperclassUniformSampler",
    "TextDataset",
    "TextInput",
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
