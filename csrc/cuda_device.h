// What the bindings need of a device beside the kernels. In a build without CUDA cuda_absent.cc stands in for all of it.
#pragma once

#include <cstddef>

namespace edgead {

bool built_with_cuda();

// The text of a cudaError_t that a kernel returned.
const char* cuda_error_text(int error);

// The device that holds a pointer, -1 when it is no device memory. Returns a cudaError_t.
int device_of(const void* pointer, int* device);

// Makes `device` current and says which one was. Returns a cudaError_t.
int use_device(int device, int* before);

// Copies `bytes` from the host into new memory of the current device; synchronous. Returns a cudaError_t.
int upload(const void* from, size_t bytes, void** to);
void release(void* memory);

}  // namespace edgead
