"""Tells from the bytes of a file why decoding stopped: damage before its end, or a missing end."""

import io
import zlib
from contextlib import suppress
from typing import Any, BinaryIO, Literal

import soundfile

from .containers import LongerFile, after_id3, has_all_bytes

# The CRC of Ogg is zlib's with the bits of each byte and of the result in reverse order.
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Extra bytes of a FLAC frame header, by its codes of block size and sampling rate.
FLAC_SIZE_BYTES, FLAC_RATE_BYTES = {6: 1, 7: 2}, {12: 1, 13: 2, 14: 2}
FLAC_TAIL = 1 << 21  # holds the largest frame


def is_damaged(file: BinaryIO, container: str, before: int, view: Any) -> bool:
    """Whether audio follows where a decoder failed or ended early; otherwise the end of the file is missing.

    Args:
        file: The file, binary.
        container: libsndfile's name of its format.
        before: Samples that were decoded before the failure.
        view: Path or object that the decoder read.
    """
    if container == "FLAC":
        step = max(1, flac_block_size(file) // 2)
        file.seek(0)
        # libsndfile continues for a while after a failure; steps shorter than a frame show where it failed.
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(view) as sound:
            sound.seek(before)
            while count := len(sound.read(step)):
                before += count
        return last_flac_sample(file) > before + step
    if isinstance(view, LongerFile):
        return mp3_frames_follow(file, view.position)
    return has_all_bytes(file)


def ogg_state(file: BinaryIO) -> Literal["whole", "cut", "damaged"]:
    """Checks the pages of an Ogg file up to one that is marked as the end of its stream.

    Anything after that which is not a page does not count.
    """
    file.seek(0)
    first = file.read(1 << 16).find(b"OggS")
    file.seek(max(0, first))
    ended = False
    while True:
        offset = file.tell()
        head = file.read(27)
        lacing = file.read(head[26]) if head[:4] == b"OggS" and len(head) == 27 else b""
        if not lacing:
            if ended:
                return "whole"
            file.seek(offset)
            return "damaged" if b"OggS" in file.read()[4:] else "cut"
        body = file.read(sum(lacing))
        if len(lacing) < head[26] or len(body) < sum(lacing):
            return "cut"
        if ogg_checksum(head[:22] + bytes(4) + head[26:] + lacing + body) != int.from_bytes(head[22:26], "little"):
            return "damaged"
        ended = bool(head[5] & 4)


def ogg_checksum(page: bytes) -> int:
    """CRC of an Ogg page whose checksum field is zero."""
    reversed_sum = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_sum:032b}"[::-1], 2)


def last_flac_sample(file: BinaryIO) -> int:
    """Number of the first sample of the last frame whose header is present in a FLAC file; 0 if there is none."""
    block_size, start = flac_block_size(file), file.tell()
    file.seek(max(start, file.seek(0, io.SEEK_END) - FLAC_TAIL))
    tail = file.read()
    offset = len(tail)
    while (offset := tail.rfind(b"\xff", 0, offset)) >= 0:
        number = flac_frame_number(tail[offset : offset + 16])
        if number is not None:
            return (
                number if tail[offset + 1] & 1 else number * block_size
            )  # with variable block sizes, frames are numbered by sample
    return 0


def flac_block_size(file: BinaryIO) -> int:
    """Samples of each FLAC frame but the last, or of the smallest one. The file is left after its STREAMINFO."""
    return int.from_bytes(after_id3(file, 42)[8:10], "big")  # "fLaC", a block header of four bytes, STREAMINFO


def flac_frame_number(head: bytes) -> int | None:
    """The number in a FLAC frame header, None if the bytes are not such a header."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded like UTF-8, in up to seven bytes
    length = max(1, ones)
    end = 4 + length + FLAC_SIZE_BYTES.get(head[2] >> 4, 0) + FLAC_RATE_BYTES.get(head[2] & 15, 0)
    if ones in (1, 8) or end >= len(head) or crc8(head[:end]) != head[end]:
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    return number


def crc8(data: bytes) -> int:
    """CRC of polynomial x^8 + x^2 + x + 1, as in FLAC frame headers."""
    register = 0
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register << 1 ^ (7 if register & 0x80 else 0)) & 0xFF
    return register


def mp3_frames_follow(file: BinaryIO, offset: int) -> bool:
    """Whether MP3 frames, not tags, follow this offset: their first two bytes occur more often than by chance."""
    head = after_id3(file, 2)
    file.seek(offset)
    rest = file.read()
    return rest.count(head) * 4096 > len(rest)


def adts_frames(file: BinaryIO) -> int:
    """Number of frames of a raw AAC (ADTS) file, counted by their first three bytes."""
    head = after_id3(file, 3)
    file.seek(0)
    return file.read().count(head)


__all__ = ["adts_frames", "is_damaged", "last_flac_sample", "ogg_state"]
