#include "daemon/view/invalidator.h"

#define FUSE_USE_VERSION 317
#include <fuse_lowlevel.h>

#include <utility>

namespace gestalt {

Invalidator::Invalidator(fuse_session* session)
    : session_(session), thread_([this](const std::stop_token& stop) { work(stop); }) {}

Invalidator::~Invalidator() {
  thread_.request_stop();
  changed_.notify_all();
}

void Invalidator::inode(std::uint64_t inode) { add({.inode = inode, .name = {}}); }

void Invalidator::entry(std::uint64_t parent, std::string name) {
  add({.inode = parent, .name = std::move(name)});
}

void Invalidator::add(Order order) {
  std::lock_guard lock(mutex_);
  orders_.push_back(std::move(order));
  changed_.notify_all();
}

// What the kernel has not cached is no error.
void Invalidator::work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::vector<Order> orders;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [this] { return !orders_.empty(); })) return;
      orders = std::exchange(orders_, {});
    }
    for (const auto& order : orders) {
      if (order.name.empty())
        (void)fuse_lowlevel_notify_inval_inode(session_, order.inode, 0, 0);
      else
        (void)fuse_lowlevel_notify_inval_entry(session_, order.inode, order.name.c_str(),
                                               order.name.size());
    }
  }
}

}  // namespace gestalt
