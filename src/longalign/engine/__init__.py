"""Many rows, block by block: in this process, or by Ray on many machines."""

from longalign.engine.run import run_work
from longalign.engine.where import Engine
from longalign.engine.work import Work, block_count, block_rows

__all__ = ["Engine", "Work", "block_count", "block_rows", "run_work"]
