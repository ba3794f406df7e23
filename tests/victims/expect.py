"""A user at a terminal, for tests: starts a program on a pseudo-terminal, types, and
waits for what appears, always with a bound. Prints the screen when that fails."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time


class Failed(Exception):
    pass


class Terminal:
    def __init__(self, *command, rows=24, columns=80):
        self.text = ""  # what appeared and no expect() has taken yet
        self.seen = ""
        self.child, self.fd = pty.fork()
        if self.child == 0:
            self._set_size(0, rows, columns)
            os.execvp(command[0], command)
        self._set_size(self.fd, rows, columns)

    @staticmethod
    def _set_size(fd, rows, columns):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self._set_size(self.fd, rows, columns)

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def settings(self):
        """The local modes of the terminal, as the program before us sees them."""
        return termios.tcgetattr(self.fd)[:4]

    def _read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], max(0, seconds))
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536).decode(errors="replace")
        except OSError:  # EIO: the other side is gone
            data = ""
        self.text += data
        self.seen += data
        return bool(data)

    def expect(self, pattern, seconds=15):
        """Waits until the pattern appears, and takes all up to its end; its match."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or (not self._read(left) and not self._alive()):
                raise Failed(f"no {pattern!r} on the terminal, which shows:\n{self.seen!r}")
        self.text = self.text[match.end():]
        return match

    def expect_not(self, pattern, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
            if re.search(pattern, self.text):
                raise Failed(f"{pattern!r} on the terminal, which shows:\n{self.seen!r}")

    def _alive(self):
        try:
            return os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def wait(self, seconds=15):
        """The exit status of the program, 128+n for a signal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read(0.05)
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                while self._read(0.05):
                    pass
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        raise Failed(f"the program did not end; the terminal shows:\n{self.seen!r}")

    def end(self):
        try:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)


def equal(actual, wanted, what):
    if actual != wanted:
        raise Failed(f"{what}: got {actual!r}, want {wanted!r}")


def main(test):
    """Runs the test; a failure is told in a few lines."""
    try:
        test()
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
