"""`kubectl exec`: a WebSocket (RFC 6455) that speaks v5.channel.k8s.io. A binary frame's first byte is the channel: 1 standard
output, 2 standard error, 3 the end, as a Status."""

import base64
import hashlib
import json
import struct
import subprocess
import threading

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def serve(request, start):
    key = request.headers["Sec-WebSocket-Key"]
    request.close_connection = True
    if not key:
        request.send_error(400, "only by WebSocket")
        return
    accept = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
    request.send_response(101)
    for header in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept), ("Sec-WebSocket-Protocol", "v5.channel.k8s.io")):
        request.send_header(*header)
    request.end_headers()
    request.wfile.flush()
    sending = threading.Lock()

    def frame(opcode, payload):
        size = len(payload)
        head = bytes([0x80 | opcode]) + (bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b"\x7f" + struct.pack(">Q", size))
        with sending:
            request.wfile.write(head + payload)
            request.wfile.flush()
    try:
        process = start()
    except OSError as error:
        frame(2, b"\x03" + json.dumps({"status": "Failure", "message": str(error)}).encode())
        frame(8, struct.pack(">H", 1000))
        return

    def listen():
        """The client's word that it is gone ends the connection; its command goes on, as in a cluster. Pings are answered."""
        try:
            while True:
                head = request.rfile.read(2)
                if len(head) < 2:
                    break
                size = head[1] & 0x7F
                if size == 126:
                    size = struct.unpack(">H", request.rfile.read(2))[0]
                mask = request.rfile.read(4) if head[1] & 0x80 else b"\0" * 4
                payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(request.rfile.read(size)))
                if head[0] & 0x0F == 9:
                    frame(10, payload)
                if head[0] & 0x0F == 8:
                    break
        except (OSError, ValueError):
            # The connection is closed under it when the command has ended.
            pass
    threading.Thread(target=listen, daemon=True).start()

    def pump(channel, pipe):
        while chunk := pipe.read1(32768):
            try:
                frame(2, bytes([channel]) + chunk)
            except OSError:
                return
    pumps = [threading.Thread(target=pump, args=pair, daemon=True) for pair in ((1, process.stdout), (2, process.stderr))]
    for thread in pumps:
        thread.start()
    for thread in pumps:
        thread.join()
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    status = {"metadata": {}, "status": "Success"}
    if code:
        status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": f"command terminated with non-zero exit code: {code}",
                  "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}
    frame(2, b"\x03" + json.dumps(status).encode())
    frame(8, struct.pack(">H", 1000))
