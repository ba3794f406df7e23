#include "cli/migration_report.h"

#include <algorithm>

#include "cli/table.h"
#include "cli/text.h"
#include "common/format.h"

namespace gestalt::cli {
namespace {

constexpr std::size_t kBarColumns = 20;

std::string bar(std::uint64_t done, std::uint64_t total) {
  double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  auto full = static_cast<std::size_t>(share * static_cast<double>(kBarColumns));
  return "[" + std::string(full, '#') + std::string(kBarColumns - full, '.') + "]";
}

std::string milliseconds_text(double seconds) { return formatted("{:.1f} ms", seconds * 1e3); }

std::string cell(double seconds) { return seconds > 0 ? milliseconds_text(seconds) : "-"; }

// Why the rounds ended matters most where they did not reach their goal.
std::string rounds_end(const std::string& reason) {
  if (reason == "downtime-goal") return "the rest fitted into the downtime goal";
  if (reason == "no-convergence") return "no convergence: it writes as fast as its pages move";
  if (reason == "round-limit") return "the limit of rounds, before the downtime goal was in reach";
  if (reason == "timeout") return "the time was up, before the downtime goal was in reach";
  return visible(reason);
}

std::string rounds_text(const wire::MigrationStats& stats) {
  std::string out =
      formatted("{} round{} before the freeze", stats.rounds(), stats.rounds() == 1 ? "" : "s");
  if (!stats.rounds_end_reason().empty())
    out += ", ended by: " + rounds_end(stats.rounds_end_reason());
  return out;
}

std::string faults_text(const wire::MigrationStats& stats) {
  std::string out = formatted("{} waited for a page from the source", stats.faults_demand());
  if (stats.faults_demand() > 0) {
    const auto& latency = stats.fault_latency_seconds();
    out += formatted(" (p50 {}, p99 {}, longest {})", milliseconds_text(latency.p50()),
                     milliseconds_text(latency.p99()), milliseconds_text(latency.max()));
  }
  return out +
         formatted(", {} pages were there before they were asked for", stats.faults_avoided());
}

std::string transport_text(const wire::PreflightReport& report) {
  std::string out = visible(report.transport());
  if (!report.transport_reason().empty())
    out += formatted("; not RDMA: {}", visible(report.transport_reason()));
  return out;
}

bool has_faults(const wire::MigrationStats& stats) {
  return stats.faults_demand() + stats.faults_avoided() + stats.faults_local() > 0;
}

std::string with_command(const wire::MigrationStats& stats) {
  std::string command = stats.command().empty() ? "" : formatted(" ({})", stats.command());
  return visible(formatted("pid {}{}", stats.pid(), command));
}

}  // namespace

std::string progress_text(const wire::MigrationProgress& progress, std::size_t width) {
  std::string text = visible(progress.phase());
  if (progress.round() > 0) text += formatted(" round {}", progress.round());
  if (progress.bytes_total() > 0)
    text += formatted(" {} {} of {}", bar(progress.bytes_done(), progress.bytes_total()),
                      human_bytes(progress.bytes_done()), human_bytes(progress.bytes_total()));
  auto rate = [](double value) {
    return human_bytes(value > 0 && value < 1e18 ? static_cast<std::uint64_t>(value) : 0) + "/s";
  };
  if (progress.bytes_per_second() > 0) text += "  " + rate(progress.bytes_per_second());
  if (progress.dirty_bytes_per_second() > 0)
    text += "  dirty " + rate(progress.dirty_bytes_per_second());
  return std::string(cut_to_width(text, width));
}

std::string migration_summary(const wire::MigrationStats& stats) {
  bool paging = stats.state() == "paging";
  std::string out =
      formatted("moved {} from {} to {}: froze {}, ", with_command(stats), visible(stats.source()),
                visible(stats.destination()), milliseconds_text(stats.freeze_seconds()));
  if (!paging) out += formatted("total {}, ", milliseconds_text(stats.total_seconds()));
  if (!paging && stats.source_free_seconds() > 0)
    out += formatted("source free after {}, ", milliseconds_text(stats.source_free_seconds()));
  out += formatted("{} bytes\n", stats.wire_bytes());
  if (stats.rounds() > 0) out += formatted("  {}\n", rounds_text(stats));
  if (has_faults(stats)) out += formatted("  faults: {}\n", faults_text(stats));
  if (paging)
    out += formatted("  pages still follow: see `gestalt migrations {}`\n", stats.migration_id());
  return out;
}

std::string preflight_text(const wire::PreflightReport& report, unsigned pid) {
  bool can = report.blockers().empty();
  std::string out = formatted(
      "pid {} {} move from {} to {} (mode {}): {} processes, {} threads, {} resident, about {} "
      "to send\n",
      pid, can ? "can" : "cannot", visible(report.source()), visible(report.destination()),
      visible(report.mode()), report.processes(), report.threads(),
      human_bytes(report.resident_bytes()), human_bytes(report.expected_bytes()));
  for (const auto& blocker : report.blockers()) {
    out += formatted("  pid {}: {}\n", blocker.pid(), visible(blocker.what()));
    if (!blocker.remedy().empty()) out += formatted("    try: {}\n", visible(blocker.remedy()));
  }
  if (can)
    out += formatted("  state dump: {}; dirty tracker: {}\n", visible(report.state_dump()),
                     visible(report.tracker()));
  if (can) out += formatted("  transport: {}\n", transport_text(report));
  return out;
}

std::string migrations_table(const wire::MigrationListReply& reply, std::size_t width) {
  using enum Table::Align;
  Table table({{"ID", kRight},
               {"PID", kRight},
               {"FROM"},
               {"TO"},
               {"MODE"},
               {"STATE"},
               {"FREEZE", kRight},
               {"TOTAL", kRight},
               {"SENT", kRight},
               {"COMMAND"}});
  for (const auto& each : reply.migrations())
    table.add_row({formatted("{}", each.migration_id()), formatted("{}", each.pid()), each.source(),
                   each.destination(), each.mode(), each.state(), cell(each.freeze_seconds()),
                   cell(each.total_seconds()), human_bytes(each.wire_bytes()), each.command()});
  return table.render(width);
}

std::string migration_sheet(const wire::MigrationStats& stats) {
  std::string out;
  auto line = [&out](const char* label, const std::string& value) {
    out += formatted("{:<14}{}\n", label, visible(value));
  };
  line("migration", formatted("{}", stats.migration_id()));
  line("pid", formatted("{}", stats.pid()));
  line("command", stats.command());
  line("from", stats.source());
  line("to", stats.destination());
  line("mode", stats.mode());
  line("state", stats.state());
  if (!stats.error().empty()) line("error", stats.error());
  line("freeze", cell(stats.freeze_seconds()));
  line("total", cell(stats.total_seconds()));
  line("source free", cell(stats.source_free_seconds()));
  line("sent", formatted("{} in {} pages, {} zero, {} twice", human_bytes(stats.wire_bytes()),
                         stats.pages_sent(), stats.pages_zero(), stats.pages_duplicate()));
  if (stats.transport() == "rdma")
    line("by", formatted("RDMA, {} reads of {}", stats.rdma_reads(),
                         human_bytes(stats.rdma_read_bytes())));
  if (stats.rounds() > 0) line("rounds", rounds_text(stats));
  if (has_faults(stats)) line("faults", faults_text(stats));
  return out;
}

}  // namespace gestalt::cli
