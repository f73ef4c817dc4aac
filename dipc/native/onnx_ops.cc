// What ONNX Runtime calls when a session registers this library: the operators of the domain `ai.dipc`.
#include <deque>
#include <mutex>
#include <new>
#include <string>

#include "dipc_native.h"
#include "onnx_kernel.h"

namespace dipc {
namespace {

// An operator as one ONNX Runtime in this process knows it. It is found again behind the OrtCustomOp.
struct Operator : OrtCustomOp {
  OperatorKind kind;
  const OrtApi* api;
};

const Operator& operator_of(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

struct RunningKernel {
  const Operator* op;
  std::unique_ptr<Kernel> kernel;
};

// Runs the body; what it throws becomes a status, since no exception may leave the library.
template <class Body>
OrtStatus* status_of(const OrtApi& api, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  }
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  return status_of(*api, [&] {
    const Operator& made = operator_of(op);
    *kernel = new RunningKernel{&made, made.kind.make(made.kind, Attributes(*api, info))};
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto* running = static_cast<const RunningKernel*>(kernel);
  return status_of(*running->op->api, [&] {
    Call call(*running->op->api, context, running->op->kind.inputs);
    running->kernel->compute(call);
  });
}

// The shape of an input while a session is planned: a dimension is a number, a name, or (where neither is known) -1.
struct PlannedShape {
  std::vector<int64_t> dims;
  std::vector<std::string> names;

  PlannedShape(const OrtApi& api, const OrtShapeInferContext* context, size_t input) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
    check(api.ShapeInferContext_GetInputTypeShape(context, input, &info));
    size_t rank = 0;
    check(api.GetDimensionsCount(info, &rank));
    dims.resize(rank);
    std::vector<const char*> texts(rank);
    check(api.GetDimensions(info, dims.data(), rank));
    check(api.GetSymbolicDimensions(info, texts.data(), rank));
    for (const char* text : texts) names.emplace_back(text != nullptr ? text : "");
  }

  bool is_known() const {
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] < 0 && names[i].empty()) return false;
    }
    return true;
  }
};

// Tells the shape of an output, where all of it follows from the inputs.
void infer(const Operator& op, OrtShapeInferContext* context, size_t output) {
  const OrtApi& api = *op.api;
  const OperatorKind::Shape& rule = op.kind.shapes[output];
  PlannedShape shape(api, context, rule.like);
  if (rule.last_from >= 0) {
    const PlannedShape last(api, context, static_cast<size_t>(rule.last_from));
    if (shape.dims.empty() || last.dims.empty() || last.dims.back() < 0) return;
    shape.dims.back() = last.dims.back() / rule.last_divisor;
    shape.names.back().clear();
  }
  if (!shape.is_known()) return;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.CreateTensorTypeAndShapeInfo(&info));
  std::vector<const char*> names;
  for (const std::string& name : shape.names) names.push_back(name.c_str());
  OrtStatus* status = api.SetTensorElementType(info, op.kind.outputs[output]);
  if (status == nullptr) status = api.SetDimensions(info, shape.dims.data(), shape.dims.size());
  if (status == nullptr) status = api.SetSymbolicDimensions(info, names.data(), names.size());
  if (status == nullptr) status = api.ShapeInferContext_SetOutputTypeShape(context, output, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

OrtStatus* infer_all(const OrtCustomOp* custom, OrtShapeInferContext* context) {
  const Operator& op = operator_of(custom);
  return status_of(*op.api, [&] {
    for (size_t output = 0; output < op.kind.outputs.size(); ++output) infer(op, context, output);
  });
}

OrtCustomOp callbacks() {
  OrtCustomOp op = {};
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp* self) { return operator_of(self).kind.name.c_str(); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputType = [](const OrtCustomOp* self, size_t i) { return operator_of(self).kind.inputs[i].type; };
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return operator_of(self).kind.inputs.size(); };
  op.GetOutputType = [](const OrtCustomOp* self, size_t i) { return operator_of(self).kind.outputs[i]; };
  op.GetOutputTypeCount = [](const OrtCustomOp* self) { return operator_of(self).kind.outputs.size(); };
  op.KernelDestroy = [](void* kernel) { delete static_cast<RunningKernel*>(kernel); };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.InferOutputShapeFn = infer_all;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return op;
}

// The domain with its operators. Sessions refer to them for as long as they live, so they are kept for good; a process
// may hold more than one ONNX Runtime, and each gets its own.
struct Domain {
  const OrtApi* api;
  std::deque<Operator> operators;
  OrtCustomOpDomain* domain = nullptr;

  explicit Domain(const OrtApi& runtime) : api(&runtime) {
    check(api->CreateCustomOpDomain("ai.dipc", &domain));
    for (const auto& kinds : {select_kinds(), product_kinds()}) {
      for (const OperatorKind& kind : kinds) {
        operators.push_back({callbacks(), kind, api});
        check(api->CustomOpDomain_Add(domain, &operators.back()));
      }
    }
  }
};

OrtCustomOpDomain* domain_of(const OrtApi& api) {
  static auto* mutex = new std::mutex;
  static auto* domains = new std::deque<Domain>;
  const std::lock_guard<std::mutex> lock(*mutex);
  for (const Domain& known : *domains) {
    if (known.api == &api) return known.domain;
  }
  return domains->emplace_back(api).domain;
}

}  // namespace
}  // namespace dipc

DIPC_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace dipc;
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) {
    const std::string message = std::string("dipc's operators need ONNX Runtime ") + kOldestRuntime +
                                " or newer, but this is " + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  return status_of(*api, [&] { check(api->AddCustomOpDomain(options, domain_of(*api))); });
}
