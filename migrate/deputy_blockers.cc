#include "migrate/deputy_blockers.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"
#include "migrate/deputize.h"
#include "migrate/descriptors.h"

namespace gestalt {
namespace {

bool is_standard(const std::string& number) {
  return number == "0" || number == "1" || number == "2";
}

bool is_pipe(const Descriptor& each) { return each.target.starts_with("pipe:["); }

bool is_terminal(const Descriptor& each) {
  return each.target.starts_with("/dev/pts/") || each.target.starts_with("/dev/tty") ||
         each.target == "/dev/console";
}

bool is_deputy(const std::string& proc, pid_t pid) {
  std::error_code error;
  return std::filesystem::read_symlink(formatted("{}/{}/exe", proc, pid), error) == kDeputyProgram;
}

class TiesOfRoot {
 public:
  TiesOfRoot(const std::string& proc, const ProcessTree& tree) : proc_(proc), tree_(tree) {}

  std::vector<Blocker> run() {
    std::vector<Descriptor> all;
    for (pid_t pid : tree_.pids)
      std::ranges::copy(descriptors_of(proc_, pid), std::back_inserter(all));
    for (const auto& each : all)
      if (each.pid == root() && is_standard(each.number)) standard_.emplace(each.number, each);
    pipes_elsewhere();
    for (const auto& each : all) {
      if (is_pipe(each)) pipe(each);
      if (is_terminal(each)) terminal(each);
      named_pipe(each);
    }
    both_ways();
    seccomp();
    return std::move(blockers_);
  }

 private:
  [[nodiscard]] pid_t root() const { return tree_.pids.front(); }

  void add(pid_t pid, std::string what, std::string remedy) {
    blockers_.push_back({pid, std::move(what), std::move(remedy)});
  }

  [[nodiscard]] bool is_standard_target(const std::string& target) const {
    return std::ranges::any_of(standard_,
                               [&](const auto& entry) { return entry.second.target == target; });
  }

  void pipes_elsewhere() {
    std::set<pid_t> ours(tree_.pids.begin(), tree_.pids.end());
    for (pid_t pid : list_pids(proc_).value_or(std::vector<pid_t>())) {
      if (ours.contains(pid)) continue;
      for (const auto& each : descriptors_of(proc_, pid))
        if (is_pipe(each)) pipes_elsewhere_.insert(each.target);
    }
  }

  void pipe(const Descriptor& each) {
    if (is_standard_target(each.target) || !pipes_elsewhere_.contains(each.target)) return;
    add(each.pid, each.text() + " is connected to a process that would stay here",
        "only standard input, output and error are relayed: use these, or move the other, too");
  }

  void named_pipe(const Descriptor& each) {
    if (!each.target.starts_with('/')) return;
    struct stat info{};
    auto path = formatted("{}/{}/fd/{}", proc_, each.pid, each.number);
    if (::stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode))
      add(each.pid, each.text() + " is a named pipe, which ends at this node",
          "use an unnamed one, or start all that use it as one job");
  }

  void terminal(const Descriptor& each) {
    if (each.target == "/dev/tty" || is_standard_target(each.target)) return;
    add(each.pid, each.text() + " is a terminal, but none of the standard streams",
        "only standard input, output and error are relayed");
  }

  void both_ways() {
    auto input = standard_.find("0");
    if (input == standard_.end() || !is_pipe(input->second)) return;
    for (const char* number : {"1", "2"})
      if (auto output = standard_.find(number);
          output != standard_.end() && output->second.target == input->second.target)
        add(root(), "its standard input and output are one and the same pipe",
            "give it a pipe for each");
  }

  // The deputy would have to live with it.
  void seccomp() {
    auto text = read_file(formatted("{}/{}/status", proc_, root()));
    constexpr std::string_view kKey = "\nSeccomp:\t";
    auto at = text ? text->find(kKey) : std::string::npos;
    if (at != std::string::npos && (*text)[at + kKey.size()] != '0')
      add(root(), "it has a seccomp filter, which its deputy could not run under",
          "start it with `gestalt run`");
  }

  const std::string& proc_;
  const ProcessTree& tree_;
  std::map<std::string, Descriptor> standard_;  // of the root, by number
  std::set<std::string> pipes_elsewhere_;
  std::vector<Blocker> blockers_;
};

}  // namespace

std::vector<Blocker> deputy_blockers(const std::string& proc, const ProcessTree& tree) {
  return TiesOfRoot(proc, tree).run();
}

std::vector<Blocker> own_deputies(const std::string& proc, const ProcessTree& tree) {
  std::vector<Blocker> blockers;
  for (pid_t pid : tree.pids)
    if (is_deputy(proc, pid))
      blockers.push_back({pid, "it has moved away itself; here is only its deputy",
                          "wait for its end, or move its parent's other children alone"});
  return blockers;
}

}  // namespace gestalt
