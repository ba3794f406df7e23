// What --json prints: always a list of objects, one to a line, valid UTF-8.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/proto/control.pb.h"

namespace gestalt::cli {

using JsonList = std::vector<boost::json::object>;

// Keys keep their order; a number that is not finite becomes null.
[[nodiscard]] std::string render_json(const JsonList& objects);

// The objects of each command; docs/man has the same keys.
[[nodiscard]] boost::json::object node_object(const wire::NodeInfo& node);
// `user` is the name of the task's owner.
[[nodiscard]] boost::json::object task_object(const wire::Task& task, std::string_view user);
[[nodiscard]] boost::json::object migration_object(const wire::MigrationStats& stats);
[[nodiscard]] boost::json::object preflight_object(const wire::PreflightReport& report,
                                                   unsigned pid);

// Only a job's root process can be asked to move, and only under a pid of a node's slice.
[[nodiscard]] inline bool migratable(const wire::Task& task) {
  return task.is_root() && task.job_id() != 0 && !task.outside_slice();
}

}  // namespace gestalt::cli
