#include "daemon/sqlite_query.h"

#include "common/format.h"

namespace gestalt {

Unexpected fail_sqlite(sqlite3* database, int status, const std::string& what) {
  std::string message = formatted(
      "{}: {}", what, database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(status));
  switch (status & 0xFF) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return fail(ErrorCode::kSystem, formatted("the database is damaged: {}", message),
                  "stop gestaltd, put a backup in its place, or move cluster.db* away (nodes keep "
                  "their certificates and are recorded anew; running jobs are ended)");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return fail(ErrorCode::kBusy, message, "is another gestaltd running?");
    case SQLITE_CONSTRAINT:
      return fail(ErrorCode::kBusy, message);
    case SQLITE_FULL:
      return fail(ErrorCode::kNoSpace, message, "free space on the leader's disk");
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      return fail(ErrorCode::kPermission, message, "the state directory must be root's and exist");
    default:
      return fail(ErrorCode::kSystem, message);
  }
}

Result<bool> Query::step() {
  if (status_ == SQLITE_OK) status_ = sqlite3_step(statement_);
  int status = std::exchange(status_, SQLITE_OK);
  if (status == SQLITE_ROW) {
    column_ = 0;
    return true;
  }
  if (status == SQLITE_DONE) return false;
  return fail_sqlite(database_, status, "the leader's database");
}

std::string Query::read_text() {
  int column = column_++;
  const void* data = sqlite3_column_blob(statement_, column);
  auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
}

}  // namespace gestalt
