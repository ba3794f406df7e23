#include "daemon/stand_in/job_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <thread>

#include "common/format.h"
#include "common/ipv4.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr const char* kInside = "eth0";
constexpr const char* kLoopback = "lo";
// The same everywhere, for sockets that are bound to it.
constexpr int kInsideIndex = 2;
// A macvlan does not reach the interface that it is on: by this one the node reaches its jobs.
constexpr const char* kNodesOwn = "gestalt-jobs";

constexpr std::size_t kMostPackets = 4096;
// Without what larger frames there may be.
constexpr std::size_t kEthernetBytes = 1514;

using Mac = std::array<std::uint8_t, ETH_ALEN>;

// Locally administered, and no other job's.
Mac mac_of(std::uint32_t address) {
  return {0x02,
          0x67,
          static_cast<std::uint8_t>(address >> 24),
          static_cast<std::uint8_t>(address >> 16),
          static_cast<std::uint8_t>(address >> 8),
          static_cast<std::uint8_t>(address)};
}

sockaddr socket_address(std::uint32_t address) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(address);
  sockaddr out;
  static_assert(sizeof in == sizeof out);
  std::memcpy(&out, &in, sizeof out);
  return out;
}

std::uint32_t address_in(const sockaddr& address) {
  sockaddr_in in;
  std::memcpy(&in, &address, sizeof in);
  return ntohl(in.sin_addr.s_addr);
}

ifreq request_for(const char* interface) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface, sizeof request.ifr_name - 1);
  return request;
}

// For as long as `interface` lives.
rtentry default_route(const char* interface) {
  rtentry route{};
  route.rt_dst = socket_address(0);
  route.rt_genmask = socket_address(0);
  route.rt_flags = RTF_UP;
  route.rt_dev = const_cast<char*>(interface);  // is only read
  return route;
}

Result<void> change_flags(int socket, const char* interface, int set, int clear) {
  ifreq request = request_for(interface);
  if (::ioctl(socket, SIOCGIFFLAGS, &request) != 0)
    return fail_errno(errno, formatted("look at interface {}", interface));
  request.ifr_flags = static_cast<short>((request.ifr_flags | set) & ~clear);
  if (::ioctl(socket, SIOCSIFFLAGS, &request) != 0)
    return fail_errno(errno, formatted("change the flags of interface {}", interface));
  return {};
}

struct NetlinkDelete {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using NetlinkSocket = std::unique_ptr<nl_sock, NetlinkDelete>;
using NetlinkMessage = std::unique_ptr<nl_msg, NetlinkDelete>;

struct Macvlan {
  std::string name;
  unsigned parent = 0;
  const Mac* mac = nullptr;
  int index = 0;            // 0: any
  int into_namespace = -1;  // -1: this one
};

// rtnetlink(7); bridge mode: those of one node reach each other.
NetlinkMessage macvlan_message(const Macvlan& what) {
  NetlinkMessage message(
      nlmsg_alloc_simple(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL));
  if (!message) return nullptr;
  nl_msg* m = message.get();
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = what.index;
  bool fits = nlmsg_append(m, &header, sizeof header, NLMSG_ALIGNTO) == 0 &&
              nla_put_string(m, IFLA_IFNAME, what.name.c_str()) == 0 &&
              nla_put_u32(m, IFLA_LINK, what.parent) == 0;
  if (what.mac != nullptr)
    fits = fits && nla_put(m, IFLA_ADDRESS, static_cast<int>(what.mac->size()), what.mac) == 0;
  if (what.into_namespace >= 0)
    fits = fits &&
           nla_put_u32(m, IFLA_NET_NS_FD, static_cast<std::uint32_t>(what.into_namespace)) == 0;
  nlattr* info = fits ? nla_nest_start(m, IFLA_LINKINFO) : nullptr;
  if (info == nullptr || nla_put_string(m, IFLA_INFO_KIND, "macvlan") != 0) return nullptr;
  nlattr* data = nla_nest_start(m, IFLA_INFO_DATA);
  if (data == nullptr || nla_put_u32(m, IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE) != 0)
    return nullptr;
  nla_nest_end(m, data);
  nla_nest_end(m, info);
  return message;
}

// kBusy: there is one of that name.
Result<void> make_macvlan(const Macvlan& what) {
  NetlinkSocket socket(nl_socket_alloc());
  NetlinkMessage message = macvlan_message(what);
  if (!socket || !message) return fail(ErrorCode::kInternal, "no memory for a netlink message");
  int done = nl_connect(socket.get(), NETLINK_ROUTE);
  if (done == 0) done = nl_send_sync(socket.get(), message.release());  // frees it
  if (done == -NLE_EXIST) return fail(ErrorCode::kBusy, formatted("{} exists", what.name));
  if (done < 0)
    return fail(ErrorCode::kSystem,
                formatted("make a macvlan interface {}: {}", what.name, nl_geterror(done)),
                "load the kernel's module macvlan on every node");
  return {};
}

void write_setting(const std::string& path, std::string_view value) {
  auto file = open_file(path, O_WRONLY);
  auto done = file ? write_all(file->get(), std::as_bytes(std::span(value)), Deadline::max())
                   : Result<void>(std::unexpected(file.error()));
  if (!done) log::warning("not set", log::field("error", done.error().text()));
}

}  // namespace

Result<std::unique_ptr<JobNetwork>> JobNetwork::create(std::uint32_t address, int cgroup) {
  std::unique_ptr<JobNetwork> out(new JobNetwork);
  out->address_ = address;
  out->cgroup_ = cgroup;
  out->outside_ = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  out->outside_packets_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!out->outside_ || !out->outside_packets_) return fail_errno(errno, "make a socket");
  GESTALT_TRY(out->find_interface(address));
  GESTALT_TRY(out->enter_new_namespace());
  GESTALT_TRY(out->make_interfaces());
  return out;
}

JobNetwork::~JobNetwork() { (void)disconnect(); }

Result<void> JobNetwork::find_interface(std::uint32_t address) {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return fail_errno(errno, "list the interfaces");
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> all(first, &::freeifaddrs);
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET ||
        each->ifa_netmask == nullptr || (each->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    std::uint32_t mask = address_in(*each->ifa_netmask);
    std::uint32_t own = address_in(*each->ifa_addr);
    if (own == address)
      return fail(ErrorCode::kBusy, formatted("{} is this node's own address", ipv4_text(own)),
                  "set jobs.network to addresses that nobody else has");
    if (!interface_.empty() || (own & mask) != (address & mask)) continue;
    interface_ = each->ifa_name;
    node_address_ = own;
    netmask_ = mask;
  }
  if (!interface_.empty()) return {};
  return fail(ErrorCode::kInvalidArgument,
              formatted("{} is not in the network of any interface here", ipv4_text(address)),
              "set jobs.network to a part of the network that connects the nodes");
}

// A thread's doing: its sockets stay in the namespace, and we where we are.
Result<void> JobNetwork::enter_new_namespace() {
  Result<void> done;
  std::thread([this, &done] {
    if (::unshare(CLONE_NEWNET) != 0) {
      done = fail_errno(errno, "make a network namespace");
      return;
    }
    auto own = open_file("/proc/thread-self/ns/net", O_RDONLY);
    if (!own) {
      done = std::unexpected(std::move(own).error());
      return;
    }
    namespace_ = std::move(*own);
    inside_ = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    packets_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!inside_ || !packets_) {
      done = fail_errno(errno, "make a socket in a network namespace");
      return;
    }
    done = change_flags(inside_.get(), kLoopback, IFF_UP, 0);
  }).join();
  return done;
}

Result<void> JobNetwork::make_interfaces() {
  unsigned parent = ::if_nametoindex(interface_.c_str());
  auto own = make_macvlan({.name = kNodesOwn, .parent = parent});
  if (own) {
    // It has no address, and is not to answer for the node's.
    write_setting(formatted("/proc/sys/net/ipv4/conf/{}/arp_ignore", kNodesOwn), "8");
    write_setting(formatted("/proc/sys/net/ipv6/conf/{}/disable_ipv6", kNodesOwn), "1");
  } else if (own.error().code != ErrorCode::kBusy) {
    return own;
  }
  GESTALT_TRY(change_flags(outside_.get(), kNodesOwn, IFF_UP, 0));
  Mac mac = mac_of(address_);
  GESTALT_TRY(make_macvlan({.name = kInside,
                            .parent = parent,
                            .mac = &mac,
                            .index = kInsideIndex,
                            .into_namespace = namespace_.get()}));
  ifreq request = request_for(kInside);
  request.ifr_addr = socket_address(address_);
  if (::ioctl(inside_.get(), SIOCSIFADDR, &request) != 0)
    return fail_errno(errno, formatted("give a job the address {}", ipv4_text(address_)));
  request.ifr_netmask = socket_address(netmask_);
  if (::ioctl(inside_.get(), SIOCSIFNETMASK, &request) != 0)
    return fail_errno(errno, "set a netmask");
  request.ifr_broadaddr = socket_address(address_ | ~netmask_);
  if (::ioctl(inside_.get(), SIOCSIFBRDADDR, &request) != 0)
    return fail_errno(errno, "set a broadcast address");
  return {};
}

// Also of ARP: an answer would tell switches that the address is here.
Result<void> JobNetwork::hold() {
  // Rather twice than never: TCP does not mind, and UDP must not.
  if (up_) GESTALT_TRY(keep_packets());
  GESTALT_TRY(stop_.hold(cgroup_));
  return answer_arp(false);
}

// A packet socket sees what the programs of stop_ drop.
Result<void> JobNetwork::keep_packets() {
  incoming_.reset();
  std::thread([this] {
    if (::setns(namespace_.get(), CLONE_NEWNET) == 0)
      incoming_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }).join();
  int room = 2 * kMaxHeldBytes;
  sockaddr_ll from{};
  from.sll_family = AF_PACKET;
  from.sll_protocol = htons(ETH_P_IP);
  from.sll_ifindex = kInsideIndex;
  if (!incoming_ ||
      ::setsockopt(incoming_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0 ||
      ::bind(incoming_.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0)
    return fail_errno(errno, "keep a job's packets");
  return {};
}

std::vector<Packet> JobNetwork::held() {
  std::vector<Packet> out;
  if (!incoming_) return out;
  Packet packet(kMaxPacketBytes);
  while (out.size() < kMostPackets) {
    sockaddr_ll from{};
    socklen_t length = sizeof from;
    auto size = ::recvfrom(incoming_.get(), packet.data(), packet.size(), MSG_TRUNC,
                           reinterpret_cast<sockaddr*>(&from), &length);
    if (size < 0) break;
    // Not several in one, which cannot be sent again as they are.
    if (from.sll_pkttype != PACKET_HOST || static_cast<std::size_t>(size) > kEthernetBytes)
      continue;
    Packet one(packet.begin(), packet.begin() + size);
    if (complete_checksum(one)) out.push_back(std::move(one));
  }
  return out;
}

// By the other macvlan of this node, which is as good as any host of the network.
void JobNetwork::deliver(std::vector<Packet> packets) {
  incoming_.reset();
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(::if_nametoindex(kNodesOwn));
  to.sll_halen = ETH_ALEN;
  Mac mac = mac_of(address_);
  for (auto& packet : packets) {
    if (destination_address(packet) != address_ || packet.size() > kEthernetBytes) continue;
    std::ranges::copy(std::as_bytes(std::span(mac)), packet.begin());
    std::ranges::copy(mac, to.sll_addr);
    (void)::sendto(outside_packets_.get(), packet.data(), packet.size(), MSG_DONTWAIT,
                   reinterpret_cast<const sockaddr*>(&to), sizeof to);
  }
}

Result<void> JobNetwork::answer_arp(bool answers) {
  return change_flags(inside_.get(), kInside, answers ? 0 : IFF_NOARP, answers ? IFF_NOARP : 0);
}

// A connection can be made only if there is a way to its peer.
Result<void> JobNetwork::prepare() {
  if (std::exchange(up_, true)) return {};
  if (auto done = change_flags(inside_.get(), kInside, IFF_UP, 0); !done) {
    up_ = false;
    return fail(ErrorCode::kBusy,
                formatted("the address {} cannot be had here: {}", ipv4_text(address_),
                          done.error().message),
                "a copy that failed here may hold it for some minutes: try another node");
  }
  add_gateway();
  return {};
}

Result<void> JobNetwork::connect() {
  GESTALT_TRY(prepare());
  GESTALT_TRY(answer_arp(true));  // forgets all neighbours
  GESTALT_TRY(add_neighbour());
  GESTALT_TRY(set_host_route(true));
  GESTALT_TRY(announce());
  stop_.let_go();
  return {};
}

Result<void> JobNetwork::disconnect() {
  if (!up_) return {};
  GESTALT_TRY(change_flags(inside_.get(), kInside, 0, IFF_UP));
  up_ = false;
  GESTALT_TRY(set_host_route(false));
  stop_.let_go();
  return {};
}

// TCP in a state that waits for the peer to acknowledge: FIN-WAIT-1, CLOSING, LAST-ACK.
bool JobNetwork::drained() const {
  if (!up_) return true;
  bool waits = false;
  std::thread([this, &waits] {
    if (::setns(namespace_.get(), CLONE_NEWNET) != 0) return;
    for (const char* table : {"tcp", "tcp6"}) {
      auto text = read_file(formatted("/proc/thread-self/net/{}", table), 64U << 20);
      if (!text) continue;
      std::istringstream lines(*text);
      std::string line, number, local, remote, state;
      std::getline(lines, line);
      while (std::getline(lines, line))
        if (std::istringstream(line) >> number >> local >> remote >> state)
          waits = waits || state == "04" || state == "09" || state == "0B";
    }
  }).join();
  return !waits;
}

// From this node to the job.
Result<void> JobNetwork::set_host_route(bool present) {
  rtentry route{};
  std::string device = kNodesOwn;
  route.rt_dst = socket_address(address_);
  route.rt_genmask = socket_address(~0U);
  route.rt_flags = RTF_UP | RTF_HOST;
  route.rt_dev = device.data();
  bool done = ::ioctl(outside_.get(), present ? SIOCADDRT : SIOCDELRT, &route) == 0;
  if (!done && errno != (present ? EEXIST : ESRCH))
    return fail_errno(
        errno, formatted("{} the route to {}", present ? "add" : "remove", ipv4_text(address_)));
  return {};
}

// From the job to this node.
Result<void> JobNetwork::add_neighbour() {
  ifreq own = request_for(kNodesOwn);
  if (::ioctl(outside_.get(), SIOCGIFHWADDR, &own) != 0)
    return fail_errno(errno, formatted("look at interface {}", kNodesOwn));
  arpreq entry{};
  entry.arp_pa = socket_address(node_address_);
  entry.arp_ha = own.ifr_hwaddr;
  entry.arp_flags = ATF_COM | ATF_PERM;
  std::strncpy(entry.arp_dev, kInside, sizeof entry.arp_dev - 1);
  if (::ioctl(inside_.get(), SIOCSARP, &entry) != 0)
    return fail_errno(errno, "tell a job where its node is");
  return {};
}

// Who the node sends what it has no route for, the job does, too.
void JobNetwork::add_gateway() {
  auto text = read_file("/proc/thread-self/net/route");
  if (!text) return;
  std::istringstream lines(*text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string interface;
    std::uint32_t destination = 1;
    std::uint32_t gateway = 0;
    fields >> interface >> std::hex >> destination >> gateway;
    if (!fields || interface != interface_ || destination != 0 || gateway == 0) continue;
    rtentry route = default_route(kInside);
    route.rt_gateway = socket_address(ntohl(gateway));
    route.rt_flags |= RTF_GATEWAY;
    if (::ioctl(inside_.get(), SIOCADDRT, &route) != 0 && errno != EEXIST)
      log::warning("a job has no gateway", log::field("error", std::strerror(errno)));
    return;
  }
}

// Gratuitous ARP (RFC 5227, an announcement): switches learn where the address is now.
Result<void> JobNetwork::announce() {
  struct [[gnu::packed]] {
    ethhdr ethernet;
    arphdr arp;
    Mac sender_mac;
    std::uint32_t sender;
    Mac target_mac;
    std::uint32_t target;
  } frame{};
  Mac mac = mac_of(address_);
  std::memset(frame.ethernet.h_dest, 0xff, ETH_ALEN);
  std::memcpy(frame.ethernet.h_source, mac.data(), ETH_ALEN);
  frame.ethernet.h_proto = htons(ETH_P_ARP);
  frame.arp.ar_hrd = htons(ARPHRD_ETHER);
  frame.arp.ar_pro = htons(ETH_P_IP);
  frame.arp.ar_hln = ETH_ALEN;
  frame.arp.ar_pln = sizeof frame.sender;
  frame.arp.ar_op = htons(ARPOP_REQUEST);
  frame.sender_mac = mac;
  frame.sender = frame.target = htonl(address_);
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = kInsideIndex;
  to.sll_halen = ETH_ALEN;
  std::memset(to.sll_addr, 0xff, ETH_ALEN);
  if (::sendto(packets_.get(), &frame, sizeof frame, 0, reinterpret_cast<const sockaddr*>(&to),
               sizeof to) != ssize_t{sizeof frame})
    return fail_errno(errno, "announce a job's address");
  return {};
}

}  // namespace gestalt
