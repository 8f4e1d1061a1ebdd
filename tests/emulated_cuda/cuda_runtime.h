// As much of CUDA, cuBLAS's and cuRAND's declarations as blas.cu needs, on the CPU: the
// threads of a block are contexts that take turns from barrier to barrier, and blocks
// run one after the other. A read past the end of a matrix meets a sanitizer.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline ucontext_t emulator;
inline std::vector<ucontext_t> contexts;
inline std::vector<char> finished;
inline std::function<void()> body;
inline unsigned current;

inline void __syncthreads() { swapcontext(&contexts[current], &emulator); }

inline void run_thread() {
  body();
  finished[current] = 1;
}

template <typename Kernel, typename... Args>
void emulate(dim3 grid, dim3 block, Kernel kernel, Args... args) {
  static std::vector<char> stacks;
  const size_t stack = 1 << 16;
  gridDim = grid;
  blockDim = block;
  stacks.resize(block.x * stack);
  body = [=] { kernel(args...); };
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      contexts.assign(block.x, ucontext_t());
      finished.assign(block.x, 0);
      for (unsigned t = 0; t < block.x; ++t) {
        getcontext(&contexts[t]);
        contexts[t].uc_stack.ss_sp = stacks.data() + t * stack;
        contexts[t].uc_stack.ss_size = stack;
        contexts[t].uc_link = &emulator;
        makecontext(&contexts[t], run_thread, 0);
      }
      for (bool any = true; any;) {
        any = false;
        for (unsigned t = 0; t < block.x; ++t) {
          if (finished[t]) continue;
          current = t;
          threadIdx = dim3(t);
          swapcontext(&emulator, &contexts[t]);
          any = true;
        }
      }
    }
}

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** p, size_t n) {
  *p = malloc(n);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind,
                                   cudaStream_t) {
  memcpy(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}

typedef struct cublasContext* cublasHandle_t;
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS,
  CUBLAS_STATUS_NOT_INITIALIZED,
  CUBLAS_STATUS_EXECUTION_FAILED,
  CUBLAS_STATUS_NOT_SUPPORTED
};
typedef struct curandGenerator_st* curandGenerator_t;
enum curandRngType_t { CURAND_RNG_PSEUDO_DEFAULT };
typedef curandRngType_t curandRngType;
enum curandStatus_t {
  CURAND_STATUS_SUCCESS,
  CURAND_STATUS_LAUNCH_FAILURE,
  CURAND_STATUS_INITIALIZATION_FAILED
};
