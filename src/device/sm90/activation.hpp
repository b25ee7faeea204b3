// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// What happens to a sum before it is stored.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/sm90/experts.hpp"
#include "device/sm90/ptx.hpp"

namespace kmoe::device::sm90 {

template <Operand Type>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  if constexpr (Type == Operand::bf16) {
    __nv_bfloat162 const v = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<std::uint32_t const&>(v);
  } else {
    __half2 const v = __floats2half2_rn(low, high);
    return reinterpret_cast<std::uint32_t const&>(v);
  }
}

/// x * sigmoid(s)
__device__ __forceinline__ float times_sigmoid(float x, float s) {
  return x * reciprocal_fast(1.0F + exp2_fast(s * -1.4426950408889634F));
}

/// The activations that are not worth code of their own.
__device__ __forceinline__ float activate_other(Act act, float x) {
  switch (act) {
    case Act::silu:
      return times_sigmoid(x, x);
    case Act::gelu_erf:
      return 0.5F * x * erfcf(x * -0.70710678118654752440F);
    case Act::gelu_tanh:
      return times_sigmoid(x, 1.5957691216057308F * x * (1.0F + 0.044715F * x * x));
    case Act::relu:
      return x < 0.0F ? 0.0F : x;
    case Act::relu2:
      return x < 0.0F ? 0.0F : x * x;
    default:
      return x;
  }
}

/// Calls `finish` with the activation of gate and up as a function: the choice is made once, not
/// for each element.
template <class Finish>
__device__ __forceinline__ void with_activation(Product const& product, Finish const& finish) {
  if (product.act == Act::silu) {
    finish([](float gate, float up) { return times_sigmoid(gate, gate) * up; });
  } else if (product.act == Act::swiglu_oai) {
    finish([&](float gate, float up) {
      float const g = gate > product.limit ? product.limit : gate;
      float u = up > product.limit ? product.limit : up;
      u = u < -product.limit ? -product.limit : u;
      return times_sigmoid(g, product.alpha * g) * (u + 1.0F);
    });
  } else {
    finish([&](float gate, float up) { return activate_other(product.act, gate) * up; });
  }
}

}  // namespace kmoe::device::sm90
