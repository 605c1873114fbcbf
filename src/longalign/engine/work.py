"""What is done with the rows of a data set, in numbered blocks.

The result of a block is called its part. A part is written whole, and it depends on nothing but the block's rows and
the settings. So a killed run goes on with the missing blocks, to the same bytes, and any process of any machine can do
any block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Work(ABC):
    """What is done with blocks of rows.

    An object of it is pickled before `open` is called, and sent to other processes: it holds settings and paths,
    neither models nor open files. After `open` it may hold anything.
    """

    @property
    @abstractmethod
    def blocks(self) -> int:
        """How many blocks there are."""

    @abstractmethod
    def has(self, block: int) -> bool:
        """Whether the part of a block is there, whole. Called by the driver, and again by the worker.

        Args:
            block: its number.
        """

    def open(self) -> None:  # noqa: B027 - not every work has something to open
        """Loads models and opens sources. Called once in each process, before the first block."""

    @abstractmethod
    def do(self, block: int) -> int:
        """Computes a block and writes its part.

        Args:
            block: its number.

        Returns:
            How many rows it has.

        Raises:
            LongalignError: the block cannot be done, and the run ends. A row that cannot be used is listed in the part.
        """


def block_count(size: int, total: int) -> int:
    """How many blocks some rows make.

    Args:
        size: rows of a block.
        total: rows of all.
    """
    return -(-total // size)


def block_rows(block: int, size: int, total: int) -> range:
    """The numbers of the rows of a block.

    Args:
        block: its number.
        size: rows of a block; the last one may have fewer.
        total: rows of all.
    """
    return range(block * size, min((block + 1) * size, total))
