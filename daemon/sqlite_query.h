// SQLite's handles as values, and one use of a prepared statement. For the stores only.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "common/result.h"

namespace gestalt {

struct SqliteFree {
  void operator()(sqlite3* object) const { sqlite3_close_v2(object); }
  void operator()(sqlite3_stmt* object) const { sqlite3_finalize(object); }
};
using Database = std::unique_ptr<sqlite3, SqliteFree>;
using Prepared = std::unique_ptr<sqlite3_stmt, SqliteFree>;

// `database` may be null: the status alone says less.
[[nodiscard]] Unexpected fail_sqlite(sqlite3* database, int status, const std::string& what);

// One use of a prepared statement: bind in order, step, read columns in order.
class Query {
 public:
  Query(sqlite3* database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
  Query(Query&& other) noexcept
      : database_(other.database_),
        statement_(std::exchange(other.statement_, nullptr)),
        status_(other.status_),
        bound_(other.bound_) {}
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  ~Query() {
    if (statement_ == nullptr) return;
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }

  Query& text(const std::string& value) {
    return keep(sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(),
                                    SQLITE_TRANSIENT, SQLITE_UTF8));
  }
  Query& blob(const std::string& value) {
    return keep(
        sqlite3_bind_blob64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT));
  }
  Query& number(std::uint64_t value) {
    return keep(sqlite3_bind_int64(statement_, ++bound_, static_cast<sqlite3_int64>(value)));
  }

  // True while there is a row.
  [[nodiscard]] Result<bool> step();
  [[nodiscard]] Result<void> run() {
    GESTALT_TRY(step());
    return {};
  }

  [[nodiscard]] std::string read_text();
  [[nodiscard]] std::uint64_t read_number() {
    return static_cast<std::uint64_t>(sqlite3_column_int64(statement_, column_++));
  }
  [[nodiscard]] std::uint32_t read_small() { return static_cast<std::uint32_t>(read_number()); }

 private:
  Query& keep(int status) {
    if (status_ == SQLITE_OK) status_ = status;
    return *this;
  }

  sqlite3* database_;
  sqlite3_stmt* statement_;
  int status_ = SQLITE_OK;
  int bound_ = 0;
  int column_ = 0;
};

}  // namespace gestalt
