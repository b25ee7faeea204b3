// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Parsing a JSON object with the errors of this module.

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "io/mapped_file.hpp"

namespace kmoe::io::detail {

/// The JSON object `text`, which begins at byte `offset` of the file `path`.
/// \throws IoError
inline nlohmann::json parse_object(std::string_view text, std::string const& path,
                                   std::uint64_t offset,
                                   nlohmann::json::parser_callback_t const& check = nullptr) {
  nlohmann::json parsed;
  try {
    parsed = nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (nlohmann::json::parse_error const& error) {
    fail(path, offset + (error.byte > 0 ? error.byte - 1 : 0),
         std::string("not valid JSON: ") + error.what());
  } catch (nlohmann::json::exception const& error) {  // a number that overflows
    fail(path, offset, std::string("not valid JSON: ") + error.what());
  }
  if (!parsed.is_object()) fail(path, offset, "the JSON is not an object");
  return parsed;
}

}  // namespace kmoe::io::detail
