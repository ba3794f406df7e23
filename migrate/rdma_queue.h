// One connection's queue pair, its completions and its connection's events.
//
// There is no thread for them: one of the threads that wait watches the descriptors, and the
// others wait for what it finds; so what a thread waits for wakes just that thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "common/fd.h"
#include "migrate/rdma_device.h"

namespace gestalt {

// Its members are called under its lock(), where they do not say otherwise.
class RdmaQueue {
 public:
  using Lock = std::unique_lock<std::mutex>;
  struct Sizes {
    std::uint32_t sends = 0;
    std::uint32_t receives = 0;
  };

  // For an id that has got its device, which must be the domain's. `completed` is called for
  // each work request that succeeded, under the lock.
  [[nodiscard]] static Result<std::unique_ptr<RdmaQueue>> make(
      RdmaId id, std::shared_ptr<RdmaDomain> domain, Sizes sizes,
      std::function<void(const ibv_wc&)> completed);
  RdmaQueue(const RdmaQueue&) = delete;
  RdmaQueue& operator=(const RdmaQueue&) = delete;
  ~RdmaQueue();  // nobody waits any more

  [[nodiscard]] Lock lock() { return Lock(mutex_); }
  // Until ready(), asked under the lock, which is given up meanwhile. What has arrived before
  // the connection ended counts; else its failure. kTimeout.
  [[nodiscard]] Result<void> wait(Lock& lock, const std::function<bool()>& ready,
                                  Deadline deadline);
  [[nodiscard]] Result<void> post(ibv_send_wr& requests);
  [[nodiscard]] Result<void> post(ibv_recv_wr& request);
  // What the other end said when it accepted; empty while it has not.
  [[nodiscard]] const std::optional<RdmaEvent>& established() const { return established_; }
  [[nodiscard]] bool failed() const { return failure_.has_value(); }
  void fail_with(Error error);

  // Without the lock: the connection ends, at both ends. What was posted has a moment to leave; the
  // peer reads nothing here any more once this returns: regions may end then, and not before.
  void shut_down();
  // For connecting and accepting, before anybody waits.
  [[nodiscard]] rdma_cm_id* id() const { return id_.id.get(); }

 private:
  RdmaQueue() = default;
  unsigned poll_completions();
  void watch(Lock& lock, Deadline deadline);
  void handle_events();
  void handle(const RdmaEvent& event);
  void probe();
  void end_reads();

  std::shared_ptr<RdmaDomain> domain_;
  RdmaId id_;
  RdmaOwned<ibv_comp_channel> completions_;
  RdmaOwned<ibv_cq> queue_;
  Fd wake_;
  std::function<void(const ibv_wc&)> completed_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<RdmaEvent> established_;
  std::optional<Error> failure_;
  std::uint64_t sends_posted_ = 0;  // signalled ones
  std::uint64_t sends_completed_ = 0;
  bool watching_ = false;
  bool probing_ = false;
  bool closing_ = false;
};

}  // namespace gestalt
