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
    """Bytes of sound that the header of a WAV, AIFF, CAF, Wave64 or AU file states, and those there are, or zeros."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = file.read(4)
    if kind == b".snd":
        start, stated = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return stated, max(0, end - start)
    if kind not in CHUNKS:
        return 0, 0
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


def missing_share(file: BinaryIO) -> float:
    """Share of the stated bytes of sound that are not there; 0 where the header leaves their number open."""
    stated, present = sound_bytes(file)
    return 0.0 if stated in UNKNOWN_SIZES else max(0.0, 1 - present / stated)


def is_unfinished(file: BinaryIO) -> bool:
    """Whether there is sound behind a header that states none, as where a recorder was interrupted."""
    stated, present = sound_bytes(file)
    return stated == 0 and present > 0


def ends_ogg_stream(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is whole and carries the flag for the end of its stream."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - (1 << 17)))  # two of the largest pages
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    header = 27 + page[26] if len(page) > 26 else 27
    return len(page) >= header + sum(page[27:header]) and bool(page[5:6] and page[5] & 4)


def after_id3(file: BinaryIO, count: int) -> bytes:
    """The first `count` bytes behind an ID3v2 tag, if there is one."""
    file.seek(0)
    head = file.read(10)
    size = 0
    if head[:3] == b"ID3" and len(head) == 10:
        size = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(size)
    return file.read(count)


def states_mp3_length(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3 file holds the number of frames; else any length is an estimate."""
    return any(tag in after_id3(file, 4096) for tag in (b"Xing", b"Info"))


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
    "LongerFile",
    "UnfinishedWav",
    "ends_ogg_stream",
    "is_unfinished",
    "missing_share",
    "states_mp3_length",
    "torchcodec_format",
]
