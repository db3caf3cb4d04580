"""How the command `tamis` speaks on stderr when it fails."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..connectors.errors import printable

if TYPE_CHECKING:
    from .progress import Journal


@dataclass
class Speech:
    """How this command speaks on stderr. journal: None until its options are read."""

    journal: Journal | None = None

    def fail(self, line: str) -> None:
        """Tell why the command does not end well."""
        if self.journal is not None:
            self.journal.fail(printable(line))
        else:
            print(f"tamis: {printable(line)}", file=sys.stderr, flush=True)
