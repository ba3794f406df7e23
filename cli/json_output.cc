#include "cli/json_output.h"

#include <boost/json/serialize.hpp>
#include <cmath>
#include <format>

#include "cli/text.h"

namespace gestalt::cli {
namespace {

// Boost writes 0.5 as 5E-1: valid, but not for people.
std::string render_value(const boost::json::value& value) {
  if (!value.is_double()) return boost::json::serialize(value);
  double number = value.get_double();
  return std::isfinite(number) ? std::format("{}", number) : "null";
}

}  // namespace

std::string render_json(const JsonList& objects) {
  std::string out = "[";
  for (const auto& object : objects) {
    out += out.size() > 1 ? ",\n {" : "\n {";
    bool first = true;
    for (const auto& [key, value] : object) {
      if (!first) out += ", ";
      first = false;
      out += boost::json::serialize(boost::json::string(key)) + ": " + render_value(value);
    }
    out += "}";
  }
  return out + (objects.empty() ? "]\n" : "\n]\n");
}

boost::json::object node_object(const wire::NodeInfo& node) {
  return {
      {"name", to_utf8(node.name())},
      {"state", to_utf8(node.state())},
      {"role", to_utf8(node.role())},
      {"address", to_utf8(node.address())},
      {"cpus", node.cpus()},
      {"load", node.load()},
      {"memory_total_bytes", node.memory_total_bytes()},
      {"memory_available_bytes", node.memory_available_bytes()},
      {"tasks", node.tasks()},
      {"jobs", node.jobs()},
      {"pid_first", node.pid_first()},
      {"pid_last", node.pid_last()},
      {"heartbeat_age_seconds", node.heartbeat_age_seconds()},
      {"joined_unix_seconds", node.joined_unix_seconds()},
      {"version", to_utf8(node.version())},
      {"kernel", to_utf8(node.kernel())},
      {"criu", to_utf8(node.criu())},
      {"task_source", to_utf8(node.task_source())},
      {"certificate_sha256", to_utf8(node.certificate_sha256())},
  };
}

boost::json::object task_object(const wire::Task& task, std::string_view user) {
  return {
      {"pid", task.pid()},
      {"parent_pid", task.parent_pid()},
      {"node", to_utf8(task.node())},
      {"uid", task.uid()},
      {"user", to_utf8(user)},
      {"state", to_utf8(task.state())},
      {"threads", task.threads()},
      {"resident_bytes", task.resident_bytes()},
      {"cpu_seconds", task.cpu_seconds()},
      {"started_seconds_ago", task.started_seconds_ago()},
      {"job_id", task.job_id()},
      {"migratable", migratable(task)},
      {"command", to_utf8(task.command())},
  };
}

boost::json::object migration_object(const wire::MigrationStats& stats) {
  return {
      {"migration_id", stats.migration_id()},
      {"pid", stats.pid()},
      {"source", to_utf8(stats.source())},
      {"destination", to_utf8(stats.destination())},
      {"mode", to_utf8(stats.mode())},
      {"freeze_seconds", stats.freeze_seconds()},
      {"total_seconds", stats.total_seconds()},
      {"wire_bytes", stats.wire_bytes()},
      {"pages_sent", stats.pages_sent()},
      {"pages_zero", stats.pages_zero()},
      {"state_bytes", stats.state_bytes()},
      {"processes", stats.processes()},
      {"threads", stats.threads()},
      {"command", to_utf8(stats.command())},
  };
}

}  // namespace gestalt::cli
