// Stops all packets of a control group's sockets, at once and without an answer to anybody:
// programs without a condition at both of its hooks (BPF_PROG_TYPE_CGROUP_SKB, bpf(2)). To set an
// interface down takes 100 times as long, an nftables rule 50 times.
#pragma once

#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

class PacketStop {
 public:
  // `cgroup`: the directory of a cgroup2 group. Until let_go(), or the end.
  [[nodiscard]] Result<void> hold(int cgroup);
  void let_go() {
    incoming_.reset();
    outgoing_.reset();
  }

 private:
  Fd incoming_;
  Fd outgoing_;
};

}  // namespace gestalt
