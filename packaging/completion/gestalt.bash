# bash completion for gestalt(1)

# Asks the daemon, but never makes the user wait for it.
_gestalt_names() {
  timeout 1 gestalt node list 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_gestalt_pids() {
  timeout 1 gestalt ps 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_gestalt_movable() {
  timeout 1 gestalt ps --all-columns 2>/dev/null | awk 'NR > 1 && $8 == "yes" { print $1 }'
}

_gestalt_signals() {
  gestalt kill -l 2>/dev/null | awk '{ print $2 }'
}

# The program of `gestalt run` completes as it would without it.
_gestalt_run() {
  local i
  for ((i = 2; i < cword; i++)); do
    case ${words[i]} in
      --) ((i++)); break ;;
      --node | --net | --env | --cwd) ((i++)) ;;
      -*) ;;
      *) break ;;
    esac
  done
  if ((i < cword)) || { ((i == cword)) && [[ ${words[i - 1]} == -- ]]; }; then
    _command_offset "$i"
    return
  fi
  case $prev in
    --node) mapfile -t COMPREPLY < <(compgen -W "$(_gestalt_names)" -- "$cur") ;;
    --net) mapfile -t COMPREPLY < <(compgen -W "node own" -- "$cur") ;;
    --cwd) _filedir -d ;;
    --env) mapfile -t COMPREPLY < <(compgen -v -S = -- "$cur"); compopt -o nospace ;;
    *)
      if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "--node --best --net --env --cwd --help" -- "$cur")
      else
        _command_offset "$cword"
      fi
      ;;
  esac
}

_gestalt() {
  local cur prev words cword options=--help candidates=
  _init_completion || return
  if ((cword == 1)); then
    mapfile -t COMPREPLY < <(
      compgen -W "run shell ps migrate migrations kill node init version --help --version" -- "$cur")
    return
  fi
  case ${words[1]} in
    run) _gestalt_run; return ;;
    shell)
      options="-c -l --login --env --help"
      case $prev in
        -c) mapfile -t COMPREPLY < <(compgen -c -- "$cur"); return ;;
        --env) mapfile -t COMPREPLY < <(compgen -v -S = -- "$cur"); compopt -o nospace; return ;;
      esac
      ;;
    ps) options="--json --all-columns --help" ;;
    version) options="--json --help" ;;
    init)
      options="--force --config --json --help"
      [[ $prev == --config ]] && { _filedir; return; }
      ;;
    migrate)
      options="--mode --max-rounds --downtime-goal --bandwidth --transport --streams --prefetch
        --compress --checksum --dry-run --wait --no-wait --timeout --json --help"
      case $prev in
        --mode) candidates="eager lazy pre-copy post-copy hybrid" ;;
        --transport) candidates="auto tcp rdma" ;;
        --timeout | --max-rounds | --downtime-goal | --bandwidth | --streams | --prefetch) return ;;
        migrate) candidates=$(_gestalt_movable) ;;
        *) candidates=$(_gestalt_names) ;;
      esac
      ;;
    migrations)
      options="--json --help"
      candidates=$(timeout 1 gestalt migrations 2>/dev/null | awk 'NR > 1 { print $1 }')
      ;;
    kill)
      options="-s -l --help"
      if [[ $prev == -s || $prev == -l ]]; then
        candidates=$(_gestalt_signals)
      elif [[ $cur != -* ]]; then
        candidates=$(_gestalt_pids)
      fi
      ;;
    node)
      options="--json --help"
      if ((cword == 2)); then candidates="list show drain resume"; else candidates=$(_gestalt_names); fi
      ;;
  esac
  [[ $cur == -* ]] && candidates=$options
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$cur")
}

complete -F _gestalt gestalt
