"""urllib3: one pool for all workers, retries off."""

import sys

import urllib3

import crew

pool = urllib3.PoolManager(maxsize=crew.WORKERS, retries=False, timeout=20)


def post(body):
    answer = pool.request("POST", sys.argv[1], body=body)
    return answer.status, answer.data


crew.run(lambda: post)
