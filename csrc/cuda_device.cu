#include "cuda_device.h"

#include <cuda_runtime.h>

namespace edgead {

bool built_with_cuda() { return true; }

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int device_of(const void* pointer, int* device) {
  cudaPointerAttributes attributes{};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
  const bool reachable = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ||
                         (attributes.type == cudaMemoryTypeHost && attributes.devicePointer == pointer);
  *device = error == cudaSuccess && reachable ? attributes.device : -1;
  return error;
}

int use_device(int device, int* before) {
  const cudaError_t error = cudaGetDevice(before);
  if (error != cudaSuccess || *before == device) return error;
  return cudaSetDevice(device);
}

int upload(const void* from, size_t bytes, void** to) {
  const cudaError_t error = cudaMalloc(to, bytes);
  return error == cudaSuccess ? cudaMemcpy(*to, from, bytes, cudaMemcpyHostToDevice) : error;
}

// At the end of a process the driver may be gone before its memory: nothing to do about that, nothing lost by it.
void release(void* memory) {
  if (cudaFree(memory) != cudaSuccess) cudaGetLastError();
}

}  // namespace edgead
