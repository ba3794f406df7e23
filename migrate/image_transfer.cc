#include "migrate/image_transfer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <vector>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kPieceBytes = 1U << 20;

Result<void> send_file(PageConnection& connection, const std::string& path, const std::string& name,
                       std::uint64_t size, Deadline deadline) {
  GESTALT_ASSIGN(auto fd, open_file(path, O_RDONLY));
  GESTALT_TRY(connection.send(FrameType::kStateFile, size, name, deadline));
  std::vector<std::byte> piece(std::min<std::uint64_t>(size, kPieceBytes));
  for (std::uint64_t done = 0; done < size;) {
    std::size_t want = std::min<std::uint64_t>(size - done, piece.size());
    GESTALT_TRY(read_exact(fd.get(), std::span(piece).first(want), deadline));
    GESTALT_TRY(connection.send(FrameType::kStateData, done,
                                std::span<const std::byte>(piece).first(want), deadline));
    done += want;
  }
  return {};
}

Result<void> receive_file(PageConnection& connection, const std::string& path, std::uint64_t size,
                          Deadline deadline) {
  GESTALT_ASSIGN(auto fd, open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  std::vector<std::byte> piece;
  for (std::uint64_t done = 0; done < size; done += piece.size()) {
    GESTALT_TRY(connection.expect(FrameType::kStateData, piece, deadline));
    if (piece.empty() || piece.size() > size - done)
      return fail(ErrorCode::kProtocol, "image data beyond its announced size");
    auto written = write_all(fd.get(), piece, deadline);
    if (!written) {
      auto error = std::move(written).error().in(formatted("write {}", path));
      error.remedy = "make room for the images, or set migration.image_directory";
      return std::unexpected(std::move(error));
    }
  }
  return {};
}

}  // namespace

void remove_orphaned_images(const std::string& parent) {
  std::error_code error;
  std::vector<std::filesystem::path> orphans;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    std::string name = entry.path().filename();
    auto dot = name.rfind('.');
    pid_t owner = 0;
    if (!name.starts_with("m-") || dot == std::string::npos) continue;
    std::from_chars(name.data() + dot + 1, name.data() + name.size(), owner);
    if (owner > 0 && ::kill(owner, 0) != 0 && errno == ESRCH) orphans.push_back(entry.path());
  }
  for (const auto& orphan : orphans) std::filesystem::remove_all(orphan, error);
}

Result<ImageDirectory> ImageDirectory::create(const std::string& parent, const std::string& name) {
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  remove_orphaned_images(parent);
  std::string path = formatted("{}/{}.{}", parent, name, ::getpid());
  std::filesystem::remove_all(path, error);
  if (::mkdir(path.c_str(), 0700) != 0)
    return fail_errno(errno, formatted("make the image directory {}", path));
  return ImageDirectory(std::move(path));
}

ImageDirectory::~ImageDirectory() {
  std::error_code error;
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

bool is_image_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name.front() != '.' &&
         std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '-' || c == '_';
         });
}

Result<std::uint64_t> send_images(PageConnection& connection, const std::string& directory,
                                  Deadline deadline) {
  std::error_code error;
  std::uint64_t total_bytes = 0;
  std::uint64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    std::string name = entry.path().filename();
    if (!entry.is_regular_file() || !name.ends_with(".img")) continue;
    std::uint64_t size = entry.file_size(error);
    if (error) break;
    GESTALT_TRY(send_file(connection, entry.path(), name, size, deadline));
    total_bytes += size;
    ++files;
  }
  if (error) return fail_errno(error.value(), formatted("list {}", directory));
  GESTALT_TRY(connection.send(FrameType::kStateEnd, files, std::string_view(), deadline));
  return total_bytes;
}

Result<std::uint64_t> receive_images(PageConnection& connection, const std::string& directory,
                                     std::uint64_t limit_bytes, Deadline deadline) {
  std::uint64_t total_bytes = 0;
  std::uint64_t files = 0;
  std::vector<std::byte> payload;
  while (true) {
    GESTALT_ASSIGN(auto header, connection.receive_header(deadline));
    GESTALT_TRY(connection.receive_payload(header, payload, deadline));
    if (header.type == FrameType::kStateEnd) {
      if (header.argument != files) return fail(ErrorCode::kProtocol, "image files are missing");
      return total_bytes;
    }
    if (header.type != FrameType::kStateFile || ++files > kMaxStateFiles)
      return fail(ErrorCode::kProtocol, "unexpected frame among the images");
    std::string name(reinterpret_cast<const char*>(payload.data()), payload.size());
    if (!is_image_name(name)) return fail(ErrorCode::kProtocol, "image file with a forbidden name");
    if (header.argument > limit_bytes - total_bytes)
      return fail(ErrorCode::kNoSpace, formatted("the images need more than {} bytes", limit_bytes),
                  "make room for the images, or set migration.image_directory");
    total_bytes += header.argument;
    GESTALT_TRY(receive_file(connection, directory + "/" + name, header.argument, deadline));
  }
}

}  // namespace gestalt
