"""The training loops of RepDistiller, mdistiller and torchdistill, run from their checkouts with our networks in them.

Nothing of theirs is here: losses, distillers and loops are imported from the folder that whoever measures has fetched.
What is missing on a machine without their requirements is stood in for where it does not train: torchvision (the images
come from `PilImages`), writers of event files, readers of configuration files. On a CPU `Tensor.cuda` gives back the
tensor itself, since two of the three call it unasked. Saving and validation, which `fit` is not asked for here either,
are left out of mdistiller's epoch: both are to its advantage.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peer_worker import (
    CE_WEIGHT,
    DECAY,
    METHOD_WEIGHT,
    MOMENTUM,
    RKD_WEIGHTS,
    WEIGHT_DECAY,
    Indexed,
    Job,
    Pair,
    PilImages,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

TEMPERATURE, CRD_TEMPERATURE, CRD_MOMENTUM, CRD_DIM = 4.0, 0.07, 0.5, 128


class Loop(Protocol):
    """A peer's training, ready to begin."""

    def epoch(self, number: int) -> float:
        """Train an epoch, counted from 1; return the mean of its losses."""


class _Absent:
    """Stands in for any class, function or object of a library that is not installed."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return _Absent()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Absent()


class _AbsentModule(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package, all of whose parts are there

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "CfgNode":  # of yacs, which only has to hold values
            return types.SimpleNamespace
        return type(name, (_Absent,), {"__module__": self.__name__})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the libraries that are named, where nothing else does."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in self.names else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in(folder: Path, *names: str) -> None:
    """Let modules be imported from a folder, with stand-ins for libraries that are not installed."""
    if str(folder) in sys.path:
        return
    sys.path.insert(0, str(folder))
    sys.meta_path.append(_Finder(names))
    importlib.import_module("torchvision.datasets")  # which the real one imports by itself
    if not torch.cuda.is_available():
        setattr(Tensor, "cuda", lambda self, *_, **__: self)  # noqa: B010 (a method, for a type checker)


class Tapped(nn.Module):
    """A network of our zoo that gives what enters its last layer too, in the form that a peer asks for."""

    def __init__(self, model: nn.Module, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.embedding: Any = None
        model.get_submodule("fc").register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.embedding = inputs[0]

    def forward(self, images: Tensor, is_feat: bool = True, preact: bool = False) -> Any:
        logits = self.model(images)
        embedding, self.embedding = self.embedding, None
        return self.form(logits, embedding)


def batches(job: Job, pair: Pair) -> DataLoader[Any]:
    """The peers' own loader, in this process."""
    negatives = pair.negatives if job.method == "crd" else 0
    return DataLoader(Indexed(PilImages(pair.train), negatives), batch_size=job.batch, shuffle=True, num_workers=0)


def width(model: nn.Module) -> int:
    """How wide the embedding is."""
    return int(model.get_submodule("fc").get_parameter("weight").shape[1])


class RepDistiller:
    """`helper/loops.py: train_distill`, with the criteria and the optimizer of `train_student.py`."""

    def __init__(self, folder: Path, job: Job, pair: Pair) -> None:
        stand_in(folder, "torchvision", "tensorboard_logger")
        self.loops, self.helper = importlib.import_module("helper.loops"), importlib.import_module("helper.util")
        losses = importlib.import_module("distiller_zoo")
        method = job.method
        student, teacher = (
            Tapped(model, lambda logits, embedding: ([embedding], logits)) for model in (pair.student, pair.teacher)
        )
        self.options = types.SimpleNamespace(
            distill=method,
            gamma=CE_WEIGHT[method],
            alpha=METHOD_WEIGHT[method] if method == "kd" else 0.0,
            beta=0.0 if method == "kd" else METHOD_WEIGHT[method],
            print_freq=100,
            learning_rate=job.lr,
            lr_decay_epochs=list(job.milestones),
            lr_decay_rate=DECAY,
            s_dim=width(pair.student),
            t_dim=width(pair.teacher),
            feat_dim=CRD_DIM,
            n_data=len(pair.train),
            nce_k=pair.negatives,
            nce_t=CRD_TEMPERATURE,
            nce_m=CRD_MOMENTUM,
        )
        modules, trained = nn.ModuleList([student]), nn.ModuleList([student])
        if method == "crd":
            criterion = importlib.import_module("crd.criterion").CRDLoss(self.options)
            for part in (criterion.embed_s, criterion.embed_t):
                modules.append(part)
                trained.append(part)
        elif method == "rkd":
            criterion = losses.RKDLoss(w_d=RKD_WEIGHTS["distance"], w_a=RKD_WEIGHTS["angle"])
        else:
            criterion = losses.PKT() if method == "pkt" else losses.DistillKL(TEMPERATURE)
        self.criteria = nn.ModuleList([nn.CrossEntropyLoss(), losses.DistillKL(TEMPERATURE), criterion])
        self.optimizer = torch.optim.SGD(trained.parameters(), lr=job.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        modules.append(teacher)
        self.modules, self.loader = modules, batches(job, pair)

    def epoch(self, number: int) -> float:
        """Train an epoch."""
        self.helper.adjust_learning_rate(number, self.options, self.optimizer)
        values = (number, self.loader, self.modules, self.criteria, self.optimizer, self.options)
        return float(self.loops.train_distill(*values)[1])


class Mdistiller:
    """`BaseTrainer.train_epoch`, or that of `CRDTrainer`, with the distiller of the method."""

    def __init__(self, folder: Path, job: Job, pair: Pair) -> None:
        stand_in(folder, "torchvision", "tensorboardX", "yacs", "tqdm")
        config = importlib.import_module("mdistiller.engine.cfg").CFG
        trainers = importlib.import_module("mdistiller.engine.trainer")
        method = job.method.upper()
        losses = getattr(config, method).LOSS
        losses.CE_WEIGHT = CE_WEIGHT[job.method]
        setattr(losses, "KD_WEIGHT" if job.method == "kd" else "FEAT_WEIGHT", METHOD_WEIGHT[job.method])
        config.KD.TEMPERATURE = TEMPERATURE
        config.RKD.DISTANCE_WEIGHT, config.RKD.ANGLE_WEIGHT = RKD_WEIGHTS["distance"], RKD_WEIGHTS["angle"]
        config.CRD.FEAT.DIM, config.CRD.NCE.K = CRD_DIM, pair.negatives
        config.CRD.FEAT.STUDENT_DIM, config.CRD.FEAT.TEACHER_DIM = width(pair.student), width(pair.teacher)
        config.CRD.NCE.TEMPERATURE, config.CRD.NCE.MOMENTUM = CRD_TEMPERATURE, CRD_MOMENTUM
        solver, log = config.SOLVER, config.LOG
        solver.LR, solver.LR_DECAY_STAGES, solver.LR_DECAY_RATE = job.lr, list(job.milestones), DECAY
        solver.MOMENTUM, solver.WEIGHT_DECAY, solver.EPOCHS = MOMENTUM, WEIGHT_DECAY, job.epochs
        self.folder = tempfile.TemporaryDirectory()  # empty: `log` and the saving are replaced below
        log.PREFIX, log.WANDB = self.folder.name, False
        student, teacher = (
            Tapped(model, lambda logits, embedding: (logits, {"pooled_feat": embedding}))
            for model in (pair.student, pair.teacher)
        )
        more = (len(pair.train),) if job.method == "crd" else ()
        kinds = importlib.import_module("mdistiller.distillers").distiller_dict
        distiller = nn.DataParallel(kinds[method](student, teacher, config, *more).cuda())
        kind = trainers.CRDTrainer if job.method == "crd" else trainers.BaseTrainer
        setattr(trainers, "save_checkpoint", lambda *_: None)  # noqa: B010 (no attribute that a type checker knows)
        self.trainer = kind("run", distiller, batches(job, pair), [], config)
        self.trainer.log = self._log
        self.loss = 0.0

    def _log(self, _: float, __: int, values: dict[str, Any]) -> None:
        self.loss = float(values["train_loss"])

    def epoch(self, number: int) -> float:
        """Train an epoch."""
        self.trainer.train_epoch(number)
        return self.loss


class Torchdistill:
    """`train_one_epoch` of its example for image classification, over its `DistillationBox`."""

    def __init__(self, folder: Path, job: Job, pair: Pair) -> None:
        stand_in(folder, "torchvision", "yaml")
        logging.getLogger().setLevel(logging.WARNING)
        script = folder / "examples" / "torchvision" / "image_classification.py"
        spec = importlib.util.spec_from_file_location("peer_example", script)
        if spec is None or spec.loader is None:
            raise ImportError(f"'{script}' cannot be imported.")
        self.example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.example)
        core = importlib.import_module("torchdistill.core.distillation")
        self.device = torch.device("cpu")
        self.box = core.get_distillation_box(
            pair.teacher, pair.student, {"train": PilImages(pair.train)}, self._config(job, pair), self.device, None,
            False, 1,
        )  # fmt: skip
        self.losses: list[Tensor] = []
        step = self.box.post_forward_process

        def kept(loss: Tensor) -> None:
            self.losses.append(loss.detach())
            step(loss=loss)

        self.box.post_forward_process = kept

    def _config(self, job: Job, pair: Pair) -> dict[str, Any]:
        """What a configuration file of theirs would hold."""
        crd = job.method == "crd"
        data: dict[str, Any] = {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": job.batch, "num_workers": 0, "drop_last": False},
        }
        if crd:
            drawn = {"num_negative_samples": pair.negatives, "mode": "exact", "ratio": 1.0}
            data["dataset_wrapper"] = {"key": "CRDDatasetWrapper", "kwargs": drawn}
        optimizer = {"lr": job.lr, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
        config: dict[str, Any] = {
            "num_epochs": job.epochs,
            "train_data_loader": data,
            "teacher": self._model(crd, width(pair.teacher), teacher=True),
            "student": self._model(crd, width(pair.student), teacher=False),
            "optimizer": {"key": "SGD", "kwargs": optimizer},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": self._terms(job, pair)}},
        }
        if job.milestones:
            steps = {"milestones": list(job.milestones), "gamma": DECAY}
            config["scheduler"] = {"key": "MultiStepLR", "kwargs": steps}
        return config

    @staticmethod
    def _model(crd: bool, features: int, *, teacher: bool) -> dict[str, Any]:
        if not crd:
            read: dict[str, Any] = {"input": [], "output": ["embed"]}
            return {"forward_proc": "forward_batch_only", "forward_hook": read, "requires_grad": not teacher}
        linear = {"in_features": features, "out_features": CRD_DIM, "bias": True}
        read = {"input": [] if teacher else ["empty"], "output": ["model.embed", "normalizer"]}
        return {
            "forward_proc": "forward_batch_supp_dict",
            "auxiliary_model_wrapper": {
                "key": "Linear4CRD",
                "kwargs": {"input_module_path": "model.embed", "linear_kwargs": linear, "power": 2},
            },
            "forward_hook": read,
            "requires_grad": True,
            "frozen_modules": ["model"] if teacher else [],
        }

    @staticmethod
    def _terms(job: Job, pair: Pair) -> dict[str, Any]:
        weight = METHOD_WEIGHT[job.method]

        def term(key: str, weight: float, **values: Any) -> dict[str, Any]:
            return {"criterion": {"key": key, "kwargs": values}, "weight": weight}

        sides = ("student", "teacher")
        if job.method == "kd":
            logits = {
                f"{side}_module_{part}": value for side in sides for part, value in (("path", "."), ("io", "output"))
            }
            mixed = {"temperature": TEMPERATURE, "alpha": CE_WEIGHT["kd"], "beta": weight, "reduction": "batchmean"}
            return {"kd": term("KDLoss", 1.0, **logits, **mixed)}
        read = {"is_from_teacher": False, "module_path": ".", "io": "output"}
        ce = term("CrossEntropyLoss", CE_WEIGHT[job.method], reduction="mean")
        ce["criterion_wrapper"] = {
            "key": "SimpleLossWrapper",
            "kwargs": {"input": read, "target": {"uses_label": True}},
        }
        if job.method == "rkd":
            paths = {f"{side}_output_path": "embed" for side in sides}
            factors = {"dist_factor": RKD_WEIGHTS["distance"], "angle_factor": RKD_WEIGHTS["angle"]}
            return {"ce": ce, "rkd": term("RKDLoss", weight, **paths, **factors, reduction="mean")}
        if job.method == "pkt":
            paths = {
                f"{side}_module_{part}": value
                for side in sides
                for part, value in (("path", "embed"), ("io", "output"))
            }
            return {"ce": ce, "pkt": term("PKTLoss", weight, **paths)}
        return {
            "ce": ce,
            "crd": term(
                "CRDLoss",
                weight,
                teacher_norm_module_path="normalizer",
                student_norm_module_path="normalizer",
                student_empty_module_path="empty",
                input_size=CRD_DIM,
                output_size=len(pair.train),
                num_negative_samples=pair.negatives,
                num_samples=len(pair.train),
                temperature=CRD_TEMPERATURE,
                momentum=CRD_MOMENTUM,
            ),
        }

    def epoch(self, number: int) -> float:
        """Train an epoch."""
        self.losses.clear()
        self.box.pre_epoch_process(epoch=number - 1)
        self.example.train_one_epoch(self.box, self.device, number - 1, 1000)
        self.box.post_epoch_process()
        return float(torch.stack(self.losses).mean())


LOOPS: dict[str, Callable[[Path, Job, Pair], Loop]] = {
    "RepDistiller": RepDistiller,
    "mdistiller": Mdistiller,
    "torchdistill": Torchdistill,
}
