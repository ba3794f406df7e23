// The file system that covers /proc in a session: all processes of the cluster.
//
// The leader's own processes are links into its native procfs, so that what reads them
// speaks to the kernel after one lookup. The others' are directories of cached files: the
// kernel asks for a content once, and again only when it was told that it has changed
// (FUSE without OPEN, unlimited timeouts, invalidation by the nodes' news). What is not told
// is fetched from the node when somebody reads it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/fd.h"
#include "daemon/view/cluster_model.h"
#include "daemon/view/fuse_channel.h"
#include "daemon/view/invalidator.h"
#include "daemon/view/local_directories.h"

namespace gestalt {

struct ProcessFsOptions {
  uid_t viewer = 0;
  int hidepid = 0;           // as procfs has it: 0, 1, 2
  Fd native;                 // a native procfs, for this program
  std::string native_path;   // and for those in the session
  std::string machine_path;  // where the machine's merged files are, for them
  // Names in /proc that are the machine's.
  std::vector<std::string> machine_names;
  // Somebody lists many processes that nobody has read yet, and reads these of their entries (a bit
  // for each of process_entries()).
  std::function<void(std::uint64_t entries)> on_cold_listing;
};

// All on one loop's thread.
class ProcessFs {
 public:
  using OnFetched = std::function<void(Result<wire::ViewFetched>)>;
  using Fetch = std::function<void(const wire::ViewFetch& request, OnFetched on_fetched)>;

  // The model must outlive it.
  ProcessFs(const ClusterModel& model, ProcessFsOptions options, Fetch fetch);

  [[nodiscard]] Result<void> serve(EventLoop& loop, Fd device, std::function<void()> on_end);
  // Until then nobody gets into /proc: who comes first would see half a cluster.
  void set_ready();
  // Drops from the kernel's caches what has changed.
  void changed(const ClusterModel::Changes& changes);

  static const fuse_lowlevel_ops& operations();

 private:
  // A node of the tree, by its inode number (see process_fs.cc).
  struct Node {
    enum class Kind {
      kNone,
      kRoot,
      kName,
      kLocal,
      kLocalDirectory,
      kProcess,
      kEntry,
      kLabel,
      kDynamic
    };
    Kind kind = Kind::kNone;
    std::size_t index = 0;  // of the name or the entry
    std::uint32_t pid = 0;  // local
    const ViewedTask* task = nullptr;
    bool in_task = false;  // below task/PID
    std::string path;      // relative to /proc/PID
    mode_t mode = 0;
  };
  struct Dynamic {
    std::uint64_t serial = 0;
    std::string path;
    mode_t mode = 0;
    std::uint64_t lookups = 0;
  };
  // An open() on its way that is to get the directory of a ghost.
  struct Handle {
    std::uint32_t pid = 0;
    int lookups = 0;  // that are still to lead there
    Clock::time_point since;
  };
  struct Fetched {
    std::string content;
    Clock::time_point at;
    std::uint64_t version = 0;
  };
  struct Listed {
    std::string name;
    std::uint64_t inode = 0;
    mode_t mode = 0;
    bool with_attributes = false;  // readdirplus may tell more
  };
  using Listing = std::vector<Listed>;

  [[nodiscard]] Node node_of(std::uint64_t inode) const;
  [[nodiscard]] struct stat attributes(std::uint64_t inode, const Node& node) const;
  [[nodiscard]] std::optional<std::string> content(const Node& node) const;
  [[nodiscard]] const std::string* text(std::uint64_t inode, const Node& node) const;
  [[nodiscard]] bool is_fetched(const Node& node) const;
  [[nodiscard]] bool visible(const ViewedTask& task, const fuse_ctx& caller) const;
  [[nodiscard]] bool is_local(std::string_view pid, const fuse_ctx& caller) const;
  [[nodiscard]] std::uint64_t intern(const ViewedTask& task, std::string path, mode_t mode);

  void lookup(fuse_req_t request, fuse_ino_t parent, std::string_view name);
  void lookup_in_root(fuse_req_t request, std::string_view name);
  [[nodiscard]] bool wants_handle(const Node& node, const fuse_ctx& caller, int flags);
  [[nodiscard]] bool leads_to_ghost(const fuse_ctx& caller, std::uint32_t pid);
  void lookup_in_process(fuse_req_t request, const Node& parent, std::string_view name);
  void lookup_dynamic(fuse_req_t request, const Node& parent, std::string_view name);
  void reply_entry(fuse_req_t request, std::uint64_t inode, bool may_change = false);
  void getattr(fuse_req_t request, fuse_ino_t inode);
  void readlink(fuse_req_t request, fuse_ino_t inode);
  void forget(fuse_ino_t inode, std::uint64_t count);

  void opendir(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file);
  void readdir(fuse_req_t request, std::size_t size, off_t offset, const fuse_file_info& file,
               bool plus);
  void read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset);
  void note_listing();
  void note_read(const Node& node);
  [[nodiscard]] Listing list_root(const fuse_ctx& caller) const;
  [[nodiscard]] Listing list_process(fuse_ino_t inode, const Node& node) const;
  void list_remote(fuse_req_t request, const Node& node, fuse_file_info file);

  void fetch(const Node& node, wire::ViewFetch::Kind kind, uid_t reader, OnFetched on_fetched);
  // Calls back at once if it was fetched a moment ago.
  void fetch_content(std::uint64_t inode, const Node& node, uid_t reader,
                     std::function<void(Result<const Fetched*>)> on_content);
  void drop_old_contents();

  template <auto Method, class... Arguments>
  static void call(fuse_req_t request, Arguments... arguments) {
    (static_cast<ProcessFs*>(fuse_req_userdata(request))->*Method)(request, arguments...);
  }

  const ClusterModel& model_;
  ProcessFsOptions options_;
  Fetch fetch_;
  LocalDirectories local_directories_;
  std::map<pid_t, Handle> handles_;  // by thread
  std::vector<std::string> names_;
  std::vector<bool> is_machine_;
  std::unordered_map<std::uint64_t, Dynamic> dynamic_;
  std::map<std::pair<std::uint64_t, std::string>, std::uint64_t> dynamic_ids_;
  std::uint64_t next_dynamic_ = 1;
  std::unordered_map<std::uint64_t, Fetched> fetched_;
  std::uint64_t next_version_ = 1;
  mutable std::uint64_t last_inode_ = 0;  // that last_text_ is of; 0: of none
  mutable std::string last_text_;
  std::size_t listed_tasks_ = 0;  // at the last listing that was cold
  bool watches_reads_ = false;
  std::map<std::size_t, int> reads_;  // since, by the entry
  bool ready_ = false;
  std::vector<fuse_req_t> held_;  // for the root's attributes
  mutable std::unordered_set<std::uint32_t> local_seen_;
  std::unique_ptr<FuseChannel> channel_;
  std::unique_ptr<Invalidator> invalidator_;  // before the channel at the end
};

}  // namespace gestalt
