// An RDMA device for tests, if this machine has one. tests/vm/with-rdma makes one in a guest.
#pragma once

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <memory>
#include <string>

#include "migrate/rdma_transport.h"

namespace gestalt::testing_rig {

// The local address that an RDMA device has; "" if there is none, and then why.
struct RdmaAddressFound {
  std::string address;
  std::string why_not = "this machine has no network interface";
};

inline RdmaAddressFound find_rdma_address() {
  RdmaAddressFound out;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return out;
  for (ifaddrs* each = all; each != nullptr && out.address.empty(); each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN];
    ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(each->ifa_addr)->sin_addr, text,
                sizeof text);
    // Interfaces that are up have their address by themselves, loopback has every device's.
    if ((each->ifa_flags & IFF_LOOPBACK) != 0) continue;
    if (auto domain = RdmaDomain::at(text))
      out.address = text;
    else
      out.why_not = domain.error().text();
  }
  ::freeifaddrs(all);
  return out;
}

}  // namespace gestalt::testing_rig

// In a test.
#define GESTALT_NEED_RDMA(variable)                            \
  auto variable = ::gestalt::testing_rig::find_rdma_address(); \
  if (variable.address.empty()) GTEST_SKIP() << "needs an RDMA device: " << variable.why_not
