"""Pictures and offsets of everything that lies in shared memory; the only place where an offset is a number.

Every segment starts with the same static page, written once by its creator and never changed afterwards::

    page 0   +0     magic            u64  stored last: a segment without it is not finished
             +8     layout_version   u32
             +12    kind             u32  SegmentKind
             +16    segment_bytes    u64  size of the whole file
             +24    extent           u64  ring: data bytes; counters: rows; liveness: 0
             +32    options          u32  ring: RingOption bits
             +36    name_bytes       u32
             +40    crc              u32  over all above but the magic, and the name
             +64    name             utf-8, at most NAME_BYTES_MAX

All numbers are in the byte order of the machine; the magic of a machine with the other order does not match.
A *cell* is an aligned u64 that one process writes; it is read and written through ``memoryview.cast("Q")`` only,
which is one load or store instruction. (``struct.pack`` into a buffer zeroes its target first: a reader
would see positions of 0.) Cells of different writers lie CELL_STRIDE_BYTES apart, two cache lines, because processors
fetch lines in pairs.

A ring::

    page 0   static page, name = ring id
    page 1   +0     publish          writer   end of the last published record
             +128   commit_wanted    writer   0, or the commit position the writer waits for
             +256   records, packets, bytes, pads, full      writer, statistics
             +512   commit           reader   everything below need not be kept
             +640   read             reader   everything below was taken
             +768   suspect          reader   0, or 1 + the position of a record that does not hold
    page 2   data, ``extent`` bytes; position p lies at p modulo extent

    commit <= read <= publish <= commit + capacity, all multiples of 64

A record in the data of a ring, 64-byte aligned, never crossing the end (a PAD record fills what remains)::

    +0   position   u64  where the record starts: tells it from one of an earlier lap
    +8   length     u32  of the body, bytes
    +12  count      u32  packets in it, as the writer says
    +16  kind       u16  the writer's; PAD_KIND is the ring's own
    +18  reserved   u16
    +20  body_crc   u32  of the body, when the ring was created with RingOption.BODY_CRC, else 0
    +24  stamp_ns   u64  publish time, CLOCK_MONOTONIC
    +32  crc        u32  over +0..+32, seeded with the position
    +36  reserved
    +64  body

Liveness of a process slot::

    page 0   static page, name = process name
    page 1   +0     epoch, pid, restarts, started_ns, last_exit      supervisor
             +128   state, heartbeat_ns, work_ns, idle_ns            worker
             +256   sleeping                                         worker; read by everybody who may ring
             +384   reason_bytes, last_words_bytes                   worker; lengths of the texts, stored last
    page 2   reason      utf-8
    page 3   last words  utf-8

A table of counters, for ``extent`` rows::

    page 0        static page, name = process name
    +4096         metric directory, METRIC_ROWS x METRIC_ENTRY_BYTES
    +...          row directory, rows x ROW_ENTRY_BYTES
    +...          cells, rows x u64

An entry of either directory::

    +0    state   u64  stored last; metric: 0 free, 1 used; row: 0 free, else two halves
                       low   1 + index of its metric, or ROW_RELEASED
                       high  how often the row was given anew
    +8    length  u64  of the text, bytes
    +16   text    metric: JSON [name, kind, labels, help]; row: JSON {label: value}
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np

LAYOUT_VERSION = 1
MAGIC = int.from_bytes(b"TRACKSHM", "little")
PAGE_BYTES = 4096
CELL_BYTES = 8
CELL_STRIDE_BYTES = 128
_STRIDE_CELLS = CELL_STRIDE_BYTES // CELL_BYTES


class SegmentKind(IntEnum):
    RING = 1
    LIVENESS = 2
    COUNTERS = 3
    ENDS = 4  # the layout of its pages is data_plane/ends_table.py


# --- fields --------------------------------------------------------------------------------------------------------

Fields = tuple[tuple[str, str], ...]
_STRUCT_CODES = {"u2": "H", "u4": "I", "u8": "Q"}


def struct_of(fields: Fields) -> Struct:
    """For the running code: packs to bytes of its own, never into shared memory."""
    return Struct("=" + "".join(_STRUCT_CODES[code] for _, code in fields))


def dtype_of(fields: Fields, itemsize: int) -> np.dtype[np.void]:
    """For tools that look from outside: a numpy structure of ``itemsize`` bytes over the same fields.

    Imports numpy when it is called, so that processes which only run rings and cells start without it.
    """
    import numpy

    rest = itemsize - struct_of(fields).size
    return numpy.dtype([(name, "=" + code) for name, code in fields] + [("rest", f"V{rest}")])


# --- the static page -----------------------------------------------------------------------------------------------

STATIC_FIELDS: Fields = (
    ("magic", "u8"),
    ("layout_version", "u4"),
    ("kind", "u4"),
    ("segment_bytes", "u8"),
    ("extent", "u8"),
    ("options", "u4"),
    ("name_bytes", "u4"),
    ("crc", "u4"),
)
NAME_OFFSET = 64
NAME_BYTES_MAX = PAGE_BYTES - NAME_OFFSET
_STATIC = struct_of(STATIC_FIELDS)
assert _STATIC.size <= NAME_OFFSET


class StaticPage(NamedTuple):
    """What the first page of a segment says about it."""

    kind: int
    segment_bytes: int
    extent: int
    options: int
    name: str

    def encode(self) -> bytes:
        """The page up to the end of its name, without the magic. Raises ValueError for a name that is too long."""
        name = self.name.encode()
        if len(name) > NAME_BYTES_MAX:
            raise ValueError(f"name of a segment: {len(name)} bytes, at most {NAME_BYTES_MAX}")
        fields = (LAYOUT_VERSION, self.kind, self.segment_bytes, self.extent, self.options, len(name))
        return _STATIC.pack(0, *fields, _static_crc(fields, name)).ljust(NAME_OFFSET, b"\0") + name

    @staticmethod
    def decode(page: bytes) -> StaticPage:
        """Takes a page apart. Raises ValueError that says what does not hold; never anything else."""
        if len(page) < PAGE_BYTES:
            raise ValueError(f"it has {len(page)} bytes, less than one page")
        magic, *fields, crc = _STATIC.unpack_from(page)
        version, kind, segment_bytes, extent, options, name_bytes = fields
        if magic != MAGIC:
            raise ValueError("it is no segment of Trackside, or one that was never finished")
        if version != LAYOUT_VERSION:
            raise ValueError(f"it has layout version {version}, this program reads version {LAYOUT_VERSION}")
        name = page[NAME_OFFSET : NAME_OFFSET + name_bytes]
        if crc != _static_crc(fields, name):
            raise ValueError("its first page is damaged (CRC)")
        return StaticPage(kind, segment_bytes, extent, options, name.decode(errors="replace"))


def _static_crc(fields: Sequence[int], name: bytes) -> int:
    return crc32(name, crc32(_STATIC.pack(0, *fields, 0)))


# --- rings ---------------------------------------------------------------------------------------------------------


class RingOption(IntFlag):
    NONE = 0
    BODY_CRC = 1


class RingCell(IntEnum):
    """Index of each u64 cell of a ring, counted from the start of the segment."""

    PUBLISH = PAGE_BYTES // CELL_BYTES
    COMMIT_WANTED = PUBLISH + _STRIDE_CELLS
    RECORDS = COMMIT_WANTED + _STRIDE_CELLS
    PACKETS = RECORDS + 1
    BYTES = RECORDS + 2
    PADS = RECORDS + 3
    FULL = RECORDS + 4
    COMMIT = RECORDS + 2 * _STRIDE_CELLS
    READ = COMMIT + _STRIDE_CELLS
    SUSPECT = READ + _STRIDE_CELLS


RING_DATA_OFFSET = 2 * PAGE_BYTES
RING_CAPACITY_BYTES_MIN = 256
RECORD_ALIGN_BYTES = 64
RECORD_HEADER_BYTES = 64
RECORD_CRC_OFFSET = 32
PAD_KIND = 0xFFFF

RECORD_FIELDS: Fields = (
    ("position", "u8"),
    ("length", "u4"),
    ("count", "u4"),
    ("kind", "u2"),
    ("reserved", "u2"),
    ("body_crc", "u4"),
    ("stamp_ns", "u8"),
)
"""The part of a record's header that its CRC covers; the CRC follows it."""

RECORD_STRUCT = struct_of(RECORD_FIELDS)
assert RECORD_STRUCT.size == RECORD_CRC_OFFSET
assert RECORD_HEADER_BYTES == RECORD_ALIGN_BYTES, "a PAD is a header at least, and what is left is a multiple of both"


# --- liveness ------------------------------------------------------------------------------------------------------


class LivenessCell(IntEnum):
    EPOCH = PAGE_BYTES // CELL_BYTES
    PID = EPOCH + 1
    RESTARTS = EPOCH + 2
    STARTED_NS = EPOCH + 3
    LAST_EXIT = EPOCH + 4
    STATE = EPOCH + _STRIDE_CELLS
    HEARTBEAT_NS = STATE + 1
    WORK_NS = STATE + 2
    IDLE_NS = STATE + 3
    SLEEPING = STATE + _STRIDE_CELLS
    REASON_BYTES = SLEEPING + _STRIDE_CELLS
    LAST_WORDS_BYTES = REASON_BYTES + 1


REASON_OFFSET = 2 * PAGE_BYTES
LAST_WORDS_OFFSET = 3 * PAGE_BYTES
TEXT_BYTES_MAX = PAGE_BYTES
LIVENESS_BYTES = 4 * PAGE_BYTES


# --- counters ------------------------------------------------------------------------------------------------------

METRIC_ROWS = 128
METRIC_ENTRY_BYTES = 512
ROW_ENTRY_BYTES = 384
ENTRY_TEXT_OFFSET = 16
METRIC_TEXT_BYTES_MAX = METRIC_ENTRY_BYTES - ENTRY_TEXT_OFFSET
LABELS_BYTES_MAX = ROW_ENTRY_BYTES - ENTRY_TEXT_OFFSET
METRICS_OFFSET = PAGE_BYTES
ROWS_OFFSET = METRICS_OFFSET + METRIC_ROWS * METRIC_ENTRY_BYTES
ROW_METRIC_MASK = 0xFFFFFFFF
ROW_RELEASED = ROW_METRIC_MASK
ROW_GENERATION = ROW_METRIC_MASK + 1
assert METRIC_ROWS < ROW_RELEASED


class CountersLayout(NamedTuple):
    """Where things are in a table of counters with ``rows`` rows."""

    rows: int

    @property
    def cells_offset(self) -> int:
        return ROWS_OFFSET + self.rows * ROW_ENTRY_BYTES

    @property
    def segment_bytes(self) -> int:
        return self.cells_offset + self.rows * CELL_BYTES


assert METRIC_ENTRY_BYTES % CELL_BYTES == ROW_ENTRY_BYTES % CELL_BYTES == 0
