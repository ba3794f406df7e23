# shellcheck shell=bash
# shellcheck disable=SC2154 # victims is of jobs.sh
# sessions.sh: for cluster tests with a user in a session. Sourced after jobs.sh.

# in_a_session [SECONDS]: runs the Python code on stdin on the leader. tests/victims/session.py.
in_a_session() {
  {
    printf 'import os, sys, time\nsys.path.insert(0, "%s")\nVICTIMS = "%s"\n' "$victims" "$victims"
    printf 'from expect import *\nfrom session import *\n'
    cat
  } | on leader timeout --kill-after=5 "${1:-100}" python3 -
}
