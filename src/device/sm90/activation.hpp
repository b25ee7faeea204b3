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

/// Adds the eight elements.
template <Operand Type>
__device__ __forceinline__ void add_unpacked(float (&sum)[8], uint4 const& elements) {
  std::uint32_t const words[4] = {elements.x, elements.y, elements.z, elements.w};
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    float2 v;
    if constexpr (Type == Operand::bf16) {
      v = __bfloat1622float2(reinterpret_cast<__nv_bfloat162 const&>(words[n]));
    } else {
      v = __half22float2(reinterpret_cast<__half2 const&>(words[n]));
    }
    sum[2 * n] += v.x;
    sum[2 * n + 1] += v.y;
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

/// Calls `finish` with the activation of two sums as a function: the first of the half that lies
/// first. The choice is made once, not for each element.
template <class Finish>
__device__ __forceinline__ void with_activation(Product const& product, Finish const& finish) {
  bool const swapped = product.halves == Halves::up_first;
  if (product.act == Act::silu && !swapped) {
    finish([](float gate, float up) { return times_sigmoid(gate, gate) * up; });
  } else if (product.act == Act::silu) {
    finish([](float up, float gate) { return times_sigmoid(gate, gate) * up; });
  } else if (product.act == Act::swiglu_oai) {
    finish([&](float first, float second) {
      float const gate = swapped ? second : first, up = swapped ? first : second;
      float const g = gate > product.limit ? product.limit : gate;
      float u = up > product.limit ? product.limit : up;
      u = u < -product.limit ? -product.limit : u;
      return times_sigmoid(g, product.alpha * g) * (u + 1.0F);
    });
  } else {
    finish([&](float first, float second) {
      return activate_other(product.act, swapped ? second : first) * (swapped ? first : second);
    });
  }
}

}  // namespace kmoe::device::sm90
