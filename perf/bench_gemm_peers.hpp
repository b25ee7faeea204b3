// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// The libraries that bench_gemm measures kmoe against, where the build found them.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <kmoe/core/element.hpp>

#ifdef KMOE_BENCH_OPENBLAS
#include <cblas.h>
#endif
#ifdef KMOE_BENCH_DNNL
#include <dnnl.hpp>
#endif

namespace peers {

using Runs = std::vector<std::pair<std::string, std::function<void()>>>;

inline void use_one_thread() {
#ifdef KMOE_BENCH_OPENBLAS
  openblas_set_num_threads(1);
#endif
}

#ifdef KMOE_BENCH_DNNL
/// c = a . b^T, b reordered once into the layout that the primitive asks for.
template <class T>
std::function<void()> dnnl_gemm(T const* a, T const* b, std::int64_t m, std::int64_t n,
                                std::int64_t k) {
  using dnnl::memory;
  auto const type = std::is_same_v<T, float>            ? memory::data_type::f32
                    : std::is_same_v<T, kmoe::bfloat16> ? memory::data_type::bf16
                                                        : memory::data_type::f16;
  struct State {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::vector<T> c;
    memory source, weights, target;
    dnnl::matmul matmul;
  };
  auto s = std::make_shared<State>();
  s->c.resize(m * n);
  memory::desc const source({m, k}, type, memory::format_tag::ab);
  memory::desc const given({k, n}, type, memory::format_tag::ba);
  memory::desc const any({k, n}, type, memory::format_tag::any);
  memory::desc const target({m, n}, type, memory::format_tag::ab);
  dnnl::matmul::primitive_desc const pd(s->engine, source, any, target);
  s->source = memory(source, s->engine, const_cast<T*>(a));
  memory unpacked(given, s->engine, const_cast<T*>(b));
  s->weights = memory(pd.weights_desc(), s->engine);
  dnnl::reorder(unpacked, s->weights).execute(s->stream, unpacked, s->weights);
  s->target = memory(target, s->engine, s->c.data());
  s->matmul = dnnl::matmul(pd);
  s->stream.wait();
  return [s] {
    s->matmul.execute(
        s->stream,
        {{DNNL_ARG_SRC, s->source}, {DNNL_ARG_WEIGHTS, s->weights}, {DNNL_ARG_DST, s->target}});
    s->stream.wait();
  };
}
#endif

/// What runs c = a . b^T for this element type.
template <class T>
Runs gemm([[maybe_unused]] T const* a, [[maybe_unused]] T const* b, [[maybe_unused]] std::int64_t m,
          [[maybe_unused]] std::int64_t n, [[maybe_unused]] std::int64_t k) {
  Runs runs;
#ifdef KMOE_BENCH_OPENBLAS
  auto c = std::make_shared<std::vector<T>>(m * n);
  if constexpr (std::is_same_v<T, float>) {
    runs.emplace_back("openblas", [=] {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, b, k, 0, c->data(), n);
    });
  } else if constexpr (std::is_same_v<T, double>) {
    runs.emplace_back("openblas", [=] {
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, b, k, 0, c->data(), n);
    });
  }
#endif
#ifdef KMOE_BENCH_DNNL
  if constexpr (!std::is_same_v<T, double>) {
    try {
      runs.emplace_back("dnnl", dnnl_gemm(a, b, m, n, k));
    } catch (dnnl::error const&) {
      // no such type on this processor
    }
  }
#endif
  return runs;
}

}  // namespace peers
