#include "migrate/descriptors.h"

#include <filesystem>

#include "common/format.h"

namespace gestalt {

std::string Descriptor::text() const { return formatted("descriptor {} ({})", number, target); }

std::vector<Descriptor> descriptors_of(const std::string& proc, pid_t pid) {
  std::vector<Descriptor> out;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(formatted("{}/{}/fd", proc, pid), error)) {
    auto target = std::filesystem::read_symlink(entry.path(), error);
    if (!error) out.push_back({pid, entry.path().filename(), target});
  }
  return out;
}

}  // namespace gestalt
