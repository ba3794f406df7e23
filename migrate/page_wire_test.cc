#include "migrate/page_wire.h"

#include <gtest/gtest.h>

#include <endian.h>

#include <cstring>
#include <random>
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
  for (std::uint16_t type = 1; type <= 19; ++type) {
    auto bytes = encode_header({static_cast<FrameType>(type), 0, 0x7f0000001000});
    auto header = decode_header(bytes);
    ASSERT_TRUE(header) << type;
    EXPECT_EQ(static_cast<std::uint16_t>(header->type), type);
    EXPECT_EQ(header->length, 0U);
    EXPECT_EQ(header->argument, 0x7f0000001000U);
  }
}

TEST(PageWire, RefusesForeignHeaders) {
  auto good = encode_header({FrameType::kReady, 0, 0});
  EXPECT_TRUE(decode_header(good));
  EXPECT_FALSE(decode_header(std::span(good).first(15)));
  for (std::size_t i = 0; i < 4; ++i) {
    auto bad = good;
    bad[i] = ~bad[i];
    EXPECT_EQ(decode_header(bad).error().code, ErrorCode::kProtocol) << "byte " << i;
  }
  for (int type : {0, 28, 255, 65535})
    EXPECT_FALSE(decode_header(encode_header({static_cast<FrameType>(type), 0, 0}))) << type;
}

TEST(PageWire, PayloadsHaveTheirLimits) {
  struct Limit {
    FrameType type;
    std::uint32_t bytes;
  };
  constexpr Limit kLimits[] = {{FrameType::kHello, 36},
                               {FrameType::kProof, 32},
                               {FrameType::kStateFile, 255},
                               {FrameType::kStateData, kMaxPieceBytes},
                               {FrameType::kStateEnd, 0},
                               {FrameType::kHandover, kMaxPieceBytes},
                               {FrameType::kPresent, kMaxPieceBytes},
                               {FrameType::kFresh, kMaxPieceBytes},
                               {FrameType::kSetsEnd, 0},
                               {FrameType::kReady, 0},
                               {FrameType::kResumed, kMaxReportBytes},
                               {FrameType::kAbort, 1024},
                               {FrameType::kRequest, 8},
                               {FrameType::kChunk, kMaxPieceBytes + kMaxChunkOverheadBytes},
                               {FrameType::kRoundEnd, 0},
                               {FrameType::kRoundAck, 0},
                               {FrameType::kPushEnd, 0},
                               {FrameType::kDone, kMaxReportBytes},
                               {FrameType::kDoneAck, 0},
                               {FrameType::kFileCache, kMaxPieceBytes},
                               {FrameType::kFileCacheEnd, 0},
                               {FrameType::kPackets, kMaxPieceBytes},
                               {FrameType::kStagedRequest, 12},
                               {FrameType::kStaged, 4 + kMaxChunkOverheadBytes},
                               {FrameType::kStaging, 20},
                               {FrameType::kRemoteRanges, kMaxPieceBytes},
                               {FrameType::kReadInPlace, 0}};
  for (auto [type, bytes] : kLimits) {
    EXPECT_TRUE(decode_header(encode_header({type, bytes, 0}))) << static_cast<int>(type);
    auto over = decode_header(encode_header({type, bytes + 1, 0}));
    ASSERT_FALSE(over) << static_cast<int>(type);
    EXPECT_EQ(over.error().code, ErrorCode::kProtocol);
  }
}

TEST(PageWire, RequestsComeBackUnlessImpossible) {
  auto again = [](std::uint64_t address, std::uint32_t count) {
    return decode_request({FrameType::kRequest, 8, address}, encode_request({42, address, count}));
  };
  for (std::uint32_t count : {1U, 2U, kMaxPagesPerChunk}) {
    auto run = again(0x7f0000001000, count);
    ASSERT_TRUE(run);
    EXPECT_EQ(run->pid, 42U);
    EXPECT_EQ(run->address, 0x7f0000001000U);
    EXPECT_EQ(run->count, count);
  }
  EXPECT_TRUE(again(kAddressLimit - kPageBytes, 1));
  EXPECT_TRUE(again(0, 1));
  struct Bad {
    std::uint64_t address;
    std::uint32_t count;
  };
  constexpr Bad kBad[] = {{0x1001, 1},
                          {0x1000, 0},
                          {0x1000, kMaxPagesPerChunk + 1},
                          {0x1000, ~0U},
                          {kAddressLimit, 1},
                          {kAddressLimit - kPageBytes, 2},
                          {~0ULL - kPageBytes + 1, 1},
                          {~0ULL - kPageBytes + 1, 256}};
  for (auto [address, count] : kBad) {
    auto run = again(address, count);
    ASSERT_FALSE(run) << address << " " << count;
    EXPECT_EQ(run.error().code, ErrorCode::kProtocol);
  }
  for (std::size_t bytes : {0U, 4U, 7U, 9U})
    EXPECT_FALSE(decode_request({FrameType::kRequest, 8, 0x1000}, std::vector<std::byte>(bytes)));
}

// ------------------------------------------------------------- page sets

void expect_round_trip(const PageSet& set, std::size_t at_most_frames) {
  auto frames = encode_page_set(set);
  EXPECT_LE(frames.size(), at_most_frames);
  PageSet back;
  for (const auto& frame : frames) {
    ASSERT_LE(frame.size(), kMaxPieceBytes);
    auto done = decode_page_set(frame, back);
    ASSERT_TRUE(done) << done.error().text();
  }
  EXPECT_EQ(back.blocks(), set.blocks());
}

TEST(PageSets, ComeBackAsTheyWere) {
  expect_round_trip({}, 1);
  PageSet one;
  one.add(0, kPageBytes);
  expect_round_trip(one, 1);
  PageSet last;
  last.add(kAddressLimit - kPageBytes, kAddressLimit);
  expect_round_trip(last, 1);
  PageSet blocks;  // full ones, with partial ones at both ends and a gap
  blocks.add(3 * kPageBytes, 100 * kBlockBytes + 5 * kPageBytes);
  blocks.add(200 * kBlockBytes, 300 * kBlockBytes);
  expect_round_trip(blocks, 1);
}

TEST(PageSets, FourGigabytesAreAFewBytes) {
  PageSet set;
  set.add(0x7f0000000000, 0x7f0000000000 + (4ULL << 30));
  auto frames = encode_page_set(set);
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].size(), 12U);
  expect_round_trip(set, 1);
}

TEST(PageSets, ARunBeyondOneEntrysLimitIsSplit) {
  PageSet set;
  PageSet::Bitmap full;
  full.fill(~0ULL);
  for (std::uint64_t block = 0; block < 70'000; ++block) set.add_block(9 + block, full);
  EXPECT_EQ(encode_page_set(set)[0].size(), 24U);
  expect_round_trip(set, 1);
}

TEST(PageSets, RandomOnesComeBack) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100; ++i) {
    PageSet set;
    for (std::uint64_t runs = random() % 200; runs > 0; --runs) {
      std::uint64_t start = random() % (kAddressLimit / kPageBytes - 5000) * kPageBytes;
      if (random() % 2 == 0) start = start % (64 * kBlockBytes) + 0x550000000000;
      set.add(start, start + (1 + random() % 2000) * kPageBytes);
    }
    expect_round_trip(set, 1);
  }
}

TEST(PageSets, ScatteredPagesTakeSeveralFrames) {
  PageSet set;  // every other page of 100 GiB: the worst for bitmaps
  constexpr std::uint64_t kBlocks = 51'200;
  PageSet::Bitmap half;
  half.fill(0x5555555555555555);
  for (std::uint64_t block = 0; block < kBlocks; ++block) set.add_block(1000 + block, half);
  EXPECT_GT(encode_page_set(set).size(), 2U);
  expect_round_trip(set, 5);
}

std::vector<std::byte> set_entry(std::uint64_t block, std::uint32_t full, std::size_t more = 0) {
  std::vector<std::byte> out(12 + more);
  block = htobe64(block);
  full = htobe32(full);
  std::memcpy(out.data(), &block, 8);
  std::memcpy(out.data() + 8, &full, 4);
  return out;
}

TEST(PageSets, RefusesImpossibleOnes) {
  constexpr std::uint64_t kBlocks = kAddressLimit / kBlockBytes;
  PageSet set;
  EXPECT_TRUE(decode_page_set(set_entry(0, 1), set));
  EXPECT_TRUE(decode_page_set(set_entry(kBlocks - 1, 1), set));
  EXPECT_TRUE(decode_page_set(set_entry(kBlocks - 1, 0, 64), set));
  std::vector<std::vector<std::byte>> bad{set_entry(kBlocks, 1),        set_entry(kBlocks - 1, 2),
                                          set_entry(~0ULL, 1),          set_entry(0, ~0U),
                                          set_entry(~0ULL, ~0U),        set_entry(kBlocks, 0, 64),
                                          set_entry(0, (1U << 16) + 1), set_entry(1, 0, 63),
                                          set_entry(1, 0, 0),           set_entry(1, 1, 1),
                                          set_entry(1, 1, 11),          std::vector<std::byte>(5)};
  for (std::size_t i = 0; i < bad.size(); ++i) {
    auto done = decode_page_set(bad[i], set);
    ASSERT_FALSE(done) << i;
    EXPECT_EQ(done.error().code, ErrorCode::kProtocol) << i;
  }
}

// An encoder that writes a bitmap without members must not leave an empty block behind:
// empty() would be false for ever.
TEST(PageSets, AnEmptyBitmapAddsNothing) {
  PageSet set;
  EXPECT_TRUE(decode_page_set(set_entry(7, 0, 64), set));
  EXPECT_TRUE(set.empty());
}

// ------------------------------------------------------------- connections

TEST(PageConnection, AnAbortIsAnErrorWithItsReason) {
  auto ends = connect();
  ASSERT_TRUE(ends.source.send(FrameType::kAbort, 0, "the disk\n is full", soon()));
  std::vector<std::byte> payload;
  auto got = ends.destination.expect(FrameType::kReady, payload, soon());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(got.error().message.find("the disk  is full"), std::string::npos);
}

TEST(PageConnection, AnUnexpectedFrameIsAnError) {
  auto ends = connect();
  ASSERT_TRUE(ends.source.send(FrameType::kReady, 0, "", soon()));
  std::vector<std::byte> payload;
  auto got = ends.destination.expect(FrameType::kStateEnd, payload, soon());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::kProtocol);
}

TEST(PageConnection, PartsArriveAsOnePayload) {
  auto ends = connect();
  std::vector<std::byte> first(10, std::byte{1});
  std::vector<std::byte> second(20, std::byte{2});
  std::vector<std::span<const std::byte>> parts{first, std::span<const std::byte>(), second};
  ASSERT_TRUE(ends.source.send_parts(FrameType::kStateData, 5, parts, soon()));
  std::vector<std::byte> payload;
  auto header = ends.destination.expect(FrameType::kStateData, payload, soon());
  ASSERT_TRUE(header);
  EXPECT_EQ(header->argument, 5U);
  first.insert(first.end(), second.begin(), second.end());
  EXPECT_EQ(payload, first);
}

TEST(PageConnection, CorkedFramesWaitForTheUncorking) {
  auto ends = connect();
  ends.source.cork();
  for (std::uint64_t i = 0; i < 10; ++i)
    ASSERT_TRUE(ends.source.send(FrameType::kStateData, i, "small", soon()));
  EXPECT_EQ(ends.source.stream().bytes_sent(), 0U);
  auto early = ends.destination.receive_header(deadline_in(milliseconds(20)));
  EXPECT_EQ(early.error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(ends.source.uncork(soon()));
  ASSERT_TRUE(ends.source.send(FrameType::kStateEnd, 10, "", soon()));  // not corked any more
  std::vector<std::byte> payload;
  for (std::uint64_t i = 0; i < 10; ++i) {
    auto header = ends.destination.expect(FrameType::kStateData, payload, soon());
    ASSERT_TRUE(header);
    EXPECT_EQ(header->argument, i);
    EXPECT_EQ(payload.size(), 5U);
  }
  EXPECT_TRUE(ends.destination.expect(FrameType::kStateEnd, payload, soon()));
  EXPECT_TRUE(ends.source.uncork(soon())) << "nothing to send is no error";
}

TEST(PageConnection, ACorkedConnectionDoesNotCollectForEver) {
  auto ends = connect();
  ends.source.cork();
  constexpr std::uint64_t kFrames = 20;
  std::thread sender([&] {
    std::vector<std::byte> piece(100'000, std::byte{3});
    for (std::uint64_t i = 0; i < kFrames; ++i)
      EXPECT_TRUE(ends.source.send(FrameType::kStateData, i, piece, soon()));
    EXPECT_GT(ends.source.stream().bytes_sent(), 15 * piece.size());
    EXPECT_TRUE(ends.source.uncork(soon()));
  });
  std::vector<std::byte> payload;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    auto header = ends.destination.expect(FrameType::kStateData, payload, soon());
    ASSERT_TRUE(header);
    EXPECT_EQ(header->argument, i);
    EXPECT_EQ(payload.size(), 100'000U);
  }
  sender.join();
}

// ------------------------------------------------------------- authentication

struct Shown {
  Result<void> source;
  Result<void> destination;
  std::uint64_t link = ~0ULL;  // as the destination heard it
};

// The one that does not refuse finds out at its next frame.
Shown authenticate_both(Ends& ends, const std::string& first, const std::string& second,
                        std::uint64_t link = kControlLink,
                        PageRole second_role = PageRole::kDestination) {
  Shown shown;
  std::thread thread([&] {
    shown.destination = authenticate(ends.destination, second_role, second, shown.link, soon());
    if (!shown.destination) ends.destination.stream().shut_down();
  });
  shown.source = authenticate(ends.source, PageRole::kSource, first, link, soon());
  if (!shown.source) ends.source.stream().shut_down();
  thread.join();
  return shown;
}

const std::string kSecret(32, 's');

TEST(Authenticate, TheSameSecretIsAcceptedOnEveryLink) {
  for (std::uint64_t link = 0; link <= kLastLink; ++link) {
    auto ends = connect();
    auto shown = authenticate_both(ends, kSecret, kSecret, link);
    EXPECT_TRUE(shown.source);
    EXPECT_TRUE(shown.destination);
    EXPECT_EQ(shown.link, link);
  }
}

TEST(Authenticate, AnotherSecretIsRefusedByBoth) {
  auto ends = connect();
  auto shown = authenticate_both(ends, kSecret, std::string(32, 't'));
  ASSERT_FALSE(shown.source);
  ASSERT_FALSE(shown.destination);
  EXPECT_TRUE(shown.source.error().code == ErrorCode::kPermission ||
              shown.destination.error().code == ErrorCode::kPermission);
}

TEST(Authenticate, ALinkThatDoesNotExistIsRefused) {
  for (std::uint64_t link : {kLastLink + 1, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    auto ends = connect();
    auto shown = authenticate_both(ends, kSecret, kSecret, link);
    ASSERT_FALSE(shown.destination) << link;
    EXPECT_EQ(shown.destination.error().code, ErrorCode::kProtocol);
    EXPECT_FALSE(shown.source);
  }
}

// The link is part of the proof: nobody in between can make one link of another.
TEST(Authenticate, AChangedLinkIsRefused) {
  auto [source, near] = make_fake_streams();
  auto [far, destination] = make_fake_streams();
  PageConnection first(std::move(source));
  PageConnection second(std::move(destination));
  PageConnection to_source(std::move(near));
  PageConnection to_destination(std::move(far));
  auto forward = [](PageConnection& from, PageConnection& to, std::uint64_t added) {
    for (int frame = 0; frame < 2; ++frame) {
      std::vector<std::byte> payload;
      auto header = from.receive_header(soon());
      if (!header || !from.receive_payload(*header, payload, soon())) break;
      std::uint64_t argument = header->argument + (frame == 0 ? added : 0);
      if (!to.send(header->type, argument, payload, soon())) break;
    }
  };
  std::thread there([&] { forward(to_source, to_destination, 1); });
  std::thread back([&] { forward(to_destination, to_source, 0); });
  std::uint64_t link = kFirstBulkLink;
  std::uint64_t heard = 0;
  Result<void> refused;
  std::thread other(
      [&] { refused = authenticate(second, PageRole::kDestination, kSecret, heard, soon()); });
  auto own = authenticate(first, PageRole::kSource, kSecret, link, soon());
  for (auto* thread : {&there, &back, &other}) thread->join();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
  EXPECT_FALSE(own);
}

// What a source once said does not open a second connection: the nonces differ.
TEST(Authenticate, ARecordedSourceIsRefused) {
  auto record = [](PageConnection& connection, int frames) {
    std::vector<std::pair<FrameHeader, std::vector<std::byte>>> out;
    for (int i = 0; i < frames; ++i) {
      std::vector<std::byte> payload;
      auto header = connection.receive_header(soon());
      if (!header || !connection.receive_payload(*header, payload, soon())) break;
      out.emplace_back(*header, payload);
    }
    return out;
  };
  // A true source, whose frames pass through to a true destination and are kept.
  auto [a, b] = make_fake_streams();
  auto [c, d] = make_fake_streams();
  PageConnection source(std::move(a)), tap_source(std::move(b)), tap_destination(std::move(c)),
      destination(std::move(d));
  std::vector<std::pair<FrameHeader, std::vector<std::byte>>> kept;
  auto pass = [&](PageConnection& from, PageConnection& to, bool keep) {
    for (int i = 0; i < 2; ++i) {
      for (auto& [header, payload] : record(from, 1)) {
        EXPECT_TRUE(to.send(header.type, header.argument, payload, soon()));
        if (keep) kept.emplace_back(header, payload);
      }
    }
  };
  std::thread there([&] { pass(tap_source, tap_destination, true); });
  std::thread back([&] { pass(tap_destination, tap_source, false); });
  std::uint64_t heard = 0;
  std::thread other([&] {
    EXPECT_TRUE(authenticate(destination, PageRole::kDestination, kSecret, heard, soon()));
  });
  std::uint64_t link = kDemandLink;
  EXPECT_TRUE(authenticate(source, PageRole::kSource, kSecret, link, soon()));
  for (auto* thread : {&there, &back, &other}) thread->join();
  ASSERT_EQ(kept.size(), 2U);

  auto ends = connect();
  for (auto& [header, payload] : kept)
    ASSERT_TRUE(ends.source.send(header.type, header.argument, payload, soon()));
  auto again = authenticate(ends.destination, PageRole::kDestination, kSecret, heard, soon());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kPermission);
}

TEST(Authenticate, AnotherProtocolVersionIsRefusedWithARemedy) {
  for (std::uint32_t version : {0U, kPageProtocolVersion - 1, kPageProtocolVersion + 1}) {
    auto ends = connect();
    std::vector<std::byte> hello(36);
    std::uint32_t wire = htobe32(version);
    std::memcpy(hello.data(), &wire, 4);
    ASSERT_TRUE(ends.source.send(FrameType::kHello, 0, hello, soon()));
    std::uint64_t link = 0;
    auto done = authenticate(ends.destination, PageRole::kDestination, kSecret, link, soon());
    ASSERT_FALSE(done) << version;
    EXPECT_EQ(done.error().code, ErrorCode::kProtocol);
    EXPECT_NE(done.error().remedy.find("version"), std::string::npos);
  }
}

// A source's proof reflected to it must not pass for the destination's.
TEST(Authenticate, TwoSourcesDoNotAcceptEachOther) {
  auto ends = connect();
  auto shown = authenticate_both(ends, kSecret, kSecret, 0, PageRole::kSource);
  EXPECT_FALSE(shown.source);
  EXPECT_FALSE(shown.destination);
}

TEST(Authenticate, AShortSecretIsNoSecret) {
  auto ends = connect();
  std::uint64_t link = 0;
  EXPECT_FALSE(authenticate(ends.source, PageRole::kSource, "short", link, soon()));
  EXPECT_EQ(ends.source.stream().bytes_sent(), 0U);
}

TEST(Authenticate, CorruptedBytesAreRefused) {
  for (std::uint64_t position = 0; position < 2 * kHeaderBytes + 36 + 32; ++position) {
    auto ends = connect({.corrupt_byte_at = position});
    auto shown = authenticate_both(ends, kSecret, kSecret);
    EXPECT_FALSE(shown.destination) << "byte " << position;
  }
}

TEST(Authenticate, ASilentPeerTimesOut) {
  auto ends = connect();
  std::uint64_t link = 0;
  auto done =
      authenticate(ends.source, PageRole::kSource, kSecret, link, deadline_in(milliseconds(50)));
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
