# SPDX-License-Identifier: GPL-2.0
"""Who sees what: pid, user and network namespaces, and callers without rights."""

import errno
import os
import socket
import subprocess

import machine
from cases.tasks import settle
from gestalt import DUMP, TASKS, Socket, refused
from machine import NEWNET, NEWNS, NEWPID, NEWUSER, NOBODY, Background, inside


def listing(**options):
    with Socket() as netlink:
        return list(netlink.tasks(**options))


def test_pid_namespace_sees_itself_only(_):
    def look():
        tasks = listing()
        assert [task.pid for task in tasks] == [1], [task.pid for task in tasks]
        assert tasks[0].pids == [1] and tasks[0].ppid == 0 and tasks[0].level == 0
        with Socket() as netlink:
            [own] = netlink.pidns()
            assert own.level == 0 and own.parent_inum == 0 and own.init_pid == 1
            assert own.processes == 1 and own.inum == tasks[0].inum
            _, counts, _ = netlink.load(1)
            assert counts.processes == 1
            # The node's first processes have numbers, but not here.
            refused(lambda: list(netlink.tasks(pid=2)), errno.ESRCH)
            refused(lambda: netlink.load(2), errno.ESRCH)
        return True

    assert inside(look, NEWPID)


def test_namespaces_below_are_seen(_):
    def inner():
        child = subprocess.Popen(["sleep", "1000"])
        return child

    with Background(inner, NEWPID) as background, Socket() as netlink:
        [init] = machine.children(background.pid)
        spaces = {space.init_pid: space for space in netlink.pidns()}
        own, space = spaces[1], spaces[init]
        assert own.level == 0 and space.level == 1 and space.parent_inum == own.inum
        assert space.inum == os.stat("/proc/%d/ns/pid" % init).st_ino
        assert own.inum == os.stat("/proc/self/ns/pid").st_ino
        assert space.processes == 2 and space.last_pid == 2, vars(space)
        tasks = list(netlink.tasks(pid=init))
        assert [task.pid for task in tasks] == [1, 2]
        assert tasks[0].pids == [init, 1] and tasks[1].pids[1] == 2 and tasks[1].ppid == 1
        [outer] = netlink.tasks(only=init)
        assert outer.pid == init and outer.level == 1 and outer.pids == [init, 1]
        _, counts, _ = netlink.load(init)
        assert counts.processes == 2 and counts.inum == space.inum
        os.kill(tasks[1].pids[0], 9)


def test_dump_goes_on_where_it_was_asked(_):
    """The reader of an answer may be in another namespace than who asked; he sees no more."""
    with Background(lambda: None, NEWPID) as background:
        [init] = machine.children(background.pid)
        netlink = Socket(size=4096)

        def ask_there():
            space = os.open("/proc/%d/ns/pid" % init, os.O_RDONLY)
            machine.call(machine.libc.setns(space, 0))
            inside(lambda: netlink.send(TASKS, flags=DUMP))

        inside(ask_there)
        found = []
        while True:
            messages = netlink.receive()
            found += [data for kind, data in messages if kind > 16]
            if any(kind == 3 for kind, _ in messages):
                break
        netlink.close()
        assert len(found) == 1 and len(found[0]) < 3 * 300, "more than two tasks"


def test_user_namespace_maps_ids(_):
    def look():
        [task] = [task for task in listing() if task.pid == os.getpid()]
        assert task.uid == task.gid == 0, vars(task)
        others = {task.uid for task in listing() if task.pid in (1, 2)}
        return others

    # Only the id of who made the namespace is mapped: root's, here; nobody's, there.
    assert inside(look, NEWUSER) == {0}
    assert inside(lambda: inside(look, NEWUSER), 0, NOBODY) == {65534}


def test_nobody_sees_what_proc_shows(_):
    child = subprocess.Popen(["sleep", "1000"])
    settle([child.pid])

    def look():
        tasks = {task.pid: task for task in listing()}
        with open("/proc/%d/stat" % child.pid, encoding="ascii") as file:
            shown = file.read().rsplit(")", 1)[1].split()
        task = tasks[child.pid]
        assert task.uid == 0 and task.vsize == int(shown[20]) and task.ppid == int(shown[1])
        with Socket() as netlink:
            netlink.status()
            netlink.load()
            assert netlink.pidns()
            refused(netlink.listen, errno.EPERM)
            refused(lambda: netlink.slice_set(5000, 6000), errno.EPERM)
            refused(netlink.slice_clear, errno.EPERM)
            refused(netlink.slice_get, errno.ENOENT)
        return True

    assert inside(look, 0, NOBODY)
    child.kill()
    child.wait()


def test_user_namespace_gives_no_rights_outside(_):
    def look():
        with Socket() as netlink:
            refused(netlink.listen, errno.EPERM)
            # Root of its own user namespace, but in a pid namespace of ours.
            refused(lambda: netlink.slice_set(5000, 6000), errno.EPERM)
        return True

    assert inside(look, NEWUSER)
    assert inside(lambda: inside(look, NEWUSER), 0, NOBODY)


def test_own_pid_and_user_namespace(_):
    def look():
        with Socket() as netlink:
            netlink.slice_set(5000, 6000)
            assert netlink.slice_get().first == 5000
            netlink.slice_clear()
        return True

    assert inside(lambda: inside(look, NEWUSER | NEWPID), 0, NOBODY)


def test_handed_on_socket_has_the_openers_rights(_):
    """Neither who opened the socket nor who sends can lend the other a right."""
    left, right = socket.socketpair()

    def open_one():
        with Socket() as netlink:
            socket.send_fds(right, [b"x"], [netlink.socket.fileno()])

    inside(open_one, 0, NOBODY)
    _, [descriptor], _, _ = socket.recv_fds(left, 1, 1)
    with Socket() as netlink:
        os.dup2(descriptor, netlink.socket.fileno())
        refused(lambda: netlink.slice_set(5000, 6000), errno.EPERM)
    os.close(descriptor)
    # And root's, used by nobody.
    with Socket() as strong:
        def use():
            refused(lambda: strong.slice_set(5000, 6000), errno.EPERM)
            return True
        assert inside(use, 0, NOBODY)


def test_other_network_namespace(_):
    """Requests are answered anywhere; events go to the first network namespace only."""
    def look():
        with Socket(timeout=1) as netlink:
            assert netlink.status().api == 1
            assert any(task.pid == os.getpid() for task in netlink.tasks())
            netlink.listen()
            subprocess.run(["true"], check=True)
            try:
                return netlink.events()
            except TimeoutError:
                return None

    with Socket() as listener:
        listener.listen(1 << 22)
        assert inside(look, NEWNET | NEWNS) is None
        assert inside(lambda: inside(look, NEWUSER | NEWNET), 0, NOBODY) is None
        assert listener.events()
