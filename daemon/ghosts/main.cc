// gestalt-ghosts: see ghost_service.h. Started by gestalt-init on the leader.

#include <cstdio>
#include <cstring>

#include "common/log.h"
#include "common/paths.h"
#include "daemon/ghosts/ghost_service.h"

int main(int argc, char** argv) {
  const char* socket_path = gestalt::paths::kViewSocket;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--socket") == 0 && i + 1 < argc) {
      socket_path = argv[++i];
      continue;
    }
    bool help = std::strcmp(argv[i], "--help") == 0;
    std::fputs(
        "Usage: gestalt-ghosts [--socket PATH]\n"
        "Holds the pids of processes on other nodes. Started by gestalt-init; not meant to\n"
        "be run by hand.\n",
        help ? stdout : stderr);
    return help ? 0 : 2;
  }
  gestalt::log::initialise("gestalt-ghosts");
  gestalt::GhostService service(socket_path);
  if (auto started = service.start(); !started) {
    gestalt::log::error("cannot start", gestalt::log::field("error", started.error().text()));
    return 1;
  }
  service.run();
  return 0;
}
