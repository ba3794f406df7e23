#include "common/criu_version.h"

#include <poll.h>
#include <unistd.h>

#include <csignal>

#include "common/child.h"
#include "common/fd.h"
#include "common/format.h"
#include "common/paths.h"

namespace gestalt {

Result<std::string> criu_version(Deadline deadline) {
  GESTALT_ASSIGN(auto pipe, make_pipe());
  SpawnOptions options;
  options.argv = {paths::kCriuProgram, "--version"};
  options.descriptors = {{pipe.write.get(), STDOUT_FILENO}};
  GESTALT_ASSIGN(pid_t pid, spawn(options));
  pipe.write.reset();
  std::string text(4096, '\0');
  ssize_t count = 0;
  auto answered = wait_for(pipe.read.get(), POLLIN, deadline);
  if (answered) count = ::read(pipe.read.get(), text.data(), text.size());
  if (!answered) (void)::kill(pid, SIGKILL);
  (void)wait_child(pid, answered ? deadline : deadline_in(std::chrono::seconds(1)));
  GESTALT_TRY(std::move(answered));
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  constexpr std::string_view kLabel = "Version: ";
  auto begin = text.find(kLabel);
  if (begin == std::string::npos)
    return fail(ErrorCode::kProtocol,
                formatted("{} does not say its version", paths::kCriuProgram));
  text.erase(0, begin + kLabel.size());
  return text.substr(0, text.find('\n'));
}

}  // namespace gestalt
