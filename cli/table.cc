#include "cli/table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "cli/text.h"

namespace gestalt::cli {

void Table::add_row(const std::vector<std::string>& cells) {
  std::vector<std::string> row;
  for (const auto& cell : cells) row.push_back(visible(cell));
  row.resize(columns_.size());
  rows_.push_back(std::move(row));
}

std::string Table::render(std::size_t width) const {
  std::vector<std::string> headers;
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    headers.push_back(columns_[i].header);
    widths.push_back(display_width(headers[i]));
    for (const auto& row : rows_) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string out;
  auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      std::string padding(widths[i] - display_width(cells[i]), ' ');
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::kRight ? padding + cells[i] : cells[i] + padding;
    }
    auto cut = cut_to_width(line, width);
    auto last = cut.find_last_not_of(' ');
    out += cut.substr(0, last == std::string_view::npos ? 0 : last + 1);
    out += '\n';
  };
  add_line(headers);
  for (const auto& row : rows_) add_line(row);
  return out;
}

std::size_t output_width() {
  if (::isatty(STDOUT_FILENO) == 0) return Table::kUnlimited;
  std::size_t columns = 0;
  if (const char* text = std::getenv("COLUMNS")) {  // NOLINT(concurrency-mt-unsafe)
    std::string_view digits(text);
    std::from_chars(digits.begin(), digits.end(), columns);
    if (columns > 0) return columns;
  }
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace gestalt::cli
