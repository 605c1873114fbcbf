"""Pictures of long prompts, with a report on each sentence: `longalign generate`."""

from longalign.generation.generate import generate
from longalign.generation.painter import Painter, picture_info
from longalign.generation.result import Generation, Picture, row_json
from longalign.generation.settings import GenerateConfig

__all__ = ["GenerateConfig", "Generation", "Painter", "Picture", "generate", "picture_info", "row_json"]
