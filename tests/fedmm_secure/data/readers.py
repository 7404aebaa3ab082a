"""A slow reader, a line at a time, written from the documentation alone."""

import re
from datetime import UTC, datetime, timedelta, timezone

MISSING = {"", "NULL", "Null", "null", "NaN", "nan", "NAN", "NA", "N/A", "n/a", "<NA>", "#N/A", "\\N"}
MISSING |= {"None", "none", "nil", "NaT", "undefined"}
FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(,|\Z)')
CLOCK = r"[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
ZONE = r" ?(?:(Z|z|UTC)|([+-])(\d\d)(?::?(\d\d))?)"
TIME = re.compile(rf"(\d{{4}})-(\d\d)-(\d\d)(?:{CLOCK}(?:{ZONE})?)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def fields_of(line):
    """The fields of a line, or ``None``."""
    found, at = [], 0
    while True:
        match = FIELD.match(line, at)
        if match is None:
            return None
        found.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        at = match.end()
        if not match[3]:
            return found


def time_of(text):
    """Nanoseconds since 1970, or ``None``."""
    match = TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    sign, hours, minutes = match[9], int(match[10] or 0), int(match[11] or 0)
    if minutes > 59 or hours > 23:
        return None
    zone = timezone(timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
    since = (moment.replace(tzinfo=UTC) - EPOCH) - (zone.utcoffset(None) or timedelta())
    found = (since.days * 86_400 + since.seconds) * 10**9 + int((match[7] or "").ljust(9, "0"))
    return found if abs(found) < 2**63 - 2 * 10**9 else None


def row_of(line, width=4):
    """User, item, rating and time of a line of bytes; ``None`` for a bad one."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    text = text.removesuffix("\r")
    if "\r" in text or "\0" in text:
        return None
    fields = fields_of(text)
    if fields is None or len(fields) != width or any(field.strip() in MISSING for field in fields):
        return None
    user, item, rating, time = fields
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", rating.strip(), re.ASCII):
        return None
    nanoseconds = time_of(time.strip(" \t\n\v\f\r"))
    number = float(rating)
    if nanoseconds is None or number in (float("inf"), float("-inf")):
        return None
    return user, item, number, nanoseconds


def is_blank(line):
    return not line.strip(b" \t\r") and b"\r" not in line.removesuffix(b"\r")
