// Chunks of the memory of a real process.
#include "migrate/page_chunk.h"

#include <endian.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "common/fd.h"
#include "migrate/fake_transport.h"

namespace gestalt {
namespace {

constexpr std::size_t kPages = 256;
constexpr ChunkOptions kAllOptions[] = {
    {}, {.compress = true}, {.checksum = true}, {.compress = true, .checksum = true}};

Deadline soon() { return deadline_in(std::chrono::seconds(5)); }

// A paused child with the memory that the test wrote before.
class ChildMemory {
 public:
  ChildMemory()
      : base_(static_cast<std::byte*>(::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~ChildMemory() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      (void)::waitpid(child_, nullptr, 0);
    }
    ::munmap(base_, kPages * kPageBytes);
  }
  ChildMemory(const ChildMemory&) = delete;
  ChildMemory& operator=(const ChildMemory&) = delete;

  // `change` is for the child alone.
  void start(const std::function<void(std::byte*)>& change = {}) {
    Pipe ready = *make_pipe();
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (change) change(base_);
      if (::write(ready.write.get(), "r", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(ready.read.get(), &byte, 1), 1);
  }
  [[nodiscard]] std::byte* page(std::size_t index) { return base_ + index * kPageBytes; }
  [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(base_); }
  [[nodiscard]] PageRun run(std::size_t first, std::uint32_t count) const {
    return {static_cast<std::uint32_t>(child_), address() + first * kPageBytes, count};
  }
  [[nodiscard]] pid_t child() const { return child_; }

 private:
  std::byte* base_;
  pid_t child_ = -1;
};

struct Chunk {
  FrameHeader header;
  std::vector<std::byte> payload;
  PageCounts counts;
};

Result<Chunk> chunk_of(const PageRun& run, ChunkOptions options) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  Chunk chunk;
  Result<PageCounts> counts;
  std::thread sender([&] {
    counts = ChunkWriter(linux_kernel(), options).send(out, run, soon());
    if (!counts) out.stream().shut_down();
  });
  auto header = in.expect(FrameType::kChunk, chunk.payload, soon());
  sender.join();
  if (!counts) return std::unexpected(counts.error());
  if (!header) return std::unexpected(header.error());
  chunk.header = *header;
  chunk.counts = *counts;
  return chunk;
}

// 'd' data, 'z' zero, 'a' absent for each page; checks the data against `memory`.
std::string kinds(const Chunk& chunk, ChildMemory& memory, ChunkReader& reader) {
  std::vector<ChunkRun> runs;
  auto run = reader.decode(chunk.header, chunk.payload, runs);
  if (!run) return run.error().text();
  std::string out;
  std::uint64_t expected = run->address;
  for (const auto& each : runs) {
    EXPECT_EQ(each.address, expected);
    expected += each.count * kPageBytes;
    out.append(each.count, "dza"[static_cast<int>(each.kind)]);
    if (each.kind != RunKind::kData) continue;
    EXPECT_EQ(each.bytes.size(), each.count * kPageBytes);
    std::size_t offset = each.address - memory.address();
    EXPECT_EQ(std::memcmp(each.bytes.data(), memory.page(0) + offset, each.bytes.size()), 0);
  }
  return out;
}

TEST(PageChunk, CarriesDataZeroAndAbsentPages) {
  for (auto options : kAllOptions) {
    ChildMemory memory;
    for (std::size_t page : {0, 1, 4, 6, 7}) std::memset(memory.page(page), 'x', kPageBytes);
    memory.page(5)[4095] = std::byte{1};
    memory.start([](std::byte* base) { ::munmap(base + 6 * kPageBytes, kPageBytes); });
    auto chunk = chunk_of(memory.run(0, 8), options);
    ASSERT_TRUE(chunk) << chunk.error().text();
    ChunkReader reader;
    EXPECT_EQ(kinds(*chunk, memory, reader), "ddzzddad");
    EXPECT_EQ(chunk->counts.sent, 5U);
    EXPECT_EQ(chunk->counts.zero, 2U);
    EXPECT_EQ(chunk->counts.absent, 1U);
  }
}

// A mapping that the process may not read itself keeps its content.
TEST(PageChunk, ForbiddenPagesAreRead) {
  ChildMemory memory;
  for (std::size_t page = 0; page < 8; ++page) std::memset(memory.page(page), 'a', kPageBytes);
  memory.start([](std::byte* base) {
    ::mprotect(base + 2 * kPageBytes, 2 * kPageBytes, PROT_NONE);
    ::mprotect(base + 6 * kPageBytes, kPageBytes, PROT_NONE);
    ::munmap(base + 7 * kPageBytes, kPageBytes);
  });
  auto chunk = chunk_of(memory.run(0, 8), {});
  ASSERT_TRUE(chunk) << chunk.error().text();
  ChunkReader reader;
  EXPECT_EQ(kinds(*chunk, memory, reader), "ddddddda");
}

TEST(PageChunk, UnmappedEntirelyIsAbsentEntirely) {
  ChildMemory memory;
  memory.start([](std::byte* base) { ::munmap(base, kPages * kPageBytes); });
  auto chunk = chunk_of(memory.run(0, kPages), {.compress = true, .checksum = true});
  ASSERT_TRUE(chunk) << chunk.error().text();
  ChunkReader reader;
  EXPECT_EQ(kinds(*chunk, memory, reader), std::string(kPages, 'a'));
}

TEST(PageChunk, AProcessThatEndedIsGoneAndNothingIsSent) {
  ChildMemory memory;
  memory.start();
  ::kill(memory.child(), SIGKILL);
  (void)::waitpid(memory.child(), nullptr, 0);
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  auto counts = ChunkWriter(linux_kernel(), {}).send(out, memory.run(0, 1), soon());
  ASSERT_FALSE(counts);
  EXPECT_EQ(counts.error().code, ErrorCode::kGone);
  EXPECT_EQ(out.stream().bytes_sent(), 0U);
}

TEST(PageChunk, CompressesOnlyWhatGetsSmaller) {
  ChildMemory memory;
  std::mt19937_64 random(1);
  for (std::size_t page = 0; page < 32; ++page) {
    if (page < 16) {
      std::memset(memory.page(page), 'y', kPageBytes);
      continue;
    }
    for (std::size_t i = 0; i < kPageBytes; i += 8) {
      std::uint64_t word = random();
      std::memcpy(memory.page(page) + i, &word, 8);
    }
  }
  memory.start();
  ChunkReader reader;
  auto same = chunk_of(memory.run(0, 16), {.compress = true});
  ASSERT_TRUE(same);
  EXPECT_LT(same->payload.size(), kPageBytes);
  EXPECT_EQ(kinds(*same, memory, reader), std::string(16, 'd'));
  auto noise = chunk_of(memory.run(16, 16), {.compress = true});
  ASSERT_TRUE(noise);
  EXPECT_EQ(noise->payload.size(), 24 + 4 + 16 * kPageBytes);
  EXPECT_EQ(kinds(*noise, memory, reader), std::string(16, 'd'));
}

TEST(PageChunk, RandomRunsComeBack) {
  ChildMemory memory;
  std::mt19937_64 random(7);
  std::string expected;
  std::vector<std::size_t> holes;
  for (std::size_t page = 0; page < kPages; ++page) {
    switch (random() % 4) {
      case 0:
        expected += 'z';
        break;
      case 1:
        expected += 'a';
        holes.push_back(page);
        break;
      default:
        expected += 'd';
        for (std::size_t i = 0; i < kPageBytes; i += 8) {
          std::uint64_t word = page % 2 == 0 ? random() : page;
          std::memcpy(memory.page(page) + i, &word, 8);
        }
    }
  }
  memory.start([&](std::byte* base) {
    for (std::size_t page : holes) ::munmap(base + page * kPageBytes, kPageBytes);
  });
  ChunkReader reader;
  for (int i = 0; i < 200; ++i) {
    std::size_t first = random() % kPages;
    auto count = static_cast<std::uint32_t>(1 + random() % (kPages - first));
    auto chunk = chunk_of(memory.run(first, count), kAllOptions[i % 4]);
    ASSERT_TRUE(chunk) << chunk.error().text();
    EXPECT_EQ(kinds(*chunk, memory, reader), expected.substr(first, count));
  }
}

TEST(PageChunk, ACorruptedByteIsDetected) {
  for (bool compress : {false, true}) {
    ChildMemory memory;
    std::memset(memory.page(0), 'q', 3 * kPageBytes);
    memory.page(1)[17] = std::byte{3};
    memory.start();
    auto chunk = chunk_of(memory.run(0, 4), {.compress = compress, .checksum = true});
    ASSERT_TRUE(chunk);
    ChunkReader reader;
    std::vector<ChunkRun> runs;
    ASSERT_TRUE(reader.decode(chunk->header, chunk->payload, runs));
    std::size_t data = 24 + 2 * 4;
    std::size_t step = compress ? 1 : 97;
    for (std::size_t at = data; at < chunk->payload.size(); at += step) {
      auto bad = chunk->payload;
      bad[at] ^= std::byte{0x10};
      auto run = reader.decode(chunk->header, bad, runs);
      if (run) {  // lz4 has several ways to say the same
        ASSERT_TRUE(compress) << at;
        Chunk same{chunk->header, bad, {}};
        EXPECT_EQ(kinds(same, memory, reader), "dddz") << at;
        continue;
      }
      EXPECT_EQ(run.error().code, ErrorCode::kProtocol);
    }
  }
}

// ------------------------------------------------------------- malformed payloads

struct Fields {
  std::uint32_t pid = 1;
  std::uint32_t count = 4;
  std::uint16_t flags = 0;
  std::vector<std::pair<std::uint16_t, std::uint16_t>> runs{{1, 0}, {2, 1}, {1, 2}};
  int runs_more = 0;
  std::size_t data_bytes = kPageBytes;
  int data_bytes_more = 0;
  std::uint64_t address = 0x1000;

  [[nodiscard]] std::vector<std::byte> payload() const {
    std::vector<std::byte> out;
    auto add = [&out](auto value) {
      auto* bytes = reinterpret_cast<std::byte*>(&value);
      out.insert(out.end(), bytes, bytes + sizeof value);
    };
    add(htobe32(pid));
    add(htobe32(count));
    add(htobe16(flags));
    add(htobe16(static_cast<std::uint16_t>(static_cast<int>(runs.size()) + runs_more)));
    add(htobe32(static_cast<std::uint32_t>(static_cast<int>(data_bytes) + data_bytes_more)));
    add(std::uint64_t{0});
    for (auto [pages, kind] : runs) {
      add(htobe16(pages));
      add(htobe16(kind));
    }
    out.resize(out.size() + data_bytes, std::byte{9});
    return out;
  }
};

Result<PageRun> decode(const Fields& fields) {
  auto payload = fields.payload();
  std::vector<ChunkRun> runs;
  return ChunkReader().decode(
      {FrameType::kChunk, static_cast<std::uint32_t>(payload.size()), fields.address}, payload,
      runs);
}

TEST(PageChunk, RefusesEveryMalformedPayload) {
  auto good = decode({});
  ASSERT_TRUE(good) << good.error().text();
  const std::pair<const char*, Fields> bad[] = {
      {"no pages", {.count = 0, .runs = {}, .data_bytes = 0}},
      {"too many pages", {.count = 257, .runs = {{257, 1}}, .data_bytes = 0}},
      {"unaligned", {.address = 0x1001}},
      {"beyond user space", {.address = kAddressLimit - 2 * kPageBytes}},
      {"too few runs", {.runs = {{1, 0}, {2, 1}}}},
      {"too many runs' pages", {.runs = {{1, 0}, {2, 1}, {2, 2}}}},
      {"more runs than pages", {.runs = {{1, 0}, {1, 1}, {1, 1}, {1, 1}, {0, 1}}}},
      {"an empty run", {.runs = {{1, 0}, {0, 1}, {3, 2}}}},
      {"an unknown kind", {.runs = {{1, 0}, {2, 3}, {1, 2}}}},
      {"a large kind", {.runs = {{1, 0}, {2, 0xffff}, {1, 2}}}},
      {"a large run", {.runs = {{0xffff, 1}}, .data_bytes = 0}},
      {"announces a run more", {.runs_more = 1}},
      {"announces a run less", {.runs_more = -1}},
      {"announces more data", {.data_bytes_more = 1}},
      {"announces less data", {.data_bytes_more = -1}},
      {"announces 4 GiB", {.data_bytes_more = -static_cast<int>(kPageBytes) - 1}},
      {"too little data", {.data_bytes = kPageBytes - 1}},
      {"too much data", {.data_bytes = kPageBytes + 1}},
      {"data without runs", {.runs = {{4, 1}}, .data_bytes = 1}},
      {"not lz4", {.flags = 1}},
      {"empty lz4", {.flags = 1, .data_bytes = 0}},
      {"lz4 of nothing", {.flags = 1, .runs = {{4, 1}}, .data_bytes = 0}},
      {"wrong checksum", {.flags = 2}},
      {"unknown flag", {.flags = 4}},
      {"unknown flag, high", {.flags = 0x8000}},
  };
  for (const auto& [what, fields] : bad) {
    auto run = decode(fields);
    ASSERT_FALSE(run) << what;
    EXPECT_EQ(run.error().code, ErrorCode::kProtocol) << what;
  }
}

TEST(PageChunk, RefusesEveryCutPayload) {
  auto payload = Fields().payload();
  ChunkReader reader;
  std::vector<ChunkRun> runs;
  for (std::size_t bytes = 0; bytes < payload.size(); bytes += bytes < 40 ? 1 : 61) {
    auto run = reader.decode({FrameType::kChunk, 0, 0x1000}, std::span(payload).first(bytes), runs);
    ASSERT_FALSE(run) << bytes;
    EXPECT_EQ(run.error().code, ErrorCode::kProtocol);
  }
}

TEST(ZeroPage, IsFoundExactly) {
  std::vector<std::byte> page(kPageBytes);
  EXPECT_TRUE(is_zero_page(page));
  for (std::size_t i = 0; i < kPageBytes; ++i) {
    page[i] = std::byte{1};
    EXPECT_FALSE(is_zero_page(page)) << i;
    page[i] = std::byte{0};
  }
}

}  // namespace
}  // namespace gestalt
