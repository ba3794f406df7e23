#include "cli/client.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "cli/exit_codes.h"
#include "cli/report.h"
#include "common/format.h"
#include "common/message_channel.h"
#include "common/paths.h"
#include "common/unix_socket.h"

namespace gestalt::cli {

std::string daemon_socket_path() {
  const char* path = std::getenv("GESTALT_SOCKET");  // NOLINT(concurrency-mt-unsafe)
  return path != nullptr && *path != '\0' ? path : paths::kClientSocket;
}

Result<Fd> connect_daemon(const std::string& path) {
  auto socket = connect_unix(path);
  if (socket) return socket;
  return fail(ErrorCode::kUnavailable,
              formatted("cannot reach gestaltd at {}: {}", path, socket.error().message),
              "systemctl status gestaltd; gestalt works on the leader, or set GESTALT_SOCKET");
}

int call_daemon(Call call, const std::function<int(const wire::Message&)>& use) {
  auto socket = connect_daemon(daemon_socket_path());
  if (!socket) return report(socket.error(), kExitGestalt);
  EventLoop loop;
  std::optional<Result<wire::Message>> reply;
  bool lost = false;
  MessageChannel channel(
      loop, std::move(*socket),
      [&](const wire::Message& message) {
        if (call.on_notice) call.on_notice(message);
      },
      [](const Error&) {});
  channel.request(std::move(call.request), call.timeout, [&](Result<wire::Message> result) {
    lost = !channel.open();
    reply = std::move(result);
    loop.stop();
  });
  loop.run();
  if (*reply) return use(**reply);
  auto error = std::move(*reply).error();
  if (!lost) return report(error, command_exit_code(error.code));
  error = std::move(error).in("the connection to gestaltd was lost before it answered");
  error.remedy = "systemctl status gestaltd; look whether the request was carried out";
  return report(error, kExitGestalt);
}

void fill_standard_descriptors() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);  // NOLINT(android-cloexec-open): it is a standard stream
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) ::close(fd);
}

}  // namespace gestalt::cli
