"""Reads length and format from the bytes of an audio file where libsndfile does not report them."""

import io
import struct
from typing import Any, BinaryIO

# Container: layout of a chunk's header, offset of the first chunk, and alignment of chunks.
CHUNKS = {
    b"RIFF": ("<4sI", 12, 2),
    b"RF64": ("<4sI", 12, 2),
    b"RIFX": (">4sI", 12, 2),
    b"FORM": (">4sI", 12, 2),
    b"caff": (">4sQ", 8, 1),
    b"riff": ("<4s12xQ", 40, 8),  # Sony's Wave64, whose sizes count the chunk's header too
}
# Sizes stated by writers that cannot return to the header: FFmpeg, SoX, arecord, and interrupted recorders (0).
UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
ID3V1_BYTES = 128
# Formats that torchcodec reads and libsndfile does not.
MP4, AAC, MATROSKA = "MP4 (m4a)", "AAC", "Matroska (webm)"


def audio_bytes(file: BinaryIO) -> tuple[int, int]:
    """Bytes of audio that a file's header states, and those that are present.

    Of a WAV, AIFF, CAF, Wave64 or AU file its audio data, of an MP4 or MP3 file all its bytes, of others zeros.
    """
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
    layout, offset, alignment = CHUNKS[kind]
    length, large = struct.calcsize(layout), 0
    while offset + length <= end:
        file.seek(offset)
        name, size = struct.unpack(layout, file.read(length))
        size -= length if kind == b"riff" else 0
        if name == b"ds64":  # the true size of an RF64's data
            large = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        offset += length
        if name in (b"data", b"SSND"):
            return large or size, end - offset
        offset += max(0, size + -size % alignment)
    return 0, 0


def mp4_bytes(file: BinaryIO, end: int) -> int:
    """Offset at which the last box of an MP4 file ends or should end; 0 if it does not state its size."""
    offset = 0
    while offset + 8 <= end:
        file.seek(offset)
        size, large = struct.unpack(">I4xQ", file.read(16).ljust(16, b"\0"))
        size = large if size == 1 else size
        if size < 8:
            return 0
        offset += size
    return offset


def missing_fraction(file: BinaryIO) -> float:
    """Fraction of the stated bytes of audio that are missing; 0 if the header does not state their number."""
    stated, present = audio_bytes(file)
    return 0.0 if stated in UNKNOWN_SIZES else max(0.0, 1 - present / stated)


def has_all_bytes(file: BinaryIO) -> bool:
    """Whether all stated bytes of audio are present; False if none are stated."""
    return audio_bytes(file)[0] not in UNKNOWN_SIZES and missing_fraction(file) == 0


def is_unfinished(file: BinaryIO) -> bool:
    """Whether audio follows a header that states none, as after a recorder was interrupted."""
    stated, present = audio_bytes(file)
    return stated == 0 and present > 0


def after_id3(file: BinaryIO, count: int) -> bytes:
    """The first `count` bytes after an ID3v2 tag, if there is one."""
    file.seek(id3_bytes(file))
    return file.read(count)


def id3_bytes(file: BinaryIO) -> int:
    """Length of the ID3v2 tag at the beginning of a file, 0 without one."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def mp3_bytes(file: BinaryIO) -> int:
    """Number of bytes that the first frame of an MP3 file states along with the number of frames.

    0 if it states none; any length is then an estimate.
    """
    head = after_id3(file, 4096)
    offset = max(head.find(b"Xing"), head.find(b"Info"))
    if not head.startswith(b"\xff") or offset < 0:
        return 0
    flags, _, size = struct.unpack(">3I", head[offset + 4 : offset + 16].ljust(12, b"\0"))
    return size if flags & 3 == 3 else 0


def torchcodec_format(file: BinaryIO) -> str | None:
    """Name of a format that torchcodec reads and libsndfile does not, None for any other."""
    head = after_id3(file, 8)
    if head[4:] == b"ftyp":
        return MP4
    if head[:1] == b"\xff" and head[1:] and head[1] & 0xF6 == 0xF0:
        return AAC
    return MATROSKA if head[:4] == b"\x1a\x45\xdf\xa3" else None


class FileView(io.RawIOBase):
    """A file with changes that libsndfile sees."""

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
    """A file that appears 64 times as long as it is.

    libsndfile estimates the length of an MP3 file without a stated length from the bit rate of the first frame and the
    size of the file, and stops there. With a variable bit rate this loses most of the file; an estimate beyond the true
    end loses nothing. 64 is more than the ratio of the highest to the lowest bit rate.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.length *= 64

    def data(self, count: int) -> bytes:
        # libsndfile first looks for a tag at the end; zeros mean none.
        return bytes(count) if self.position >= self.length - ID3V1_BYTES else super().data(count)


class UnfinishedWav(FileView):
    """A WAV file with the RIFF size by which libsndfile detects an unfinished header."""

    def data(self, count: int) -> bytes:
        start, data = self.position, bytearray(super().data(count))
        for offset, byte in enumerate(struct.pack("<I", 8), 4):
            if start <= offset < start + len(data):
                data[offset - start] = byte
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
    "missing_fraction",
    "mp3_bytes",
    "torchcodec_format",
]
