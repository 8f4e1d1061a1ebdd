// The calls of cuBLAS and cuRAND that Caffe makes, for builds that carry neither.
//
// cuBLAS and its kernels for every card fill 590 MB, of which Caffe uses some twenty
// functions. The bundle (bundle.py) is linked with this file in their place: the
// declarations are NVIDIA's, so that Caffe is compiled once for both. Vectors have
// increments of 1 and results go to the host, as Caffe has it. Everything is
// computed in the type it comes in: there is no TF32 here.

// What cublas_v2.h does, but for the host alone: it would declare all for both.
#define CUBLASAPI
#include <cublas_api.h>
#include <cuda_runtime.h>
#include <curand.h>

#include <cmath>
#include <cstdint>

struct cublasContext {
  cudaStream_t stream;
  double* result;  // on the device: where dot and asum leave theirs
};

struct curandGenerator_st {
  unsigned long long seed, offset;
};

namespace {

const int kThreads = 256;
const int kSide = 16;  // kThreads threads as a square

inline int ceil_div(size_t n, size_t d) { return static_cast<int>((n + d - 1) / d); }

inline int n_blocks(size_t n) {
  const int needed = ceil_div(n, kThreads);
  return needed < 4096 ? needed : 4096;
}

// C = alpha op(A) op(B) + beta C, all stored by columns. A block of threads makes a
// square of BLOCK x BLOCK, each thread TILE x TILE of it, kSide apart; DEPTH columns
// of op(A) and rows of op(B) lie in shared memory at a time.
template <typename T, int TILE, int DEPTH>
__global__ void gemm_kernel(bool trans_a, bool trans_b, int m, int n, int k, T alpha,
                            const T* a, int lda, const T* b, int ldb, T beta, T* c,
                            int ldc) {
  const int BLOCK = TILE * kSide;
  // One column more: the transposed stores then meet no bank twice.
  __shared__ T a_part[DEPTH][BLOCK + 1];
  __shared__ T b_part[DEPTH][BLOCK + 1];
  const int row0 = blockIdx.x * BLOCK, col0 = blockIdx.y * BLOCK;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  T sum[TILE][TILE];
  for (int j = 0; j < TILE; ++j)
    for (int i = 0; i < TILE; ++i) sum[j][i] = 0;
  for (int k0 = 0; k0 < k; k0 += DEPTH) {
    for (int e = threadIdx.x; e < DEPTH * BLOCK; e += kThreads) {
      // Neighbouring threads read neighbouring memory, whichever way it lies.
      const int ai = trans_a ? e / DEPTH : e % BLOCK;
      const int ak = trans_a ? e % DEPTH : e / BLOCK;
      const bool a_in = row0 + ai < m && k0 + ak < k;
      const size_t a_at = trans_a ? (k0 + ak) + static_cast<size_t>(row0 + ai) * lda
                                  : (row0 + ai) + static_cast<size_t>(k0 + ak) * lda;
      a_part[ak][ai] = a_in ? a[a_at] : T(0);
      const int bj = trans_b ? e % BLOCK : e / DEPTH;
      const int bk = trans_b ? e / BLOCK : e % DEPTH;
      const bool b_in = col0 + bj < n && k0 + bk < k;
      const size_t b_at = trans_b ? (col0 + bj) + static_cast<size_t>(k0 + bk) * ldb
                                  : (k0 + bk) + static_cast<size_t>(col0 + bj) * ldb;
      b_part[bk][bj] = b_in ? b[b_at] : T(0);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      T left[TILE], right[TILE];
#pragma unroll
      for (int i = 0; i < TILE; ++i) left[i] = a_part[d][tx + kSide * i];
#pragma unroll
      for (int j = 0; j < TILE; ++j) right[j] = b_part[d][ty + kSide * j];
#pragma unroll
      for (int j = 0; j < TILE; ++j)
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum[j][i] += left[i] * right[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < TILE; ++j)
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
      const int row = row0 + tx + kSide * i, col = col0 + ty + kSide * j;
      if (row < m && col < n) {
        T* out = c + row + static_cast<size_t>(col) * ldc;
        // With beta = 0 what is there does not count, be it NaN.
        *out = alpha * sum[j][i] + (beta == T(0) ? T(0) : beta * *out);
      }
    }
}

// Sum over the threads of a block; the result is with thread 0.
template <typename T>
__device__ T block_sum(T value) {
  __shared__ T part[kThreads];
  part[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  return part[0];
}

// y = alpha op(A) x + beta y, a block of threads for each value of y.
template <typename T>
__global__ void gemv_kernel(bool trans, int rows, int cols, T alpha, const T* a, int lda,
                            const T* x, T beta, T* y) {
  const int i = blockIdx.x, n = trans ? rows : cols;
  T sum = 0;
  for (int j = threadIdx.x; j < n; j += kThreads)
    sum += x[j] * (trans ? a[j + static_cast<size_t>(i) * lda]
                         : a[i + static_cast<size_t>(j) * lda]);
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    y[i] = alpha * sum + (beta == T(0) ? T(0) : beta * y[i]);
}

template <typename T>
__global__ void axpy_kernel(int n, T alpha, const T* x, T* y) {
  for (size_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads)
    y[i] += alpha * x[i];
}

template <typename T>
__global__ void scal_kernel(int n, T alpha, T* x) {
  for (size_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads)
    x[i] *= alpha;
}

// Of x and y, or of |x| where there is no y; one block, so that the order is fixed.
template <typename T>
__global__ void dot_kernel(int n, const T* x, const T* y, T* result) {
  T sum = 0;
  for (int i = threadIdx.x; i < n; i += kThreads)
    sum += y ? x[i] * y[i] : (x[i] < T(0) ? -x[i] : x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *result = sum;
}

// Philox4x32-10 (Salmon et al., SC 2011): four random words for each counter.
__device__ void philox(unsigned long long counter, unsigned long long key, uint32_t* out) {
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                   0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = static_cast<uint64_t>(0xD2511F53u) * c[0];
    const uint64_t q = static_cast<uint64_t>(0xCD9E8D57u) * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ k[0],
                              static_cast<uint32_t>(q),
                              static_cast<uint32_t>(p >> 32) ^ c[3] ^ k[1],
                              static_cast<uint32_t>(p)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  for (int i = 0; i < 4; ++i) out[i] = c[i];
}

// In (0, 1], from two words for a double.
__device__ void uniform(const uint32_t* word, float* out) {
  *out = word[0] * 2.3283064e-10f + 1.1641532e-10f;
}
__device__ void uniform(const uint32_t* word, double* out) {
  const uint64_t bits = static_cast<uint64_t>(word[1]) << 21 ^ word[0] >> 11;
  *out = (bits + 1) * 1.1102230246251565e-16;  // 2^-53
}

__global__ void word_kernel(size_t n, unsigned long long offset, unsigned long long seed,
                            unsigned int* out) {
  for (size_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) {
    uint32_t word[4];
    philox(offset + i, seed, word);
    out[i] = word[0];
  }
}

template <typename T>
__global__ void uniform_kernel(size_t n, unsigned long long offset,
                               unsigned long long seed, T* out) {
  for (size_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) {
    uint32_t word[4];
    philox(offset + i, seed, word);
    uniform(word, out + i);
  }
}

// Box and Muller's transform of two uniform values.
template <typename T>
__global__ void normal_kernel(size_t n, unsigned long long offset,
                              unsigned long long seed, T mean, T stddev, T* out) {
  for (size_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) {
    uint32_t word[4];
    philox(offset + i, seed, word);
    T u, v;
    uniform(word, &u);
    uniform(word + 2, &v);
    out[i] = mean + stddev * sqrt(T(-2) * log(u)) * cos(T(6.283185307179586) * v);
  }
}

cublasStatus_t blas_status() {
  return cudaGetLastError() == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                           : CUBLAS_STATUS_EXECUTION_FAILED;
}

curandStatus_t rand_status() {
  return cudaGetLastError() == cudaSuccess ? CURAND_STATUS_SUCCESS
                                           : CURAND_STATUS_LAUNCH_FAILURE;
}

template <typename T>
cublasStatus_t gemm(cublasHandle_t handle, cublasOperation_t trans_a,
                    cublasOperation_t trans_b, int m, int n, int k, const T* alpha,
                    const T* a, int lda, const T* b, int ldb, const T* beta, T* c,
                    int ldc) {
  if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
  const bool ta = trans_a != CUBLAS_OP_N, tb = trans_b != CUBLAS_OP_N;
  // Large squares read less memory; small ones occupy the card where C is small.
  const int large = sizeof(T) == 4 ? 128 : 64;
  if (ceil_div(m, large) * ceil_div(n, large) >= 64) {
    const dim3 grid(ceil_div(m, large), ceil_div(n, large));
    gemm_kernel<T, sizeof(T) == 4 ? 8 : 4, 8><<<grid, kThreads, 0, handle->stream>>>(
        ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
  } else {
    const dim3 grid(ceil_div(m, 32), ceil_div(n, 32));
    gemm_kernel<T, 2, 16><<<grid, kThreads, 0, handle->stream>>>(
        ta, tb, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
  }
  return blas_status();
}

template <typename T>
cublasStatus_t gemv(cublasHandle_t handle, cublasOperation_t trans, int m, int n,
                    const T* alpha, const T* a, int lda, const T* x, int incx,
                    const T* beta, T* y, int incy) {
  if (incx != 1 || incy != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool t = trans != CUBLAS_OP_N;
  const int grid = t ? n : m;
  if (grid == 0) return CUBLAS_STATUS_SUCCESS;
  gemv_kernel<T><<<grid, kThreads, 0, handle->stream>>>(t, m, n, *alpha, a, lda, x, *beta,
                                                        y);
  return blas_status();
}

template <typename T>
cublasStatus_t axpy(cublasHandle_t handle, int n, const T* alpha, const T* x, int incx,
                    T* y, int incy) {
  if (incx != 1 || incy != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (n <= 0) return CUBLAS_STATUS_SUCCESS;
  axpy_kernel<T><<<n_blocks(n), kThreads, 0, handle->stream>>>(n, *alpha, x, y);
  return blas_status();
}

template <typename T>
cublasStatus_t scal(cublasHandle_t handle, int n, const T* alpha, T* x, int incx) {
  if (incx != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (n <= 0) return CUBLAS_STATUS_SUCCESS;
  scal_kernel<T><<<n_blocks(n), kThreads, 0, handle->stream>>>(n, *alpha, x);
  return blas_status();
}

template <typename T>
cublasStatus_t dot(cublasHandle_t handle, int n, const T* x, int incx, const T* y,
                   int incy, T* result) {
  if (incx != 1 || incy != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  T* found = reinterpret_cast<T*>(handle->result);
  dot_kernel<T><<<1, kThreads, 0, handle->stream>>>(n, x, y, found);
  cudaMemcpyAsync(result, found, sizeof(T), cudaMemcpyDeviceToHost, handle->stream);
  cudaStreamSynchronize(handle->stream);
  return blas_status();
}

template <typename T>
cublasStatus_t copy(cublasHandle_t handle, int n, const T* x, int incx, T* y, int incy) {
  if (incx != 1 || incy != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  cudaMemcpyAsync(y, x, n * sizeof(T), cudaMemcpyDeviceToDevice, handle->stream);
  return blas_status();
}

// Counters that were used are not used again.
unsigned long long advance(curandGenerator_t generator, size_t n) {
  const unsigned long long offset = generator->offset;
  generator->offset += n;
  return offset;
}

template <typename T>
curandStatus_t generate_uniform(curandGenerator_t g, T* out, size_t n) {
  if (n == 0) return CURAND_STATUS_SUCCESS;
  const unsigned long long offset = advance(g, n);
  uniform_kernel<T><<<n_blocks(n), kThreads, 0, 0>>>(n, offset, g->seed, out);
  return rand_status();
}

template <typename T>
curandStatus_t generate_normal(curandGenerator_t g, T* out, size_t n, T mean, T stddev) {
  if (n == 0) return CURAND_STATUS_SUCCESS;
  const unsigned long long offset = advance(g, n);
  normal_kernel<T><<<n_blocks(n), kThreads, 0, 0>>>(n, offset, g->seed, mean, stddev,
                                                    out);
  return rand_status();
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  double* result = nullptr;
  if (cudaMalloc(reinterpret_cast<void**>(&result), sizeof(double)) != cudaSuccess) {
    cudaGetLastError();  // or the next call would be blamed for it
    return CUBLAS_STATUS_NOT_INITIALIZED;
  }
  *handle = new cublasContext{nullptr, result};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  cudaFree(handle->result);
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
  *stream = handle->stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t mode) {
  return mode == CUBLAS_DEFAULT_MATH ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

#define FISHING_BLAS(T, S)                                                                \
  cublasStatus_t cublas##S##gemm_v2(                                                      \
      cublasHandle_t handle, cublasOperation_t trans_a, cublasOperation_t trans_b, int m, \
      int n, int k, const T* alpha, const T* a, int lda, const T* b, int ldb,             \
      const T* beta, T* c, int ldc) {                                                     \
    return gemm<T>(handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c,     \
                   ldc);                                                                  \
  }                                                                                       \
  cublasStatus_t cublas##S##gemv_v2(cublasHandle_t handle, cublasOperation_t trans,       \
                                    int m, int n, const T* alpha, const T* a, int lda,    \
                                    const T* x, int incx, const T* beta, T* y,            \
                                    int incy) {                                           \
    return gemv<T>(handle, trans, m, n, alpha, a, lda, x, incx, beta, y, incy);           \
  }                                                                                       \
  cublasStatus_t cublas##S##axpy_v2(cublasHandle_t handle, int n, const T* alpha,         \
                                    const T* x, int incx, T* y, int incy) {               \
    return axpy<T>(handle, n, alpha, x, incx, y, incy);                                   \
  }                                                                                       \
  cublasStatus_t cublas##S##scal_v2(cublasHandle_t handle, int n, const T* alpha, T* x,   \
                                    int incx) {                                           \
    return scal<T>(handle, n, alpha, x, incx);                                            \
  }                                                                                       \
  cublasStatus_t cublas##S##dot_v2(cublasHandle_t handle, int n, const T* x, int incx,    \
                                   const T* y, int incy, T* result) {                     \
    return dot<T>(handle, n, x, incx, y, incy, result);                                   \
  }                                                                                       \
  cublasStatus_t cublas##S##asum_v2(cublasHandle_t handle, int n, const T* x, int incx,   \
                                    T* result) {                                          \
    return dot<T>(handle, n, x, incx, nullptr, 1, result);                                \
  }                                                                                       \
  cublasStatus_t cublas##S##copy_v2(cublasHandle_t handle, int n, const T* x, int incx,   \
                                    T* y, int incy) {                                     \
    return copy<T>(handle, n, x, incx, y, incy);                                          \
  }
FISHING_BLAS(float, S)
FISHING_BLAS(double, D)

curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
    cudaGetLastError();
    return CURAND_STATUS_INITIALIZATION_FAILED;
  }
  *generator = new curandGenerator_st{0, 0};
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
  delete generator;
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator,
                                                  unsigned long long seed) {
  generator->seed = seed;
  generator->offset = 0;
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetGeneratorOffset(curandGenerator_t generator,
                                        unsigned long long offset) {
  generator->offset = offset;
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerate(curandGenerator_t g, unsigned int* out, size_t n) {
  if (n == 0) return CURAND_STATUS_SUCCESS;
  const unsigned long long offset = advance(g, n);
  word_kernel<<<n_blocks(n), kThreads, 0, 0>>>(n, offset, g->seed, out);
  return rand_status();
}
curandStatus_t curandGenerateUniform(curandGenerator_t g, float* out, size_t n) {
  return generate_uniform<float>(g, out, n);
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t g, double* out, size_t n) {
  return generate_uniform<double>(g, out, n);
}
curandStatus_t curandGenerateNormal(curandGenerator_t g, float* out, size_t n, float mean,
                                    float stddev) {
  return generate_normal<float>(g, out, n, mean, stddev);
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t g, double* out, size_t n,
                                          double mean, double stddev) {
  return generate_normal<double>(g, out, n, mean, stddev);
}

}  // extern "C"
