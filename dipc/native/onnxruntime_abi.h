// The part of ONNX Runtime's C interface that the custom operators use, declared here because its headers come with no
// package. The interface is an append-only table of functions: a function keeps its place for ever, so a library built
// today runs under every later release.
//
// Asked for is version 17 of it (release 1.17), the first with KernelContext_ParallelFor and shape inference for custom
// operators. Where DIPC_ONNXRUNTIME_INCLUDE was given to CMake, the official header is used instead, and the places
// below are checked against it.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(DIPC_OFFICIAL_ONNXRUNTIME)

#include <onnxruntime_c_api.h>

#else

extern "C" {

struct OrtAllocator;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtOp;
struct OrtOpAttr;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;  // a null pointer is success
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL = 9,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4 = 21,
};
enum OrtErrorCode : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtOpAttrType : int { ORT_OP_ATTR_INT = 1, ORT_OP_ATTR_FLOAT = 3 };
enum OrtAllocatorType : int { OrtDeviceAllocator = 0 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };
enum OrtCustomOpInputOutputCharacteristic : int { INPUT_OUTPUT_REQUIRED = 0 };

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode, const char* message);
  void* unused_1[25];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain**);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain*, const struct OrtCustomOp*);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*);
  void* unused_29[20];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* dims,
                                               size_t rank, ONNXTensorElementDataType, OrtValue**);
  void* unused_50[1];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void** data);
  void* unused_52[5];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo**);
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo*, const int64_t* dims, size_t rank);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t* rank);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t rank);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo*, const char** names, size_t rank);
  void* unused_64[1];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
  void* unused_66[3];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
  void* unused_70[5];
  OrtStatus* (*AllocatorAlloc)(OrtAllocator*, size_t bytes, void** data);
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void* data);
  void* unused_77[8];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo*, const char* name, float*);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo*, const char* name, int64_t*);
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo*, const char* name, char* text, size_t* bytes);
  void* unused_88[2];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext*, size_t index, const OrtValue**);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext*, size_t index, const int64_t* dims, size_t rank, OrtValue**);
  void* unused_92[1];
  void (*ReleaseStatus)(OrtStatus*);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
  void* unused_95[1];
  void (*ReleaseValue)(OrtValue*);
  void* unused_97[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void* unused_100[32];
  void (*ReleaseAllocator)(OrtAllocator*);
  void* unused_133[78];
  OrtStatus* (*CreateOpAttr)(const char* name, const void* data, int count, OrtOpAttrType, OrtOpAttr**);
  void (*ReleaseOpAttr)(OrtOpAttr*);
  OrtStatus* (*CreateOp)(const OrtKernelInfo*, const char* name, const char* domain, int version,
                         const char** type_names, const ONNXTensorElementDataType* types, int type_count,
                         const OrtOpAttr* const* attributes, int attribute_count, int inputs, int outputs, OrtOp**);
  OrtStatus* (*InvokeOp)(const OrtKernelContext*, const OrtOp*, const OrtValue* const* inputs, int input_count,
                         OrtValue* const* outputs, int output_count);
  void (*ReleaseOp)(OrtOp*);
  void* unused_216[37];
  OrtStatus* (*KernelContext_GetAllocator)(const OrtKernelContext*, const OrtMemoryInfo*, OrtAllocator**);
  void* unused_254[14];
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext*, size_t index,
                                                    OrtTensorTypeAndShapeInfo**);
  void* unused_269[1];
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext*, size_t index,
                                                     const OrtTensorTypeAndShapeInfo*);
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo*, const char** names, size_t rank);
  void* unused_272[2];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext*, void (*body)(void*, size_t), size_t total,
                                          size_t batches, void* context);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);  // null where the runtime is older
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

}  // extern "C"

#endif

namespace dipc {

constexpr uint32_t kOrtApiVersion = 17;
constexpr const char* kOldestRuntime = "1.17";

#define DIPC_AT(type, member, slot) \
  static_assert(offsetof(type, member) == (slot) * sizeof(void*), #member " is not where ONNX Runtime has it")
DIPC_AT(OrtApi, CreateStatus, 0);
DIPC_AT(OrtApi, CreateCustomOpDomain, 26);
DIPC_AT(OrtApi, AddCustomOpDomain, 28);
DIPC_AT(OrtApi, CreateTensorWithDataAsOrtValue, 49);
DIPC_AT(OrtApi, GetTensorMutableData, 51);
DIPC_AT(OrtApi, CreateTensorTypeAndShapeInfo, 57);
DIPC_AT(OrtApi, GetSymbolicDimensions, 63);
DIPC_AT(OrtApi, GetTensorTypeAndShape, 65);
DIPC_AT(OrtApi, CreateCpuMemoryInfo, 69);
DIPC_AT(OrtApi, AllocatorAlloc, 75);
DIPC_AT(OrtApi, KernelInfoGetAttribute_float, 85);
DIPC_AT(OrtApi, KernelContext_GetInput, 90);
DIPC_AT(OrtApi, ReleaseStatus, 93);
DIPC_AT(OrtApi, ReleaseValue, 96);
DIPC_AT(OrtApi, ReleaseTensorTypeAndShapeInfo, 99);
DIPC_AT(OrtApi, ReleaseAllocator, 132);
DIPC_AT(OrtApi, CreateOpAttr, 211);
DIPC_AT(OrtApi, ReleaseOp, 215);
DIPC_AT(OrtApi, KernelContext_GetAllocator, 253);
DIPC_AT(OrtApi, ShapeInferContext_GetInputTypeShape, 268);
DIPC_AT(OrtApi, SetSymbolicDimensions, 271);
DIPC_AT(OrtApi, KernelContext_ParallelFor, 274);
DIPC_AT(OrtCustomOp, CreateKernel, 1);
DIPC_AT(OrtCustomOp, GetEndVersion, 21);
#undef DIPC_AT

}  // namespace dipc
