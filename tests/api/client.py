"""A story told by the generated Python client: submits, sends a batch, waits, reads a result and tells an outcome.

    client.py BASE_URL CLAIMS_URL      with the generated package on the path
"""

import io
import sys
import urllib.request

from lameduck_client import Client
from lameduck_client.api.handlers import tell_outcome
from lameduck_client.api.jobs import show_job, show_result, submit_batch, submit_job
from lameduck_client.models import Completed, CompletedOutcome, Line, Problem, Working, WorkingOutcome
from lameduck_client.types import File


def main(base, claims):
    client = Client(base_url=base, timeout=60)
    ask = {"client": client, "queue": "default"}

    job = submit_job.sync(**ask, body=File(io.BytesIO(b"hello")), priority=3, timeout="5m", idempotency_key="python-1")
    assert job.repeated is False, job
    again = submit_job.sync(**ask, body=File(io.BytesIO(b"hello")), idempotency_key="python-1")
    assert (again.id, again.repeated) == (job.id, True), again
    assert ended(client, job.id).result == "hello"
    assert show_result.sync(job.id, client=client).payload.read() == b"hello"

    lines = [Line(payload={"width": 80}), Line(payload=None, payload_text="bye", delay="1ms")]
    answers = submit_batch.sync(**ask, body=lines)
    assert len(answers) == 2, answers
    for answer in answers:
        ended(client, answer.id)

    # The suite's endpoint defers a job with this payload, and gives its claim to whoever asks.
    job = submit_job.sync(**ask, body=File(io.BytesIO(b"defer")))
    with urllib.request.urlopen(f"{claims}/{job.id}") as answer:
        claim = answer.read().decode()
    tell = {"client": client, "lameduck_claim": claim}
    assert tell_outcome.sync(job.id, **tell, body=Working(outcome=WorkingOutcome.WORKING, within="30m")).state == "deferred"
    assert tell_outcome.sync(job.id, **tell, body=Completed(outcome=CompletedOutcome.COMPLETED, result="42")).state == "completed"
    assert ended(client, job.id).result == "42"

    refused = submit_job.sync(client=client, queue="nobody", body=File(io.BytesIO(b"x")))
    assert isinstance(refused, Problem) and refused.status == 404, refused


def ended(client, job):
    found = show_job.sync(job, client=client, wait="30s")
    assert found.state == "completed", found
    return found


main(*sys.argv[1:])
