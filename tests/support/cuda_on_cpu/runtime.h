// CUDA C++ on the CPU: what the translation unit of a kernel module includes (see ../cuda_runner.py).
//
//   fibers.h      stacks and the switch between them        vectors.h     float4, double2, ...
//   list.h        a list that grows                         arithmetic.h  CUDA's functions of one thread
//   scheduler.h   threads, barriers, warps, deadlock        atomics.h     atomicAdd, ...
//   warp.h        shuffles, votes, __syncthreads            async_copy.h  cp.async
//   tensor_core.h mma instructions                          traffic.h     bytes and products, counted
//   shared_memory.h  __shared__, static and dynamic
//   launch.h      from NumPy's pointers to blocks           worker.h      the same in a process of its own
//
// What kernels see lies in namespace cuda, around the kernels' own source: there, names hide the C library's of the
// same name (rsqrt, sinpi, ... of newer ones).
#pragma once

// Few headers of C++, as each is compiled again with every module: without its special functions <math.h> is half as
// long, and <string> and <vector> would take as long as all the rest.
#include <type_traits>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <utility>

#if defined(__SANITIZE_THREAD__) && !defined(COUNT_BYTES)
#define WATCH_RACES
#endif

#include "fibers.h"
#include "list.h"
#include "scheduler.h"
#include "shared_memory.h"
#include "traffic.h"
#include "vectors.h"
#include "arithmetic.h"
#include "warp.h"
#include "atomics.h"
#include "tensor_core.h"
#include "async_copy.h"
#include "launch.h"
#ifdef WORKER
#include "worker.h"
#endif

// __global__ and __shared__ are left to cuda_runner.py: it finds kernels by the one, and both kinds of shared memory by
// the other.
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define threadIdx (cuda_on_cpu::state.current->index)
#define blockIdx (cuda_on_cpu::state.block_index)
#define blockDim (cuda_on_cpu::state.block_size)
#define gridDim (cuda_on_cpu::state.grid_size)
#define __syncthreads() ((void)cuda_on_cpu::barrier(__LINE__, false))
#define __syncthreads_count(predicate) (cuda_on_cpu::barrier(__LINE__, (predicate) != 0).count)
#define __syncthreads_or(predicate) (static_cast<int>(cuda_on_cpu::barrier(__LINE__, (predicate) != 0).any))
#define __syncthreads_and(predicate) (static_cast<int>(cuda_on_cpu::barrier(__LINE__, (predicate) != 0).all))
