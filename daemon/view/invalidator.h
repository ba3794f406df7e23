// Tells the kernel which cached names and contents are out of date, from a thread of its
// own: the kernel lets it wait for requests that the serving thread has to answer.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct fuse_session;

namespace gestalt {

// Thread-safe. Must not outlive the session.
class Invalidator {
 public:
  explicit Invalidator(fuse_session* session);
  ~Invalidator();
  Invalidator(const Invalidator&) = delete;
  Invalidator& operator=(const Invalidator&) = delete;

  // Attributes and content of an inode.
  void inode(std::uint64_t inode);
  // A name in a directory.
  void entry(std::uint64_t parent, std::string name);

 private:
  struct Order {
    std::uint64_t inode = 0;
    std::string name;  // empty: the inode itself
  };
  void add(Order order);
  void work(const std::stop_token& stop);

  fuse_session* session_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Order> orders_;
  std::jthread thread_;
};

}  // namespace gestalt
