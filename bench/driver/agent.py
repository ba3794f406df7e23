"""Runs commands on its node for the driver, which sits on the leader.

One connection a command, a line of JSON each way:
  {"argv": [...], "timeout": seconds}  ->  {"status", "out", "err", "began", "ended"}
The times are CLOCK_REALTIME, which is the same on all nodes of a sandbox.
"""

import json
import os
import signal
import socketserver
import subprocess
import sys
import time

PORT = 7707


def run(request):
    began = time.time()
    try:
        child = subprocess.Popen(
            request["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        out, err = child.communicate(timeout=request["timeout"])
        status = child.returncode
    except subprocess.TimeoutExpired:
        # What it started goes with it.
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        status, out, err = 124, "", f"not finished in {request['timeout']} s"
    except OSError as error:
        status, out, err = 127, "", str(error)
    return {"status": status, "out": out, "err": err, "began": began, "ended": time.time()}


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        answer = run(json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server((sys.argv[1], PORT), Handler).serve_forever()
