"""requests: a session for each worker. Its adapter's default is not to retry."""

import sys

import requests

import crew


def client():
    session = requests.Session()
    session.trust_env = False

    def post(body):
        answer = session.post(sys.argv[1], data=body, timeout=20)
        return answer.status_code, answer.content

    return post


crew.run(client)
