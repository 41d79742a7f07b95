"""kube-proxy on loopback addresses: a pod has one of 127.x.1.0/24, a Service one of 127.x.0.0/24, and where it listens follows the
slices, a little later than they change. Connections that stand are let alone, whatever the slices say."""

import asyncio
import contextlib
import random
import socket
import struct
import threading

LAG = 0.3
HELD = []


def free_prefix():
    """Two bytes of loopback addresses that nobody has: several doubles may be there at once. A port of theirs is held for as long
    as this process lives, so that two who look at the same moment do not find the same."""
    for number in random.sample(range(64, 250), 186):
        held = socket.socket()
        with contextlib.suppress(OSError):
            held.bind((f"127.{number}.0.1", 64999))
            held.listen()
            HELD.append(held)
            return f"127.{number}"
        held.close()
    raise SystemExit("no loopback addresses are free")


class Network:
    def __init__(self, store, prefix, faults):
        self.store, self.prefix, self.faults = store, prefix, faults
        self.next = {"pod": 1, "service": 1}
        self.lock = threading.Lock()
        self.chunks = 0
        self.tasks = set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.run, daemon=True).start()

    def pod_address(self):
        return f"{self.prefix}.1.{self.number('pod')}"

    def number(self, kind):
        with self.lock:
            self.next[kind] += 1
            return self.next[kind]

    def allocate(self, service):
        spec = service["spec"]
        if "clusterIP" not in spec:
            spec["clusterIP"] = f"{self.prefix}.0.{self.number('service')}"
        spec["clusterIPs"], spec["type"] = [spec["clusterIP"]], spec.get("type", "ClusterIP")
        for port in spec["ports"]:
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.follow())

    async def follow(self):
        listening, backends = {}, {}
        while True:
            wanted = self.routes()
            await asyncio.sleep(LAG)
            for route, targets in wanted.items():
                if targets:
                    # Who has been let in when nobody is left still goes to whom there was last.
                    backends[route] = targets
                    if route not in listening:
                        listening[route] = await self.listen(route, backends)
            for route in list(listening):
                if not wanted.get(route):
                    await self.refuse(listening.pop(route), self.connected(route, backends))

    async def listen(self, route, backends):
        listener = socket.create_server(route, backlog=256)
        listener.setblocking(False)
        return listener, await asyncio.start_server(self.connected(route, backends), sock=listener.dup())

    async def refuse(self, listening, one):
        """Nobody is there: a connection is refused, as by kube-proxy's REJECT. One that stands in the backlog is none that a cluster
        would reset: there the handshake is with the pod."""
        listener, server = listening
        server.close()
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                reader, writer = await asyncio.open_connection(sock=connection)
                asyncio.ensure_future(one(reader, writer))
        listener.close()

    def routes(self):
        """{(address, port): [(pod's address, port)]}: who is ready; else who still serves while it terminates (KEP-1669)."""
        found = {}
        for service in self.store.all("services"):
            if service["spec"]["clusterIP"] == "None":
                continue
            slices = [s for s in self.store.all("endpointslices", service["metadata"]["namespace"])
                      if s["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]]
            for port in service["spec"]["ports"]:
                ready, rest = [], []
                for endpoint in (e for s in slices for e in s["endpoints"]):
                    number = next((p["port"] for s in slices for p in s["ports"] if p["name"] == port.get("name", "")), None)
                    target = (endpoint["addresses"][0], number)
                    if endpoint["conditions"]["ready"]:
                        ready.append(target)
                    elif endpoint["conditions"]["serving"] and endpoint["conditions"]["terminating"]:
                        rest.append(target)
                found[(service["spec"]["clusterIP"], port["port"])] = ready or rest
        return found

    def connected(self, route, backends):
        async def one(reader, writer):
            # The loop holds tasks by weak references only; who is forgotten answers nobody any more.
            task = asyncio.current_task()
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            try:
                up_reader, up_writer = await asyncio.open_connection(*random.choice(backends[route]))
            except (OSError, IndexError):
                abort(writer)
                return
            await asyncio.gather(self.pump(reader, up_writer, writer, counted=True), self.pump(up_reader, writer, up_writer))
        return one

    async def pump(self, reader, writer, other, counted=False):
        try:
            while chunk := await reader.read(65536):
                self.chunks += counted
                if "lost-request" in self.faults and counted and self.chunks == 250:
                    abort(writer)
                    abort(other)
                    return
                writer.write(chunk)
                await writer.drain()
            # One direction may end before the other.
            writer.write_eof()
        except (OSError, RuntimeError):
            abort(writer)
            abort(other)


def abort(writer):
    # It may be closed by now.
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
