// Aligned columns for people.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace gestalt::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };
  static constexpr std::size_t kUnlimited = static_cast<std::size_t>(-1);

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // One cell for each column; what is not printable in it is made visible.
  void add_row(const std::vector<std::string>& cells);
  // Header and rows; no line is wider than `width`, and none ends in spaces.
  [[nodiscard]] std::string render(std::size_t width = kUnlimited) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Of the terminal that standard output is, or COLUMNS; kUnlimited into a pipe or file.
[[nodiscard]] std::size_t output_width();

}  // namespace gestalt::cli
