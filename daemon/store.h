// The leader's durable record. When a call returns without error, its effect is on
// disk and survives a power cut (inside transaction(): when that returns). A call that
// fails has no effect. Calls block for a disk sync (milliseconds). Not thread-safe:
// one thread, one process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt {

struct NodeRecord {
  std::string name;
  std::uint32_t slice_index = 0;  // unique; never changes while the node is on record
  std::string address;
  bool draining = false;
  std::uint64_t joined_unix_seconds = 0;
  std::string certificate_sha256;
  bool left_cleanly = false;
  bool operator==(const NodeRecord&) const = default;
};

struct JobRecord {
  std::uint64_t job_id = 0;
  std::string node;
  std::uint32_t root_pid = 0;  // cluster pids
  std::uint32_t stand_in_pid = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string command;  // any bytes
  wire::JobState state = wire::JOB_STARTING;
  std::uint32_t wait_status = 0;
  std::uint64_t started_unix_seconds = 0;
  std::uint32_t network_address = 0;  // its own; 0: none
  bool has_deputy = false;            // or will have: stand_in_pid is its parent's, then
  std::uint32_t session_pid = 0;      // its session and process group, with a deputy
  std::uint32_t group_pid = 0;
  bool operator==(const JobRecord&) const = default;
};

// The numbers are those of wire::MigrationVerdict::Verdict.
enum class Verdict {
  kUndecided = 0,
  kGranted = 1,
  kDenied = 2,
  kCompleted = 3,
  kRolledBack = 4,
};
[[nodiscard]] std::string_view to_string(Verdict verdict);
[[nodiscard]] wire::MigrationVerdict::Verdict to_wire(Verdict verdict);

struct MigrationRecord {
  std::uint64_t migration_id = 0;
  std::uint64_t job_id = 0;
  std::string source;
  std::string destination;
  std::string mode;
  Verdict verdict = Verdict::kUndecided;
  std::string reason;
  std::uint64_t started_unix_seconds = 0;
  bool operator==(const MigrationRecord&) const = default;
};

// Counters of next_id().
inline constexpr std::string_view kJobCounter = "job";
inline constexpr std::string_view kMigrationCounter = "migration";
inline constexpr std::size_t kEndedRecordsKept = 1000;

class Store {
 public:
  Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  virtual ~Store() = default;

  // Another node's slice index is kBusy.
  [[nodiscard]] virtual Result<void> upsert_node(const NodeRecord& node) = 0;
  [[nodiscard]] virtual Result<std::vector<NodeRecord>> nodes() = 0;  // by name
  [[nodiscard]] virtual Result<std::optional<NodeRecord>> find_node(const std::string& name) = 0;
  // Removing what is not there is no error.
  [[nodiscard]] virtual Result<void> remove_node(const std::string& name) = 0;

  [[nodiscard]] virtual Result<void> upsert_job(const JobRecord& job) = 0;
  [[nodiscard]] virtual Result<std::vector<JobRecord>> jobs() = 0;  // by id, ended ones too
  [[nodiscard]] virtual Result<std::vector<JobRecord>> jobs_on(const std::string& node) = 0;
  [[nodiscard]] virtual Result<std::optional<JobRecord>> find_job(std::uint64_t job_id) = 0;
  [[nodiscard]] virtual Result<void> remove_job(std::uint64_t job_id) = 0;
  // Removes all but the newest `keep` of the exited and lost ones; says how many.
  [[nodiscard]] virtual Result<std::size_t> prune_ended_jobs(
      std::size_t keep = kEndedRecordsKept) = 0;

  // A new one, undecided or denied; an id that exists is kBusy. From then on its verdict
  // changes by compare_and_set_verdict only.
  [[nodiscard]] virtual Result<void> insert_migration(const MigrationRecord& migration) = 0;
  [[nodiscard]] virtual Result<std::vector<MigrationRecord>> migrations() = 0;  // by id
  [[nodiscard]] virtual Result<std::optional<MigrationRecord>> find_migration(
      std::uint64_t migration_id) = 0;
  // The commit point of a migration. True: the verdict was `expected` and is now
  // `wanted`. False: it was something else and stays. kNotFound: no such migration.
  // Legal steps: undecided -> granted | denied; granted -> completed | rolled_back.
  [[nodiscard]] virtual Result<bool> compare_and_set_verdict(std::uint64_t migration_id,
                                                             Verdict expected, Verdict wanted,
                                                             const std::string& reason) = 0;
  // Removes all but the newest `keep` of those that are denied, completed or rolled back.
  [[nodiscard]] virtual Result<std::size_t> prune_migrations(
      std::size_t keep = kEndedRecordsKept) = 0;

  // 1, 2, 3, …: never gives a number twice, also across restarts.
  [[nodiscard]] virtual Result<std::uint64_t> next_id(std::string_view counter) = 0;

  // All of `body` or nothing: an error from it undoes what it did. Does not nest.
  [[nodiscard]] virtual Result<void> transaction(const std::function<Result<void>()>& body) = 0;
};

}  // namespace gestalt
