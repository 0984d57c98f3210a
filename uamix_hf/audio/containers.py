"""What the bytes of a sound file say about its length and format where libsndfile keeps it to itself."""

import io
import struct
from typing import Any, BinaryIO

# Container: layout of a chunk's header, where the first chunk begins, and to what its chunks are aligned.
CHUNKS = {
    b"RIFF": ("<4sI", 12, 2),
    b"RF64": ("<4sI", 12, 2),
    b"RIFX": (">4sI", 12, 2),
    b"FORM": (">4sI", 12, 2),
    b"caff": (">4sQ", 8, 1),
    b"riff": ("<4s12xQ", 40, 8),  # Sony's Wave64, whose sizes count the chunk's header too
}
# Stated by what cannot go back to the header at the end: FFmpeg, SoX, arecord, and whatever was interrupted (0).
UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
ID3V1_BYTES = 128
# What torchcodec reads and libsndfile does not.
MP4, AAC, MATROSKA = "MP4 (m4a)", "AAC", "Matroska (webm)"


def sound_bytes(file: BinaryIO) -> tuple[int, int]:
    """Bytes of sound that the header of a WAV, AIFF, CAF, Wave64 or AU file states, and those there are, or zeros; all
    bytes of an MP4 or MP3 file."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = file.read(4)
    if file.read(4) == b"ftyp":
        return mp4_bytes(file, end), end
    file.seek(4)
    if kind == b".snd":
        start, stated = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return stated, max(0, end - start)
    if kind not in CHUNKS:
        return mp3_bytes(file), max(0, end - id3_bytes(file))
    layout, place, alignment = CHUNKS[kind]
    length, large = struct.calcsize(layout), 0
    while place + length <= end:
        file.seek(place)
        name, size = struct.unpack(layout, file.read(length))
        size -= length if kind == b"riff" else 0
        if name == b"ds64":  # the true size of an RF64's data
            large = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        place += length
        if name in (b"data", b"SSND"):
            return large or size, end - place
        place += max(0, size + -size % alignment)
    return 0, 0


def mp4_bytes(file: BinaryIO, end: int) -> int:
    """Where the last box of an MP4 file ends, or should; 0 where that is left open."""
    place = 0
    while place + 8 <= end:
        file.seek(place)
        size, large = struct.unpack(">I4xQ", file.read(16).ljust(16, b"\0"))
        size = large if size == 1 else size
        if size < 8:
            return 0
        place += size
    return place


def missing_share(file: BinaryIO) -> float:
    """Share of the stated bytes of sound that are not there; 0 where the header leaves their number open."""
    stated, present = sound_bytes(file)
    return 0.0 if stated in UNKNOWN_SIZES else max(0.0, 1 - present / stated)


def has_all_bytes(file: BinaryIO) -> bool:
    """Whether all bytes of sound are there that are stated; False where none are."""
    return sound_bytes(file)[0] not in UNKNOWN_SIZES and missing_share(file) == 0


def is_unfinished(file: BinaryIO) -> bool:
    """Whether there is sound behind a header that states none, as where a recorder was interrupted."""
    stated, present = sound_bytes(file)
    return stated == 0 and present > 0


def after_id3(file: BinaryIO, count: int) -> bytes:
    """The first `count` bytes behind an ID3v2 tag, if there is one."""
    file.seek(id3_bytes(file))
    return file.read(count)


def id3_bytes(file: BinaryIO) -> int:
    """Length of the ID3v2 tag that a file begins with."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def mp3_bytes(file: BinaryIO) -> int:
    """Number of bytes that the first frame of an MP3 file states along with that of frames; 0 where it states none, so
    that any length is an estimate."""
    head = after_id3(file, 4096)
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if not head.startswith(b"\xff") or place < 0:
        return 0
    flags, _, size = struct.unpack(">3I", head[place + 4 : place + 16].ljust(12, b"\0"))
    return size if flags & 3 == 3 else 0


def torchcodec_format(file: BinaryIO) -> str | None:
    """Name of a format that libsndfile does not know and torchcodec reads, None for anything else."""
    head = after_id3(file, 8)
    if head[4:] == b"ftyp":
        return MP4
    if head[:1] == b"\xff" and head[1:] and head[1] & 0xF6 == 0xF0:
        return AAC
    return MATROSKA if head[:4] == b"\x1a\x45\xdf\xa3" else None


class FileView(io.RawIOBase):
    """A file as libsndfile is to see it."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.length = file.seek(0, io.SEEK_END)
        self.position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.length)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def data(self, count: int) -> bytes:
        self.file.seek(self.position)
        return self.file.read(count)

    def readinto(self, buffer: Any) -> int:
        data = self.data(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class LongerFile(FileView):
    """
    A file that claims to be 64 times as long as it is.

    libsndfile stops reading an MP3 file without a stated length where it guesses the end to be, from the bit rate of
    the first frame and the size of the file: with a variable bit rate that cuts most of it off. A guess beyond the
    true end cuts nothing. 64 is more than the ratio of the highest bit rate to the lowest.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.length *= 64

    def data(self, count: int) -> bytes:
        # A tag at the end is looked for before anything else; zeros mean none.
        return bytes(count) if self.position >= self.length - ID3V1_BYTES else super().data(count)


class UnfinishedWav(FileView):
    """A WAV file with the size of RIFF by which libsndfile knows that the header was never finished."""

    def data(self, count: int) -> bytes:
        start, data = self.position, bytearray(super().data(count))
        for place, byte in enumerate(struct.pack("<I", 8), 4):
            if start <= place < start + len(data):
                data[place - start] = byte
        return bytes(data)


__all__ = [
    "AAC",
    "MATROSKA",
    "MP4",
    "LongerFile",
    "UnfinishedWav",
    "after_id3",
    "has_all_bytes",
    "is_unfinished",
    "missing_share",
    "mp3_bytes",
    "torchcodec_format",
]
