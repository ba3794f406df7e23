#include "migrate/process_tree.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxProcesses = 100'000;

Result<std::vector<pid_t>> children_of(const std::string& proc, pid_t pid, std::uint32_t& threads) {
  std::vector<pid_t> children;
  std::string tasks = formatted("{}/{}/task", proc, pid);
  GESTALT_ASSIGN(auto tids, list_pids(tasks));
  for (pid_t tid : tids) {
    ++threads;
    auto text = read_file(formatted("{}/{}/children", tasks, tid));
    if (!text) continue;  // the thread has ended
    std::istringstream numbers(*text);
    for (pid_t child = 0; numbers >> child;) children.push_back(child);
  }
  return children;
}

constexpr int kMaxGenerations = 4096;

enum class Descent { kOfTheTree, kStray, kEnded, kUnclear };

Descent descent_of(const std::string& proc, const std::set<pid_t>& members, pid_t pid) {
  pid_t ancestor = pid;
  for (int i = 0; i < kMaxGenerations; ++i) {
    if (members.contains(ancestor)) return Descent::kOfTheTree;
    auto stat = read_stat(proc, ancestor);
    if (!stat) return ancestor == pid ? Descent::kEnded : Descent::kUnclear;
    // A first thread that has ended while others run is a zombie too.
    if (ancestor == pid && stat->state == 'Z' && stat->threads <= 1) return Descent::kEnded;
    if (stat->parent_pid <= 1) return Descent::kStray;
    ancestor = stat->parent_pid;
  }
  return Descent::kStray;
}

}  // namespace

Result<ProcessTree> read_tree(const std::string& proc, pid_t root) {
  ProcessTree tree;
  tree.pids.push_back(root);
  for (std::size_t next = 0; next < tree.pids.size(); ++next) {
    auto children = children_of(proc, tree.pids[next], tree.threads);
    if (!children) {
      if (next == 0) return fail(ErrorCode::kGone, formatted("process {} does not exist", root));
      continue;
    }
    for (pid_t child : *children) tree.pids.push_back(child);
    if (tree.pids.size() > kMaxProcesses)
      return fail(ErrorCode::kBlocked, formatted("more than {} processes", kMaxProcesses));
  }
  return tree;
}

std::vector<pid_t> find_strays(const std::string& proc, const ProcessTree& tree,
                               const std::vector<pid_t>& pids) {
  std::set<pid_t> members(tree.pids.begin(), tree.pids.end());
  std::vector<pid_t> strays;
  for (pid_t pid : pids) {
    // An ancestor that ends meanwhile leaves its children to another one.
    auto descent = Descent::kUnclear;
    for (int i = 0; i < 10 && descent == Descent::kUnclear; ++i)
      descent = descent_of(proc, members, pid);
    if (descent == Descent::kStray || descent == Descent::kUnclear) strays.push_back(pid);
  }
  return strays;
}

}  // namespace gestalt
