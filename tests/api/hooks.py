"""Tells Schemathesis what the description of the API can't: bounds that move with the clock, and a body of lines."""

import datetime
import json

import schemathesis
from hypothesis import strategies

# JSON Schema has no word for "at most 365 days ahead".
NEAR = strategies.datetimes(
    min_value=datetime.datetime(1990, 1, 1),
    max_value=datetime.datetime.now() + datetime.timedelta(days=360),
    timezones=strategies.just(datetime.timezone.utc),
).map(datetime.datetime.isoformat)

LINES = strategies.lists(strategies.fixed_dictionaries({"payload_text": strategies.text()}), min_size=1, max_size=5)

schemathesis.openapi.format("date-time", NEAR)
schemathesis.openapi.media_type(
    "application/x-ndjson", LINES.map(lambda lines: "".join(json.dumps(line) + "\n" for line in lines).encode())
)
