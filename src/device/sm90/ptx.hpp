// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

/// \file
/// Instructions of Hopper that CUDA C++ has no names for: barriers in shared memory, bulk tensor
/// copies, asynchronous copies, matrix stores, register hand-over. Shared-memory addresses are the
/// 32-bit ones. Source: the PTX ISA, sections named at each group.

#include <cuda.h>

#include <cstdint>

namespace kmoe::device::sm90 {

__device__ __forceinline__ std::uint32_t shared_address(void const* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// mbarrier

__device__ __forceinline__ void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ bool barrier_try_wait(std::uint32_t barrier, std::uint32_t phase) {
  std::uint32_t done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(barrier), "r"(phase)
      : "memory");
  return done != 0;
}
/// Whether it is over, without waiting at all.
__device__ __forceinline__ bool barrier_test(std::uint32_t barrier, std::uint32_t phase) {
  std::uint32_t done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(barrier), "r"(phase)
      : "memory");
  return done != 0;
}
__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, std::uint32_t phase) {
  while (!barrier_try_wait(barrier, phase)) {
  }
}

// Blocks of a cluster

__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
/// All threads of the cluster.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
/// What lies at this address in the shared memory of that block.
__device__ __forceinline__ std::uint32_t address_in(int rank, std::uint32_t address) {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// At an address of address_in(). Releases nothing beyond the own block: `.release.cluster` would
/// wait for all memory, and what is signalled here are reads.
__device__ __forceinline__ void barrier_arrive_in_cluster(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// A word, and its four bytes at a barrier of the same block.
__device__ __forceinline__ void store_async(std::uint32_t to, std::uint32_t value,
                                            std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(to),
      "r"(value), "r"(barrier)
      : "memory");
}

/// bar.sync among `threads` threads of the block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts this warp there without waiting.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Two floats, read where this stands.
__device__ __forceinline__ float2 load_shared(std::uint32_t from) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from) : "memory");
  return v;
}

// Copies

/// Non-blocking copy of 16 bytes through L2.
__device__ __forceinline__ void copy_async_16(std::uint32_t to, void const* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
/// The same, or 16 zero bytes if that is not `there`.
__device__ __forceinline__ void copy_async_16(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
/// Of 4 bytes.
__device__ __forceinline__ void copy_async_4(std::uint32_t to, void const* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_async_4(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}
/// Brings the line there to the second-level cache.
__device__ __forceinline__ void prefetch_l2(void const* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}
/// Writes 16 zero bytes in the order of those copies; reads nothing.
__device__ __forceinline__ void copy_async_zeros_16(std::uint32_t to, void const* valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, 0;" ::"r"(to), "l"(valid) : "memory");
}
/// The barrier counts an arrival of this thread when all its earlier copies are complete.
__device__ __forceinline__ void copy_async_arrive(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Waits for all copies of this thread but the bulk ones.
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
/// Ends a group of this thread's copies; waits until all but `Later` groups are there.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Later>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Later) : "memory");
}

__device__ __forceinline__ void tensor_prefetch(CUtensorMap const* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// A box of the tensor to shared memory; the barrier counts its bytes. `Blocks` of 2: to the same
/// place of both blocks of a pair, and to the barriers of both.
template <int Blocks = 1>
__device__ __forceinline__ void tensor_copy_5d(std::uint32_t to, CUtensorMap const* map,
                                               std::uint32_t barrier, int c0, int c1, int c2,
                                               int c3, int c4) {
  if constexpr (Blocks == 2) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(to),
        "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "h"(std::uint16_t{3})
        : "memory");
    return;
  }
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

/// What lane 0 has, in all lanes.
__device__ __forceinline__ int same_in_warp(int value) {
  return __shfl_sync(~0U, value, 0);
}
/// True in one of the lanes of a whole warp.
__device__ __forceinline__ bool elect_one() {
  std::uint32_t elected;
  asm volatile("{\n\t.reg .pred p;\n\telect.sync _|p, 0xffffffff;\n\tselp.u32 %0, 1, 0, p;\n\t}"
               : "=r"(elected));
  return elected != 0;
}

/// Orders ordinary accesses to shared memory with those of the tensor cores and the copy engine.
__device__ __forceinline__ void proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Words in global memory that blocks signal each other with

__device__ __forceinline__ std::uint32_t load_acquire(std::uint32_t const* word) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
/// For waiting: load_acquire() forgets the first-level cache each time.
__device__ __forceinline__ std::uint32_t load_relaxed(std::uint32_t const* word) {
  std::uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
__device__ __forceinline__ void add_release(std::uint32_t* word, std::uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
/// The word before.
__device__ __forceinline__ std::uint32_t add_acquire_release(std::uint32_t* word,
                                                             std::uint32_t value) {
  std::uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(word), "r"(value)
               : "memory");
  return before;
}

// Kernels of one queue (CUDA, "programmatic dependent launch")

/// Until all kernels before this one have ended and their writes are visible. Nothing that they may
/// write is read before.
__device__ __forceinline__ void wait_for_kernels_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// The next one may take the multiprocessors that are free, and wait there.
__device__ __forceinline__ void let_next_begin() {
  asm volatile("griddepcontrol.launch_dependents;");
}

// Registers

template <int Count>
__device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ __forceinline__ void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

/// What `value` is made of is computed before what follows: the compiler would otherwise let it
/// sink to its first use, across barriers.
__device__ __forceinline__ void settle(std::uint32_t value) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.eq.u32 p, %0, 0x7fc1beef;\n\t@p nanosleep.u32 0;\n\t}" ::"r"(
          value));
}

/// Stores four transposed 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8
/// of matrix l / 8.
__device__ __forceinline__ void store_transposed(std::uint32_t row, std::uint32_t m0,
                                                 std::uint32_t m1, std::uint32_t m2,
                                                 std::uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

/// Four lanes in a row hold a row each of a 4 x 4 matrix, and then a column each; `own` = lane % 4.
__device__ __forceinline__ void transpose_words(std::uint32_t (&v)[4], int own) {
  auto const exchange = [&](std::uint32_t& low, std::uint32_t& high, int distance) {
    bool const upper = (own & distance) != 0;
    std::uint32_t const got = __shfl_xor_sync(~0U, upper ? low : high, distance);
    (upper ? low : high) = got;
  };
  exchange(v[0], v[1], 1);
  exchange(v[2], v[3], 1);
  exchange(v[0], v[2], 2);
  exchange(v[1], v[3], 2);
}

/// 2^x and 1/x to about 22 bits.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace kmoe::device::sm90
