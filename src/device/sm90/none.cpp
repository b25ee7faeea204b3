// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "device/sm90/experts.hpp"
#include "device/sm90/fp8.hpp"
#include "device/sm90/packed.hpp"

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
bool takes_fp8(Fp8Work const&) {
  return false;
}
void launch_fp8(void*, Operand, Fp8Work const&) {
  throw std::logic_error("kmoe: built without the kernels of sm_90a");
}
std::size_t arranged_bytes(Format, std::int64_t, std::int64_t) {
  return 0;
}
bool takes_packed(PackedWork const&) {
  return false;
}
void launch_packed(void*, PackedWork const&) {
  throw std::logic_error("kmoe: built without the kernels of sm_90a");
}
void launch(void*, Operand, Work const&) {
  throw std::logic_error("kmoe: built without the kernels of sm_90a");
}

}  // namespace kmoe::device::sm90
