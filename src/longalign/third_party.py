"""Warnings of other libraries that nobody who uses this package can act on."""

from __future__ import annotations

import logging

# When diffusers is imported, transformers 5 says for two image processors that it takes their other form, since
# torchvision is absent. Both forms give the same pixels.
_NEEDLESS = {"transformers.utils.import_utils": "requires torchvision (not installed); falling back to"}


class _Without(logging.Filter):
    """Drops the messages that contain a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def silence_needless_warnings() -> None:
    """Drops these warnings at their source, and no other message of the same loggers. Imports none of the libraries."""
    for name, text in _NEEDLESS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Without) and f.text == text for f in logger.filters):
            logger.addFilter(_Without(text))
