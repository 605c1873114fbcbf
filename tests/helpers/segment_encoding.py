"""`encode` and `encode_groups` by segments, for tests of that encoding on prompts that would fit a window."""

from __future__ import annotations

from functools import partial

from longalign.encoding.encode import encode as _encode
from longalign.encoding.encode import encode_groups as _encode_groups

encode = partial(_encode, strategy="clip-cat")
encode_groups = partial(_encode_groups, strategy="clip-cat")
