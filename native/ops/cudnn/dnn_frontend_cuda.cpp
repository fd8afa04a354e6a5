#include "ops/cudnn/dnn_frontend_cuda.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "device/cuda/measure_cuda.h"

namespace ddad {
namespace {

constexpr int64_t kMostWorkspace = int64_t{512} << 20;  // bytes: engines that want more are not considered
constexpr int kMostCandidates = 8;
constexpr double kBuildSeconds = 0.4;  // for the candidates of one graph; at least two are built
constexpr int kLeastCandidates = 2;

/// An engine of a graph that was built.
struct Candidate {
  int64_t plan;
  int64_t workspaceBytes;
  std::string name;
  int64_t microseconds = 0;  // 0: not measured
};

class CompiledGraph : public DnnGraph {
 public:
  CompiledGraph(FrontendGraph graph, const Candidate& chosen, std::string key)
      : graph_(std::move(graph)), plan_(chosen.plan) {
    key_ = std::move(key);
    workspaceBytes_ = chosen.workspaceBytes;
    microseconds_ = chosen.microseconds;
    engine_ = chosen.name;
  }

  void run(const CudaDevice& device, const std::vector<DnnOperand>& operands, float* workspace) const override {
    device.stream();  // makes the GPU current
    std::unordered_map<int64_t, void*> pack;
    for (const DnnOperand& operand : operands) pack.emplace(operand.id, const_cast<void*>(operand.data));
    auto status = graph_->execute_plan_at_index(device.cudnn(), pack, alignedWorkspace(workspace), plan_);
    if (status.is_bad())
      throw Error("ERR_DEVICE", "cuDNN could not run " + key_ + " with " + engine_ + ": " + status.get_message());
  }

 private:
  FrontendGraph graph_;
  int64_t plan_;
};

/// Of a graph whose engine nobody needs: without scratch, since that is the engine's.
class LayoutOnlyGraph : public DnnGraph {
 public:
  explicit LayoutOnlyGraph(std::string key) { key_ = std::move(key); }
  void run(const CudaDevice&, const std::vector<DnnOperand>&, float*) const override {
    throw Error("ERR_INTERNAL", key_ + " was made for its memory alone");
  }
};

std::string nameOf(const fe::graph::Graph& graph, int64_t plan) {
  std::string name;
  return graph.get_plan_name_at_index(plan, name).is_good() ? name : std::string();
}

/// Nothing where the engine is barred, needs too much scratch or does not build.
std::optional<Candidate> build(fe::graph::Graph& graph, int64_t plan) {
  if (graph.build_plan_at_index(plan).is_bad()) return std::nullopt;
  int64_t bytes = 0;
  if (graph.get_workspace_size_plan_at_index(plan, bytes).is_bad() || bytes > kMostWorkspace) return std::nullopt;
  return Candidate{plan, bytes, nameOf(graph, plan), 0};
}

std::vector<Candidate> buildSome(fe::graph::Graph& graph, int most) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::vector<Candidate> built;
  for (int64_t plan = 0; plan < graph.get_execution_plan_count() && static_cast<int>(built.size()) < most; ++plan) {
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (static_cast<int>(built.size()) >= kLeastCandidates && seconds > kBuildSeconds) break;
    if (auto candidate = build(graph, plan)) built.push_back(std::move(*candidate));
  }
  return built;
}

/// Notes how long each candidate takes, and moves the fastest to the front.
void sortByTime(const CudaDevice& device, const fe::graph::Graph& graph, const DnnRequest& request,
                std::vector<Candidate>& candidates) {
  int64_t bytes = 0, scratch = 0;
  for (const auto& [id, size] : request.tensors) bytes += (size + 255) / 256 * 256;
  for (const Candidate& candidate : candidates) scratch = std::max(scratch, candidate.workspaceBytes);
  const TrialMemory memory(device, bytes + scratch);
  if (!memory.data()) return;
  std::unordered_map<int64_t, void*> pack;
  char* at = memory.data();
  for (const auto& [id, size] : request.tensors) {
    pack.emplace(id, at);
    at += (size + 255) / 256 * 256;
  }
  std::vector<std::pair<float, Candidate>> timed;
  float shortest = std::numeric_limits<float>::infinity();
  for (Candidate& candidate : candidates) {
    const float milliseconds = measure(
        device,
        [&] {
          std::unordered_map<int64_t, void*> operands = pack;
          return graph.execute_plan_at_index(device.cudnn(), operands, at, candidate.plan).is_good();
        },
        shortest);
    shortest = std::min(shortest, milliseconds);
    if (milliseconds < std::numeric_limits<float>::infinity())
      candidate.microseconds = std::max<int64_t>(1, std::lround(1000.0f * milliseconds));
    timed.emplace_back(milliseconds, candidate);
  }
  std::stable_sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < timed.size(); ++i) candidates[i] = timed[i].second;
}

/// A choice as the table keeps it: the engine's name and what was measured.
std::string textOf(const Candidate& candidate) {
  return candidate.name + " in " + std::to_string(candidate.microseconds) + " us";
}

/// The engine that such a text names, built; nothing where there is none any more.
std::optional<Candidate> fromText(fe::graph::Graph& graph, const std::string& text) {
  const size_t end = text.rfind(" in ");
  if (end == std::string::npos) return std::nullopt;
  const std::string name = text.substr(0, end);
  for (int64_t plan = 0; plan < graph.get_execution_plan_count(); ++plan)
    if (nameOf(graph, plan) == name)
      if (auto candidate = build(graph, plan)) {
        candidate->microseconds = std::strtoll(text.c_str() + end + 4, nullptr, 10);
        return candidate;
      }
  return std::nullopt;
}

/// The candidate that the table of choices names, else the fastest, which the table is told.
std::optional<Candidate> choose(const CudaDevice& device, fe::graph::Graph& graph, const DnnRequest& request) {
  Choices* const choices = device.recording() ? nullptr : device.choices();
  if (!choices) {
    auto built = buildSome(graph, 1);
    return built.empty() ? std::nullopt : std::optional<Candidate>(built.front());
  }
  const std::string key = "cudnn " + request.key;
  if (const auto chosen = choices->find(key))
    if (auto candidate = fromText(graph, *chosen)) return candidate;
  auto built = buildSome(graph, kMostCandidates);
  if (built.empty()) return std::nullopt;
  sortByTime(device, graph, request, built);
  // Another process may have been first: then its choice holds, so that all of them compute the same.
  if (const auto kept = choices->keep(key, textOf(built.front())); kept && *kept != textOf(built.front()))
    if (auto candidate = fromText(graph, *kept)) return candidate;
  return built.front();
}

std::shared_ptr<const DnnGraph> compile(const CudaDevice& device, const DnnRequest& request, std::string& why) {
  // Engines whose sums depend on the order of threads are a last resort.
  for (const bool deterministic : {true, false}) {
    const FrontendGraph graph = request.make();
    if (!graph) {
      why = "the graph cannot be expressed";
      return nullptr;
    }
    why = proposeEngines(*graph, device.cudnn(), request.math, deterministic);
    if (!why.empty()) continue;
    if (const auto chosen = choose(device, *graph, request))
      return std::make_shared<CompiledGraph>(graph, *chosen, request.key);
    why = "none of its engines could be built";
  }
  return nullptr;
}

}  // namespace

std::string proposeEngines(fe::graph::Graph& graph, cudnnHandle_t handle, DnnMath math, bool deterministic) {
  using Note = fe::NumericalNote_t;
  auto status = graph.validate();
  // without a handle the graph has been told the properties of a device
  if (status.is_good()) status = handle ? graph.build_operation_graph(handle) : graph.build_operation_graph();
  if (status.is_good()) status = graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
  if (status.is_bad()) return status.get_message();
  if (deterministic) graph.deselect_numeric_notes({Note::NONDETERMINISTIC});
  if (math == DnnMath::kFloat32)
    graph.deselect_numeric_notes(
        {Note::TENSOR_CORE, Note::DOWN_CONVERT_INPUTS, Note::REDUCED_PRECISION_REDUCTION, Note::FFT, Note::WINOGRAD});
  graph.deselect_workspace_greater_than(kMostWorkspace);
  status = graph.check_support();
  return status.is_bad() ? status.get_message() : std::string();
}

std::shared_ptr<const DnnGraph> compileGraph(const CudaDevice& device, const DnnRequest& request, std::string* why) {
  struct Entry {
    std::shared_ptr<const DnnGraph> graph;
    std::string why;
  };
  if (request.layoutOnly) return std::make_shared<LayoutOnlyGraph>(request.key);
  // Never destroyed: while the process exits, a thread may still be compiling.
  static auto& mutex = *new std::mutex;
  static auto& cache = *new std::map<std::string, Entry>;
  device.stream();  // makes the GPU current
  int ordinal = 0;
  checkCuda(cudaGetDevice(&ordinal), "asking for the current GPU");
  const std::string key = std::to_string(ordinal) + " " + std::to_string(reinterpret_cast<uintptr_t>(device.cudnn())) +
                          (device.choices() ? " measured " : " first ") + request.key;
  const std::lock_guard<std::mutex> guard(mutex);
  auto found = cache.find(key);
  if (found == cache.end()) {
    Entry entry;
    entry.graph = compile(device, request, entry.why);
    found = cache.emplace(key, std::move(entry)).first;
  }
  if (why) *why = found->second.why;
  return found->second.graph;
}

}  // namespace ddad
