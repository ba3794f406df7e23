// Two queue pairs of an RDMA device, connected to each other: what a process of this node has
// registered can be read as a remote node would. For the probe (migrate/zero_copy_probe.h), tests
// and benchmarks.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "migrate/rdma_owned.h"
#include "migrate/zero_copy_verbs.h"

namespace gestalt {

// One thread at a time may use it.
class ZeroCopyLoopback {
 public:
  // The device of that name, or the first if it is empty. kNotFound: there is none.
  [[nodiscard]] static Result<std::unique_ptr<ZeroCopyLoopback>> open(const std::string& name);

  [[nodiscard]] const ZeroCopyDevice& device() const { return device_; }
  [[nodiscard]] std::string name() const { return ::ibv_get_device_name(context_->device); }

  using Region = RdmaOwned<ibv_mr>;
  // Memory of ours to be read into, as long as the region is there.
  [[nodiscard]] Result<Region> register_buffer(std::span<std::byte> buffer) const;
  // Reads from `remote` on, as long as `into` is, which lies within `region`. kPermission: the key,
  // or what it is good for, does not reach so far. After any error there are new queue pairs.
  [[nodiscard]] Result<void> read(std::uint64_t remote, std::uint32_t key, const Region& region,
                                  std::span<std::byte> into, Deadline deadline);

 private:
  ZeroCopyLoopback() = default;
  [[nodiscard]] Result<void> connect();
  [[nodiscard]] Result<void> make_ready(ibv_qp& pair, const ibv_qp& peer);
  [[nodiscard]] Result<void> post(std::uint64_t remote, std::uint32_t key, const Region& region,
                                  std::span<std::byte> into);
  [[nodiscard]] Result<int> choose_gid() const;
  [[nodiscard]] Result<void> read_all(std::uint64_t remote, std::uint32_t key, const Region& region,
                                      std::span<std::byte> into, Deadline deadline);

  ZeroCopyDevice device_;
  RdmaOwned<ibv_context> context_;
  RdmaOwned<ibv_pd> domain_;
  RdmaOwned<ibv_cq> completions_;
  RdmaOwned<ibv_qp> reader_;
  RdmaOwned<ibv_qp> source_;  // a key that is not good brings it down
};

}  // namespace gestalt
