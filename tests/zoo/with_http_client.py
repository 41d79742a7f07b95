"""Python's own http.client: a connection for each worker, opened again when an answer says close."""

import http.client
import socket
import sys
import urllib.parse

import crew

url = urllib.parse.urlsplit(sys.argv[1])


def client():
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)

    def post(body):
        try:
            if connection.sock is None:
                connection.connect()
                # Head and body are two writes; by Nagle's algorithm the second would wait for an ACK.
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.request("POST", url.path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except Exception:
            connection.close()
            raise

    return post


crew.run(client)
