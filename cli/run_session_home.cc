// A deputy's part when its process comes home.
#include "cli/run_session.h"

namespace gestalt::cli {

void RunSession::go_on_from(const wire::DeputyState& state) {
  input_.restore(state);
  output_.restore(state.output_offset());
  error_.restore(state.error_offset());
}

// The terminal is as the shell gave it to the process, in case that it does come.
wire::DeputyState RunSession::pause() {
  wire::DeputyState state;
  if (witness_ != nullptr) witness_->stop();  // it would keep the pid of the group in use
  state.set_terminal_was_raw(terminal_.is_raw());
  update_terminal();
  terminal_.restore();
  input_.leave_direct();
  input_.describe(state);
  output_.pause(true);
  error_.pause(true);
  state.set_output_offset(output_.consumed_offset());
  state.set_error_offset(error_.consumed_offset());
  return state;
}

void RunSession::go_on() {
  if (witness_ != nullptr) witness_->start();
  input_.let_go();
  output_.pause(false);
  error_.pause(false);
  for (const auto& message : std::exchange(held_messages_, {})) on_message(message);
  update_terminal();
}

}  // namespace gestalt::cli
