
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/report.h"
#include "cli/text.h"
#include "common/format.h"

namespace gestalt::cli {

int version(bool json) {
  Call call;
  call.request.mutable_version_request();
  // Our own version is worth printing even where no daemon runs.
  if (!json) {
    if (auto printed = print_out(formatted("gestalt {}\n", GESTALT_VERSION)); !printed)
      return report(printed.error(), kExitFailed);
  }
  return call_daemon(std::move(call), [json](const wire::Message& message) {
    const auto& reply = message.version_reply();
    std::string text =
        formatted("gestaltd {} on {} ({}), CRIU {}\n", visible(reply.version()),
                  visible(reply.node()), visible(reply.role()), visible(reply.criu()));
    if (json)
      text = render_json({{{"cli_version", GESTALT_VERSION},
                           {"daemon_version", to_utf8(reply.version())},
                           {"node", to_utf8(reply.node())},
                           {"role", to_utf8(reply.role())},
                           {"criu", to_utf8(reply.criu())}}});
    auto printed = print_out(text);
    return printed ? kExitOk : report(printed.error(), kExitFailed);
  });
}

}  // namespace gestalt::cli
