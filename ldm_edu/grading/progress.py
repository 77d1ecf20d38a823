"""What a learner has done so far: one small JSON file beside the exercises."""

import json
from dataclasses import dataclass
from pathlib import Path

from ldm_edu.files import SaveError, atomic_write_text
from ldm_edu.grading.item import Item

FILE = ".ldm-edu-progress.json"


@dataclass(frozen=True)
class Progress:
    """Read and written at every call: several notebooks may be open at once."""

    path: Path

    @classmethod
    def at(cls, folder: Path) -> "Progress":
        """The progress kept in a folder, the one that the exercise notebooks lie in."""
        return cls(folder / FILE)

    def read(self) -> dict[str, dict[str, int]]:
        """For each item that was touched: ``passed`` (0 or 1), ``tries`` and ``hints`` opened. Damaged: empty."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(k): {str(n): int(x) for n, x in v.items()} for k, v in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def record(self, item: Item, *, passed: bool) -> None:
        """One more try."""
        entry = self.read().get(item.id, {})
        self._write(item, entry | {"tries": entry.get("tries", 0) + 1, "passed": int(passed)})

    def open_hint(self, item: Item) -> int:
        """Open one more hint; returns how many are open."""
        entry = self.read().get(item.id, {})
        opened = min(entry.get("hints", 0) + 1, len(item.hints))
        self._write(item, entry | {"hints": opened})
        return opened

    def _write(self, item: Item, entry: dict[str, int]) -> None:
        values = self.read() | {item.id: entry}
        try:
            atomic_write_text(self.path, json.dumps(dict(sorted(values.items())), indent=1) + "\n")
        except SaveError:
            return  # a read-only folder: the check itself is worth more than its record
