#include <functional>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/report.h"
#include "cli/table.h"
#include "cli/text.h"
#include "common/format.h"

namespace gestalt::cli {
namespace {

using Nodes = google::protobuf::RepeatedPtrField<wire::NodeInfo>;

int print_nodes(const std::string& text) {
  if (auto printed = print_out(text); !printed) return report(printed.error(), kExitFailed);
  return kExitOk;
}

std::string nodes_json(const Nodes& nodes) {
  JsonList list;
  for (const auto& node : nodes) list.push_back(node_object(node));
  return render_json(list);
}

std::string nodes_table(const Nodes& nodes) {
  using enum Table::Align;
  Table table({{"NAME"},
               {"STATE"},
               {"ROLE"},
               {"CPUS", kRight},
               {"LOAD", kRight},
               {"MEMORY", kRight},
               {"FREE", kRight},
               {"TASKS", kRight},
               {"JOBS", kRight},
               {"SEEN", kRight},
               {"ADDRESS"}});
  for (const auto& node : nodes) {
    table.add_row({node.name(), node.state(), node.role(), formatted("{:.4g}", node.cpus()),
                   formatted("{:.2f}", node.load()), human_bytes(node.memory_total_bytes()),
                   human_bytes(node.memory_available_bytes()), formatted("{}", node.tasks()),
                   formatted("{}", node.jobs()), human_duration(node.heartbeat_age_seconds()),
                   node.address()});
  }
  return table.render(output_width());
}

std::string node_sheet(const wire::NodeInfo& node) {
  auto line = [](const char* label, const std::string& value) {
    return formatted("{:<14}{}\n", label, visible(value));
  };
  std::string out = line("name", node.name());
  out += line("state", node.state());
  out += line("role", node.role());
  out += line("address", node.address());
  out += line("cpus", formatted("{:.4g}", node.cpus()));
  out += line("load", formatted("{:.2f}", node.load()));
  out += line("memory", formatted("{} of {} available", human_bytes(node.memory_available_bytes()),
                                  human_bytes(node.memory_total_bytes())));
  out += line("tasks", formatted("{} ({} jobs)", node.tasks(), node.jobs()));
  out += line("pids", formatted("{} to {}", node.pid_first(), node.pid_last()));
  out += line("heartbeat", human_duration(node.heartbeat_age_seconds()) + " ago");
  out += line("version", node.version());
  out += line("kernel", node.kernel());
  out += line("criu", node.criu());
  out += line("task source", formatted("{} ({})", node.task_source(), node.task_source_reason()));
  out += line("task events", formatted("{} ({})", node.task_events(), node.task_events_reason()));
  out += line("certificate", node.certificate_sha256());
  return out;
}

int list_nodes(const std::string& name, const std::function<int(const Nodes&)>& use) {
  Call call;
  call.request.mutable_node_list_request()->set_name(name);
  return call_daemon(std::move(call), [&use](const wire::Message& reply) {
    return use(reply.node_list_reply().nodes());
  });
}

}  // namespace

int node_list(const NodeListOptions& options) {
  return list_nodes(options.node_set, [&options](const Nodes& nodes) {
    return print_nodes(options.json ? nodes_json(nodes) : nodes_table(nodes));
  });
}

int node_show(const NodeShowOptions& options) {
  return list_nodes(options.name, [&options](const Nodes& nodes) {
    if (nodes.empty())
      return report(
          Error{ErrorCode::kNotFound, formatted("no node {}", options.name), "gestalt node list"},
          kExitNotFound);
    if (options.json) return print_nodes(nodes_json(nodes));
    std::string out;
    for (const auto& node : nodes) out += (out.empty() ? "" : "\n") + node_sheet(node);
    return print_nodes(out);
  });
}

int node_drain(const std::string& name, bool drain) {
  Call call;
  auto& request = *call.request.mutable_node_drain_request();
  request.set_name(name);
  request.set_drain(drain);
  return call_daemon(std::move(call), [](const wire::Message&) { return kExitOk; });
}

}  // namespace gestalt::cli
