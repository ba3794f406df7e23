// A job's own network (`gestalt run --net own`): a network namespace with an address of the
// cluster's network, and a MAC address that follows from it. docs/networks.md.
#pragma once

#include <net/if.h>

#include <cstdint>
#include <memory>
#include <string>

#include "common/fd.h"
#include "common/result.h"
#include "daemon/stand_in/packet_stop.h"
#include "migrate/unit_network.h"

namespace gestalt {

class JobNetwork : public UnitNetwork {
 public:
  // Makes the namespace, not connected yet, on the interface of this node to whose network the
  // address belongs. IPv4, in host byte order. `cgroup`: the directory of the job's control group,
  // which must outlive it.
  [[nodiscard]] static Result<std::unique_ptr<JobNetwork>> create(std::uint32_t address,
                                                                  int cgroup);
  ~JobNetwork() override;  // disconnects; the namespace lasts as long as its processes do
  JobNetwork(const JobNetwork&) = delete;
  JobNetwork& operator=(const JobNetwork&) = delete;

  [[nodiscard]] int descriptor() const override { return namespace_.get(); }
  [[nodiscard]] Result<void> hold() override;
  [[nodiscard]] std::vector<Packet> held() override;
  void deliver(std::vector<Packet> packets) override;
  [[nodiscard]] Result<void> prepare() override;
  [[nodiscard]] Result<void> connect() override;
  [[nodiscard]] Result<void> disconnect() override;
  // Whether nothing is on its way any more that processes sent before they ended.
  [[nodiscard]] bool drained() const;

 private:
  JobNetwork() = default;
  [[nodiscard]] Result<void> find_interface(std::uint32_t address);
  [[nodiscard]] Result<void> enter_new_namespace();
  [[nodiscard]] Result<void> make_interfaces();
  [[nodiscard]] Result<void> answer_arp(bool answers);
  [[nodiscard]] Result<void> keep_packets();
  [[nodiscard]] Result<void> set_host_route(bool present);
  void add_gateway();
  [[nodiscard]] Result<void> add_neighbour();
  [[nodiscard]] Result<void> announce();

  std::uint32_t address_ = 0;
  // Of the node's interface.
  std::string interface_;
  std::uint32_t node_address_ = 0;
  std::uint32_t netmask_ = 0;

  Fd namespace_;
  Fd inside_;  // sockets in the namespace
  Fd packets_;
  Fd incoming_;
  Fd outside_;  // in the node's
  Fd outside_packets_;
  int cgroup_ = -1;
  PacketStop stop_;
  bool up_ = false;
};

}  // namespace gestalt
