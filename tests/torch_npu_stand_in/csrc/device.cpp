// A stand-in for an NPU: torch's PrivateUse1 device on host memory, so that a tensor says it is on "npu" and torch
// keeps it apart from CPU tensors, while every op is the CPU's on the same memory.
//
// It counts memory, numbers the work of streams, and records captured work for replay. It computes no faster than
// a CPU, and knows nothing of an NPU's precision or formats.
#include <torch/extension.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/dlpack.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/Device.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;
using c10::StreamId;
using torch::jit::Stack;

constexpr auto NPU = DeviceType::PrivateUse1;

int device_total() {
  const char* value = std::getenv("STAND_IN_NPUS");
  return value ? std::atoi(value) : 2;
}

thread_local DeviceIndex current_device = 0;

// ---- memory -------------------------------------------------------------------------------------------------

struct Counter {
  int64_t current = 0, peak = 0;
};
std::mutex memory_mutex;
std::map<DeviceIndex, Counter> counters;
std::map<DeviceIndex, int64_t> limits;  // bytes of a device

// Who wrote last, for the order of streams.
struct Write {
  StreamId stream = 0;
  uint64_t number = 0;
};

struct Block {
  DeviceIndex device;
  int64_t bytes;
  void* memory;        // ours, or null
  c10::Storage owner;  // or the CPU's, which an op gave
  const void* graph;   // in whose capture it was allocated, or null
  Write write;
  bool pooled = false;  // by a pluggable allocator
  bool mapped = true;   // whether anything lies at its address
};
const void* capture_here();

void count(DeviceIndex device, int64_t bytes) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  auto& counter = counters[device];
  auto limit = limits.find(device);
  if (bytes > 0 && limit != limits.end() && counter.current + bytes > limit->second) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory (stand-in). Tried to allocate ", bytes, " bytes; ",
                     counter.current, " of ", limit->second, " are in use");
  }
  counter.current += bytes;
  counter.peak = std::max(counter.peak, counter.current);
}

// What a pluggable allocator is told of: whoever allocates inside its pool gets memory that can be taken away and
// given back at the same address.
struct Pool {
  py::object told_malloc, told_free;
  bool is_open = false;
  std::map<void*, Block*> blocks;
} * const pool = new Pool;  // never destroyed: Python may be gone before

py::tuple handle_of(void* at, const Block& block) {
  auto address = reinterpret_cast<uintptr_t>(at);
  return py::make_tuple(int(block.device), block.bytes, address, address);
}

void enter_pool(void* at, Block* block) {
  py::gil_scoped_acquire gil;
  if (!pool->is_open) return;
  block->pooled = true;
  pool->blocks[at] = block;
  pool->told_malloc(handle_of(at, *block));
}

void leave_pool(Block* block) {
  if (!Py_IsInitialized()) return;
  py::gil_scoped_acquire gil;
  for (auto& [at, other] : pool->blocks) {
    if (other != block) continue;
    pool->told_free(reinterpret_cast<uintptr_t>(at));
    pool->blocks.erase(at);
    return;
  }
}

// Take a block's memory away: what lay there is lost, and reads as NaN.
void unmap(uintptr_t address) {
  auto* at = reinterpret_cast<void*>(address);
  auto* block = pool->blocks.at(at);
  TORCH_CHECK(block->mapped, "stand-in: nothing is mapped there");
  std::memset(at, 0xFF, block->bytes);
  count(block->device, -block->bytes);
  block->mapped = false;
}

void map(uintptr_t address) {
  auto* block = pool->blocks.at(reinterpret_cast<void*>(address));
  TORCH_CHECK(!block->mapped, "stand-in: memory is mapped there");
  count(block->device, block->bytes);
  block->mapped = true;
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block->pooled) leave_pool(block);
  if (block->mapped) count(block->device, -block->bytes);
  std::free(block->memory);
  delete block;
}

Block* block_of(const c10::StorageImpl* storage) {
  return static_cast<Block*>(storage->data_ptr().get_deleter() == &release ? storage->data_ptr().get_context() : nullptr);
}

struct NpuAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const Device device(NPU, current_device);
    if (bytes == 0) return {nullptr, device};
    count(current_device, static_cast<int64_t>(bytes));
    void* memory = nullptr;
    TORCH_CHECK(posix_memalign(&memory, 64, bytes) == 0, "stand-in: no host memory for ", bytes, " bytes");
    auto* block = new Block{current_device, static_cast<int64_t>(bytes), memory, {}, capture_here(), {}};
    if (pool->is_open) enter_pool(memory, block);
    return {memory, block, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* dst, const void* src, std::size_t bytes) const override { std::memcpy(dst, src, bytes); }
};
NpuAllocator allocator;
REGISTER_ALLOCATOR(NPU, &allocator);

// Page-locked host memory is ordinary memory that is remembered.
std::mutex pinned_mutex;
std::map<const char*, size_t> pinned;
struct PinnedAllocator final : c10::Allocator {
  static void free_pinned(void* memory) {
    {
      std::lock_guard<std::mutex> lock(pinned_mutex);
      pinned.erase(static_cast<const char*>(memory));
    }
    std::free(memory);
  }
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, Device(DeviceType::CPU)};
    void* memory = nullptr;
    TORCH_CHECK(posix_memalign(&memory, 64, bytes) == 0, "stand-in: no host memory");
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned[static_cast<const char*>(memory)] = bytes;
    return {memory, memory, &free_pinned, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* dst, const void* src, std::size_t bytes) const override { std::memcpy(dst, src, bytes); }
};
PinnedAllocator pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto next = pinned.upper_bound(static_cast<const char*>(data));
  if (next == pinned.begin()) return false;
  --next;
  return static_cast<const char*>(data) < next->first + next->second;
}

// ---- streams ------------------------------------------------------------------------------------------------

// What each stream has done, and knows to be done on the others: a vector clock.
using Clock = std::map<StreamId, uint64_t>;
std::recursive_mutex stream_mutex;
std::map<StreamId, Clock> clocks;
Clock host;  // what the host has waited for
StreamId last_stream = 0;
thread_local std::map<DeviceIndex, StreamId> current_streams;
std::vector<std::string> violations;

void merge(Clock& into, const Clock& from) {
  for (auto& [stream, number] : from) into[stream] = std::max(into[stream], number);
}
StreamId current_stream(DeviceIndex device) { return current_streams[device]; }

struct Event {
  StreamId stream = -1;
  Clock clock;
};

// ---- graphs -------------------------------------------------------------------------------------------------

struct Step {
  std::string name;
  c10::optional<c10::OperatorHandle> op;
  Stack arguments;
  std::vector<at::Tensor> outputs;  // fresh ones, by place among all results; undefined where one is an argument
  py::object call;                  // or a Python function; it returns whether the stream may go on
};

struct Graph {
  std::vector<Step> steps;
  std::vector<at::Tensor> written;  // until the capture ends
  std::set<StreamId> streams;  // joined into the capture
  std::thread::id thread;
  ~Graph() {
    py::gil_scoped_acquire gil;
    steps.clear();
  }
};
std::shared_ptr<Graph> capture;   // the one that is being recorded
std::map<StreamId, std::string> blocked;  // streams that wait inside a replay

bool captured_here() { return capture && capture->thread == std::this_thread::get_id(); }

const void* capture_here() { return captured_here() ? capture.get() : nullptr; }

void refuse_sync(const std::string& what) {
  TORCH_CHECK(!captured_here(), "stand-in: ", what,
              " waits for the device while a graph is captured; an NPU refuses that (stream is captured, 107030)");
}

void may_run(const std::string& name, StreamId stream) {
  auto waits = blocked.find(stream);
  TORCH_CHECK(waits == blocked.end(), "stand-in: ", name, " is put on a stream on which ", waits->second);
  if (captured_here()) {
    TORCH_CHECK(capture->streams.count(stream), "stand-in: ", name,
                " runs on a stream that isn't joined to the one that is captured");
  }
}

// ---- ops ----------------------------------------------------------------------------------------------------

bool on_npu(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == NPU; }

at::Tensor alias_on_cpu(const at::Tensor& tensor) {
  auto& storage = tensor.storage();
  c10::Storage memory(c10::Storage::use_byte_size_t(), storage.nbytes(),
                      c10::DataPtr(const_cast<void*>(storage.data()), Device(DeviceType::CPU)), c10::GetCPUAllocator(),
                      true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(std::move(memory), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                        tensor.dtype());
  auto* impl = alias.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sym_sizes(), tensor.sym_strides(), tensor.sym_storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return alias;
}

at::Tensor tensor_on(c10::Storage storage, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sym_sizes(), like.sym_strides(), like.sym_storage_offset());
  return tensor;
}

// Take over memory that the CPU allocated.
c10::DataPtr adopt(const c10::Storage& storage, DeviceIndex device) {
  auto bytes = static_cast<int64_t>(storage.nbytes());
  count(device, bytes);
  auto* block = new Block{device, bytes, nullptr, storage, capture_here(), {}};
  if (pool->is_open && bytes > 0) enter_pool(const_cast<void*>(storage.data()), block);
  return {const_cast<void*>(storage.data()), block, &release, Device(NPU, device)};
}

at::Tensor wrap(const at::Tensor& tensor, DeviceIndex device) {
  if (!tensor.defined() || tensor.device().type() != DeviceType::CPU) return tensor;
  auto& from = tensor.storage();
  c10::Storage storage(c10::Storage::use_byte_size_t(), from.nbytes(), adopt(from, device), &allocator, true);
  return tensor_on(std::move(storage), tensor);
}

struct Alias {
  at::Tensor original, cpu;
  void* memory;
};

std::string where() {
  py::gil_scoped_acquire gil;
  try {
    auto lines = py::module_::import("traceback").attr("format_stack")(py::arg("limit") = 8);
    return py::str("").attr("join")(lines).cast<std::string>();
  } catch (...) {
    return "";
  }
}

void check_order(const std::string& name, const at::Tensor& tensor, StreamId stream, bool by_host) {
  auto* block = block_of(tensor.storage().unsafeGetStorageImpl());
  if (!block || block->write.number == 0) return;
  auto& seen = by_host ? host : clocks[stream];
  if (seen[block->write.stream] < block->write.number && block->write.stream != stream) {
    std::ostringstream text;
    text << name << " on stream " << stream << " reads what stream " << block->write.stream
         << " writes, and nothing orders them\n" << where();
    violations.push_back(text.str());
    seen[block->write.stream] = block->write.number;  // told once
  }
}

// Puts an op on the current stream: what it reads must be ordered before it.
void launch(const std::string& name, DeviceIndex device, const std::vector<at::Tensor>& reads,
            const std::vector<at::Tensor>& writes) {
  std::lock_guard<std::recursive_mutex> lock(stream_mutex);
  auto stream = current_stream(device);
  may_run(name, stream);
  auto& clock = clocks[stream];
  merge(clock, host);
  for (auto& tensor : reads) check_order(name, tensor, stream, false);
  if (captured_here()) capture->written.insert(capture->written.end(), writes.begin(), writes.end());
  auto number = ++clock[stream];
  for (auto& tensor : writes) {
    if (auto* block = block_of(tensor.storage().unsafeGetStorageImpl())) block->write = {stream, number};
  }
}

const std::set<std::string> SYNCHRONOUS = {
    "aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave", "aten::is_nonzero",
    "aten::histc", "aten::_linalg_check_errors"};

// Takes CPU index tensors as torch does elsewhere.
bool takes_cpu_indices(const std::string& name) {
  return name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0;
}

void move_state(at::CPUGeneratorImpl* from, at::CPUGeneratorImpl* to) {
  to->set_engine(from->engine());
  to->set_next_float_normal_sample(from->next_float_normal_sample());
  to->set_next_double_normal_sample(from->next_double_normal_sample());
}

// Its last write is what the current stream did last.
void mark_written(const at::Tensor& tensor) {
  std::lock_guard<std::recursive_mutex> lock(stream_mutex);
  auto stream = current_stream(tensor.device().index());
  if (auto* block = block_of(tensor.storage().unsafeGetStorageImpl())) block->write = {stream, clocks[stream][stream]};
}

void run_on_cpu(const c10::OperatorHandle& op, Stack* stack, std::vector<at::Tensor>* fresh) {
  auto& schema = op.schema();
  const auto& name = schema.name();
  const auto count_of = schema.arguments().size();
  const auto begin = stack->size() - count_of;
  std::vector<Alias> aliases;
  std::vector<bool> mutated;
  std::vector<std::pair<at::Generator, at::Generator>> generators;  // of the NPU, and what computes for it
  DeviceIndex device = -1;
  const at::Tensor* foreign = nullptr;

  auto replace = [&](const at::Tensor& tensor, bool writes) -> at::Tensor {
    if (!tensor.defined()) return tensor;
    if (!on_npu(tensor)) {
      if (tensor.dim() > 0) foreign = &tensor;
      return tensor;
    }
    TORCH_CHECK(device < 0 || device == tensor.device().index() || tensor.dim() == 0,
                "Expected all tensors to be on the same device, but found at least two devices, npu:", int(device),
                " and ", tensor.device(), "! (", name, ")");
    device = tensor.device().index();
    auto cpu = alias_on_cpu(tensor);
    aliases.push_back({tensor, cpu, const_cast<void*>(cpu.storage().data())});
    mutated.push_back(writes);
    return cpu;
  };
  for (size_t i = 0; i < count_of; ++i) {
    auto& value = (*stack)[begin + i];
    const auto* info = schema.arguments()[i].alias_info();
    const bool writes = info && info->isWrite();
    if (value.isTensor()) {
      value = replace(value.toTensor(), writes);
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const at::Tensor& item : value.toTensorVector()) list.push_back(replace(item, writes));
      value = c10::List<at::Tensor>(list);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> item : value.toOptionalTensorList()) {
        if (item.has_value() && item->defined()) {
          list.push_back(replace(*item, writes));
        } else {
          list.push_back(item);
        }
      }
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == NPU) {
      if (device < 0) device = value.toDevice().has_index() ? value.toDevice().index() : current_device;
      value = Device(DeviceType::CPU);
    } else if (value.isGenerator() && value.toGenerator().device().type() == NPU) {
      // The CPU's kernels want the CPU's kind: the state goes there and back.
      auto* own = static_cast<at::CPUGeneratorImpl*>(value.toGenerator().unsafeGetGeneratorImpl());
      auto generator = at::detail::createCPUGenerator();
      move_state(own, static_cast<at::CPUGeneratorImpl*>(generator.unsafeGetGeneratorImpl()));
      generators.emplace_back(value.toGenerator(), generator);
      value = generator;
    }
  }
  if (device < 0) device = current_device;
  TORCH_CHECK(!foreign || aliases.empty() || takes_cpu_indices(name),
              "Expected all tensors to be on the same device, but found at least two devices, npu:", int(device),
              " and cpu! (", name, ")");
  if (foreign && takes_cpu_indices(name)) {
    TORCH_CHECK(aliases.empty() || on_npu(aliases[0].original), "stand-in: ", name, " of a CPU tensor by an NPU's");
  }
  {
    bool waits = SYNCHRONOUS.count(name) > 0 && !(name == "aten::repeat_interleave" && count_of > 1 && !(*stack)[begin + count_of - 1].isNone());
    if (name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_" || name == "aten::index_put") {
      for (std::optional<at::Tensor> item : (*stack)[begin + 1].toOptionalTensorList()) {
        if (item.has_value() && item->defined()) {
          waits |= item->scalar_type() == at::kBool || item->scalar_type() == at::kByte;
        }
      }
      if (foreign) waits = true;  // an index goes to the device first
    }
    if (waits) refuse_sync(name);
    std::vector<at::Tensor> reads, writes;
    for (size_t i = 0; i < aliases.size(); ++i) {
      reads.push_back(aliases[i].original);
      if (mutated[i]) writes.push_back(aliases[i].original);
    }
    launch(name, device, reads, writes);
  }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  for (auto& [own, used] : generators) {
    move_state(static_cast<at::CPUGeneratorImpl*>(used.unsafeGetGeneratorImpl()),
               static_cast<at::CPUGeneratorImpl*>(own.unsafeGetGeneratorImpl()));
  }
  // Results that an op wrote into other memory or other shapes.
  for (auto& alias : aliases) {
    auto* impl = alias.original.unsafeGetTensorImpl();
    auto& storage = alias.cpu.storage();
    if (storage.data() != alias.memory) {
      auto* own = alias.original.storage().unsafeGetStorageImpl();
      own->set_data_ptr_noswap(adopt(storage, alias.original.device().index()));
      own->set_nbytes(storage.nbytes());
    }
    if (!alias.cpu.sizes().equals(alias.original.sizes()) || !alias.cpu.strides().equals(alias.original.strides())) {
      impl->set_sizes_and_strides(alias.cpu.sizes(), alias.cpu.strides(), alias.cpu.storage_offset());
    }
  }
  auto back = [&](const at::Tensor& result) -> at::Tensor {
    if (!result.defined() || result.device().type() != DeviceType::CPU) return result;
    for (auto& alias : aliases) {
      if (result.is_same(alias.cpu)) {
        if (fresh) fresh->emplace_back();
        return alias.original;
      }
    }
    for (auto& alias : aliases) {
      if (result.storage().is_alias_of(alias.cpu.storage())) {  // a view
        if (fresh) fresh->emplace_back();
        return tensor_on(alias.original.storage(), result);
      }
    }
    auto made = wrap(result, device);
    mark_written(made);
    if (captured_here()) capture->written.push_back(made);
    if (fresh) fresh->push_back(made);
    return made;
  };
  for (auto at = stack->size() - schema.returns().size(); at < stack->size(); ++at) {
    auto& value = (*stack)[at];
    if (value.isTensor()) {
      value = back(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const at::Tensor& item : value.toTensorVector()) list.push_back(back(item));
      value = c10::List<at::Tensor>(list);
    }
  }
}

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  if (!captured_here()) {
    run_on_cpu(op, stack, nullptr);
    return;
  }
  const auto count_of = op.schema().arguments().size();
  Step step;
  step.name = op.schema().name();
  step.op = op;
  step.arguments.assign(stack->end() - static_cast<int64_t>(count_of), stack->end());
  run_on_cpu(op, stack, &step.outputs);
  capture->steps.push_back(std::move(step));
}

void copy_memory(const at::Tensor& from, const at::Tensor& to) {
  auto source = on_npu(from) ? alias_on_cpu(from) : from;
  auto target = on_npu(to) ? alias_on_cpu(to) : to;
  at::AutoDispatchBelowADInplaceOrView guard;
  target.copy_(source);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const auto device = on_npu(from) ? from.device().index() : to.device().index();
  auto& on_host = on_npu(from) ? to : from;
  if (on_npu(from) != on_npu(to) && !(non_blocking && is_pinned(on_host.storage().data()))) {
    if (on_host.numel() > 0) refuse_sync(on_npu(from) ? "a copy to the host" : "a copy from the host");
  }
  std::vector<at::Tensor> reads, writes;
  if (on_npu(from)) reads.push_back(from);
  if (on_npu(to)) writes.push_back(to);
  launch("aten::copy_", device, reads, writes);
  copy_memory(from, to);
  if (captured_here()) {
    py::gil_scoped_acquire gil;
    Step step;
    step.name = "aten::copy_";
    step.call = py::cpp_function([from, to, device, reads, writes]() {
      launch("aten::copy_", device, reads, writes);
      copy_memory(from, to);
      return true;
    });
    capture->steps.push_back(std::move(step));
  }
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Tensor empty_memory_format(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                               std::optional<Device> device, std::optional<bool>,
                               std::optional<at::MemoryFormat> format) {
  const auto index = device.has_value() && device->has_index() ? device->index() : current_device;
  const auto before = current_device;
  current_device = index;
  auto result = at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                          c10::dtype_or_default(dtype), format);
  current_device = before;
  return result;
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  const auto index = device.has_value() && device->has_index() ? device->index() : current_device;
  const auto before = current_device;
  current_device = index;
  auto result = at::detail::empty_strided_generic(size, stride, &allocator,
                                                  c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                  c10::dtype_or_default(dtype));
  current_device = before;
  return result;
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           offset.has_value() ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}
at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}
at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}
at::Tensor& set_source(at::Tensor& self, at::Storage source) { return at::native::set_(self, source); }
at::Tensor& set_source_offset(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                              c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}
at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) { return at::native::set_tensor_(self, source); }
void record_stream(at::Tensor&, Stream) {}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty_memory_format);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage", &set_source);
  m.impl("set_.source_Storage_storage_offset", &set_source_offset);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("record_stream", &record_stream);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// ---- devices, streams and events for torch ------------------------------------------------------------------

void synchronize_stream(StreamId stream) {
  refuse_sync("a synchronisation");
  std::lock_guard<std::recursive_mutex> lock(stream_mutex);
  auto waits = blocked.find(stream);
  TORCH_CHECK(waits == blocked.end(), "stand-in: the host waits for a stream on which ", waits->second);
  merge(host, clocks[stream]);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return NPU; }
  Device exchangeDevice(Device device) const override {
    Device before(NPU, current_device);
    current_device = device.index();
    return before;
  }
  Device getDevice() const override { return {NPU, current_device}; }
  void setDevice(Device device) const override { current_device = device.index() < 0 ? current_device : device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current_device = device.index();
  }
  Stream getStream(Device device) const override {
    auto index = device.has_index() ? device.index() : current_device;
    return Stream(Stream::UNSAFE, Device(NPU, index), current_stream(index));
  }
  Stream getDefaultStream(Device device) const override {
    return Stream(Stream::UNSAFE, Device(NPU, device.has_index() ? device.index() : current_device), 0);
  }
  Stream getNewStream(Device device, int) const override {
    std::lock_guard<std::recursive_mutex> lock(stream_mutex);
    return Stream(Stream::UNSAFE, Device(NPU, device.has_index() ? device.index() : current_device), ++last_stream);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getNewStream(device, 0); }
  Stream exchangeStream(Stream stream) const override {
    auto before = getStream(stream.device());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const Stream stream) const override { return reinterpret_cast<void*>(stream.id() + 1); }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(device_total()); }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard<std::recursive_mutex> lock(stream_mutex);
    if (!*event) *event = new Event;
    auto* it = static_cast<Event*>(*event);
    it->stream = stream.id();
    it->clock = clocks[stream.id()];
  }
  void block(void* event, const Stream& stream) const override {
    if (!event) return;
    std::lock_guard<std::recursive_mutex> lock(stream_mutex);
    auto* it = static_cast<Event*>(event);
    merge(clocks[stream.id()], it->clock);
    if (captured_here() && capture->streams.count(it->stream)) capture->streams.insert(stream.id());
  }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream& stream) const override { synchronize_stream(stream.id()); }
  bool isStreamCapturing(const Stream& stream) const override {
    return capture && capture->streams.count(stream.id()) > 0;
  }
  void synchronizeEvent(void* event) const override {
    refuse_sync("waiting for an event");
    if (!event) return;
    std::lock_guard<std::recursive_mutex> lock(stream_mutex);
    merge(host, static_cast<Event*>(event)->clock);
  }
  void synchronizeDevice(const DeviceIndex) const override {
    std::vector<StreamId> all;
    for (auto& [stream, clock] : clocks) all.push_back(stream);
    refuse_sync("a synchronisation");
    for (auto stream : all) synchronize_stream(stream);
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0.0; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(DeviceIndex index) {
    device_ = Device(NPU, index);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(device_total()); }
  void setCurrentDevice(DeviceIndex index) const override { current_device = index; }
  DeviceIndex getCurrentDevice() const override { return current_device; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return std::exchange(current_device, index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Device getDeviceFromPtr(void*) const override { return {NPU, current_device}; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    static std::vector<at::Generator> all = [] {
      std::vector<at::Generator> made;
      for (int i = 0; i < device_total(); ++i) made.push_back(at::make_generator<Generator>(i));
      return made;
    }();
    return all[index < 0 ? current_device : index];
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? current_device : index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    const auto before = current_device;
    current_device = impl->device().index();
    auto memory = allocator.allocate(bytes);
    current_device = before;
    if (impl->data() && memory.get()) std::memcpy(memory.get(), impl->data(), std::min(bytes, impl->nbytes()));
    impl->set_data_ptr_noswap(std::move(memory));
    impl->set_nbytes(bytes);
  }
};

// ---- Python -------------------------------------------------------------------------------------------------

int64_t replay_from(Graph& graph, int64_t at) {
  for (; at < static_cast<int64_t>(graph.steps.size()); ++at) {
    auto& step = graph.steps[at];
    if (step.call) {
      if (!step.call().cast<bool>()) return at;
      continue;
    }
    Stack stack = step.arguments;
    std::vector<at::Tensor> made;
    run_on_cpu(*step.op, &stack, &made);
    TORCH_CHECK(made.size() == step.outputs.size(), "stand-in: ", step.name, " gave other results in a replay");
    for (size_t i = 0; i < made.size(); ++i) {
      if (!step.outputs[i].defined()) continue;
      TORCH_CHECK(made[i].sizes().equals(step.outputs[i].sizes()), "stand-in: ", step.name,
                  " gave another shape in a replay");
      copy_memory(made[i], step.outputs[i]);
      mark_written(step.outputs[i]);
    }
  }
  return at;
}

// Nothing is computed while an NPU records: whoever uses what was captured gets rubbish there, and here.
void spoil(Graph& graph) {
  for (auto& tensor : graph.written) {
    auto* block = block_of(tensor.storage().unsafeGetStorageImpl());
    if (block && block->graph == &graph && tensor.is_floating_point()) alias_on_cpu(tensor).fill_(NAN);
  }
  graph.written.clear();
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);

  m.def("device_count", &device_total);
  m.def("current_device", [] { return int(current_device); });
  m.def("set_device", [](int index) {
    TORCH_CHECK(index >= 0 && index < device_total(), "stand-in: there is no npu:", index);
    current_device = static_cast<DeviceIndex>(index);
  });
  m.def("set_limit", [](int index, int64_t bytes) { limits[index] = bytes; });
  m.def("memory", [](int index) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    return std::pair(counters[index].current, counters[index].peak);
  });
  m.def("plug_in", [](py::object told_malloc, py::object told_free) {
    pool->told_malloc = std::move(told_malloc);
    pool->told_free = std::move(told_free);
  });
  m.def("open_pool", [](bool open) {
    TORCH_CHECK(!open || pool->told_malloc, "stand-in: no allocator is plugged in");
    pool->is_open = open;
  });
  m.def("unmap", &unmap);
  m.def("map", &map);
  m.def("take", [](int index, int64_t bytes) { count(index, bytes); });
  m.def("reset_peak", [](int index) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    counters[index].peak = counters[index].current;
  });
  m.def("default_generator", [](int index) { return hooks.getDefaultGenerator(index); });
  // The same memory as a CPU tensor, for ops of the stand-in.
  m.def("alias_on_cpu", &alias_on_cpu);
  m.def("wrap", [](const at::Tensor& tensor, int device) { return wrap(tensor, device); });
  // A tensor of the same memory that doesn't keep it alive.
  m.def("weak", [](const at::Tensor& tensor) {
    auto& storage = tensor.storage();
    c10::Storage memory(c10::Storage::use_byte_size_t(), storage.nbytes(),
                        c10::DataPtr(const_cast<void*>(storage.data()), tensor.device()), &allocator, false);
    return tensor_on(std::move(memory), tensor);
  });
  m.def("launch", [](const std::string& name, int device, const std::vector<at::Tensor>& reads,
                     const std::vector<at::Tensor>& writes) { launch(name, device, reads, writes); });
  // A library without streams of torch's reads it: the host must have waited for what writes it.
  m.def("read_by_host", [](const std::string& name, const at::Tensor& tensor) {
    std::lock_guard<std::recursive_mutex> lock(stream_mutex);
    if (on_npu(tensor)) check_order(name, tensor, -1, true);
  });
  // Says of a DLPack capsule on host memory that it is an NPU's, or a CPU's.
  m.def("retag", [](py::object capsule, bool npu) {
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (!managed) throw py::error_already_set();
    TORCH_CHECK(managed->dl_tensor.device.device_type == (npu ? kDLCPU : kDLExtDev),
                "stand-in: a DLPack capsule of device type ", int(managed->dl_tensor.device.device_type));
    managed->dl_tensor.device.device_type = npu ? kDLExtDev : kDLCPU;
    managed->dl_tensor.device.device_id = npu ? current_device : 0;
    return capsule;
  });
  m.def("mark_written", &mark_written);
  m.def("refuse_sync", &refuse_sync);
  m.def("violations", [] { return violations; });
  m.def("clear_violations", [] { violations.clear(); });
  m.def("block_stream", [](int64_t stream, const std::string& why) { blocked[stream] = why; });
  m.def("unblock_stream", [](int64_t stream) { blocked.erase(stream); });

  py::class_<Graph, std::shared_ptr<Graph>>(m, "Graph")
      .def(py::init<>())
      .def("begin", [](std::shared_ptr<Graph> graph, int64_t stream) {
        TORCH_CHECK(!capture, "stand-in: a graph is being captured already");
        TORCH_CHECK(graph->steps.empty(), "stand-in: this graph was captured before");
        graph->streams = {stream};
        graph->thread = std::this_thread::get_id();
        capture = graph;
      })
      .def("end", [](Graph& graph) {
        capture.reset();
        spoil(graph);
      })
      .def("abort", [](Graph& graph) {
        capture.reset();
        graph.steps.clear();
      })
      .def("add", [](Graph& graph, const std::string& name, py::object call, std::vector<at::Tensor> outputs) {
        Step step;
        step.name = name;
        step.call = std::move(call);
        graph.written.insert(graph.written.end(), outputs.begin(), outputs.end());
        step.outputs = std::move(outputs);
        graph.steps.push_back(std::move(step));
        return graph.steps.size() - 1;
      })
      .def("set_call", [](Graph& graph, size_t at, py::object call) { graph.steps.at(at).call = std::move(call); })
      .def("names", [](Graph& graph) {
        std::vector<std::string> names;
        for (auto& step : graph.steps) names.push_back(step.name);
        return names;
      })
      .def("reset", [](Graph& graph) { graph.steps.clear(); })
      .def("replay_from", &replay_from);
  m.def("capturing", []() -> std::shared_ptr<Graph> { return captured_here() ? capture : nullptr; });
}
