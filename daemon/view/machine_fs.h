// The file system of what is not a process's: merged /proc files, and the trees that cover
// /sys/devices/system/{cpu,node}. Every open makes the content anew (direct I/O).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/fd.h"
#include "daemon/view/cluster_model.h"
#include "daemon/view/fuse_channel.h"
#include "daemon/view/sys_tree.h"

namespace gestalt {

struct MachineFsOptions {
  std::string leader;
  Fd native;                // a native procfs, for this program
  std::string native_path;  // and for those in the session
};

// All on one loop's thread.
class MachineFs {
 public:
  // Names in /proc that are here.
  [[nodiscard]] static std::vector<std::string> names_in_proc();

  // The model must outlive it.
  MachineFs(const ClusterModel& model, MachineFsOptions options);
  [[nodiscard]] Result<void> serve(EventLoop& loop, Fd device, std::function<void()> on_end);

  static const fuse_lowlevel_ops& operations();

 private:
  // By inode, from 2 on: a path once seen keeps its number.
  [[nodiscard]] std::uint64_t inode_of(const std::string& path);
  [[nodiscard]] const SysEntry* entry_of(std::uint64_t inode);
  void refresh();
  [[nodiscard]] std::vector<NodeFiles> nodes();
  [[nodiscard]] std::string nodes_text() const;
  [[nodiscard]] std::string content(const std::string& path);
  [[nodiscard]] struct stat attributes(std::uint64_t inode, const SysEntry& entry) const;

  void lookup(fuse_req_t request, fuse_ino_t parent, std::string_view name);
  void getattr(fuse_req_t request, fuse_ino_t inode);
  void readlink(fuse_req_t request, fuse_ino_t inode);
  void open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file);
  void read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
            std::uint64_t opened);
  void readdir(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset);

  template <auto Method, class... Arguments>
  static void call(fuse_req_t request, Arguments... arguments) {
    (static_cast<MachineFs*>(fuse_req_userdata(request))->*Method)(request, arguments...);
  }

  const ClusterModel& model_;
  MachineFsOptions options_;
  SysTree tree_;
  Clock::time_point refreshed_;
  std::map<std::string, std::string, std::less<>> leader_files_;
  std::map<std::string, std::uint64_t> inodes_;
  std::vector<std::string> paths_;
  std::unique_ptr<FuseChannel> channel_;
};

}  // namespace gestalt
