"""Print the sessions of one exchange as JSON: ``python -P calendar_days.py XNYS 2026-01-01 2027-01-01``.

A program of its own, because the library costs 114 MB and 1.4 s of CPU that must not stay in the recorder's process.
Output: ``{"zone": "America/New_York", "sessions": [[DAY, open_ns, close_ns], …]}``, ns UTC, lunch breaks inside.
"""

import json
import sys

import exchange_calendars


def main(name: str, start: str, end: str) -> None:
    try:
        calendar = exchange_calendars.get_calendar(name, start=start, end=end)
    except ValueError:  # some exchanges publish no holidays that far ahead: as far as the library knows
        calendar = exchange_calendars.get_calendar(name, start=start)
    sessions = [
        [day.date().isoformat(), int(opens.as_unit("ns").value), int(closes.as_unit("ns").value)]
        for day, opens, closes in zip(calendar.sessions, calendar.opens, calendar.closes, strict=True)
    ]
    json.dump({"zone": str(calendar.tz), "sessions": sessions}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
