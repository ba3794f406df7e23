#include "common/proc.h"

#include <dirent.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

// Readers of a process that is just exiting get ESRCH or ENOENT.
Result<std::string> read_process_file(const std::string& proc, pid_t pid, const char* name) {
  auto text = read_file(formatted("{}/{}/{}", proc, pid, name));
  if (!text && (text.error().code == ErrorCode::kNotFound || text.error().code == ErrorCode::kGone))
    return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  return text;
}

}  // namespace

Result<ProcessStat> parse_stat(const std::string& text) {
  // The name may hold anything, so it ends at the last parenthesis.
  auto open = text.find('(');
  auto close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open)
    return fail(ErrorCode::kProtocol, "a stat line without a name");
  ProcessStat out;
  const char* name = text.data() + open;
  auto [end, error] = std::from_chars(text.data(), name, out.pid);
  if (error != std::errc() || end + 1 != name || *end != ' ')
    return fail(ErrorCode::kProtocol, "a stat line without a pid");
  out.comm = text.substr(open + 1, close - open - 1);
  std::istringstream fields(text.substr(close + 1));
  std::int64_t skipped = 0;
  auto skip = [&](int count) {
    for (int i = 0; i < count; ++i) fields >> skipped;
  };
  fields >> out.state >> out.parent_pid >> out.group_id >> out.session_id >> out.tty;
  fields >> out.foreground_group;
  std::uint64_t flags = 0;
  fields >> flags;
  skip(4);  // page faults
  fields >> out.user_ticks >> out.system_ticks;
  skip(4);  // children's times, priority, nice
  fields >> out.threads;
  skip(1);
  std::uint64_t virtual_bytes = 0;
  fields >> out.start_ticks >> virtual_bytes >> out.resident_pages;
  if (!fields || out.pid <= 0) return fail(ErrorCode::kProtocol, "a stat line with too few fields");
  return out;
}

// A name holds no newline: the kernel writes "\\n" for one.
std::string_view status_field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.size() <= name.size() || line[name.size()] != ':' || !line.starts_with(name)) continue;
    line.remove_prefix(name.size() + 1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    return line.substr(0, line.find_last_not_of(" \t") + 1);
  }
  return {};
}

Result<ProcessIds> parse_status(const std::string& text) {
  ProcessIds out;
  std::istringstream uids{std::string(status_field(text, "Uid"))};
  if (!(uids >> out.real_uid >> out.effective_uid >> out.saved_uid))
    return fail(ErrorCode::kProtocol, "a status file without Uid");
  std::istringstream pids{std::string(status_field(text, "NSpid"))};
  for (pid_t pid = 0; pids >> pid;) out.namespace_pids.push_back(pid);
  return out;
}

Result<ProcessStat> read_stat(const std::string& proc, pid_t pid) {
  GESTALT_ASSIGN(auto text, read_process_file(proc, pid, "stat"));
  GESTALT_ASSIGN(auto stat, parse_stat(text));
  // Collected while the kernel wrote the line: its parent and its groups are no longer told.
  if (stat.threads == 0) return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  return stat;
}

Result<ProcessIds> read_ids(const std::string& proc, pid_t pid) {
  GESTALT_ASSIGN(auto text, read_process_file(proc, pid, "status"));
  return parse_status(text);
}

Result<std::vector<pid_t>> list_pids(const std::string& proc) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(proc.c_str()), ::closedir);
  if (!directory) return fail_errno(errno, formatted("list {}", proc));
  std::vector<pid_t> pids;
  while (const dirent* entry = ::readdir(directory.get())) {
    std::string_view name = entry->d_name;
    pid_t pid = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc() && end == name.data() + name.size() && pid > 0) pids.push_back(pid);
  }
  return pids;
}

std::string command_line(const std::string& proc, pid_t pid, std::size_t limit_bytes) {
  auto text = read_process_file(proc, pid, "cmdline");
  while (text && !text->empty() && text->back() == '\0') text->pop_back();
  if (text && !text->empty()) {
    for (char& c : *text) c = c == '\0' ? ' ' : c;
    return text->substr(0, limit_bytes);
  }
  auto stat = read_stat(proc, pid);
  return stat ? formatted("[{}]", stat->comm) : std::string("[?]");
}

Result<std::string> cgroup_path(const std::string& proc, pid_t pid) {
  GESTALT_ASSIGN(auto text, read_process_file(proc, pid, "cgroup"));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("0::")) return line.substr(3);
  return fail(ErrorCode::kNotFound, formatted("process {} has no cgroup-v2 group", pid),
              "mount the cgroup2 hierarchy");
}

}  // namespace gestalt
