// CRIU's images, from one node's directory to the other's.
#pragma once

#include <cstdint>
#include <string>

#include "migrate/page_wire.h"

namespace gestalt {

// Removes the images of owners that died without doing it themselves.
void remove_orphaned_images(const std::string& parent);

// A directory for one migration's images; removed with its content when it goes.
class ImageDirectory {
 public:
  // `parent`/NAME.PID, empty, mode 0700. An old one of that name is removed, and those
  // whose owners have died.
  [[nodiscard]] static Result<ImageDirectory> create(const std::string& parent,
                                                     const std::string& name);
  ImageDirectory(ImageDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ImageDirectory& operator=(ImageDirectory&&) = delete;
  ~ImageDirectory();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit ImageDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Sends every image file (not logs and statistics); the bytes sent.
[[nodiscard]] Result<std::uint64_t> send_images(PageConnection& connection,
                                                const std::string& directory, Deadline deadline);

// Receives them into an empty directory. Names and sizes are checked; at most
// `limit_bytes` in all (kNoSpace).
[[nodiscard]] Result<std::uint64_t> receive_images(PageConnection& connection,
                                                   const std::string& directory,
                                                   std::uint64_t limit_bytes, Deadline deadline);

// Letters, digits, dot, dash, underscore; no dot in front; at most 255.
[[nodiscard]] bool is_image_name(std::string_view name);

}  // namespace gestalt
