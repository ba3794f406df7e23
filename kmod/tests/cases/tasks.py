# SPDX-License-Identifier: GPL-2.0
"""The listing is what /proc says; a dump can stop and go on anywhere."""

import errno
import os
import pty
import signal
import subprocess
import threading
import time

from gestalt import CGROUP_ID, DUMP, TASKS, Socket, refused
from machine import Skip, eventually, few, read, spinning


def stat_of(pid, thread=None):
    path = "/proc/%d/stat" % pid if thread is None else "/proc/%d/task/%d/stat" % (pid, thread)
    text = read(path)
    comm = text[text.index("(") + 1:text.rindex(")")]
    return comm, text[text.rindex(")") + 2:].split()


def status_of(pid):
    return dict(line.split(":\t", 1) for line in read("/proc/%d/status" % pid).splitlines()
                if ":\t" in line)


def sleepers(count):
    return [subprocess.Popen(["sleep", "1000"]) for _ in range(count)]


class Crowd:
    """Shells that wait for nothing, as many as wanted: without an exec each, which takes longest."""
    SCRIPT = """exec 3<&0; i=0
while [ $i -lt %d ]; do (read _ <&3) & echo $!; i=$((i+1)); done
exec >&-; read _ <&3"""

    def __init__(self, count):
        self.shell = subprocess.Popen(["/bin/sh", "-c", self.SCRIPT % count],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pids = {int(self.shell.stdout.readline()) for _ in range(count)}

    def __enter__(self):
        return self.pids

    def __exit__(self, *_):
        self.shell.communicate()


def settle(pids):
    """Waits until they are programs that sleep, and map nothing any more."""
    def settled(pid):
        comm, stat = stat_of(pid)
        return comm == "sleep" and "nanosleep" in read("/proc/%d/wchan" % pid) + stat[0]

    for pid in pids:
        eventually(lambda p=pid: settled(p))


def end(processes):
    for process in processes:
        process.kill()
        process.wait()


def compare(task):
    """Everything that does not change by itself."""
    comm, stat = stat_of(task.pid)
    status = status_of(task.pid)
    assert task.comm == comm, (task.comm, comm)
    expected = [int(stat[i]) for i in (1, 2, 3, 4, 5, 6, 15, 16, 17, 35, 37, 38)]
    found = [task.ppid, task.pgid, task.sid, task.tty_nr, task.tpgid, task.flags, task.priority,
             task.nice, task.threads, task.exit_signal, task.rt_priority, task.policy]
    assert found == expected, (task.pid, found, expected)
    assert task.start // 10_000_000 == int(stat[19]), (task.start, stat[19])
    assert task.vsize == int(stat[20]), (task.vsize, stat[20])
    assert [task.uid, task.euid, task.suid, task.fsuid] == \
        [int(word) for word in status["Uid"].split()]
    assert [task.gid, task.egid, task.sgid, task.fsgid] == \
        [int(word) for word in status["Gid"].split()]
    assert task.pids == [int(word) for word in status["NSpid"].split()]
    for ours, line in ((task.rss_anon, "RssAnon"), (task.rss_file, "RssFile"),
                       (task.rss_shmem, "RssShmem")):
        if line in status:
            assert abs(ours - int(status[line].split()[0]) * 1024) <= 4 << 20, (line, ours)
    assert abs(task.utime / 1e7 - int(stat[11])) <= 30 and abs(task.stime / 1e7 - int(stat[12])) <= 30
    assert abs(task.minflt - int(stat[7])) < 200 and task.cminflt == int(stat[8])


def test_as_proc_says(_):
    kept = sleepers(5)
    os.setpriority(os.PRIO_PROCESS, kept[0].pid, 7)
    settle([process.pid for process in kept])
    with Socket() as netlink:
        tasks = {task.pid: task for task in netlink.tasks()}
    listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    mine = {process.pid for process in kept} | {1, 2, os.getpid()}
    assert mine <= set(tasks) and mine <= listed
    # Kernel threads come and go; what is in both is nearly all.
    assert len(listed & set(tasks)) > len(listed) - 8
    for process in kept:
        compare(tasks[process.pid])
        assert chr(tasks[process.pid].state) == "S"
    assert tasks[kept[0].pid].nice == 7
    compare(tasks[1])
    assert chr(tasks[os.getpid()].state) == "R" and tasks[2].vsize == 0
    assert [task for task in tasks] == sorted(tasks)
    end(kept)


def test_one_process(_):
    with Socket() as netlink:
        [task] = netlink.tasks(only=os.getpid())
        assert task.pid == task.tgid == os.getpid()
        assert not list(netlink.tasks(only=(1 << 22) - 1))
        refused(lambda: list(netlink.tasks(only=0)), errno.ERANGE, errno.EINVAL)
        # A number above every pid is no error; there is nothing.
        assert not list(netlink.tasks(only=0xFFFFFFFF))


def test_threads(_):
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    numbers = {thread.native_id for thread in threads}
    with Socket() as netlink:
        processes = {task.pid: task for task in netlink.tasks()}
        everything = {task.pid: task for task in netlink.tasks(threads=True)}
        assert processes[os.getpid()].threads == 21
        assert not numbers & set(processes) and numbers <= set(everything)
        for number in numbers:
            assert everything[number].tgid == os.getpid()
            compare_thread(everything[number])
        assert not list(netlink.tasks(only=min(numbers)))
        assert [task.pid for task in netlink.tasks(only=min(numbers), threads=True)] == \
            [min(numbers)]
    gate.set()
    for thread in threads:
        thread.join()


def compare_thread(task):
    comm, stat = stat_of(task.tgid, task.pid)
    assert task.comm == comm and task.start // 10_000_000 == int(stat[19])


def test_zombie_and_generation(_):
    process = subprocess.Popen(["/bin/sh", "-c", "read x; exec sleep 1000"], stdin=subprocess.PIPE)
    with Socket() as netlink:
        eventually(lambda: [t.comm for t in netlink.tasks(only=process.pid)] == ["sh"])
        [before] = netlink.tasks(only=process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        eventually(lambda: [t.comm for t in netlink.tasks(only=process.pid)] == ["sleep"])
        [after] = netlink.tasks(only=process.pid)
        assert before.generation != after.generation and before.start == after.start
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: [chr(t.state) for t in netlink.tasks(only=process.pid)] == ["Z"])
        [dead] = netlink.tasks(only=process.pid)
        assert dead.vsize == 0 and dead.rss_anon == 0
    process.wait()


def test_terminal(_):
    pid, terminal = pty.fork()
    if not pid:
        os.execvp("sleep", ["sleep", "1000"])
    settle([pid])
    with Socket() as netlink:
        [task] = netlink.tasks(only=pid)
        assert task.tty_nr and task.tpgid == pid, vars(task)
        compare(task)
    os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(pid, 0)


def test_cgroup(_):
    with Socket() as netlink:
        if not netlink.status().features & CGROUP_ID:
            raise Skip("the kernel has no cgroups")
        place = "/tmp/gestalt-cgroup"
        os.makedirs(place, exist_ok=True)
        subprocess.run(["mount", "-t", "cgroup2", "none", place], check=True)
        try:
            os.makedirs(place + "/tested", exist_ok=True)
            [process] = sleepers(1)
            with open(place + "/tested/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(process.pid))
            [task] = netlink.tasks(only=process.pid)
            assert task.cgroup_id == os.stat(place + "/tested").st_ino
            end([process])
            eventually(lambda: not os.rmdir(place + "/tested"))
        finally:
            subprocess.run(["umount", place], check=True)


def test_slow_reader_while_tasks_come_and_go(_):
    """It reads less than comes: what came after the dump began is not its concern."""
    with Crowd(few(300, 100)) as pids:
        shells = [spinning() for _ in range(3)]
        try:
            for size in (4096, 8192, 32768):
                times = []
                with Socket(size=size) as netlink:
                    def pause(times=times):
                        times.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
                        time.sleep(0.02)

                    tasks = netlink.tasks(pause=pause)
                seen = [task.pid for task in tasks]
                assert max(task.start for task in tasks) <= times[0], "later than the dump"
                assert seen == sorted(set(seen)), "a pid came twice, or not in order"
                assert pids <= set(seen), "missing: %s" % (pids - set(seen))
        finally:
            end(shells)


def test_interrupted(_):
    """The reader goes away half-way; and one goes on where it was."""
    with Crowd(few(200, 50)):
        for _ in range(few(200, 50)):
            netlink = Socket(size=4096)
            netlink.send(TASKS, flags=DUMP)
            netlink.receive()
            netlink.close()
        with Socket(size=4096) as netlink:
            netlink.send(TASKS, flags=DUMP)
            first = netlink.receive()
            # Another request on the same socket in the middle of a dump.
            netlink.send(TASKS, flags=DUMP)
            refused(lambda: [netlink.receive() for _ in range(3)], errno.EBUSY)
            assert first


def test_large_buffers(_):
    """A reader with 32 KiB gets many tasks with each call."""
    with Crowd(300) as pids, Socket(size=32768) as netlink:
        list(netlink.tasks())
        netlink.calls = 0
        count = len(list(netlink.tasks()))
        assert count >= len(pids)
        assert netlink.calls <= 2 + count // 90, (netlink.calls, count)
