#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "device/cuda/probe_cuda.h"

using Work = std::function<void()>;

struct EmulatedGraph {
  std::vector<Work> work;
};

/// A place in a stream's work; before all of it until it is recorded.
struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  size_t place = 0;
};

struct EmulatedStream {
  struct Entry {
    Work work;            // or none:
    EmulatedEvent after;  // nothing happens before what this names is done
  };
  std::deque<Entry> waiting;
  size_t done = 0;
  EmulatedGraph* recorded = nullptr;

  size_t enqueued() const { return done + waiting.size(); }
  void enqueue(Entry entry) { waiting.push_back(std::move(entry)); }
};

namespace {

constexpr int kGpus = 2;
constexpr size_t kSoiled = 16 << 20;

struct Block {
  size_t bytes;
  int gpu;
};

/// All that the GPUs have; never destroyed, as memory is given back until the last moment. Work is done under its lock.
struct Gpus {
  std::mutex mutex;
  std::map<char*, Block> blocks;
  size_t used[kGpus] = {};
  long waits = 0;
  bool dead = false;
};

Gpus& gpus() {
  static auto* const instance = new Gpus;
  return *instance;
}

thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;

/// A number of the environment.
size_t number(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

size_t memoryOfGpu() { return number("DDAD_EMULATED_GPU_MEMORY", size_t{4} << 30); }

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

size_t pages(size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

/// The GPUs' memory is there for their work alone: whoever else touches it ends with a signal.
class Access {
 public:
  Access() { protect(PROT_READ | PROT_WRITE); }
  ~Access() { protect(PROT_NONE); }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

 private:
  static void protect(int how) {
    for (const auto& [memory, block] : gpus().blocks) mprotect(memory, pages(block.bytes), how);
  }
};

std::vector<EmulatedStream*>& streams() {
  static auto* const all = new std::vector<EmulatedStream*>;
  return *all;
}

bool isDone(const EmulatedEvent& event) { return !event.stream || event.stream->done >= event.place; }

/// Does what waits in the stream up to a place, in its order, and of other streams what that needs.
void finish(EmulatedStream& stream, size_t place) {
  while (stream.done < place) {
    const EmulatedStream::Entry entry = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    if (entry.work)
      entry.work();  // does not enqueue work
    else if (!isDone(entry.after))
      finish(*entry.after.stream, entry.after.place);
    ++stream.done;
  }
}

/// The same in the other order that a GPU may choose: first all that the other streams can do by themselves.
void finishOthersFirst(EmulatedStream& stream, size_t place) {
  for (EmulatedStream* other : streams())
    while (other != &stream && !other->waiting.empty() &&
           (other->waiting.front().work || isDone(other->waiting.front().after)))
      finish(*other, other->done + 1);
  finish(stream, place);
}

void finishUntil(const EmulatedEvent& event) {
  if (isDone(event)) return;
  const Access access;
  (number("DDAD_EMULATED_GPU_EARLY", 0) ? finishOthersFirst : finish)(*event.stream, event.place);
}
void finish(EmulatedStream& stream) { finishUntil({&stream, stream.enqueued()}); }

cudaError_t enqueued(cudaStream_t stream, Work work) {
  if (gpus().dead) return answer(cudaErrorLaunchFailure);
  emulated::enqueue(stream, std::move(work));
  return cudaSuccess;
}

}  // namespace

void emulated::enqueue(cudaStream_t stream, Work work) {
  const std::lock_guard lock(gpus().mutex);
  if (stream->recorded)
    stream->recorded->work.push_back(std::move(work));
  else
    stream->enqueue({std::move(work), {}});
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kGpus;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kGpus) return answer(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "Emulated GPU");
  properties->totalGlobalMem = memoryOfGpu();
  properties->major = 9;
  properties->multiProcessorCount = 2;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kGpus) return answer(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(gpus().mutex);
  *total = memoryOfGpu();
  *free = *total - std::min(*total, gpus().used[current]);
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    default:
      return "cudaError";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorLaunchFailure  ? "unspecified launch failure"
                                            : "an error";
}

cudaError_t cudaGetLastError() {
  // That the work of a GPU failed is told for as long as the process lives.
  return gpus().dead ? cudaErrorLaunchFailure : std::exchange(last, cudaSuccess);
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const std::lock_guard lock(gpus().mutex);
  if (gpus().dead) return answer(cudaErrorLaunchFailure);
  if (bytes > memoryOfGpu() - std::min(memoryOfGpu(), gpus().used[current])) return answer(cudaErrorMemoryAllocation);
  void* const block = mmap(nullptr, pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return answer(cudaErrorMemoryAllocation);
  // Fresh memory of a GPU is not zeroed; here the first part of it holds NaN.
  mprotect(block, pages(bytes), PROT_READ | PROT_WRITE);
  std::memset(block, 0xff, std::min(bytes, kSoiled));
  mprotect(block, pages(bytes), PROT_NONE);
  gpus().blocks.emplace(static_cast<char*>(block), Block{bytes, current});
  gpus().used[current] += bytes;
  *memory = block;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  const std::lock_guard lock(gpus().mutex);
  const auto found = gpus().blocks.find(static_cast<char*>(memory));
  if (found == gpus().blocks.end()) return answer(cudaErrorInvalidValue);
  for (EmulatedStream* stream : streams()) finish(*stream);
  munmap(memory, pages(found->second.bytes));
  gpus().used[found->second.gpu] -= found->second.bytes;
  gpus().blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return *memory ? cudaSuccess : answer(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return enqueued(stream, [=] { std::memmove(to, from, bytes); });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return enqueued(stream, [=] {
    const size_t whole = bytes - bytes % static_cast<size_t>(sysconf(_SC_PAGESIZE));
    // Pages that are taken away come back as zeros when they are touched, which most of a large block never is.
    const bool taken =
        value == 0 && gpus().blocks.contains(static_cast<char*>(to)) && madvise(to, whole, MADV_DONTNEED) == 0;
    const size_t done = taken ? whole : 0;
    std::memset(static_cast<char*>(to) + done, value, bytes - done);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  const std::lock_guard lock(gpus().mutex);
  streams().push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(gpus().mutex);
  finish(*stream);
  std::erase(streams(), stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(gpus().mutex);
  if (stream->recorded) return answer(cudaErrorStreamCaptureUnsupported);
  const size_t dies = number("DDAD_EMULATED_GPU_DIES_AT", 0);
  if (dies > 0 && static_cast<size_t>(++gpus().waits) >= dies) gpus().dead = true;
  if (gpus().dead) {
    stream->done = stream->enqueued();
    stream->waiting.clear();
    return answer(cudaErrorLaunchFailure);
  }
  finish(*stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(gpus().mutex);
  if (gpus().dead) return answer(cudaErrorLaunchFailure);
  if (stream->recorded) return answer(cudaErrorStreamCaptureUnsupported);
  *event = {stream, stream->enqueued()};
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(gpus().mutex);
  if (gpus().dead) return answer(cudaErrorLaunchFailure);
  finishUntil(*event);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(gpus().mutex);
  if (gpus().dead) return answer(cudaErrorLaunchFailure);
  if (stream->recorded) return answer(cudaErrorStreamCaptureUnsupported);
  stream->enqueue({nullptr, *event});
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(gpus().mutex);
  stream->recorded = new EmulatedGraph;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(gpus().mutex);
  *graph = std::exchange(stream->recorded, nullptr);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const Work& work : executable->work)
    if (const cudaError_t error = enqueued(stream, work); error != cudaSuccess) return error;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }

namespace ddad {

cudaError_t probeKernel() { return cudaSuccess; }

}  // namespace ddad
