// As much of CUDA, cuBLAS's and cuRAND's declarations as Caffe and blas.cu need, on the
// CPU. Blocks run one after the other; the threads of a block do so too, or, where there
// are barriers, are contexts that take turns from one to the next. Device memory is
// other memory than the host's, full of NaN at first.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define CUDART_VERSION 13000

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- threads

// Contexts are made once. Then they take turns by jumps, which call no system.
struct Turn {
  jmp_buf point;
};
inline jmp_buf emulator;
inline std::vector<Turn> turns;
inline std::vector<char> stacks, finished;
inline std::function<void()> body;
inline unsigned current;

inline void __syncthreads() {
  if (!_setjmp(turns[current].point)) _longjmp(emulator, 1);
}

inline void run_threads() {
  for (;;) {
    __syncthreads();  // until there is a kernel
    body();
    finished[current] = 1;
  }
}

inline void make_contexts(unsigned n) {
  const size_t stack = 1 << 16;
  stacks.resize(n * stack);
  turns.resize(n);
  for (current = 0; current < n; ++current) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks.data() + current * stack;
    context.uc_stack.ss_size = stack;
    context.uc_link = nullptr;
    makecontext(&context, run_threads, 0);
    if (!_setjmp(emulator)) setcontext(&context);
  }
}

// Of a kernel with barriers.
template <typename Kernel, typename... Args>
void emulate_together(dim3 grid, dim3 block, Kernel kernel, Args... args) {
  if (turns.size() < block.x) make_contexts(block.x);
  gridDim = grid;
  blockDim = block;
  body = [=] { kernel(args...); };
  for (unsigned i = 0; i < grid.x * grid.y; ++i) {
    blockIdx = dim3(i % grid.x, i / grid.x);
    finished.assign(block.x, 0);
    while (std::count(finished.begin(), finished.end(), 0))
      for (current = 0; current < blockDim.x; ++current) {
        threadIdx = dim3(current);
        if (!finished[current] && !_setjmp(emulator)) _longjmp(turns[current].point, 1);
      }
  }
}

// Of a kernel without.
template <typename Kernel, typename... Args>
void emulate(dim3 grid, dim3 block, Kernel kernel, Args... args) {
  gridDim = grid;
  blockDim = block;
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x)
      for (unsigned t = 0; t < block.x; ++t) {
        blockIdx = dim3(x, y);
        threadIdx = dim3(t);
        kernel(args...);
      }
}

// ---- what kernels call

template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }

inline float atomicAdd(float* address, float value) {
  const float old = *address;
  *address += value;
  return old;
}
inline unsigned long long atomicCAS(unsigned long long* address,
                                    unsigned long long expected,
                                    unsigned long long value) {
  const unsigned long long old = *address;
  if (old == expected) *address = value;
  return old;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- the runtime: two devices with nothing to wait for

enum cudaError_t { cudaSuccess, cudaErrorInvalidDevice = 101 };
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

inline int current_device = 0;
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = 2;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 1) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, memPitch, totalConstMem, textureAlignment;
  int major, minor, regsPerBlock, warpSize, maxThreadsPerBlock, multiProcessorCount;
  int maxThreadsDim[3], maxGridSize[3];
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  *found = cudaDeviceProp{"emulated"};
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** p, size_t n) {
  *p = malloc(n);
  memset(*p, 0xff, n);
  return cudaSuccess;
}
template <typename T>
cudaError_t cudaMalloc(T** p, size_t n) {
  return cudaMalloc(reinterpret_cast<void**>(p), n);
}
inline cudaError_t cudaFree(void* p) {
  free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t n) { return cudaMalloc(p, n); }
inline cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }

typedef void* cudaStream_t;
enum { cudaStreamDefault, cudaStreamNonBlocking };
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  memcpy(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n,
                                   cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, n, kind);
}
inline cudaError_t cudaMemset(void* p, int value, size_t n) {
  memset(p, value, n);
  return cudaSuccess;
}

typedef void* cudaEvent_t;
inline cudaError_t cudaEventCreate(cudaEvent_t*) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1;
  return cudaSuccess;
}

// ---- cuBLAS and cuRAND, as blas.cu defines them

typedef struct cublasContext* cublasHandle_t;
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS,
  CUBLAS_STATUS_NOT_INITIALIZED,
  CUBLAS_STATUS_ALLOC_FAILED,
  CUBLAS_STATUS_INVALID_VALUE,
  CUBLAS_STATUS_ARCH_MISMATCH,
  CUBLAS_STATUS_MAPPING_ERROR,
  CUBLAS_STATUS_EXECUTION_FAILED,
  CUBLAS_STATUS_INTERNAL_ERROR,
  CUBLAS_STATUS_NOT_SUPPORTED,
  CUBLAS_STATUS_LICENSE_ERROR
};
typedef struct curandGenerator_st* curandGenerator_t;
enum curandRngType_t { CURAND_RNG_PSEUDO_DEFAULT };
typedef curandRngType_t curandRngType;
enum curandStatus_t {
  CURAND_STATUS_SUCCESS,
  CURAND_STATUS_VERSION_MISMATCH,
  CURAND_STATUS_NOT_INITIALIZED,
  CURAND_STATUS_ALLOCATION_FAILED,
  CURAND_STATUS_TYPE_ERROR,
  CURAND_STATUS_OUT_OF_RANGE,
  CURAND_STATUS_LENGTH_NOT_MULTIPLE,
  CURAND_STATUS_DOUBLE_PRECISION_REQUIRED,
  CURAND_STATUS_LAUNCH_FAILURE,
  CURAND_STATUS_PREEXISTING_FAILURE,
  CURAND_STATUS_INITIALIZATION_FAILED,
  CURAND_STATUS_ARCH_MISMATCH,
  CURAND_STATUS_INTERNAL_ERROR
};

extern "C" {
cublasStatus_t cublasCreate_v2(cublasHandle_t*);
cublasStatus_t cublasDestroy_v2(cublasHandle_t);
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t);
cublasStatus_t cublasGetStream_v2(cublasHandle_t, cudaStream_t*);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
#define EMULATED_BLAS(T, S)                                                               \
  cublasStatus_t cublas##S##gemm_v2(cublasHandle_t, cublasOperation_t, cublasOperation_t, \
                                    int, int, int, const T*, const T*, int, const T*,     \
                                    int, const T*, T*, int);                              \
  cublasStatus_t cublas##S##gemv_v2(cublasHandle_t, cublasOperation_t, int, int,          \
                                    const T*, const T*, int, const T*, int, const T*, T*, \
                                    int);                                                 \
  cublasStatus_t cublas##S##axpy_v2(cublasHandle_t, int, const T*, const T*, int, T*,     \
                                    int);                                                 \
  cublasStatus_t cublas##S##scal_v2(cublasHandle_t, int, const T*, T*, int);              \
  cublasStatus_t cublas##S##dot_v2(cublasHandle_t, int, const T*, int, const T*, int,     \
                                   T*);                                                   \
  cublasStatus_t cublas##S##asum_v2(cublasHandle_t, int, const T*, int, T*);              \
  cublasStatus_t cublas##S##copy_v2(cublasHandle_t, int, const T*, int, T*, int);
EMULATED_BLAS(float, S)
EMULATED_BLAS(double, D)
curandStatus_t curandCreateGenerator(curandGenerator_t*, curandRngType_t);
curandStatus_t curandDestroyGenerator(curandGenerator_t);
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long);
curandStatus_t curandSetGeneratorOffset(curandGenerator_t, unsigned long long);
curandStatus_t curandGenerate(curandGenerator_t, unsigned*, size_t);
curandStatus_t curandGenerateUniform(curandGenerator_t, float*, size_t);
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double*, size_t);
curandStatus_t curandGenerateNormal(curandGenerator_t, float*, size_t, float, float);
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double*, size_t, double,
                                          double);
}
