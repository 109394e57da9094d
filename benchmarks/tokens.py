"""What tokens teach beside features, between a vision transformer and a CNN, both ways; digits with few labels.

python benchmarks/tokens.py [--seeds 3]

The transformer is the ViT of `transformers` (extra [zoo]), built from a configuration and trained here.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from record import figure, write
from torch import nn

import congruence as cg
from congruence.bench.against import CERTAIN, difference

LABELS = 8
METHODS: dict[str, tuple[str, ...]] = {
    "features": ("pkt",),
    "tokens": ("patch_relation",),
    "features and tokens": ("pkt", "patch_relation"),
    "Gram matrices of tokens": ("gram",),
    "features and Gram matrices": ("pkt", "gram"),
    "patches as maps": ("at",),
}
DEFINITION = (
    f"accuracy on the test digits in points above that of the same student trained by cross-entropy on {LABELS} labels "
    "a class, by `congruence.distill` with its defaults from a teacher that saw every label; mean of paired "
    f"differences, one a seed, and the ends of its {100 * CERTAIN:.0f} % interval by Student's t. Features: pkt. "
    "Tokens: patch_relation. The learning rate is 0.003 for the CNN, 0.001 for the ViT"
)


def transformer(classes: int) -> nn.Module:
    """A ViT of 16 patches of 2×2 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=classes,
    )
    return ViTForImageClassification(config)


def convolutional(classes: int) -> nn.Module:
    """A small CNN of the zoo."""
    return cg.models.build("cnn3", in_channels=1, classes=classes)


# Teacher, student, and the student's learning rate: a transformer wants a lower one than the default.
PAIRS = {"ViT to CNN": (transformer, convolutional, 0.003), "CNN to ViT": (convolutional, transformer, 0.001)}


def trained(teacher: nn.Module, splits: cg.data.Splits) -> nn.Module:
    """A teacher that saw every label."""
    distiller = cg.Distiller(None, teacher, ["ce"], example=splits.train.batch([0, 1]))
    loader = cg.data.loader(splits.train, batch_size=64, augment=cg.data.Augment(pad=1, flip=False))
    options = cg.FitOptions(
        epochs=60,
        optimizer=cg.OptimizerOptions(name="adamw", lr=0.003),
        schedule=cg.ScheduleOptions(name="cosine"),
        device="cpu",
    )
    result = cg.fit(distiller, loader, cg.data.loader(splits.validation, batch_size=64, shuffle=False), options)
    teacher.load_state_dict(result.best_states["student"])
    return teacher.eval()


def accuracy(model: nn.Module, splits: cg.data.Splits) -> float:
    return 100 * float(cg.evaluation.measure(model, splits).accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the students, instead of those of `congruence.distill`")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    full = cg.data.load("digits")
    figures = []
    for pair, (make_teacher, make_student, lr) in PAIRS.items():
        torch.manual_seed(1_000_003)
        teacher = trained(make_teacher(10), full)
        of_teacher = accuracy(teacher, full)
        reached: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            train = cg.data.keep_labels(full.train, LABELS, seed=seed)
            for name, methods in {"cross-entropy": ("ce",), **METHODS}.items():
                torch.manual_seed(seed)
                student = make_student(10)
                given = cg.data.Splits(train, full.validation, full.test)
                cg.distill(teacher, student, given, list(methods), arguments.epochs, lr=lr, seed=seed, device="cpu")
                reached.setdefault(name, []).append(accuracy(student, full))
                print(f"{pair}, seed {seed}, {name}: {reached[name][-1]:.1f}", flush=True)
        plain = reached.pop("cross-entropy")
        for name, values in reached.items():
            gain = difference([one - other for one, other in zip(values, plain, strict=True)])
            figures.append(
                figure(
                    f"{pair}: {name}",
                    gain.mean,
                    low=round(gain.low, 2),
                    high=round(gain.high, 2),
                    plain=round(statistics.mean(plain), 2),
                    teacher=round(of_teacher, 2),
                )
            )
    write("tokens", DEFINITION, figures, setting={"labels": LABELS, "seeds": arguments.seeds})


if __name__ == "__main__":
    main()
