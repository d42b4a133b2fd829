"""The consumer's half of one partition of the local log: how far it goes and which segments it has."""

from __future__ import annotations

from bisect import bisect_right

from trackside.data_plane.data_dir import segment_bases
from trackside.data_plane.ends_table import EndsSlot
from trackside.data_plane.log_recovery import OnDisk

__all__ = ["PartitionView"]


class PartitionView:
    """Shared by all cursors of one partition. ``slots``: where its producer publishes, and perhaps the one before it.

    A partition that no producer of this run has opened yet has no slot; its end is ``end_on_disk``.
    """

    def __init__(self, place: OnDisk) -> None:
        self.place = place
        self.seed = place.seed
        self.slots: list[EndsSlot] = []
        self.end_on_disk = 0
        self.fetches = 0
        self._bases: list[int] = []

    @property
    def end(self) -> int:
        return max([slot.end for slot in self.slots], default=self.end_on_disk)

    @property
    def earliest(self) -> int:
        if self.slots:
            return max(slot.earliest for slot in self.slots)
        if not self._bases:
            self.look_again()
        return self._bases[0] if self._bases else 0

    def look_again(self) -> None:
        """Lists the segments: new ones appear as the producer goes on, old ones go with retention. Raises OSError."""
        self._bases = segment_bases(self.place.folder)

    def base_for(self, offset: int) -> int | None:
        """The segment that has ``offset``; when none does, the first one behind it; None when there is none."""
        if not self._bases:
            self.look_again()
        place = bisect_right(self._bases, offset)
        if place == 0:
            return self._bases[0] if self._bases else None
        return self._bases[place - 1]

    def base_after(self, base: int) -> int | None:
        """The segment that follows ``base``, None when that is the last one."""
        if not self._bases or self._bases[-1] <= base:
            self.look_again()
        place = bisect_right(self._bases, base)
        return self._bases[place] if place < len(self._bases) else None
