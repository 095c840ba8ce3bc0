"""One way to list the files of any data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Listing:
    """The files below `folder` whose names end in one of `endings`.

    depth: folders between, None for any number. hidden: also names that begin with a dot. links: follow links
    to folders. any_case: "JPG" counts as "jpg".
    """

    folder: Path
    endings: tuple[str, ...]
    depth: int | None = None
    hidden: bool = True
    links: bool = True
    any_case: bool = False

    def names(self) -> list[str]:
        """Paths below the folder, in the order of their parts; links to nothing included."""
        found: list[tuple[str, ...]] = []
        for place, folders, files in os.walk(self.folder, followlinks=self.links):
            above = Path(place).relative_to(self.folder).parts
            found += [(*above, name) for name in files if self._is_listed(name, len(above))]
            if len(above) == self.depth:
                folders.clear()
            folders[:] = [name for name in folders if self.hidden or not name.startswith(".")]
        return ["/".join(parts) for parts in sorted(found)]

    def paths(self) -> list[Path]:
        """The same as paths that begin with the folder."""
        return [self.folder / name for name in self.names()]

    def _is_listed(self, name: str, depth: int) -> bool:
        if (name.startswith(".") and not self.hidden) or self.depth not in (None, depth):
            return False
        return (name.lower() if self.any_case else name).endswith(self.endings)
