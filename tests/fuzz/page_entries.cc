// What comes over a page connection, and CRIU's images.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include "migrate/image_transfer.h"
#include "migrate/page_ranges.h"
#include "migrate/page_wire.h"
#include "migrate/pagemap_image.h"
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

void run_page_frames(std::string_view bytes) {
  auto peer = connection(bytes);
  std::vector<std::byte> payload;
  while (auto header = peer.receive_header(Deadline::max())) {
    promise(header->length <= kMaxPayloadBytes, "a frame keeps to its limit");
    if (!peer.receive_payload(*header, payload, Deadline::max())) return;
    if (header->type != FrameType::kPages && header->type != FrameType::kZeroPages) continue;
    auto run = decode_page_run(*header, payload);
    if (!run) continue;
    promise(run->address % kPageBytes == 0 && run->count > 0, "a run has whole pages");
    promise(run->address + run->count * kPageBytes <= kAddressLimit, "in the user's address space");
    if (header->type == FrameType::kPages)
      promise(payload.size() - 8 == run->count * kPageBytes, "and all its bytes");
  }
}

std::vector<std::string> page_frame_seeds() {
  std::string pages = text(encode_page_run(4711, 2)) + std::string(2 * kPageBytes, 'p');
  return {frame(FrameType::kPages, 0x7f0000000000, pages),
          frame(FrameType::kZeroPages, 0x1000, text(encode_page_run(4711, 100))),
          frame(FrameType::kPagesEnd, 102) + frame(FrameType::kReady, 0),
          frame(FrameType::kAbort, 0, "no space left"), frame(FrameType::kHello, 0, "nonce")};
}

// Nobody gets in who does not know the secret.
void run_authenticate(std::string_view bytes) {
  for (PageRole role : {PageRole::kSource, PageRole::kDestination}) {
    auto peer = connection(bytes);
    auto done = authenticate(peer, role, std::string(32, 's'), Deadline::max());
    promise(!done.has_value(), "a peer without the secret is refused");
  }
}

std::vector<std::string> authenticate_seeds() {
  std::string hello = std::string("\0\0\0\1", 4) + std::string(32, 'n');
  return {frame(FrameType::kHello, 0, hello) + frame(FrameType::kProof, 0, std::string(32, 'p'))};
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
  auto lazy = parse_lazy_pages(std::string(bytes));
  if (!lazy) {
    promise(lazy.error().code == ErrorCode::kProtocol, "a bad image is a protocol error");
    return;
  }
  std::uint64_t end_before = 0;
  for (auto [start, end] : lazy->ranges()) {
    promise(start < end && end <= kAddressLimit, "a range lies in the address space");
    promise(end_before == 0 || start > end_before, "ranges are apart and in order");
    end_before = end;
  }
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
void run_page_ranges(std::string_view bytes) {
  constexpr std::uint64_t kPages = 64;
  PageRanges ranges;
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
  promise(ranges.bytes() == count * kPageBytes, "and the right size");
}

std::vector<std::string> page_range_seeds() {
  return {std::string("\0\1\5\0\0\7\3\0\1\2\2\0\2\1\4\x28", 16)};
}

}  // namespace

std::span<const Entry> page_entries() {
  static constexpr Entry kEntries[] = {{"page_frames", run_page_frames, page_frame_seeds},
                                       {"authenticate", run_authenticate, authenticate_seeds},
                                       {"images", run_images, image_seeds},
                                       {"image_name", run_image_name, image_name_seeds},
                                       {"pagemap", run_pagemap, pagemap_seeds},
                                       {"page_ranges", run_page_ranges, page_range_seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
