"""Zip archives as ``torch.save`` and ``numpy.savez`` write them: nothing compressed, and one way to read them.

A zip file may be read in more than one way: a second central directory, a comment that holds a record of its end, bytes
before the first member, a member that is there twice or overlaps another. One reader checks it then, and another one,
in another language, unpacks something else. Here every byte from the central directory on is accounted for, members
are stored as they are, apart from each other, and both of their headers say the same. So what is in an archive is no
larger than the archive (APPNOTE 6.3.10, sections 4.3.7 to 4.3.16).
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END_64_SIGNATURE, _LOCATOR_64_SIGNATURE = b"PK\x06\x06", b"PK\x06\x07"
_LATER, _UTF8 = 0x0008, 0x0800  # flags: sizes stand behind the member too; names are UTF-8
_FULL_16, _FULL_32 = 2**16 - 1, 2**32 - 1


class ArchiveError(ValueError):
    """An archive that two readers could take for two things, or that unpacks to more than it is; one line."""


def stored_members(data: bytes) -> dict[str, memoryview]:
    """The members of an archive, by name; views of its own bytes.

    Raises:
        ArchiveError: it is no such archive, or a member's checksum is wrong.
    """
    try:
        return _members(data)
    except struct.error:
        raise ArchiveError("no archive, or one that was cut short") from None


def _members(data: bytes) -> dict[str, memoryview]:
    count, start, end = _directory(data)
    view, at = memoryview(data), start
    found: dict[str, memoryview] = {}
    named_already, spans, checksums = set[str](), list[tuple[int, int]](), list[int]()
    for _ in range(count):
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, _, flags, method, _, _, checksum, packed, size, *lengths, disk, _, _, header = fields
        name_length, _, comment_length = lengths
        named = at + _CENTRAL.size
        name = bytes(data[named : named + name_length])
        at = named + sum(lengths)
        if signature != _CENTRAL_SIGNATURE or at > end or comment_length or disk:
            raise ArchiveError("its directory is none")
        if method or packed != size or flags & ~(_LATER | _UTF8) or _FULL_32 in (size, header):
            raise ArchiveError("a member is not stored as it is")
        begin = _member_begins(data, header, flags, name, checksum, size)
        if begin + size > start:
            raise ArchiveError("a member lies outside of the members")
        spans.append((header, begin + size))
        checksums.append(checksum)
        text = _text(name)
        if text.lower() in named_already:  # PyTorch's reader takes the letter for its other case
            raise ArchiveError("holds a member twice")
        named_already.add(text.lower())
        found[text] = view[begin : begin + size]
    if at != end:
        raise ArchiveError("more is in its directory than it says")
    spans.sort()
    if not spans:  # a reader that looks for no members takes it for something else
        raise ArchiveError("holds nothing")
    if spans[0][0] or any(after[0] < before[1] for before, after in pairwise(spans)):
        raise ArchiveError("members overlap, or something is before them")
    for (text, member), checksum in zip(found.items(), checksums, strict=True):  # apart from each other: once a byte
        if zlib.crc32(member) != checksum:
            raise ArchiveError(f"{text[:100]!r} is damaged")
    return found


def _directory(data: bytes) -> tuple[int, int, int]:
    """Number of members, and where the directory of the archive begins and ends: right before the end of the file."""
    last = len(data) - _END.size
    if last < 0:
        raise ArchiveError("no archive")
    signature, disk, first, here, count, size, start, comment = _END.unpack_from(data, last)
    if signature != _END_SIGNATURE or disk or first or here != count or comment:
        raise ArchiveError("does not end as an archive does")
    end = last
    locator = last - _LOCATOR_64.size
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR_64_SIGNATURE:
        end = locator - _END_64.size
        if end < 0 or _LOCATOR_64.unpack_from(data, locator)[1:] != (0, end, 1):
            raise ArchiveError("has two ends")
        signature, length, _, _, disk, first, here, long_count, long_size, long_start = _END_64.unpack_from(data, end)
        if signature != _END_64_SIGNATURE or length != _END_64.size - 12 or disk or first or here != long_count:
            raise ArchiveError("has two ends")
        short = (min(long_count, _FULL_16), min(long_size, _FULL_32), min(long_start, _FULL_32))
        if (count, size, start) != short:  # one reader goes by these, another by those
            raise ArchiveError("says two things of its directory")
        count, size, start = long_count, long_size, long_start
    if start + size != end:
        raise ArchiveError("its directory does not stand before its end")
    return count, start, end


def _member_begins(data: bytes, header: int, flags: int, name: bytes, checksum: int, size: int) -> int:
    """Where a member's bytes begin, once its own header says what the directory says."""
    signature, _, own_flags, method, _, _, *sizes, name_length, extra_length = _LOCAL.unpack_from(data, header)
    begin = header + _LOCAL.size + name_length
    stated = [(checksum, size, size), (checksum, _FULL_32, _FULL_32)]  # numpy.savez: in the extra field, not needed
    if flags & _LATER:
        stated.append((0, 0, 0))
    if signature != _LOCAL_SIGNATURE or method or own_flags != flags or tuple(sizes) not in stated:
        raise ArchiveError("a member and the directory do not say the same")
    if data[header + _LOCAL.size : begin] != name:
        raise ArchiveError("a member and the directory have two names for it")
    return int(begin + extra_length)


def _text(name: bytes) -> str:
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise ArchiveError("a member has a name that nothing here writes")
    return text
