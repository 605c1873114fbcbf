"""Repair of pictures: what is right is kept, what a sentence says and the picture does not show is drawn again."""

from longalign.repair.methods import RepairSettings
from longalign.repair.repair import repair
from longalign.repair.result import Attempt, Repaired
from longalign.repair.verdicts import Verdicts

__all__ = ["Attempt", "RepairSettings", "Repaired", "Verdicts", "repair"]
