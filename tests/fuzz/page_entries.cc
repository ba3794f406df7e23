// What comes over a page connection, and CRIU's images.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>

#include "migrate/file_cache.h"
#include "migrate/files_image.h"
#include "migrate/held_packets.h"
#include "migrate/image_transfer.h"
#include "migrate/launcher_orders.h"
#include "migrate/page_chunk.h"
#include "migrate/page_wire.h"
#include "migrate/pagemap_image.h"
#include "migrate/traits.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

// A peer that has said all it will ever say.
class RecordedStream final : public Stream {
 public:
  explicit RecordedStream(std::string_view bytes) : bytes_(bytes) {}
  Result<void> send(std::span<const std::byte> bytes, Deadline) override {
    sent_ += bytes.size();
    return {};
  }
  Result<void> receive(std::span<std::byte> into, Deadline) override {
    if (into.size() > bytes_.size()) return fail(ErrorCode::kUnavailable, "end of the recording");
    std::ranges::copy(std::as_bytes(std::span(bytes_.substr(0, into.size()))), into.begin());
    bytes_.remove_prefix(into.size());
    return {};
  }
  Result<void> wait_readable(Deadline) override { return {}; }
  void shut_down() override {}
  [[nodiscard]] std::uint64_t bytes_sent() const override { return sent_; }
  [[nodiscard]] std::uint64_t bytes_received() const override { return 0; }

 private:
  std::string_view bytes_;
  std::uint64_t sent_ = 0;
};

PageConnection connection(std::string_view bytes) {
  return PageConnection(std::make_unique<RecordedStream>(bytes));
}

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string frame(FrameType type, std::uint64_t argument, std::string_view payload = {}) {
  return text(encode_header({type, static_cast<std::uint32_t>(payload.size()), argument})) +
         std::string(payload);
}

// What decodes can be encoded again, to the same bytes.
void check_request(const FrameHeader& header, std::span<const std::byte> payload) {
  auto run = decode_request(header, payload);
  if (!run) return promise(run.error().code == ErrorCode::kProtocol, "a bad request says so");
  promise(is_sensible(*run, kMaxPagesPerChunk), "a request is for pages that can be");
  promise(std::ranges::equal(encode_request(*run), payload), "a request comes back as it was");
}

void check_page_set(std::span<const std::byte> payload) {
  PageSet set;
  auto done = decode_page_set(payload, set);
  if (!done) return promise(done.error().code == ErrorCode::kProtocol, "a bad set says so");
  for (const auto& [block, bitmap] : set.blocks()) {
    promise(block < kAddressLimit / kBlockBytes, "a set lies in the address space");
    promise(std::ranges::any_of(bitmap, [](std::uint64_t word) { return word != 0; }),
            "no block is empty");
  }
  PageSet again;
  for (const auto& frame : encode_page_set(set)) {
    promise(frame.size() <= kMaxPieceBytes, "a frame of a set keeps to its limit");
    promise(decode_page_set(frame, again).has_value(), "an encoded set can be decoded");
  }
  promise(again.blocks() == set.blocks(), "a set comes back as it was");
}

void check_chunk(const FrameHeader& header, std::span<const std::byte> payload) {
  ChunkReader reader;
  std::vector<ChunkRun> runs;
  auto run = reader.decode(header, payload, runs);
  if (!run) return promise(run.error().code == ErrorCode::kProtocol, "a bad chunk says so");
  promise(is_sensible(*run, kMaxPagesPerChunk), "a chunk is of pages that can be");
  std::uint64_t at = run->address;
  std::uint64_t touched = 0;
  for (const auto& each : runs) {
    promise(each.address == at && each.count > 0, "runs follow each other");
    at += each.count * kPageBytes;
    bool data = each.kind == RunKind::kData;
    promise(each.bytes.size() == (data ? each.count * kPageBytes : 0), "a run has all its bytes");
    for (std::byte byte : each.bytes) touched += static_cast<std::uint64_t>(byte);
  }
  promise(at == run->end() && touched < ~0ULL, "and they fill the chunk");
}

void check_staged_request(const FrameHeader& header, std::span<const std::byte> payload) {
  auto request = decode_staged_request(header, payload);
  if (!request)
    return promise(request.error().code == ErrorCode::kProtocol, "a bad request says so");
  promise(is_sensible(request->run, kMaxPagesPerChunk), "a request is for pages that can be");
  promise(std::ranges::equal(encode_staged_request(*request), payload),
          "a request comes back as it was");
}

void check_staged(const FrameHeader& header, std::span<const std::byte> payload) {
  std::vector<ChunkRun> runs;
  auto pages = ChunkReader::decode_staged(header, payload, runs);
  if (!pages) return promise(pages.error().code == ErrorCode::kProtocol, "bad pages say so");
  promise(is_sensible(pages->run, kMaxPagesPerChunk), "staged pages are such that can be");
  std::uint64_t at = pages->run.address;
  for (const auto& each : runs) {
    promise(each.address == at && each.count > 0, "runs follow each other");
    at += each.count * kPageBytes;
  }
  promise(at == pages->run.end(), "and they fill the slot");
}

void check_staging(std::span<const std::byte> payload) {
  auto staging = decode_staging(payload);
  if (!staging) return promise(staging.error().code == ErrorCode::kProtocol, "bad memory says so");
  promise(staging->bytes() <= kMaxReadRequests * std::size_t{kMaxPieceBytes}, "it is bounded");
  promise(staging->slot_address(staging->slots) >= staging->address, "and it does not wrap");
  promise(std::ranges::equal(encode_staging(*staging), payload), "it comes back as it was");
}

void check_remote_ranges(std::span<const std::byte> payload) {
  std::vector<RemoteRange> ranges;
  auto done = decode_remote_ranges(payload, ranges);
  if (!done) return promise(done.error().code == ErrorCode::kProtocol, "a bad range says so");
  std::vector<std::byte> again;
  for (const auto& frame : encode_remote_ranges(ranges))
    again.insert(again.end(), frame.begin(), frame.end());
  promise(std::ranges::equal(again, payload), "ranges come back as they were");
  auto table = RemoteRangeTable::make(ranges);
  if (!table) return;
  for (const auto& range : ranges) {
    auto bytes = table->uniform_bytes(range.pid, range.start, kPageBytes * 64);
    promise(bytes > 0 && bytes <= range.end - range.start, "a piece lies in its range");
    PageRun run{range.pid, range.start, static_cast<std::uint32_t>(bytes / kPageBytes)};
    const RemoteRange* found = table->find(run);
    promise(found != nullptr && *found == range, "and is found there");
  }
}

void run_remote_memory(std::string_view bytes) {
  auto payload = std::as_bytes(std::span(bytes));
  FrameHeader header{FrameType::kStaged, static_cast<std::uint32_t>(payload.size()),
                     0x7f0000000000};
  check_staged_request(header, payload);
  check_staged(header, payload);
  check_staging(payload);
  check_remote_ranges(payload);
}

void run_page_frames(std::string_view bytes) {
  auto peer = connection(bytes);
  std::vector<std::byte> payload;
  while (auto header = peer.receive_header(Deadline::max())) {
    promise(header->length <= kMaxPieceBytes + kMaxChunkOverheadBytes, "a frame keeps its limit");
    promise(decode_header(encode_header(*header)).has_value(), "a header can be encoded again");
    if (!peer.receive_payload(*header, payload, Deadline::max())) return;
    if (header->type == FrameType::kRequest) check_request(*header, payload);
    if (header->type == FrameType::kPresent) check_page_set(payload);
    if (header->type == FrameType::kChunk) check_chunk(*header, payload);
    if (header->type == FrameType::kStagedRequest) check_staged_request(*header, payload);
    if (header->type == FrameType::kStaged) check_staged(*header, payload);
    if (header->type == FrameType::kStaging) check_staging(payload);
    if (header->type == FrameType::kRemoteRanges) check_remote_ranges(payload);
  }
}

// A mutated length makes a frame unreadable, so the payloads are fuzzed by themselves too.
void run_page_chunk(std::string_view bytes) {
  auto payload = std::as_bytes(std::span(bytes));
  check_chunk({FrameType::kChunk, static_cast<std::uint32_t>(payload.size()), 0x7f0000000000},
              payload);
}

void run_page_set(std::string_view bytes) { check_page_set(std::as_bytes(std::span(bytes))); }

// Keeps what is sent.
class RecordingStream final : public Stream {
 public:
  explicit RecordingStream(std::string& bytes) : bytes_(bytes) {}
  Result<void> send(std::span<const std::byte> bytes, Deadline) override {
    bytes_ += text(bytes);
    return {};
  }
  Result<void> receive(std::span<std::byte>, Deadline) override {
    return fail(ErrorCode::kUnavailable, "nothing to be heard");
  }
  Result<void> wait_readable(Deadline) override { return {}; }
  void shut_down() override {}
  [[nodiscard]] std::uint64_t bytes_sent() const override { return bytes_.size(); }
  [[nodiscard]] std::uint64_t bytes_received() const override { return 0; }

 private:
  std::string& bytes_;
};

// Of this process's memory: data, two zero pages, data.
std::string chunk_frame(ChunkOptions options) {
  struct alignas(kPageBytes) Memory {
    std::array<std::array<char, kPageBytes>, 4> pages{};
  };
  static Memory memory;
  memory.pages[0].fill('x');
  memory.pages[3].fill('y');
  std::string sent;
  PageConnection peer(std::make_unique<RecordingStream>(sent));
  PageRun run{static_cast<std::uint32_t>(::getpid()), reinterpret_cast<std::uint64_t>(&memory), 4};
  auto counts = ChunkWriter(linux_kernel(), options).send(peer, run, Deadline::max());
  promise(counts && counts->zero == 2 && counts->sent == 2, "a chunk can be made");
  return sent;
}

std::vector<std::string> page_chunk_seeds() {
  std::vector<std::string> seeds;
  for (bool compress : {false, true})
    for (bool checksum : {false, true})
      seeds.push_back(
          chunk_frame({.compress = compress, .checksum = checksum}).substr(kHeaderBytes));
  return seeds;
}

std::vector<std::string> page_set_seeds() {
  PageSet set;
  set.add(0x7f0000001000, 0x7f0000001000 + 5 * kBlockBytes);
  set.add(0x1000, 0x3000);
  PageSet last;
  last.add(kAddressLimit - kPageBytes, kAddressLimit);
  return {text(encode_page_set(set)[0]), text(encode_page_set(last)[0])};
}

std::vector<std::string> remote_memory_seeds() {
  std::vector<RemoteRange> ranges{{4711, 0x1000, 0x5000, 0x7000, 12},
                                  {4711, 0x5000, 0x6000, 0x5000, 13},
                                  {4712, 0x1000, 0x2000, 0x1000, 14}};
  PageRun run{4711, 0x7f0000000000, 4};
  // Two pages of data, a zero one, data.
  std::string front(
      "\0\0\x12\x67\0\0\0\4\0\0\0\3\0\0\x30\0\0\0\0\0\0\0\0\0"
      "\0\2\0\0\0\1\0\1\0\1\0\0",
      36);
  return {text(encode_staging({0x7f0000000000, 7, 32, 8 * kPageBytes})),
          text(encode_remote_ranges(ranges)[0]), text(encode_staged_request({run, 3})),
          std::string("\0\0\0\3", 4) + front};
}

std::vector<std::string> page_frame_seeds() {
  std::string request =
      frame(FrameType::kRequest, 0x7f0000000000, text(encode_request({4711, 0x7f0000000000, 2})));
  std::string sets =
      frame(FrameType::kPresent, 4711, page_set_seeds()[0]) + frame(FrameType::kSetsEnd, 1);
  return {request,
          sets,
          chunk_frame({}),
          frame(FrameType::kStaging, 1, remote_memory_seeds()[0]) +
              frame(FrameType::kRemoteRanges, 0, remote_memory_seeds()[1]),
          frame(FrameType::kStagedRequest, 0x7f0000000000, remote_memory_seeds()[2]),
          frame(FrameType::kStaged, 0x7f0000000000, remote_memory_seeds()[3]),
          chunk_frame({.compress = true, .checksum = true}),
          frame(FrameType::kRoundEnd, 1) + frame(FrameType::kPushEnd, 1),
          frame(FrameType::kAbort, 0, "no space left"),
          frame(FrameType::kHello, 0, "nonce")};
}

// Nobody gets in who does not know the secret.
void run_authenticate(std::string_view bytes) {
  for (PageRole role : {PageRole::kSource, PageRole::kDestination}) {
    auto peer = connection(bytes);
    std::uint64_t link = kDemandLink;
    auto done = authenticate(peer, role, std::string(32, 's'), link, Deadline::max());
    promise(!done.has_value(), "a peer without the secret is refused");
  }
}

std::vector<std::string> authenticate_seeds() {
  std::string version(4, '\0');
  version[3] = static_cast<char>(kPageProtocolVersion);
  std::string hello = version + std::string(32, 'n');
  std::string proof = frame(FrameType::kProof, 0, std::string(32, 'p'));
  return {frame(FrameType::kHello, 0, hello) + proof,
          frame(FrameType::kHello, kFirstBulkLink, hello) + proof};
}

void run_cached_file(std::string_view bytes) {
  auto file = decode_cached_file(std::as_bytes(std::span(bytes)));
  if (!file) return;
  promise(file->path.starts_with('/') && !file->path.contains('\0'), "the path is one");
  promise(file->bytes() <= file->size_bytes, "no more is cached than there is");
  promise(std::ranges::equal(encode_cached_file(*file), std::as_bytes(std::span(bytes))),
          "there is one way to write it");
}

std::vector<std::string> cached_file_seeds() {
  auto bytes = encode_cached_file({"/home/data", 100'000, {{0, 4096}, {50'000, 50'000}}});
  return {std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
}

void run_packets(std::string_view bytes) {
  auto packets = decode_packets(std::as_bytes(std::span(bytes)));
  if (!packets) return;
  for (auto& packet : *packets) {
    if (!complete_checksum(packet)) continue;
    auto once = packet;
    promise(complete_checksum(packet) && packet == once, "a checksum does not depend on itself");
  }
}

std::vector<std::string> packets_seeds() {
  Packet udp(45);
  udp[12] = std::byte{8};
  udp[14] = std::byte{0x45};
  udp[17] = std::byte{31};
  udp[23] = std::byte{17};
  auto bytes = encode_packets({udp, Packet(3)});
  return {std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
}

void run_traits(std::string_view bytes) {
  auto traits = decode_traits(bytes);
  if (!traits) return;
  auto again = decode_traits(encode_traits(*traits));
  promise(again && *again == *traits, "what was understood can be said");
  for (const auto& process : *traits)
    for (const auto& thread : process.threads)
      promise(!thread.cpus || !thread.cpus->empty(), "a thread has a CPU");
}

std::vector<std::string> traits_seeds() {
  return {"p 7 51 262144\nt 7 50000 0 *\nt 9 1 16391 0,3,8191\np 8 0 0\n"};
}

std::uint64_t bytes_below(const std::filesystem::path& directory) {
  std::uint64_t total = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) total += entry.file_size();
  return total;
}

void run_images(std::string_view bytes) {
  static const std::string base =
      std::filesystem::temp_directory_path() / ("gestalt-fuzz-" + std::to_string(::getpid()));
  constexpr std::uint64_t kLimitBytes = 100'000;
  {
    auto directory = ImageDirectory::create(base, "images");
    promise(directory.has_value(), "the directory can be made");
    auto peer = connection(bytes);
    auto received = receive_images(peer, directory->path(), kLimitBytes, Deadline::max());
    std::uint64_t stored = bytes_below(base);
    promise(stored <= kLimitBytes, "no more is stored than allowed");
    promise(!received || *received == stored, "what is reported is what is stored");
    promise(stored == bytes_below(directory->path()), "nothing lands outside the directory");
  }
  std::filesystem::remove_all(base);
}

std::vector<std::string> image_seeds() {
  std::string core =
      frame(FrameType::kStateFile, 5, "core-1.img") + frame(FrameType::kStateData, 0, "image");
  std::string empty = frame(FrameType::kStateFile, 0, "stats.img");
  return {core + empty + frame(FrameType::kStateEnd, 2),
          core + core + frame(FrameType::kStateEnd, 2),
          frame(FrameType::kStateFile, 5, "../escape.img") + frame(FrameType::kStateEnd, 1),
          frame(FrameType::kStateFile, ~0ULL, "huge.img")};
}

void run_image_name(std::string_view bytes) {
  if (!is_image_name(bytes)) return;
  promise(bytes.size() <= 255 && !bytes.contains('/') && !bytes.contains('\0') && bytes != "..",
          "an image's name is a file name");
}

std::vector<std::string> image_name_seeds() {
  return {"core-4711.img", "pages-1.img", "..", "a/b"};
}

void run_pagemap(std::string_view bytes) {
  auto dumped = parse_dumped_pages(std::string(bytes));
  auto eager = parse_eager_pages(std::string(bytes));
  promise(dumped.has_value() == eager.has_value(), "an image is good or bad, whatever is asked");
  if (!dumped) {
    promise(dumped.error().code == ErrorCode::kProtocol, "a bad image is a protocol error");
    return;
  }
  dumped->for_each([](std::uint64_t start, std::uint64_t end) {
    promise(start < end && end <= kAddressLimit, "a range lies in the address space");
  });
}

std::string word(std::uint32_t value) {
  std::string out(4, '\0');
  std::memcpy(out.data(), &value, 4);
  return out;
}

std::vector<std::string> pagemap_seeds() {
  std::string head = word(0x54564319) + word(0x56084025) + word(2) + "\x08\x01";
  // address 0x10000, 4 pages, lazy
  std::string entry("\x08\x80\x80\x04\x10\x04\x20\x02", 8);
  std::string wide("\x08\x80\x80\x08\x10\x00\x20\x06\x28\x80\x01", 11);
  return {head, head + word(8) + entry, head + word(8) + entry + word(11) + wide};
}

// Against the plainest model of a set of pages.
void run_page_set_changes(std::string_view bytes) {
  constexpr std::uint64_t kPages = 64;
  PageSet ranges;
  std::vector<bool> model(2 * kPages, false);
  for (std::size_t i = 0; i + 3 < bytes.size(); i += 4) {
    auto number = [&](std::size_t at) { return static_cast<unsigned char>(bytes[i + at]); };
    std::uint64_t first = number(1) % kPages;
    std::uint64_t last = std::min<std::uint64_t>(first + number(2) % 16, kPages);
    std::uint64_t target = number(3) % kPages;
    std::uint64_t start = first * kPageBytes;
    std::uint64_t end = last * kPageBytes;
    bool apart = target >= last || target + (last - first) <= first;
    if (number(0) % 3 == 2 && !apart) continue;  // mremap refuses overlapping ranges
    if (number(0) % 3 == 0) ranges.add(start, end);
    if (number(0) % 3 == 1) ranges.remove(start, end);
    if (number(0) % 3 == 2) ranges.move(start, end, target * kPageBytes);
    std::vector<bool> before = model;
    for (std::uint64_t page = first; page < last; ++page) model[page] = number(0) % 3 == 0;
    if (number(0) % 3 != 2) continue;
    // What was at the target was unmapped before, by an event of its own.
    for (std::uint64_t page = first; page < last; ++page)
      if (before[page]) model[target + page - first] = true;
  }
  std::uint64_t count = 0;
  for (std::uint64_t page = 0; page < model.size(); ++page) {
    promise(ranges.contains(page * kPageBytes) == model[page], "the set has the right pages");
    count += model[page] ? 1U : 0U;
  }
  promise(ranges.pages() == count, "and the right size");
}

std::vector<std::string> page_set_change_seeds() {
  return {std::string("\0\1\5\0\0\7\3\0\1\2\2\0\2\1\4\x28", 16)};
}

// What is adapted once stays so.
void run_files_image(std::string_view bytes) {
  std::string once(bytes);
  if (!adapt_files(once, "/dev/pts/1", "/dev/pts/2")) return;
  std::string twice = once;
  promise(adapt_files(twice, "/dev/pts/1", "/dev/pts/2").has_value(), "an adapted image is good");
  promise(twice == once, "and adapted");
}

std::vector<std::string> files_image_seeds() {
  std::string entry("\x08\x01\x10\x03\x1a\x12\x08\x03\x10\x02\x32\x0a/dev/pts/1\x50\x01", 24);
  return {std::string("\x19\x43\x56\x54\x38\x31\x30\x56", 8) + std::string("\x18\0\0\0", 4) +
          entry};
}

void run_launch_text(std::string_view input) {
  LaunchRequest request;
  if (!parse_launch_text(std::string(input), request)) return;
  LaunchRequest again;
  promise(parse_launch_text(launch_text(request), again).has_value(), "what is sent is understood");
  promise(again.argv == request.argv && again.environment == request.environment, "as it was");
}

std::vector<std::string> launch_text_seeds() {
  return {launch_text({.argv = {"gestalt-deputy", ""}, .environment = {"PATH=/bin"}})};
}

}  // namespace

std::span<const Entry> page_entries() {
  static constexpr Entry kEntries[] = {
      {"page_frames", run_page_frames, page_frame_seeds},
      {"page_chunk", run_page_chunk, page_chunk_seeds},
      {"page_set", run_page_set, page_set_seeds},
      {"remote_memory", run_remote_memory, remote_memory_seeds},
      {"authenticate", run_authenticate, authenticate_seeds},
      {"images", run_images, image_seeds},
      {"image_name", run_image_name, image_name_seeds},
      {"pagemap", run_pagemap, pagemap_seeds},
      {"cached_file", run_cached_file, cached_file_seeds},
      {"packets", run_packets, packets_seeds},
      {"files_image", run_files_image, files_image_seeds},
      {"launch_text", run_launch_text, launch_text_seeds},
      {"traits", run_traits, traits_seeds},
      {"page_set_changes", run_page_set_changes, page_set_change_seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
