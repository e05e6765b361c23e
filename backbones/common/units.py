"""Numbers of bytes and seconds → text for people, the same in every locale."""

from __future__ import annotations


def in_bytes(count: float) -> str:
    """A number of bytes → text in a suitable unit.

    >>> in_bytes(999), in_bytes(176_000_000)
    ('999 bytes', '176.0 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """A duration as hours, minutes and seconds, preceded by days if there are any.

    >>> [format_duration(s) for s in (75, 4000, 200_000)]
    ['1:15', '1:06:40', '2d 7:33:20']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{rest:02d}" if days or hours else f"{minutes}:{rest:02d}"
    return f"{days}d {clock}" if days else clock
