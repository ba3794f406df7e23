// How the last migrations went, for `gestalt migrations`. In memory: a leader that
// restarts knows the verdicts (daemon/store.h), not the figures.
#pragma once

#include <cstdint>
#include <map>

#include "common/proto/control.pb.h"

namespace gestalt {

struct MigrationEntry {
  std::uint32_t uid = 0;  // the job's owner
  std::uint64_t job_id = 0;
  bool pages_lost = false;  // the destination has to know
  wire::MigrationStats stats;
};

class MigrationHistory {
 public:
  static constexpr std::size_t kKept = 256;

  // Of a migration that is over; the oldest goes when there are too many.
  void put(MigrationEntry entry) {
    auto id = entry.stats.migration_id();
    entries_.insert_or_assign(id, std::move(entry));
    if (entries_.size() > kKept) entries_.erase(entries_.begin());
  }
  void remove(std::uint64_t migration_id) { entries_.erase(migration_id); }

  [[nodiscard]] const MigrationEntry* find(std::uint64_t migration_id) const {
    auto found = entries_.find(migration_id);
    return found == entries_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] const std::map<std::uint64_t, MigrationEntry>& entries() const { return entries_; }

 private:
  std::map<std::uint64_t, MigrationEntry> entries_;  // by migration
};

}  // namespace gestalt
