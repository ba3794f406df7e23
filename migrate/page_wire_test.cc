#include "migrate/page_wire.h"

#include <gtest/gtest.h>

#include <thread>

#include "migrate/fake_transport.h"

namespace gestalt {
namespace {

Deadline soon() { return deadline_in(std::chrono::seconds(5)); }

struct Ends {
  PageConnection source;
  PageConnection destination;
};

Ends connect(FakeFaults faults = {}) {
  auto [a, b] = make_fake_streams(faults);
  return {PageConnection(std::move(a)), PageConnection(std::move(b))};
}

TEST(PageWire, HeadersComeBackAsTheyWere) {
  auto bytes = encode_header({FrameType::kPages, 4104, 0x7f0000001000});
  auto header = decode_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, FrameType::kPages);
  EXPECT_EQ(header->length, 4104U);
  EXPECT_EQ(header->argument, 0x7f0000001000U);
}

TEST(PageWire, RefusesForeignHeaders) {
  auto good = encode_header({FrameType::kReady, 0, 0});
  EXPECT_TRUE(decode_header(good));
  EXPECT_FALSE(decode_header(std::span(good).first(15)));
  for (std::size_t i = 0; i < 4; ++i) {
    auto bad = good;
    bad[i] = ~bad[i];
    EXPECT_FALSE(decode_header(bad)) << "byte " << i;
  }
  EXPECT_FALSE(decode_header(encode_header({FrameType::kReady, 1, 0})));
  EXPECT_FALSE(decode_header(encode_header({FrameType::kPages, kMaxPayloadBytes + 1, 0})));
  EXPECT_FALSE(decode_header(encode_header({FrameType::kAbort, 1 << 20, 0})));
}

TEST(PageWire, RefusesImpossiblePageRuns) {
  auto run = [](std::uint64_t address, std::uint32_t count, std::size_t bytes, FrameType type) {
    auto payload = encode_page_run(42, count);
    payload.resize(8 + bytes);
    return decode_page_run({type, static_cast<std::uint32_t>(payload.size()), address}, payload);
  };
  EXPECT_TRUE(run(0x1000, 1, kPageBytes, FrameType::kPages));
  EXPECT_TRUE(run(0x1000, 1'000'000, 0, FrameType::kZeroPages));
  EXPECT_FALSE(run(0x1001, 1, kPageBytes, FrameType::kPages));
  EXPECT_FALSE(run(0x1000, 2, kPageBytes, FrameType::kPages));
  EXPECT_FALSE(run(0x1000, 0, 0, FrameType::kZeroPages));
  EXPECT_FALSE(run(0x1000, 0xffffffff, kPageBytes, FrameType::kPages));
  EXPECT_FALSE(run(kAddressLimit - kPageBytes, 2, 0, FrameType::kZeroPages));
  EXPECT_FALSE(run(kAddressLimit, 1, 0, FrameType::kZeroPages));
  EXPECT_FALSE(decode_page_run({FrameType::kPages, 4, 0}, std::vector<std::byte>(4)));
}

TEST(PageWire, AnAbortIsAnErrorWithItsReason) {
  auto ends = connect();
  ASSERT_TRUE(ends.source.send(FrameType::kAbort, 0, "the disk\n is full", soon()));
  std::vector<std::byte> payload;
  auto got = ends.destination.expect(FrameType::kReady, payload, soon());
  ASSERT_FALSE(got);
  EXPECT_NE(got.error().message.find("the disk  is full"), std::string::npos);
}

TEST(PageWire, AnUnexpectedFrameIsAnError) {
  auto ends = connect();
  ASSERT_TRUE(ends.source.send(FrameType::kReady, 0, "", soon()));
  std::vector<std::byte> payload;
  auto got = ends.destination.expect(FrameType::kStateEnd, payload, soon());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::kProtocol);
}

// An error if either end refuses; the one that does not finds out at its next frame.
Result<void> authenticate_both(Ends& ends, const std::string& first, const std::string& second,
                               PageRole second_role = PageRole::kDestination) {
  Result<void> other;
  std::thread thread([&] {
    other = authenticate(ends.destination, second_role, second, soon());
    if (!other) ends.destination.stream().shut_down();
  });
  auto own = authenticate(ends.source, PageRole::kSource, first, soon());
  if (!own) ends.source.stream().shut_down();
  thread.join();
  return own ? other : own;
}

TEST(Authenticate, TheSameSecretIsAccepted) {
  auto ends = connect();
  EXPECT_TRUE(authenticate_both(ends, std::string(32, 's'), std::string(32, 's')));
}

TEST(Authenticate, AnotherSecretIsRefused) {
  auto ends = connect();
  EXPECT_FALSE(authenticate_both(ends, std::string(32, 's'), std::string(32, 't')));
}

// A source's proof reflected to it must not pass for the destination's.
TEST(Authenticate, TwoSourcesDoNotAcceptEachOther) {
  auto ends = connect();
  EXPECT_FALSE(
      authenticate_both(ends, std::string(32, 's'), std::string(32, 's'), PageRole::kSource));
}

TEST(Authenticate, AShortSecretIsNoSecret) {
  auto ends = connect();
  EXPECT_FALSE(authenticate(ends.source, PageRole::kSource, "short", soon()));
}

TEST(Authenticate, CorruptedBytesAreRefused) {
  for (std::uint64_t position : {0U, 3U, 17U, 40U, 60U, 80U}) {
    auto ends = connect({.corrupt_byte_at = position});
    EXPECT_FALSE(authenticate_both(ends, std::string(32, 's'), std::string(32, 's')))
        << "byte " << position;
  }
}

TEST(Authenticate, ASilentPeerTimesOut) {
  auto ends = connect();
  auto done = authenticate(ends.source, PageRole::kSource, std::string(32, 's'),
                           deadline_in(milliseconds(50)));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kTimeout);
}

TEST(TcpTransport, CarriesBytesBothWaysAndCountsThem) {
  auto listener = tcp_transport().listen("127.0.0.1", 0);
  ASSERT_TRUE(listener) << listener.error().text();
  auto client = tcp_transport().connect("127.0.0.1", (*listener)->port(), soon());
  ASSERT_TRUE(client) << client.error().text();
  auto server = (*listener)->accept(soon());
  ASSERT_TRUE(server) << server.error().text();
  std::vector<std::byte> data(3 << 20, std::byte{7});
  std::vector<std::byte> got(data.size());
  std::thread sender([&] { EXPECT_TRUE((*client)->send(data, soon())); });
  EXPECT_TRUE((*server)->receive(got, soon()));
  sender.join();
  EXPECT_EQ(got, data);
  EXPECT_EQ((*client)->bytes_sent(), data.size());
  EXPECT_EQ((*server)->bytes_received(), data.size());
}

TEST(TcpTransport, FailuresAreErrorsInTime) {
  auto listener = tcp_transport().listen("127.0.0.1", 0);
  ASSERT_TRUE(listener);
  EXPECT_EQ((*listener)->accept(deadline_in(milliseconds(20))).error().code, ErrorCode::kTimeout);
  auto port = (*listener)->port();
  auto client = tcp_transport().connect("127.0.0.1", port, soon());
  ASSERT_TRUE(client);
  std::vector<std::byte> one(1);
  EXPECT_EQ((*client)->receive(one, deadline_in(milliseconds(20))).error().code,
            ErrorCode::kTimeout);
  (*client)->shut_down();
  EXPECT_EQ((*client)->receive(one, soon()).error().code, ErrorCode::kUnavailable);
  listener->reset();
  EXPECT_EQ(tcp_transport().connect("127.0.0.1", port, soon()).error().code,
            ErrorCode::kUnavailable);
  EXPECT_EQ(tcp_transport().connect("no address", 1, soon()).error().code,
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace gestalt
