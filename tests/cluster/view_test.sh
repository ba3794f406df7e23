#!/bin/bash
# `gestalt shell`: in its /proc stock programs see the processes, CPUs and memory of all
# nodes, and that is what the nodes say themselves.
# shellcheck disable=SC2154 # scratch, pid, victims are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/view.sh
. "$repo/tests/cluster/view.sh"

readonly all=(leader node1 node2 node3)

# --- the command -------------------------------------------------------------

# The first session of a user: nobody has made his view before.
test_a_first_session_sees_all_at_once() {
  local shown
  start_tree early node1
  shown=$(view_as bob 'nproc --all; ps -eo pid=; awk "/^MemTotal:/ { print \$2 }" /proc/meminfo')
  assert_eq "$(head -n 1 <<<"$shown")" "$(cpus_of_nodes "${all[@]}")" "CPUs that a first session sees"
  assert_eq "$(tail -n 1 <<<"$shown")" "$(memory_of_nodes "${all[@]}")" "memory that a first session sees"
  grep -qw "$pid" <<<"$shown" || fail "the first ps does not show $pid of node1"
}

test_exit_status_and_streams() {
  expect_exit 7 view 'exit 7'
  expect_exit 0 view true
  expect_exit 143 view 'kill -TERM $$; sleep 10'
  assert_eq "$(printf 'a\nb\n' | view 'read x; echo "got $x"; cat')" $'got a\nb'
  view 'echo out; echo err >&2' >"$scratch/out" 2>"$scratch/err"
  assert_eq "$(cat "$scratch/out")" out
  assert_eq "$(cat "$scratch/err")" err
  head -c 1000000 /dev/urandom >"$scratch/blob"
  assert_eq "$(view sha256sum <"$scratch/blob")" "$(sha256sum <"$scratch/blob")"
  assert_eq "$(echo 'echo "$((6 * 7))"' | on leader timeout 20 gestalt shell)" 42
}

test_it_is_the_user_on_the_leader() {
  assert_eq "$(view_as alice 'id; uname -n')" "$(on_as alice leader sh -c 'id; uname -n')"
  assert_eq "$(view_as alice 'pwd')" /home/alice
  expect_exit 125 gestalt shell --node node1
}

test_as_a_login_shell() {
  start there node1 sh -c 'echo "ready $$" >&2; exec sleep 1014'
  await_pid there
  wait_until 10 shown_on "$pid" node1
  on leader useradd -m -s /usr/bin/gestalt-shell carol
  # shellcheck disable=SC2016
  assert_eq "$(on leader timeout 20 su - carol -c "ps -o lxc= -p $pid; pwd; id -un; echo \$SHELL; shopt login_shell")" \
    $'node1\n/home/carol\ncarol\n/bin/bash\nlogin_shell    \ton'
  expect_exit 9 on leader timeout 20 su - carol -c 'exit 9'
  # At a terminal.
  on leader sh -c 'printf "tty; jobs; exit 3\r" | timeout 20 script -qec "su - carol" /dev/null; echo "status $?"' \
    >"$scratch/out" 2>&1
  assert_contains "$(cat "$scratch/out")" "/dev/pts/"
  assert_contains "$(cat "$scratch/out")" "status 3"
  # What sshd does with ForceCommand, by the user's shell.
  # shellcheck disable=SC2016
  assert_eq "$(on_as bob leader env SSH_ORIGINAL_COMMAND="ps -o lxc= -p $pid" timeout 20 bash -c \
    'gestalt shell ${SSH_ORIGINAL_COMMAND:+-c "$SSH_ORIGINAL_COMMAND"}')" node1
  # No cluster, but a shell.
  on leader env GESTALT_SOCKET=/nowhere su carol -c 'echo still here; exit 4' >"$scratch/out" 2>"$scratch/err" ||
    assert_eq $? 4 "its exit status"
  assert_eq "$(cat "$scratch/out")" "still here"
  assert_contains "$(cat "$scratch/err")" "a shell of this machine alone"
}

test_a_session_does_not_migrate() {
  local status=0 message
  view 'echo "ready $$"; exec sleep 1005' >"$scratch/session.out" &
  wait_until 10 said_ready session
  pid=$(sed -n 's/^ready //p' "$scratch/session.out")
  message=$(gestalt migrate "$pid" node1 2>&1) || status=$?
  assert_eq "$status" 5 "exit status of migrate ($message)"
  assert_contains "$message" "it has its own mounts (a session's"
  assert_eq "$(view "ps -o args= -p $pid")" "sleep 1005"
  gestalt kill "$pid"
}

# --- processes ---------------------------------------------------------------

# Without the ghosts that hold other nodes' pids here.
leaders_own() {
  local keeper
  keeper=$(native leader 'for p in [0-9]*; do ! grep -qsx gestalt-ghosts "$p/comm" || echo "$p"; done' | head -n 1)
  native_processes leader | awk -v keeper="${keeper:-0}" '$2 != keeper { print $1, $2, $3 }' | sort
}

test_ps_shows_each_process_once_on_its_node() {
  local cpus numa seen='' node before psr
  start_tree roots node1
  user=alice start_tree alices node1
  user=bob start_tree bobs node2
  start_tree last node3
  start_tree local leader
  expect_same_as_native node1 node2 node3
  no_pid_twice
  # The leader's, as far as they were there before and after.
  before=$(leaders_own)
  view 'ps -eo pid=,ppid=,euid=,lxc=' | awk '$4 == "-" || $4 == "leader" { print $1, $2, $3 }' | sort >"$scratch/viewed"
  comm -12 <(echo "$before") <(leaders_own) |
    comm -23 - "$scratch/viewed" >"$scratch/missing"
  assert_eq "$(cat "$scratch/missing")" "" "the leader's processes that are missing"
  # Each node's psr are its own CPUs: those of its NUMA node. The leader's come first, the
  # others' in the order in which they joined.
  view 'ps -eo pid=,psr=,numa=,lxc=' | awk '$1 >= 4096 { print $2, $3, $4 }' | sort -u >"$scratch/places"
  for node in "${all[@]}"; do
    numa=$(awk -v node="${node/leader/-}" '$3 == node { print $2 }' "$scratch/places" | sort -u)
    [[ $numa =~ ^[0-9]+$ ]] || fail "the processes of $node are on NUMA nodes '$numa'"
    [[ $node != leader ]] || assert_eq "$numa" 0 "the leader's NUMA node"
    seen+=" $numa"
    cpus=$(view "cat /sys/devices/system/node/node$numa/cpulist")
    assert_eq $((${cpus#*-} - ${cpus%-*} + 1)) "$(on "$node" nproc --all)" "CPUs of $node ($cpus)"
    for psr in $(awk -v node="${node/leader/-}" '$3 == node { print $1 }' "$scratch/places"); do
      ((psr >= ${cpus%-*} && psr <= ${cpus#*-})) || fail "psr $psr on $node, whose CPUs are $cpus"
    done
  done
  assert_eq "$(tr ' ' '\n' <<<"${seen# }" | sort -u | wc -l)" ${#all[@]} "NUMA nodes ($seen)"
}

test_pid_1_is_the_leaders() {
  assert_eq "$(view 'ps -o lxc= -p 1')" "-" "node of pid 1"
  assert_eq "$(view 'grep -c . /proc/1/mountinfo >/dev/null && readlink /proc/1/ns/uts')" \
    "$(native leader 'readlink 1/ns/uts')" "uts namespace of pid 1"
  assert_eq "$(view 'ps -eo pid=' | grep -cwx ' *1')" 1
}

test_they_come_and_go() {
  local child
  start coming node2 sh -c 'sleep 1006 & echo "child $!"; echo "ready $$" >&2; wait; exec sleep 1007'
  await_pid coming
  wait_until 10 grep -q '^child ' "$scratch/coming.out"
  child=$(sed -n 's/^child //p' "$scratch/coming.out")
  wait_until 10 shown_on "$pid" node2
  wait_until 10 shown_on "$child" node2
  gestalt kill "$child"
  wait_until 10 not_shown "$child"
  args_are() { [[ $(view "ps -o args= -p $pid") == "$1" ]]; }
  wait_until 10 args_are "sleep 1007"
  gestalt kill "$pid"
  wait_until 10 not_shown "$pid"
  await_status coming 143
  [[ $(view "ls /proc/$pid 2>&1") == *"No such file"* ]] || fail "/proc/$pid is still there"
}

# Those that nobody waits for, with one whose parent has gone.
readonly zombies='import os, sys, time
def forked(run):
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    return pid
made = [forked(lambda: None) for _ in range(200)]
def detached():
    os.setsid()
    os.write(1, b"orphan %d\n" % forked(lambda: time.sleep(1000)))
middle = forked(detached)
os.waitpid(middle, 0)
os.write(1, b"zombies %s\n" % " ".join(map(str, made)).encode())
os.write(2, b"ready %d\n" % os.getpid())
sys.stdin.readline()
for pid in made: os.waitpid(pid, 0)
os.write(1, b"waited\n")
time.sleep(1000)'

test_zombies_and_orphans() {
  local node orphan mine
  for node in node3 leader; do
    mkfifo "$scratch/$node.fifo"
    input=$scratch/$node.fifo start "zombies-$node" "$node" python3 -c "$zombies"
    exec 8>"$scratch/$node.fifo"
    await_pid "zombies-$node"
    mine=$pid
    zombies_shown() { [[ $(view "ps -o stat= --ppid $mine" | grep -c '^Z') == "$1" ]]; }
    wait_until 10 zombies_shown 200
    orphan=$(sed -n 's/^orphan //p' "$scratch/zombies-$node.out")
    wait_until 10 shown_on "$orphan" "${node/leader/-}"
    # As its node has it: its parent is the job's stand-in, its group that of who has gone.
    assert_eq "$(view "ps -o ppid=,pgid=,sid= -p $orphan" | xargs)" \
      "$(native "$node" "cut -d ' ' -f 4-6 $orphan/stat")" "parent, group and session of the orphan"
    view "top -b -n1" >"$scratch/top"
    awk '/^Tasks:/ { exit !($10 >= 200) }' "$scratch/top" || fail "top counts: $(sed -n 2p "$scratch/top")"
    assert_contains "$(view "ps -o args= -p $(sed -n 's/^zombies \([0-9]*\).*/\1/p' "$scratch/zombies-$node.out")")" "defunct"
    # A zombie takes signals, and they do nothing.
    view "kill -KILL $(sed -n 's/^zombies //p' "$scratch/zombies-$node.out")"
    [[ $node == leader ]] || expect_same_as_native "$node"
    echo >&8
    exec 8>&-
    wait_until 10 zombies_shown 0
    no_pid_twice
    view "kill $orphan $mine"
    await_status "zombies-$node" 143
    wait_until 10 not_shown "$orphan"
  done
}

test_a_fork_storm() {
  start storm node1 sh -c 'echo begun; i=0; while [ $i -lt 3000 ]; do /bin/true; i=$((i + 1)); done
    echo "ready $$" >&2; exec sleep 1008'
  wait_until 10 grep -q begun "$scratch/storm.out"
  while ! said_ready storm; do view 'ps -ef >/dev/null; top -b -n1 >/dev/null'; done
  await_pid storm
  expect_same_as_native node1
  no_pid_twice
}

test_a_job_that_moves_is_shown_once() {
  local node
  start_victim mover node1 memory
  wait_until 10 shown_on "$pid" node1
  for node in node2 leader node1 leader node2; do
    move "$pid" "$node"
    wait_until 10 shown_on "$pid" "${node/leader/-}"
    no_pid_twice
    assert_contains "$(view "tr '\\0' ' ' </proc/$pid/cmdline")" /run/end-mover
  done
  expect_same_as_native node1 node2
  finish mover "$pid"
  wait_until 10 not_shown "$pid"
}

# --- the tools ---------------------------------------------------------------

# tool CMD [PART…]: it ends well, complains of nothing, and its output has the parts.
tool() {
  local command=$1 status=0 part
  shift
  view "timeout 10 $command" >"$scratch/out" 2>"$scratch/err" || status=$?
  assert_eq "$status" 0 "exit status of $command ($(head -n 3 "$scratch/err"))"
  assert_eq "$(cat "$scratch/err")" "" "stderr of $command"
  for part; do grep -qE -e "$part" "$scratch/out" || fail "$command does not say '$part': $(head -n 20 "$scratch/out")"; done
}

test_process_tools() {
  local name=vt-$$ # comm has 15 bytes
  on leader cp /usr/bin/sleep "/usr/local/bin/$name"
  user=alice start tool node1 sh -c "$name 1010 & echo \"child \$!\"; echo \"ready \$\$\" >&2; wait"
  await_pid tool
  local child
  wait_until 10 grep -q '^child ' "$scratch/tool.out"
  child=$(sed -n 's/^child //p' "$scratch/tool.out")
  wait_until 10 shown_on "$child" node1
  wait_until 10 shown_named "$child" "$name"
  tool 'ps aux' "^alice +$child .* $name 1010"
  tool 'ps -ef --forest' "^alice +$child +$pid .*_ $name 1010"
  tool 'top -b -n1 -w 200' "^ *$child alice .*${name:0:10}"
  tool "pgrep -a $name" "^$child $name 1010$"
  tool "pgrep -fc '^$name 1010'" '^1$'
  tool "pidof $name" "^$child$"
  tool 'pstree -p' "\($pid\).*$name\($child\)"
  tool "lsof -p $child" "^${name:0:9} +$child +alice +cwd +DIR .* /home/alice" "^${name:0:9} +$child +alice +txt .*/usr/local/bin/$name"
  tool "pmap $child" "$name"
  tool "ps -L -p $child" "$child"
  tool "ps -u alice -o pid=" "$child"
  tool "python3 -c 'import psutil; p = psutil.Process($child); print(p.name(), p.username(), p.ppid(), p.cmdline(), p.status(), p.cwd())'" \
    "^$name alice $pid \\['$name', '1010'\\] sleeping /home/alice"
  tool "python3 -c 'import psutil; print(*[p.pid for p in psutil.process_iter([\"name\", \"username\", \"memory_info\", \"cpu_times\"])], sep=\"\\n\")'" "^$child$"
  tool w
}

# Who is not root reads less of others, and the rest is the same.
test_tools_of_an_ordinary_user() {
  local name=vu-$$ command
  on leader cp /usr/bin/sleep "/usr/local/bin/$name"
  user=bob start bobs node2 sh -c "$name 1050 & echo \"child \$!\"; echo \"ready \$\$\" >&2; wait"
  await_pid bobs
  local child
  wait_until 10 grep -q '^child ' "$scratch/bobs.out"
  child=$(sed -n 's/^child //p' "$scratch/bobs.out")
  wait_until 10 shown_on "$child" node2
  wait_until 10 shown_named "$child" "$name"
  for command in 'ps aux' 'ps -ef --forest' 'top -b -n1 -w 200' "pgrep -a $name" "pidof $name" 'pstree -p' \
    'ps -eo pid,lxc,psr,numa,args' 'python3 -c "import psutil; print([p.pid for p in psutil.process_iter([\"name\", \"username\", \"status\", \"cpu_times\"])])"'; do
    view_as alice "timeout 10 $command" >"$scratch/out" 2>"$scratch/err" || fail "$command: $? ($(cat "$scratch/err"))"
    assert_eq "$(cat "$scratch/err")" "" "stderr of $command"
    grep -qw "$child" "$scratch/out" || fail "$command does not show $child: $(head -n 20 "$scratch/out")"
  done
  for command in "lsof -p $child" "cat /proc/$child/environ" "ls /proc/$child/fd" "readlink /proc/$child/exe" "cat /proc/$child/maps"; do
    ! view_as alice "timeout 10 $command" >"$scratch/out" 2>/dev/null || [[ ! -s $scratch/out ]] ||
      ! grep -q "bin/$name\|PATH=" "$scratch/out" || fail "$command shows alice what is bob's"
  done
  assert_eq "$(view_as alice 'ps -e -o lxc= | grep node | sort')" "$(view_as bob 'ps -e -o lxc= | grep node | sort')"
}

test_machine_tools() {
  local cpus memory
  cpus=$(cpus_of_nodes "${all[@]}")
  memory=$(memory_of_nodes "${all[@]}")
  tool 'nproc --all' "^$cpus$"
  tool 'getconf _NPROCESSORS_ONLN' "^$cpus$"
  tool 'lscpu' "^CPU\(s\): +$cpus$" "^NUMA node\(s\): +${#all[@]}$"
  tool 'numactl -H' "^available: ${#all[@]} nodes"
  tool 'free -k' "^Mem: +$memory "
  tool "awk '/^processor/ { n++ } END { print n }' /proc/cpuinfo" "^$cpus$"
  tool "grep -c '^cpu[0-9]' /proc/stat" "^$cpus$"
  tool 'python3 -c "import psutil; print(psutil.cpu_count(), psutil.virtual_memory().total // 1024, len(psutil.cpu_times(True)), psutil.boot_time() > 0)"' \
    "^$cpus $memory $cpus True$"
  tool 'uptime' 'load average'
  tool 'vmstat' '^ *[0-9]'
  tool 'vmstat -s' "^ *$memory K total memory$"
  tool 'top -b -n1' '^%Cpu'
}

# These open a file once, and read it again and again.
test_tools_that_go_on() {
  start burner node2 sh -c 'echo "ready $$" >&2; while :; do :; done'
  await_pid burner
  wait_until 10 shown_on "$pid" node2
  local idle
  idle=$(view 'timeout 10 top -b -n2 -d1' | awk '/^%Cpu/ { last = $0 } END { print last }')
  [[ $idle == *" id,"* && $idle != *"100.0 id"* ]] || fail "top sees no work: $idle"
  view 'timeout 10 vmstat 1 3' >"$scratch/out"
  awk 'END { exit !($13 + $14 > 0 && $15 < 100) }' "$scratch/out" || fail "vmstat sees no work: $(cat "$scratch/out")"
  # shellcheck disable=SC2016
  view 'exec 5</proc/uptime; read -r a b <&5; sleep 0.3; python3 -c "
import os
first = os.pread(5, 100, 0); again = os.pread(5, 100, 0)
print(float(first.split()[0]) - $a)"' >"$scratch/out"
  awk '{ exit !($1 >= 0.2) }' "$scratch/out" || fail "uptime stands still: $(cat "$scratch/out")"
}

# What COMMAND, in a session of USER on a terminal, shows at some time: all of the patterns. Then
# it is told to end: on_screen USER COMMAND PATTERN…
on_screen() {
  local user=$1 command=$2 terminal="tmux -L view-$$"
  shift 2
  on_as "$user" leader sh -c "TERM=xterm $terminal new-session -d -x 160 -y 48 \"gestalt shell -c '$command'\"" </dev/null
  shows_all() {
    local screen pattern
    screen=$(on_as "$user" leader sh -c "$terminal capture-pane -p") || return
    for pattern; do grep -qE -- "$pattern" <<<"$screen" || return; done
  }
  (wait_until 15 shows_all "$@") || {
    on_as "$user" leader sh -c "$terminal capture-pane -p; $terminal kill-server" || true
    fail "not on the screen of $command: $*"
  }
  on_as "$user" leader sh -c "$terminal send-keys q"
  ended_it() { ! on_as "$user" leader sh -c "$terminal has-session"; }
  wait_until 10 ended_it
}

test_interactive_top() {
  start burner node2 sh -c 'echo "ready $$" >&2; while :; do :; done'
  await_pid burner
  on_screen root "top -d 0.5" "^ *$pid root .* R .* sh"
  on_screen alice "top -d 0.5" "^ *$pid root .* R .* sh"
  on node2 pgrep -f 'while :; do :; done' >/dev/null
}

test_interactive_htop() {
  local name=vh-$$ user
  on leader cp /usr/bin/sleep "/usr/local/bin/$name"
  start shown node2 sh -c "echo \"ready \$\$\" >&2; exec $name 1013"
  await_pid shown
  wait_until 10 shown_on "$pid" node2
  for user in root alice; do
    on_screen "$user" "exec $name 1041 & htop -d 5 -F $name; kill \$!" \
      "^ *$pid +root .*$name 1013" "^ *[0-9]+ +$user .*$name 1041" "Tasks: [0-9]+"
  done
}

# All that is there is among its tasks, also threads.
test_htop_counts_all() {
  start threads node1 python3 -c "$sleeper"
  await_pid threads
  wait_until 10 shown_on "$pid" node1
  local counts
  counts=$(view 'ps -eL -o lwp= | wc -l; ps -e -o pid= | wc -l')
  read -r -d '' threads processes <<<"$counts" || true
  ((threads >= processes + 3)) || fail "$threads threads of $processes processes"
  # Not ps, wc and its shell; its own.
  on_screen root "htop -d 5" "Tasks: ($((processes - 3))|$((processes - 2))|$((processes - 1))|$processes), "
}

# For htop there are directories of the leader's processes, too, which nobody else takes for more.
test_directories_of_local_processes() {
  # shellcheck disable=SC2016
  view 'cd /proc/.$$ || exit
    [ "$(readlink stat)" = /run/gestalt/proc/$$/stat ] || echo "stat is $(readlink stat)"
    [ "$(cat comm)" = "$(cat /proc/$$/comm)" ] || echo "comm is $(cat comm)"
    [ "$(readlink exe)" = "$(readlink /proc/$$/exe)" ] || echo "exe is $(readlink exe)"
    cd /; [ "$(readlink /proc/.$$/cwd)" = / ] || echo "cwd is $(readlink /proc/.$$/cwd)"
    [ "$(cat /proc/.$$/task/$$/comm)" = "$(cat /proc/$$/comm)" ] || echo "no thread"
    [ "$(ls /proc/.$$ | sort | xargs)" = "$(ls /proc/$$/ | sort | xargs)" ] || echo "ls differs"
    [ "$(ls /proc/.$$/task)" = $$ ] || echo "threads are $(ls /proc/.$$/task)"
    [ "$(stat -c %U /proc/.$$)" = root ] || echo "owned by $(stat -c %U /proc/.$$)"
    for name in .0 .x .01 .4190000 ..$$ .; do
      [ "$name" = . ] || ! [ -e /proc/$name ] || echo "there is $name"
    done
    [ -z "$(ls /proc | grep "^[.]")" ] || echo "ls shows them"' >"$scratch/out"
  assert_eq "$(cat "$scratch/out")" ""
  start remote node1 sh -c 'echo "ready $$" >&2; exec sleep 1042'
  await_pid remote
  wait_until 10 shown_on "$pid" node1
  expect_exit 1 view "[ -e /proc/.$pid ]"
  # Of another user as little as in /proc.
  # shellcheck disable=SC2016
  assert_contains "$(view_as alice 'LC_ALL=C readlink -v /proc/.1/exe 2>&1; cat /proc/.1/comm')" "denied"
}

# --- files of a process ------------------------------------------------------

# Reads and writes nothing any more when it is ready.
readonly sleeper='import os, sys, threading, time
os.chdir("/usr/share")
os.open("/etc/services", os.O_RDONLY); os.pipe()
for i in range(3): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
os.write(2, b"ready %d\n" % os.getpid())
time.sleep(1000)'

# For both sides, in /proc or where the node has it: $1 is the pid.
readonly summarise='cd "$p" || exit
for f in limits io environ cmdline comm maps oom_score_adj statm auxv loginuid personality; do
  echo "$f $(cksum <$f)"
done
grep -E "^(Name|State|Tgid|Pid|PPid|Uid|Gid|Groups|VmRSS|Threads|Sig...|Cap...):" status
for l in cwd exe root; do echo "$l $(readlink $l)"; done
for l in $(ls fd); do echo "fd $l $(readlink fd/$l)"; done
ls fdinfo | sed "s/^/fdinfo /"; cat fdinfo/0
for t in $(ls task); do echo "task $t $(cat task/$t/comm) $(cut -d " " -f 1-4 task/$t/stat)"; done
ls ns | tr "\n" " "; readlink ns/pid; wc -c <environ; wc -c <maps'

test_files_of_a_remote_process() {
  local mine
  user=alice start files node1 env MARK=of-alice python3 -c "$sleeper"
  await_pid files
  wait_until 10 shown_on "$pid" node1
  native node1 "echo 345 >$pid/oom_score_adj"
  native node1 "p=$pid; $summarise" >"$scratch/native"
  # Its numbers of memory are told each second.
  same_files() { mine=$(view "cd /proc; p=$pid; $summarise" 2>&1) && [[ $mine == "$(cat "$scratch/native")" ]]; }
  (wait_until 8 same_files) || {
    diff "$scratch/native" <(view "cd /proc; p=$pid; $summarise" 2>&1) || true
    fail "files of $pid differ"
  }
  assert_contains "$(view "tr '\\0' '\\n' </proc/$pid/environ")" MARK=of-alice
  assert_eq "$(view "cat /proc/$pid/oom_score_adj")" 345
  assert_eq "$(grep -c ^task "$scratch/native")" 4 "threads"
}

# The environment is told along with the rest; a large one is read when somebody asks.
test_environments() {
  local small large
  user=alice start small node1 env MARK=small python3 -c "$sleeper"
  await_pid small
  small=$pid
  user=alice start large node1 env MARK=large python3 -c 'import os, sys
os.environ |= {f"LONG{i}": "y" * 10000 for i in range(20)}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])' "$sleeper"
  await_pid large
  large=$pid
  wait_until 10 shown_on "$large" node1
  for pid in "$small" "$large"; do
    assert_eq "$(view_as alice "cksum </proc/$pid/environ")" "$(native node1 "cksum <$pid/environ")" "as its owner"
    assert_eq "$(view "cksum </proc/$pid/environ")" "$(native node1 "cksum <$pid/environ")" "as root"
    assert_eq "$(view_as bob "cat /proc/$pid/environ 2>&1 || true")" \
      "cat: /proc/$pid/environ: Permission denied" "as somebody else"
  done
  (($(native node1 "wc -c <$large/environ") > 200000)) || fail "it is not large"
  assert_contains "$(view_as alice "ps ewww -p $small")" MARK=small
}

test_strange_names() {
  local odd number
  start odd1 node1 bash -c "echo \"ready \$\$\" >&2; exec -a \$'a (b) ) S 1\\xff\\nline two' sleep 1011"
  await_pid odd1
  odd=("$pid")
  start odd2 node1 python3 -c 'import os, sys, time
open("/proc/self/comm", "wb").write(b"x) R 9 \xff\n(")
os.write(2, b"ready %d\n" % os.getpid()); time.sleep(1000)' $'\xfe argument\n(two) ' ''
  await_pid odd2
  odd+=("$pid")
  on leader cp /usr/bin/sleep "/usr/local/bin/view (1) 2"
  start odd3 node2 sh -c 'echo "ready $$" >&2; exec "/usr/local/bin/view (1) 2" 1012'
  await_pid odd3
  odd+=("$pid")
  expect_same_as_native node1 node2
  for number in "${odd[@]}"; do
    local node=node1
    [[ $number != "$pid" ]] || node=node2
    assert_eq "$(view "cksum </proc/$number/comm; cksum </proc/$number/cmdline; sed 's/.*) S/S/' /proc/$number/stat | cut -d ' ' -f 1-5")" \
      "$(native "$node" "cksum <$number/comm; cksum <$number/cmdline; sed 's/.*) S/S/' $number/stat | cut -d ' ' -f 1-5")" "files of $number"
    assert_eq "$(view "ps -o ppid=,stat= -p $number" | wc -l)" 1
  done
  assert_eq "$(view "pgrep -fx 'view .1. 2 1012|/usr/local/bin/view .1. 2 1012'")" "$pid"
  assert_eq "$(view "ps -o comm= -p $pid")" "view (1) 2"
}

# A mebibyte of arguments: not told each second, but read whole.
test_a_very_long_command_line() {
  start long node1 python3 -c 'import os, sys, time
if len(sys.argv) == 1:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:3], *["x" * 104858] * 10])
os.write(2, b"ready %d\n" % os.getpid()); time.sleep(1000)'
  await_pid long
  wait_until 10 shown_on "$pid" node1
  (($(native node1 "wc -c <$pid/cmdline") > 1048576)) || fail "it has no mebibyte of arguments"
  same_arguments() { [[ $(view "cksum </proc/$pid/cmdline") == "$(native node1 "cksum <$pid/cmdline")" ]]; }
  wait_until 10 same_arguments
  listed_long() { view "ps -wwo args= -p $pid" | grep -q xxxxxxx; }
  wait_until 10 listed_long
  view 'ps -efww; top -b -n1 -c -w 500; pgrep -af python3' >"$scratch/out"
  (($(grep -c xxxxxxx "$scratch/out") >= 3)) || fail "not all of them show it"
  assert_eq "$(view "ps -ww -eo pid=,ppid=" | grep -cE "^ *$pid ")" 1
}


test_an_ordinary_user_reads_his_own_only() {
  local alices bobs file
  user=alice start alices node1 env SECRET=1 sleep 1013
  user=bob start bobs node1 env SECRET=2 sleep 1014
  alice_and_bob() {
    alices=$(view 'pgrep -u alice -f "sleep 101[3]"') && bobs=$(view 'pgrep -u bob -f "sleep 101[4]"')
  }
  wait_until 15 alice_and_bob
  alice_and_bob
  both_in_ps() { view_as alice 'ps -eo pid=,user=,args=' | grep -cE "^ *($alices alice|$bobs bob) +sleep 101" | grep -qx 2; }
  wait_until 10 both_in_ps
  for file in environ io maps; do
    view_as alice "cat /proc/$alices/$file" >"$scratch/out" || fail "alice cannot read her own $file"
    [[ -s $scratch/out ]] || fail "her $file is empty"
    expect_exit 1 view_as alice "cat /proc/$bobs/$file 2>/dev/null"
    assert_contains "$(view_as alice "cat /proc/$bobs/$file 2>&1 || :")" "Permission denied" "$file of bob's"
  done
  assert_eq "$(view_as alice "readlink /proc/$alices/cwd /proc/$alices/exe")" $'/home/alice\n/usr/bin/sleep'
  for file in cwd exe root fd/0; do
    view "readlink /proc/$bobs/$file" >/dev/null || fail "root cannot read $file of bob's"
    # Also when somebody may have it in a cache.
    assert_eq "$(view_as alice "readlink /proc/$bobs/$file || echo refused")" refused "$file of bob's"
  done
  assert_contains "$(view_as alice "ls /proc/$bobs/fd 2>&1 || :")" "Permission denied"
  assert_contains "$(view_as alice "ls /proc/$alices/fd")" 0
  # What everybody may read natively.
  view_as alice "cat /proc/$bobs/stat /proc/$bobs/status /proc/$bobs/cmdline /proc/$bobs/limits" >/dev/null
}

# A process that was root's has its secrets still: the kernel gives its files to root,
# though /proc/PID itself is the user's.
test_what_was_roots_is_no_users() {
  local file
  start dropped node1 env SECRET=of-root python3 -c 'import os, time
os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
os.write(2, b"ready %d\n" % os.getpid()); time.sleep(1000)'
  await_pid dropped
  shown_as_alices() { [[ $(view_as alice "ps -o user= -p $pid") == alice ]]; }
  wait_until 10 shown_as_alices
  assert_contains "$(view "tr '\\0' '\\n' </proc/$pid/environ")" SECRET=of-root
  for file in environ io maps auxv; do
    assert_contains "$(view_as alice "cat /proc/$pid/$file 2>&1 || :" | tr -d '\0')" "Permission denied" "$file of a process that was root's"
  done
  for file in cwd exe; do
    assert_eq "$(view_as alice "readlink /proc/$pid/$file || echo refused")" refused "$file of it"
  done
  assert_contains "$(view_as alice "ls /proc/$pid/fd 2>&1 || :")" "Permission denied"
  # Execution makes it all his.
  start becomes node1 env SECRET=given setpriv --reuid alice --regid alice --init-groups \
    sh -c 'echo "ready $$" >&2; exec sleep 1015'
  await_pid becomes
  alice_reads() { view_as alice "tr '\\0' '\\n' </proc/$pid/environ" | grep -cx SECRET=given; }
  wait_until 10 alice_reads
}

test_what_changes_is_read_anew() {
  start changing node1 sleep 1016
  changing_is_there() { pid=$(view 'pgrep -fx "sleep 101[6]"'); }
  wait_until 10 changing_is_there
  changing_is_there
  # Of the same length, as well as longer and shorter.
  local score
  for score in 345 346 12 1000 0; do
    native node1 "echo $score >$pid/oom_score_adj"
    score_is() { [[ $(view "cat /proc/$pid/oom_score_adj") == "$1" ]]; }
    wait_until 5 score_is "$score"
  done
}

cluster_up ${#all[@]}
run_tests "$@"
