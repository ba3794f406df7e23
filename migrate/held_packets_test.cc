#include "migrate/held_packets.h"

#include <gtest/gtest.h>

#include <string_view>

namespace gestalt {
namespace {

Packet packet_of(std::string_view hexadecimal) {
  Packet out;
  auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  for (std::size_t i = 0; i + 1 < hexadecimal.size(); i += 2)
    out.push_back(static_cast<std::byte>(digit(hexadecimal[i]) * 16 + digit(hexadecimal[i + 1])));
  return out;
}

// UDP from 10.77.0.1 port 1000 to 10.77.0.129 port 7000, "abc"; the checksum worked out by hand.
const Packet kUdp = packet_of(
    "02670a4d0081"
    "020000000001"
    "0800"
    "4500001f000040004011"
    "2630"
    "0a4d0001"
    "0a4d0081"
    "03e81b58000b"
    "0000"
    "616263");

TEST(HeldPackets, ThereAndBack) {
  std::vector<Packet> packets = {kUdp, Packet(1, std::byte{7}), Packet(kMaxPacketBytes)};
  auto decoded = decode_packets(encode_packets(packets));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, packets);
  EXPECT_TRUE(decode_packets({})->empty());
}

TEST(HeldPackets, NoMoreThanTheLimits) {
  EXPECT_TRUE(encode_packets({Packet(kMaxPacketBytes + 1), Packet()}).empty());
  std::vector<Packet> many(2000, Packet(1000));
  auto payload = encode_packets(many);
  EXPECT_LE(payload.size(), kMaxHeldBytes);
  EXPECT_EQ(decode_packets(payload)->size(), kMaxHeldBytes / 1004);
}

TEST(HeldPackets, Nonsense) {
  auto payload = encode_packets({kUdp});
  for (std::size_t size = 1; size < payload.size(); ++size)
    EXPECT_FALSE(decode_packets(std::span(payload).first(size))) << size;
  EXPECT_FALSE(decode_packets(std::vector<std::byte>(4)));
  EXPECT_FALSE(decode_packets(std::vector<std::byte>(8, std::byte{0xff})));
}

TEST(HeldPackets, Checksums) {
  EXPECT_EQ(destination_address(kUdp), 0x0a4d0081U);
  Packet packet = kUdp;
  ASSERT_TRUE(complete_checksum(packet));
  // 0a4d+0001+0a4d+0081 + 0011+000b + 03e8+1b58+000b + 6162+6300 = f8e5
  EXPECT_EQ(std::to_integer<int>(packet[40]), 0x07);
  EXPECT_EQ(std::to_integer<int>(packet[41]), 0x1a);
  Packet again = packet;
  ASSERT_TRUE(complete_checksum(again));
  EXPECT_EQ(again, packet);
}

TEST(HeldPackets, WhatIsNoWholeIpv4Packet) {
  for (std::size_t size = 0; size < kUdp.size(); ++size) {
    Packet cut(kUdp.begin(), kUdp.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(complete_checksum(cut)) << size;
    EXPECT_EQ(destination_address(cut), 0U) << size;
  }
  Packet arp = kUdp;
  arp[13] = std::byte{6};
  EXPECT_FALSE(complete_checksum(arp));
  Packet fragment = kUdp;
  fragment[20] = std::byte{0x20};
  EXPECT_FALSE(complete_checksum(fragment));
}

}  // namespace
}  // namespace gestalt
