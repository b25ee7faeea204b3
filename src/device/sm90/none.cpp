// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/experts.hpp"

#include <stdexcept>

namespace kmoe::device::sm90 {

bool available() {
  return false;
}
bool takes(Work const&) {
  return false;
}
std::size_t num_counters(std::int64_t) {
  return 0;
}
void launch(void*, Operand, Work const&) {
  throw std::logic_error("kmoe: built without the kernels of sm_90a");
}

}  // namespace kmoe::device::sm90
