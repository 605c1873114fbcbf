"""Repair of pictures: what is right is kept, what a sentence says and the picture does not show is drawn again."""

from longalign.repairing.methods import RepairSettings
from longalign.repairing.repair import repair
from longalign.repairing.result import Attempt, Repaired
from longalign.repairing.verdicts import Verdicts

__all__ = ["Attempt", "RepairSettings", "Repaired", "Verdicts", "repair"]
