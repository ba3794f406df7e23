// Open files on the shared root, each with its own descriptor and offset:
//
//   log     O_APPEND, numbered lines
//   reader  a second descriptor on the same file, which reads a little behind
//   record  read and written at an offset that only the descriptor knows
//   copy    dup() of record's descriptor: shares its offset
//
// At the end both files are read from the start and checked.
#include <algorithm>

#include "victim.h"

namespace {

using victim::bad;
using victim::check;
using victim::mix;
using victim::must;

std::string line(std::uint64_t number) {
  return std::format("line {:08} {:016x}\n", number, mix(number));
}

struct Record {
  std::uint64_t number;
  std::uint64_t value;
};

std::string read_file(const std::string& path) {
  int fd = must(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open to check");
  std::string text;
  std::string block(65536, '\0');
  for (;;) {
    ssize_t count = must(::read(fd, block.data(), block.size()), "read to check");
    if (count == 0) break;
    text.append(block, 0, static_cast<std::size_t>(count));
  }
  ::close(fd);
  return text;
}

int open_file(const std::string& path, int flags) {
  int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
  if (fd < 0) bad("open {}: {}", path, std::strerror(errno));
  return fd;
}

class Files {
 public:
  explicit Files(const std::string& base)
      : log_path_(base + ".log"),
        record_path_(base + ".record"),
        log_(open_file(log_path_, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC)),
        reader_(open_file(log_path_, O_RDONLY)),
        record_(open_file(record_path_, O_RDWR | O_CREAT | O_TRUNC)),
        copy_(must(::dup(record_), "dup")) {}

  void step() {
    check(victim::write_all(log_, line(lines_)), "append: {}", std::strerror(errno));
    log_bytes_ += line(lines_).size();
    ++lines_;
    check((::fcntl(log_, F_GETFL) & O_APPEND) != 0, "O_APPEND got lost");

    Record record{records_, mix(records_)};
    int fd = records_ % 2 == 0 ? record_ : copy_;
    if (::write(fd, &record, sizeof record) != sizeof record) bad("write of a record");
    ++records_;
    auto offset = static_cast<off_t>(records_ * sizeof(Record));
    victim::same(offset, ::lseek(record_, 0, SEEK_CUR), "offset of the record file");
    victim::same(offset, ::lseek(copy_, 0, SEEK_CUR), "offset of the duplicate");

    if (lines_ > 20) read_behind();
  }

  void verify_all() {
    std::string expected;
    for (std::uint64_t i = 0; i < lines_; ++i) expected += line(i);
    std::string found = read_file(log_path_);
    check(found == expected, "the log has {} bytes, expected {}; first difference at {}",
          found.size(), expected.size(),
          std::ranges::mismatch(found, expected).in1 - found.begin());
    std::string records = read_file(record_path_);
    check(records.size() == records_ * sizeof(Record), "the record file has {} bytes, not {}",
          records.size(), records_ * sizeof(Record));
    for (std::uint64_t i = 0; i < records_; ++i) {
      Record record{};
      std::memcpy(&record, records.data() + i * sizeof record, sizeof record);
      check(record.number == i && record.value == mix(i), "record {} differs", i);
    }
    struct stat info{};
    must(::fstat(log_, &info), "fstat");
    victim::same(log_bytes_, static_cast<std::uint64_t>(info.st_size), "size of the log");
    ::unlink(log_path_.c_str());
    ::unlink(record_path_.c_str());
  }

  [[nodiscard]] std::uint64_t lines() const { return lines_; }

 private:
  void read_behind() {
    std::string expected = line(read_);
    std::string found(expected.size(), '\0');
    if (::read(reader_, found.data(), found.size()) != static_cast<ssize_t>(found.size()))
      bad("short read of line {}", read_);
    check(found == expected, "line {} reads '{}'", read_, found);
    read_bytes_ += found.size();
    ++read_;
    victim::same(read_bytes_, static_cast<std::uint64_t>(::lseek(reader_, 0, SEEK_CUR)),
                 "offset of the reader");
  }

  std::string log_path_;
  std::string record_path_;
  int log_;
  int reader_;
  int record_;
  int copy_;
  std::uint64_t lines_ = 0;
  std::uint64_t log_bytes_ = 0;
  std::uint64_t records_ = 0;
  std::uint64_t read_ = 0;
  std::uint64_t read_bytes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 500;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  Files files(std::format("{}/appender.{}", options.directory, ::getpid()));
  victim::Pace pace(options.rate);
  run.ready();
  while (run.keep_going(files.lines()))
    for (std::uint64_t step = pace.step(); step > 0; --step) files.step();
  files.verify_all();
  run.ok("lines={}", files.lines());
}
