#include "migrate/held_packets.h"

#include <arpa/inet.h>
#include <endian.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include <cstring>

namespace gestalt {
namespace {

constexpr std::size_t kLengthBytes = 4;

std::uint32_t sum_of(std::span<const std::byte> bytes, std::uint32_t sum) {
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2)
    sum += static_cast<std::uint32_t>(bytes[i]) << 8 | static_cast<std::uint32_t>(bytes[i + 1]);
  if (bytes.size() % 2 != 0) sum += static_cast<std::uint32_t>(bytes.back()) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

struct Ipv4 {
  iphdr header{};
  std::size_t header_bytes = 0;
  std::size_t bytes = 0;  // with the header
};

// With at least as much behind the Ethernet header as it says.
bool parse(const Packet& packet, Ipv4& out) {
  ether_header ethernet;
  if (packet.size() < sizeof ethernet + sizeof out.header) return false;
  std::memcpy(&ethernet, packet.data(), sizeof ethernet);
  std::memcpy(&out.header, packet.data() + sizeof ethernet, sizeof out.header);
  out.header_bytes = out.header.ihl * 4U;
  out.bytes = ntohs(out.header.tot_len);
  return ntohs(ethernet.ether_type) == ETHERTYPE_IP && out.header.version == 4 &&
         out.header_bytes >= sizeof out.header && out.bytes >= out.header_bytes &&
         out.bytes <= packet.size() - sizeof ethernet;
}

}  // namespace

std::vector<std::byte> encode_packets(const std::vector<Packet>& packets) {
  std::vector<std::byte> out;
  for (const auto& packet : packets) {
    if (packet.empty() || packet.size() > kMaxPacketBytes) continue;
    if (out.size() + kLengthBytes + packet.size() > kMaxHeldBytes) break;
    std::uint32_t length = htobe32(static_cast<std::uint32_t>(packet.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(&length);
    out.insert(out.end(), bytes, bytes + kLengthBytes);
    out.insert(out.end(), packet.begin(), packet.end());
  }
  return out;
}

Result<std::vector<Packet>> decode_packets(std::span<const std::byte> payload) {
  std::vector<Packet> out;
  while (!payload.empty()) {
    std::uint32_t length = 0;
    if (payload.size() < kLengthBytes) return fail(ErrorCode::kProtocol, "a cut packet");
    std::memcpy(&length, payload.data(), kLengthBytes);
    length = be32toh(length);
    payload = payload.subspan(kLengthBytes);
    if (length == 0 || length > kMaxPacketBytes || length > payload.size())
      return fail(ErrorCode::kProtocol, "a packet of a length that makes no sense");
    out.emplace_back(payload.begin(), payload.begin() + length);
    payload = payload.subspan(length);
  }
  return out;
}

// RFC 1071; over TCP's and UDP's pseudo header, RFC 9293.
bool complete_checksum(Packet& packet) {
  Ipv4 ip;
  if (!parse(packet, ip) || (ntohs(ip.header.frag_off) & (IP_MF | IP_OFFMASK)) != 0) return false;
  std::size_t at = 0;
  if (ip.header.protocol == IPPROTO_TCP) at = offsetof(tcphdr, check);
  if (ip.header.protocol == IPPROTO_UDP) at = offsetof(udphdr, check);
  if (at == 0) return true;
  auto body =
      std::span(packet).subspan(sizeof(ether_header) + ip.header_bytes, ip.bytes - ip.header_bytes);
  if (body.size() < at + 2) return false;
  body[at] = body[at + 1] = std::byte{0};
  auto addresses = std::span(packet).subspan(sizeof(ether_header) + offsetof(iphdr, saddr), 8);
  auto sum = sum_of(addresses, ip.header.protocol + static_cast<std::uint32_t>(body.size()));
  auto check = static_cast<std::uint16_t>(~sum_of(body, sum));
  if (check == 0) check = 0xffff;  // to UDP 0 is none, and both are the same
  body[at] = static_cast<std::byte>(check >> 8);
  body[at + 1] = static_cast<std::byte>(check & 0xff);
  return true;
}

std::uint32_t destination_address(const Packet& packet) {
  Ipv4 ip;
  return parse(packet, ip) ? ntohl(ip.header.daddr) : 0;
}

}  // namespace gestalt
