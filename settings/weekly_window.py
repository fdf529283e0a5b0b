"""The weekly and daily windows in which RDS works on an instance, as AWS writes them."""

import re

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
"""Minutes of a day."""
WEEK = 7 * DAY
"""Minutes of a week."""
SHORTEST = 30
"""Minutes that RDS wants at least."""
CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
"""Pattern of a time of day."""
DAILY = rf"{CLOCK}-{CLOCK}"
"""Pattern of a window of every day, for example ``01:00-02:00``."""
WEEKLY = rf"({'|'.join(DAYS)}):{CLOCK}-({'|'.join(DAYS)}):{CLOCK}"
"""Pattern of a window of every week, for example ``sun:03:00-sun:04:00``."""


def minutes(window: str) -> tuple[int, int]:
    """Return the minute at which a window begins, in the day or the week, and the minutes that it lasts."""
    begin, end = (_minute(side) for side in window.split("-"))
    return begin, (end - begin) % (WEEK if window[0].isalpha() else DAY)


def overlap(weekly: str, daily: str) -> bool:
    """Return True if a window of every week and one of every day have a minute in common."""
    begin, length = minutes(weekly)
    daily_begin, daily_length = minutes(daily)
    return any((begin + minute - daily_begin) % DAY < daily_length for minute in range(min(length, DAY)))


def _minute(side: str) -> int:
    found = re.fullmatch(r"(?:([a-z]{3}):)?(\d\d):(\d\d)", side)
    if found is None:
        raise ValueError(f"bug: {side} passed the pattern of a window")
    day, hour, minute = found.groups()
    return (DAYS.index(day) * DAY if day else 0) + int(hour) * 60 + int(minute)
