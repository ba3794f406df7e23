// Schema: one table a record, counters, and the version in the file's header
// (PRAGMA user_version). kMigrations[n] takes version n to n + 1.
#include "daemon/sqlite_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>

#include "common/fd.h"
#include "common/format.h"
#include "daemon/sqlite_query.h"

namespace gestalt {

static_assert(static_cast<int>(Verdict::kUndecided) == wire::MigrationVerdict::UNDECIDED);
static_assert(static_cast<int>(Verdict::kGranted) == wire::MigrationVerdict::GRANTED);
static_assert(static_cast<int>(Verdict::kDenied) == wire::MigrationVerdict::DENIED);
static_assert(static_cast<int>(Verdict::kCompleted) == wire::MigrationVerdict::COMPLETED);
static_assert(static_cast<int>(Verdict::kRolledBack) == wire::MigrationVerdict::ROLLED_BACK);

std::string_view to_string(Verdict verdict) {
  static constexpr std::array<std::string_view, 5> kNames{"undecided", "granted", "denied",
                                                          "completed", "rolled_back"};
  auto index = static_cast<std::size_t>(verdict);
  return index < kNames.size() ? kNames[index] : "unknown";
}

wire::MigrationVerdict::Verdict to_wire(Verdict verdict) {
  return static_cast<wire::MigrationVerdict::Verdict>(verdict);
}

namespace {

// Time for a predecessor to end when the daemon is restarted.
constexpr int kBusyTimeoutMilliseconds = 2000;

constexpr std::array kMigrations{
    R"(CREATE TABLE nodes (
         name TEXT PRIMARY KEY, slice_index INTEGER NOT NULL UNIQUE, address TEXT NOT NULL,
         draining INTEGER NOT NULL, joined INTEGER NOT NULL, certificate TEXT NOT NULL,
         left_cleanly INTEGER NOT NULL) WITHOUT ROWID;
       CREATE TABLE jobs (
         id INTEGER PRIMARY KEY, node TEXT NOT NULL, root_pid INTEGER NOT NULL,
         stand_in_pid INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
         command BLOB NOT NULL, state INTEGER NOT NULL, wait_status INTEGER NOT NULL,
         started INTEGER NOT NULL);
       CREATE INDEX jobs_by_node ON jobs (node);
       CREATE TABLE migrations (
         id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, source TEXT NOT NULL,
         destination TEXT NOT NULL, mode TEXT NOT NULL, verdict INTEGER NOT NULL,
         reason TEXT NOT NULL, started INTEGER NOT NULL);
       CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;)",
    R"(ALTER TABLE jobs ADD COLUMN network_address INTEGER NOT NULL DEFAULT 0;)",
    R"(ALTER TABLE jobs ADD COLUMN has_deputy INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN session_pid INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN group_pid INTEGER NOT NULL DEFAULT 0;)",
};

NodeRecord read_node(Query& row) {
  NodeRecord out;
  out.name = row.read_text();
  out.slice_index = row.read_small();
  out.address = row.read_text();
  out.draining = row.read_number() != 0;
  out.joined_unix_seconds = row.read_number();
  out.certificate_sha256 = row.read_text();
  out.left_cleanly = row.read_number() != 0;
  return out;
}

JobRecord read_job(Query& row) {
  JobRecord out;
  out.job_id = row.read_number();
  out.node = row.read_text();
  out.root_pid = row.read_small();
  out.stand_in_pid = row.read_small();
  out.uid = row.read_small();
  out.gid = row.read_small();
  out.command = row.read_text();
  out.state = static_cast<wire::JobState>(row.read_number());
  out.wait_status = row.read_small();
  out.started_unix_seconds = row.read_number();
  out.network_address = row.read_small();
  out.has_deputy = row.read_number() != 0;
  out.session_pid = row.read_small();
  out.group_pid = row.read_small();
  return out;
}

MigrationRecord read_migration(Query& row) {
  MigrationRecord out;
  out.migration_id = row.read_number();
  out.job_id = row.read_number();
  out.source = row.read_text();
  out.destination = row.read_text();
  out.mode = row.read_text();
  out.verdict = static_cast<Verdict>(row.read_number());
  out.reason = row.read_text();
  out.started_unix_seconds = row.read_number();
  return out;
}

template <class Record>
Result<std::vector<Record>> read_all(Result<Query> query, Record (*read)(Query&)) {
  if (!query) return std::unexpected(std::move(query).error());
  std::vector<Record> out;
  while (true) {
    GESTALT_ASSIGN(bool row, query->step());
    if (!row) return out;
    out.push_back(read(*query));
  }
}

template <class Record>
Result<std::optional<Record>> read_one(Query& query, Record (*read)(Query&)) {
  GESTALT_ASSIGN(bool row, query.step());
  return row ? std::optional(read(query)) : std::nullopt;
}

bool legal_step(Verdict from, Verdict to) {
  if (from == Verdict::kUndecided) return to == Verdict::kGranted || to == Verdict::kDenied;
  return from == Verdict::kGranted && (to == Verdict::kCompleted || to == Verdict::kRolledBack);
}

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(Database database) : database_(std::move(database)) {}

  Result<void> configure();
  Result<void> migrate();

  Result<void> upsert_node(const NodeRecord& node) override;
  Result<std::vector<NodeRecord>> nodes() override {
    return read_all(query("SELECT * FROM nodes ORDER BY name"), read_node);
  }
  Result<std::optional<NodeRecord>> find_node(const std::string& name) override {
    GESTALT_ASSIGN(auto find, query("SELECT * FROM nodes WHERE name = ?"));
    return read_one(find.text(name), read_node);
  }
  Result<void> remove_node(const std::string& name) override {
    GESTALT_ASSIGN(auto remove, query("DELETE FROM nodes WHERE name = ?"));
    return remove.text(name).run();
  }

  Result<void> upsert_job(const JobRecord& job) override;
  Result<std::vector<JobRecord>> jobs() override {
    return read_all(query("SELECT * FROM jobs ORDER BY id"), read_job);
  }
  Result<std::vector<JobRecord>> jobs_on(const std::string& node) override {
    GESTALT_ASSIGN(auto find, query("SELECT * FROM jobs WHERE node = ? ORDER BY id"));
    find.text(node);
    return read_all(Result<Query>(std::move(find)), read_job);
  }
  Result<std::optional<JobRecord>> find_job(std::uint64_t job_id) override {
    GESTALT_ASSIGN(auto find, query("SELECT * FROM jobs WHERE id = ?"));
    return read_one(find.number(job_id), read_job);
  }
  Result<void> remove_job(std::uint64_t job_id) override {
    GESTALT_ASSIGN(auto remove, query("DELETE FROM jobs WHERE id = ?"));
    return remove.number(job_id).run();
  }
  Result<std::size_t> prune_ended_jobs(std::size_t keep) override;

  Result<void> insert_migration(const MigrationRecord& migration) override;
  Result<std::vector<MigrationRecord>> migrations() override {
    return read_all(query("SELECT * FROM migrations ORDER BY id"), read_migration);
  }
  Result<std::optional<MigrationRecord>> find_migration(std::uint64_t migration_id) override {
    GESTALT_ASSIGN(auto find, query("SELECT * FROM migrations WHERE id = ?"));
    return read_one(find.number(migration_id), read_migration);
  }
  Result<bool> compare_and_set_verdict(std::uint64_t migration_id, Verdict expected, Verdict wanted,
                                       const std::string& reason) override;
  Result<std::size_t> prune_migrations(std::size_t keep) override;

  Result<std::uint64_t> next_id(std::string_view counter) override;
  Result<void> transaction(const std::function<Result<void>()>& body) override;

 private:
  Result<void> execute(const char* sql);
  Result<Query> query(const char* sql);
  std::size_t changes() { return static_cast<std::size_t>(sqlite3_changes64(database_.get())); }

  Database database_;
  // Keyed by the literal's address: each is prepared once. Destroyed before database_.
  std::map<const char*, Prepared> prepared_;
  bool in_transaction_ = false;
};

Result<void> SqliteStore::execute(const char* sql) {
  int status = sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr);
  if (status != SQLITE_OK) return fail_sqlite(database_.get(), status, "the leader's database");
  return {};
}

Result<Query> SqliteStore::query(const char* sql) {
  auto& prepared = prepared_[sql];
  if (!prepared) {
    sqlite3_stmt* raw = nullptr;
    int status =
        sqlite3_prepare_v3(database_.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
    if (status != SQLITE_OK) return fail_sqlite(database_.get(), status, "prepare a statement");
    prepared.reset(raw);
  }
  return Query(database_.get(), prepared.get());
}

Result<void> SqliteStore::configure() {
  sqlite3_extended_result_codes(database_.get(), 1);
  sqlite3_busy_timeout(database_.get(), kBusyTimeoutMilliseconds);
  // Exclusive, and taken now: a second daemon on the same file must find out here.
  GESTALT_TRY(
      execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
              "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;"
              "PRAGMA cell_size_check = ON;"));
  GESTALT_TRY(execute("BEGIN IMMEDIATE; COMMIT;"));
  GESTALT_ASSIGN(auto check, query("PRAGMA quick_check(1)"));
  GESTALT_ASSIGN(bool row, check.step());
  std::string verdict = row ? check.read_text() : "no answer";
  if (verdict != "ok") return fail_sqlite(nullptr, SQLITE_CORRUPT, verdict);
  return {};
}

Result<void> SqliteStore::migrate() {
  std::uint64_t version = 0;
  {
    GESTALT_ASSIGN(auto ask, query("PRAGMA user_version"));
    GESTALT_TRY(ask.step());
    version = ask.read_number();
  }
  if (version > kMigrations.size())
    return fail(ErrorCode::kInvalidArgument,
                formatted("the database has schema version {}, this gestaltd knows {}", version,
                          kMigrations.size()),
                "run the newer gestaltd that wrote it");
  for (; version < kMigrations.size(); ++version) {
    GESTALT_TRY(transaction([&]() -> Result<void> {
      GESTALT_TRY(execute(kMigrations[version]));
      return execute(formatted("PRAGMA user_version = {}", version + 1).c_str());
    }));
  }
  return {};
}

Result<void> SqliteStore::upsert_node(const NodeRecord& node) {
  GESTALT_ASSIGN(auto put,
                 query("INSERT INTO nodes VALUES (?,?,?,?,?,?,?) ON CONFLICT (name) DO UPDATE SET "
                       "slice_index = excluded.slice_index, address = excluded.address, "
                       "draining = excluded.draining, joined = excluded.joined, "
                       "certificate = excluded.certificate, left_cleanly = excluded.left_cleanly"));
  return put.text(node.name)
      .number(node.slice_index)
      .text(node.address)
      .number(node.draining ? 1 : 0)
      .number(node.joined_unix_seconds)
      .text(node.certificate_sha256)
      .number(node.left_cleanly ? 1 : 0)
      .run();
}

Result<void> SqliteStore::upsert_job(const JobRecord& job) {
  GESTALT_ASSIGN(auto put,
                 query("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
  return put.number(job.job_id)
      .text(job.node)
      .number(job.root_pid)
      .number(job.stand_in_pid)
      .number(job.uid)
      .number(job.gid)
      .blob(job.command)
      .number(static_cast<std::uint64_t>(job.state))
      .number(job.wait_status)
      .number(job.started_unix_seconds)
      .number(job.network_address)
      .number(job.has_deputy ? 1 : 0)
      .number(job.session_pid)
      .number(job.group_pid)
      .run();
}

Result<std::size_t> SqliteStore::prune_ended_jobs(std::size_t keep) {
  GESTALT_ASSIGN(auto prune,
                 query("DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state IN (?,?) "
                       "ORDER BY id DESC LIMIT -1 OFFSET ?)"));
  GESTALT_TRY(prune.number(wire::JOB_EXITED).number(wire::JOB_LOST).number(keep).run());
  return changes();
}

Result<void> SqliteStore::insert_migration(const MigrationRecord& migration) {
  if (migration.verdict != Verdict::kUndecided && migration.verdict != Verdict::kDenied)
    return fail(ErrorCode::kInvalidArgument, "a new migration is undecided or denied");
  GESTALT_ASSIGN(auto put, query("INSERT INTO migrations VALUES (?,?,?,?,?,?,?,?)"));
  return put.number(migration.migration_id)
      .number(migration.job_id)
      .text(migration.source)
      .text(migration.destination)
      .text(migration.mode)
      .number(static_cast<std::uint64_t>(migration.verdict))
      .text(migration.reason)
      .number(migration.started_unix_seconds)
      .run();
}

Result<bool> SqliteStore::compare_and_set_verdict(std::uint64_t migration_id, Verdict expected,
                                                  Verdict wanted, const std::string& reason) {
  if (!legal_step(expected, wanted))
    return fail(ErrorCode::kInvalidArgument, formatted("a migration does not go from {} to {}",
                                                       to_string(expected), to_string(wanted)));
  {
    GESTALT_ASSIGN(auto set, query("UPDATE migrations SET verdict = ?, reason = ? "
                                   "WHERE id = ? AND verdict = ?"));
    GESTALT_TRY(set.number(static_cast<std::uint64_t>(wanted))
                    .text(reason)
                    .number(migration_id)
                    .number(static_cast<std::uint64_t>(expected))
                    .run());
  }
  if (changes() == 1) return true;
  GESTALT_ASSIGN(auto found, find_migration(migration_id));
  if (!found)
    return fail(ErrorCode::kNotFound, formatted("there is no migration {}", migration_id));
  return false;
}

Result<std::size_t> SqliteStore::prune_migrations(std::size_t keep) {
  GESTALT_ASSIGN(auto prune, query("DELETE FROM migrations WHERE id IN (SELECT id FROM migrations "
                                   "WHERE verdict NOT IN (?,?) ORDER BY id DESC "
                                   "LIMIT -1 OFFSET ?)"));
  GESTALT_TRY(prune.number(static_cast<std::uint64_t>(Verdict::kUndecided))
                  .number(static_cast<std::uint64_t>(Verdict::kGranted))
                  .number(keep)
                  .run());
  return changes();
}

Result<std::uint64_t> SqliteStore::next_id(std::string_view counter) {
  GESTALT_ASSIGN(auto next, query("INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) "
                                  "DO UPDATE SET value = value + 1 RETURNING value"));
  GESTALT_ASSIGN(bool row, next.text(std::string(counter)).step());
  if (!row) return fail(ErrorCode::kInternal, "a counter without a value");
  std::uint64_t value = next.read_number();
  // The statement commits with its last step.
  GESTALT_TRY(next.step());
  return value;
}

Result<void> SqliteStore::transaction(const std::function<Result<void>()>& body) {
  if (in_transaction_) return fail(ErrorCode::kInternal, "nested transaction");
  GESTALT_TRY(execute("BEGIN IMMEDIATE"));
  in_transaction_ = true;
  auto done = body();
  if (done) done = execute("COMMIT");
  in_transaction_ = false;
  if (!done && sqlite3_get_autocommit(database_.get()) == 0) (void)execute("ROLLBACK");
  return done;
}

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite_store(const std::string& path) {
  // Made by us, for its mode; SQLite gives -wal and -shm the same.
  GESTALT_TRY(open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  auto slash = path.rfind('/');
  GESTALT_ASSIGN(Fd directory,
                 open_file(slash == std::string::npos ? "." : path.substr(0, slash + 1),
                           O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return fail_errno(errno, formatted("sync {}", path));
  sqlite3* raw = nullptr;
  int status =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, nullptr);
  Database database(raw);
  if (status != SQLITE_OK) return fail_sqlite(raw, status, formatted("open {}", path));
  auto store = std::make_unique<SqliteStore>(std::move(database));
  auto ready = store->configure();
  if (ready) ready = store->migrate();
  if (!ready) return std::unexpected(std::move(ready).error().in(path));
  return store;
}

}  // namespace gestalt
