#include "migrate/timers.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr std::uint32_t kImageMagic = 0x54564319;  // IMG_COMMON_MAGIC
constexpr int kTimerfdField = 12;                  // file_entry.tfd
// timerfd_entry
constexpr int kTicks = 5;
constexpr int kValueSeconds = 7;
constexpr int kValueNanoseconds = 8;
constexpr int kIntervalSeconds = 9;
constexpr int kIntervalNanoseconds = 10;

struct Field {
  std::uint64_t value = 0;  // varints
  std::size_t offset = 0;   // of the value, or of the bytes
  std::size_t length = 0;   // of the bytes
};

// The fields of a message at [offset, offset + length) of `content`, by number.
Result<std::map<int, Field>> parse_fields(const std::string& content, std::size_t offset,
                                          std::size_t length) {
  CodedInputStream input(reinterpret_cast<const std::uint8_t*>(content.data()) + offset,
                         static_cast<int>(length));
  std::map<int, Field> fields;
  auto damaged = [] { return fail(ErrorCode::kProtocol, "damaged files image"); };
  while (std::uint32_t tag = input.ReadTag()) {
    Field field;
    auto type = WireFormatLite::GetTagWireType(tag);
    field.offset = offset + static_cast<std::size_t>(input.CurrentPosition());
    if (type == WireFormatLite::WIRETYPE_VARINT) {
      if (!input.ReadVarint64(&field.value)) return damaged();
    } else if (type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      std::uint32_t bytes = 0;
      if (!input.ReadVarint32(&bytes)) return damaged();
      field.offset = offset + static_cast<std::size_t>(input.CurrentPosition());
      field.length = bytes;
      if (!input.Skip(static_cast<int>(bytes))) return damaged();
    } else if (!WireFormatLite::SkipField(&input, tag)) {
      return damaged();
    }
    fields[WireFormatLite::GetTagFieldNumber(tag)] = field;
  }
  if (!input.ConsumedEntireMessage()) return damaged();
  return fields;
}

// A timer with unread ticks and a period, but nothing left to wait for, has expired.
Result<bool> rearm(std::string& content, const Field& entry) {
  GESTALT_ASSIGN(auto timer, parse_fields(content, entry.offset, entry.length));
  bool expired = timer[kTicks].value > 0 && timer[kValueSeconds].value == 0 &&
                 timer[kValueNanoseconds].value == 0;
  bool periodic = timer[kIntervalSeconds].value > 0 || timer[kIntervalNanoseconds].value > 0;
  std::size_t place = timer[kValueNanoseconds].offset;
  if (!expired || !periodic || place == 0) return false;
  content[place] = 1;  // one nanosecond; as long a varint as the zero before
  return true;
}

}  // namespace

Result<int> rearm_expired_timers(std::string& files_image) {
  auto word_at = [&](std::size_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, files_image.data() + offset, sizeof value);
    return value;
  };
  if (files_image.size() < 8 || word_at(0) != kImageMagic)
    return fail(ErrorCode::kProtocol, "not a files image");
  int changed = 0;
  for (std::size_t offset = 8; offset < files_image.size();) {
    if (files_image.size() - offset < 4) return fail(ErrorCode::kProtocol, "cut files image");
    std::uint32_t length = word_at(offset);
    offset += 4;
    if (length > files_image.size() - offset) return fail(ErrorCode::kProtocol, "cut files image");
    GESTALT_ASSIGN(auto entry, parse_fields(files_image, offset, length));
    if (auto timer = entry.find(kTimerfdField); timer != entry.end()) {
      GESTALT_ASSIGN(bool done, rearm(files_image, timer->second));
      changed += done ? 1 : 0;
    }
    offset += length;
  }
  return changed;
}

Result<int> rearm_expired_timers_in(const std::string& directory) {
  std::string path = directory + "/files.img";
  auto content = read_file(path, 1U << 30);
  if (!content && content.error().code == ErrorCode::kNotFound) return 0;
  if (!content) return std::unexpected(std::move(content).error());
  GESTALT_ASSIGN(int changed, rearm_expired_timers(*content));
  if (changed > 0) GESTALT_TRY(replace_file(path, *content, 0600));
  return changed;
}

void forward_timers(const std::vector<pid_t>& pids) {
  std::error_code error;
  for (pid_t pid : pids) {
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process) continue;
    for (const auto& entry :
         std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid), error)) {
      if (std::filesystem::read_symlink(entry.path(), error) != "anon_inode:[timerfd]") continue;
      std::string number = entry.path().filename();
      int remote = -1;
      std::from_chars(number.data(), number.data() + number.size(), remote);
      Fd timer(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), remote, 0)));
      itimerspec ignored{};
      if (timer) (void)::timerfd_gettime(timer.get(), &ignored);
    }
  }
}

}  // namespace gestalt
