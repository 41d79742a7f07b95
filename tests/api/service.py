"""The real program, a real PostgreSQL, and an endpoint that does the jobs."""

import contextlib
import glob
import http.server
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading


class Endpoint(contextlib.AbstractContextManager):
    """Answers each job with its payload; defers one that says `defer`, and gives its claim to whoever asks."""

    def __init__(self):
        claims, told = {}, threading.Condition()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with told:
                    claims[self.headers["lameduck-job-id"]] = self.headers["lameduck-claim"]
                    told.notify_all()
                self.answer(202 if body == b"defer" else 200, body)

            def do_GET(self):
                job = self.path.rpartition("/")[2]
                with told:
                    known = told.wait_for(lambda: job in claims, timeout=30)
                self.answer(200 if known else 404, claims.get(job, "").encode())

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        base = f"http://127.0.0.1:{self.server.server_port}"
        self.jobs, self.claims = f"{base}/jobs", f"{base}/claims"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Program(contextlib.AbstractContextManager):
    """`lameduck serve` with these arguments; entered, it is its address."""

    def __init__(self, binary, arguments):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--grace", "3s", *arguments]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.log = []

    def __enter__(self):
        address = None
        for line in self.child.stderr:
            self.log.append(line)
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") == "listening" and entry.get("setting") == "listen":
                address = entry["address"]
            if entry.get("phase") == "serving":
                break
        else:
            raise SystemExit("the program did not start:\n" + "".join(self.log))
        # Read on, or its next line blocks it.
        self.reader = threading.Thread(target=lambda: self.log.extend(self.child.stderr))
        self.reader.start()
        return f"http://{address}"

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGTERM)
        status = self.child.wait(timeout=30)
        self.reader.join()
        panics = [line for line in self.log if "panicked" in line]
        if status or panics:
            raise SystemExit(f"the program ended with {status}:\n" + "".join(panics or self.log[-20:]))


class Postgres(contextlib.AbstractContextManager):
    """A server in memory for this run; entered, it is the URL of its database."""

    def __init__(self):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        self.programs = pathlib.Path(programs[-1] if programs else os.path.dirname(shutil.which("initdb") or ""))
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pg-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.user = {}
        if os.getuid() == 0:
            # It refuses to be root.
            postgres = pwd.getpwnam("postgres")
            os.chown(self.directory, postgres.pw_uid, postgres.pw_gid)
            self.user = {"user": postgres.pw_uid, "group": postgres.pw_gid}

    def __enter__(self):
        data = self.directory / "data"
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", str(data)]
        subprocess.run([self.programs / "initdb", *options], check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [self.programs / "pg_ctl", "-D", data, "-w", "-s", "-l", self.directory / "log"]
        options = f"-c fsync=off -c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        subprocess.run([*command, "-o", options, "start"], check=True, cwd="/", **self.user)
        return f"postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable"

    def __exit__(self, *_):
        stop = [self.programs / "pg_ctl", "-D", self.directory / "data", "-m", "immediate", "-s", "-w", "stop"]
        subprocess.run(stop, cwd="/", **self.user)
        shutil.rmtree(self.directory, ignore_errors=True)
