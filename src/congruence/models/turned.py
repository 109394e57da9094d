"""The layouts of one model's tapped layers, and their tensors permuted to the order that methods see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from congruence.models.layers import LayerError, LayerPath
from congruence.models.layouts import FEWEST, MOST, canonical, canonical_shape, order
from congruence.models.observed import Observed


class Turned:
    """Which layout each tapped layer has, as its model's layers tell or a term names, and the shape it is seen in.

    Args:
        name: of the model, for sentences.

    Attributes:
        layouts: by path; "" if nothing tells.
        shapes: by path, as methods see them.
        observed: what the dry run showed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.layouts: dict[str, str] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.observed: Observed | None = None

    def add(
        self, shapes: Mapping[str, torch.Size], where: Mapping[str, tuple[LayerPath, str]], named: str | None
    ) -> None:
        """Note layers by their shapes as tapped, and where each is: its path and its canonical layer."""
        for text, shape in shapes.items() if named is not None else ():
            self._check_dimensions(text, shape, named or "")
        for text, shape in shapes.items():
            told = self.observed.layout(*where[text], shape) if named is None and self.observed else named
            self.layouts[text] = told or ""
            self.shapes[text] = canonical_shape(shape, told) if told else shape

    def name_again(self, texts: Iterable[str], layout: str | None) -> None:
        """Name the layout of layers that are read already, for another term."""
        for text in texts:
            known = self.layouts[text]
            if layout is None or known == layout:
                continue
            self._check_dimensions(text, self.shapes[text], layout)
            if known and order(known) != order(layout):
                raise LayerError(
                    f"The {self.name}'s layer '{text}' is read as '{known}' by one term and as '{layout}' by another: "
                    "name one layout in both."
                )
            if not known:
                self.layouts[text], self.shapes[text] = layout, canonical_shape(self.shapes[text], layout)

    def _check_dimensions(self, text: str, shape: torch.Size, layout: str) -> None:
        if len(shape) != len(layout):
            raise LayerError(
                f"The {self.name}'s layer '{text}' gives {list(shape)}, which the layout '{layout}' does not fit: name "
                "one letter a dimension (for each model or role its own, as in layout={'student': 'BCT'})."
            )

    def turn(self, text: str, value: Tensor) -> Tensor:
        """Return a tapped tensor as methods see it."""
        layout = self.layouts[text]
        if not layout:
            return value
        if value.dim() != len(layout):
            raise LayerError(
                f"The {self.name}'s layer '{text}' gives {list(value.shape)} for this batch, and gave a tensor of "
                f"{len(layout)} dimensions ('{layout}') for the example."
            )
        return canonical(value, layout)

    def layout(self, path: str, way: str) -> str:
        """Return the layout of a layer; where nothing tells, raise with what its user can do."""
        layout, shape = self.layouts[path], self.shapes[path]
        if not layout and FEWEST <= len(shape) <= MOST:
            raise ValueError(
                f"The {self.name}'s layer '{path}' gives {list(shape)}, and the layers around it do not tell which "
                f"dimension is which: {way}."
            )
        return layout

    def check_own_mask(self, path: str, what: str, way: str = "") -> None:
        """Refuse a layer's tokens where the model makes a padding mask for them itself, which nobody else can read.

        Raises:
            ValueError: naming the layer that takes the mask.
        """
        shape = self.shapes[path]
        for layer, name, of_mask in self.observed.padding if self.observed and len(shape) == 3 else ():
            if of_mask == shape[:2]:
                raise ValueError(
                    f"{what}: the {self.name}'s layer '{path}' gives tokens {list(shape)}, whose padding its layer "
                    f"'{layer}' is told by a `{name}` that the inputs do not hold: read a layer that gives one row a "
                    f"sample, or let the model take the mask as an input{way}."
                )
