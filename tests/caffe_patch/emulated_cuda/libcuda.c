/* NVIDIA's driver as far as fishing asks it: two GPUs of 2 GiB, one of them in use. */
#include <stddef.h>
#include <string.h>

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, 0; }
int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, "emulated", size);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0; /* compute capability 9.0, default mode */
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = NULL, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void* context) { return 0; }
int cuCtxPopCurrent_v2(void** context) { return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = 1u << 30;
  *total = 2u << 30;
  return 0;
}
int cuGetErrorName(int code, const char** name) { return *name = "none", 0; }
