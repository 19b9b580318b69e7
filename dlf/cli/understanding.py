"""What goes on inside: `dlf check`, `dlf explain`, `dlf why`."""

from __future__ import annotations
