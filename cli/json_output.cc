#include "cli/json_output.h"

#include <boost/json/serialize.hpp>
#include <cmath>

#include "cli/text.h"
#include "common/format.h"
#include "common/ipv4.h"

namespace gestalt::cli {
namespace {

std::string render_value(const boost::json::value& value);

std::string render_object(const boost::json::object& object) {
  std::string out;
  for (const auto& [key, value] : object)
    out += (out.empty() ? "" : ", ") + boost::json::serialize(boost::json::string(key)) + ": " +
           render_value(value);
  return "{" + out + "}";
}

// Boost writes 0.5 as 5E-1: valid, but not for people.
std::string render_value(const boost::json::value& value) {
  if (value.is_object()) return render_object(value.get_object());
  if (value.is_array()) {
    std::string out;
    for (const auto& each : value.get_array())
      out += (out.empty() ? "" : ", ") + render_value(each);
    return "[" + out + "]";
  }
  if (!value.is_double()) return boost::json::serialize(value);
  double number = value.get_double();
  return std::isfinite(number) ? formatted("{}", number) : "null";
}

boost::json::array blockers_array(const google::protobuf::RepeatedPtrField<wire::Blocker>& from) {
  boost::json::array blockers;
  for (const auto& blocker : from)
    blockers.push_back(boost::json::object{{"pid", blocker.pid()},
                                           {"what", to_utf8(blocker.what())},
                                           {"remedy", to_utf8(blocker.remedy())}});
  return blockers;
}

}  // namespace

std::string render_json(const JsonList& objects) {
  std::string out = "[";
  for (const auto& object : objects)
    out += (out.size() > 1 ? ",\n " : "\n ") + render_object(object);
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
      {"task_source_reason", to_utf8(node.task_source_reason())},
      {"task_events", to_utf8(node.task_events())},
      {"task_events_reason", to_utf8(node.task_events_reason())},
      {"certificate_sha256", to_utf8(node.certificate_sha256())},
  };
}

boost::json::object task_object(const wire::Task& task, std::string_view user) {
  boost::json::object out{
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
  if (task.network_address() != 0) out["address"] = ipv4_text(task.network_address());
  if (task.inspected()) out["blockers"] = blockers_array(task.blockers());
  return out;
}

boost::json::object migration_object(const wire::MigrationStats& stats) {
  const auto& latency = stats.fault_latency_seconds();
  boost::json::array rounds;
  for (const auto& round : stats.rounds_detail())
    rounds.push_back(boost::json::object{{"pages", round.pages()},
                                         {"seconds", round.seconds()},
                                         {"dirty_pages", round.dirty_pages()}});
  boost::json::object out{
      {"migration_id", stats.migration_id()},
      {"pid", stats.pid()},
      {"source", to_utf8(stats.source())},
      {"destination", to_utf8(stats.destination())},
      {"mode", to_utf8(stats.mode())},
      {"freeze_seconds", stats.freeze_seconds()},
      {"total_seconds", stats.total_seconds()},
      {"source_free_seconds", stats.source_free_seconds()},
      {"rounds", stats.rounds()},
      {"rounds_end_reason", to_utf8(stats.rounds_end_reason())},
      {"wire_bytes", stats.wire_bytes()},
      {"pages_sent", stats.pages_sent()},
      {"pages_zero", stats.pages_zero()},
      {"pages_duplicate", stats.pages_duplicate()},
      {"faults_demand", stats.faults_demand()},
      {"faults_avoided", stats.faults_avoided()},
      {"faults_local", stats.faults_local()},
      {"faults_zero", stats.faults_zero()},
      {"fault_latency_seconds", boost::json::object{{"p50", latency.p50()},
                                                    {"p99", latency.p99()},
                                                    {"p999", latency.p999()},
                                                    {"max", latency.max()}}},
      {"source_cpu_seconds", stats.source_cpu_seconds()},
      {"destination_cpu_seconds", stats.destination_cpu_seconds()},
      {"resident_bytes", stats.resident_bytes()},
      {"state_bytes", stats.state_bytes()},
      {"file_cache_bytes", stats.file_cache_bytes()},
      {"state_dump", to_utf8(stats.state_dump())},
      {"tracker", to_utf8(stats.tracker())},
      {"dump_seconds", stats.dump_seconds()},
      {"restore_seconds", stats.restore_seconds()},
      {"commit_seconds", stats.commit_seconds()},
      {"streams", stats.streams()},
      {"transport", to_utf8(stats.transport())},
      {"transport_reason", to_utf8(stats.transport_reason())},
      {"rdma_reads", stats.rdma_reads()},
      {"rdma_read_bytes", stats.rdma_read_bytes()},
      {"rdma_demand_reads", stats.rdma_demand_reads()},
      {"zero_copy_pages", stats.zero_copy_pages()},
      {"zero_copy_regions", stats.zero_copy_regions()},
      {"processes", stats.processes()},
      {"threads", stats.threads()},
      {"command", to_utf8(stats.command())},
      {"started_unix_seconds", stats.started_unix_seconds()},
      {"state", to_utf8(stats.state())},
      {"rounds_detail", std::move(rounds)},
  };
  if (!stats.error().empty()) out["error"] = to_utf8(stats.error());
  return out;
}

boost::json::object preflight_object(const wire::PreflightReport& report, unsigned pid) {
  return {
      {"pid", pid},
      {"source", to_utf8(report.source())},
      {"destination", to_utf8(report.destination())},
      {"mode", to_utf8(report.mode())},
      {"can_move", report.blockers().empty()},
      {"blockers", blockers_array(report.blockers())},
      {"resident_bytes", report.resident_bytes()},
      {"expected_bytes", report.expected_bytes()},
      {"processes", report.processes()},
      {"threads", report.threads()},
      {"tracker", to_utf8(report.tracker())},
      {"state_dump", to_utf8(report.state_dump())},
      {"transport", to_utf8(report.transport())},
      {"transport_reason", to_utf8(report.transport_reason())},
  };
}

}  // namespace gestalt::cli
