"""An order for samples that are stored in blocks of which few fit into memory: Parquet's row groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from congruence.core import ranks
from congruence.core.rng import keyed_generator
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.packed import GROUPS, ParquetFiles
from congruence.data.loading.batches import check_divides

_ORDER = 202  # the stream of the order's generator


@dataclass(frozen=True)
class BlockOrder:
    """A sampler: blocks in a random order, and the samples of a few neighbouring blocks mixed.

    The order is a function of (seed, epoch), so that a run goes on in the middle of an epoch as exactly as with the
    default order; each block is read once in an epoch. A batch sees samples of at most `mixed` blocks and the next, so
    store the samples in an order that does not depend on their class.

    Args:
        blocks: the number of each sample's block [N].
        batch_size: of the global batch.
        seed: of the order.
        drop_last: leave out a smaller last batch; else it is truncated to a multiple of the number of ranks.
        mixed: how many blocks are mixed.

    Example:
        >>> order = BlockOrder(torch.tensor([0, 0, 1, 1, 2, 2]), batch_size=2, seed=0, mixed=1)
        >>> sorted(sorted(batch.tolist()) for batch in order.batches(0))
        [[0, 1], [2, 3], [4, 5]]
    """

    blocks: Tensor = field(repr=False)
    batch_size: int
    seed: int = 0
    drop_last: bool = False
    mixed: int = GROUPS

    def __len__(self) -> int:
        return -(-self._used() // self.batch_size)

    def _used(self) -> int:
        check_divides(self.batch_size, ranks.world_size())
        short = len(self.blocks) % self.batch_size
        return len(self.blocks) - (short if self.drop_last else short % ranks.world_size())

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the positions of each global batch of an epoch."""
        generator = keyed_generator(self.seed, _ORDER, epoch)
        positions = self.blocks.sort(stable=True).indices
        sizes = self.blocks.unique(return_counts=True)[1].tolist()
        blocks = positions.split(sizes)
        order = torch.randperm(len(blocks), generator=generator).tolist()
        mixtures = [
            torch.cat([blocks[at] for at in order[i : i + self.mixed]]) for i in range(0, len(order), self.mixed)
        ]
        mixed = [each[torch.randperm(len(each), generator=generator)] for each in mixtures]
        return list(torch.cat(mixed)[: self._used()].split(self.batch_size))


def order_of_blocks(dataset: Any, batch_size: int, *, seed: int, drop_last: bool) -> BlockOrder | None:
    """Return the order for a dataset in Parquet files that do not fit into memory; None for any other."""
    if not isinstance(dataset, FileDataset) or not isinstance(dataset.files, ParquetFiles) or dataset.files.fits():
        return None
    files, rows = dataset.files, dataset._rows(dataset.index).numpy()
    blocks = files.shard[rows].astype("int64") * (int(files.group.max(initial=0)) + 1) + files.group[rows]
    return BlockOrder(torch.from_numpy(blocks), batch_size, seed, drop_last)
