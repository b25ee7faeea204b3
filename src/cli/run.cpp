// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kmoe run: the tokens of a file through one MoE layer, in batches of bounded memory.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <utility>

#include <kmoe/io/npy.hpp>

#include "cli/commands.hpp"
#include "cli/layer_setup.hpp"
#include "cli/pending_file.hpp"
#include "cli/progress.hpp"
#include "cli/report.hpp"
#include "cli/routing_file.hpp"

namespace kmoe::cli {
namespace {

/// Bytes of tokens, and again of results, that a rank holds at once.
constexpr offset_t batch_bytes = offset_t{64} << 20;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The input file; without --tensor the only tensor, or the one named after the module.
io::MatrixFile open_input(Options const& options, io::MoeBlock const& block) {
  std::string name = options.tensor;
  if (name.empty() && std::filesystem::path(options.input).extension() == ".safetensors") {
    io::TensorStore const store(options.input);
    if (store.tensors().size() > 1 && store.find(block.module + ".input") != nullptr) {
      name = block.module + ".input";
    }
  }
  auto input = io::open_matrix(options.input, name);
  if (input.cols != block.config.hidden_size) {
    throw IoError(input.name + ": the last dimension must be hidden_size " +
                  std::to_string(block.config.hidden_size) + ", found " +
                  std::to_string(input.cols));
  }
  return input;
}

/// Rank 0 creates the file, all ranks learn where its rows lie. Collective.
io::MatrixOutput create_output(Communicator const& comm, std::filesystem::path const& path,
                               DataType dtype, io::MatrixFile const& input,
                               std::string const& tensor) {
  io::MatrixOutput file{path, dtype, input.rows, input.cols, 0};
  agree(comm, [&] {
    if (comm.rank() == 0) file = io::create_matrix(path, dtype, input.rows, input.cols, tensor);
  });
  std::array<offset_t, 2> facts{static_cast<offset_t>(file.dtype),
                                static_cast<offset_t>(file.data_offset)};
  if (comm.rank() != 0) facts = {};
  comm.all_reduce_max(facts);
  file.dtype = static_cast<DataType>(facts[0]);
  file.data_offset = static_cast<std::uint64_t>(facts[1]);
  return file;
}

/// A batch of rows of T on the device and on the host, which may be the same memory.
template <Element T>
struct Batch {
  Batch(std::string const& label, std::size_t rows, std::size_t cols)
      : device(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), rows, cols),
        host(Kokkos::create_mirror_view(Kokkos::HostSpace(), device)) {}

  template <class View>
  static View first(View const& view, std::size_t rows) {
    return Kokkos::subview(view, std::pair(std::size_t{0}, rows), Kokkos::ALL);
  }

  Matrix<T, Space> device;
  io::HostMatrix<T> host;
};

template <Element T>
void run_layer(Communicator const& comm, MoeLayer<Space, T>& layer, io::MatrixFile const& input,
               io::MatrixOutput const& output, TokenSplit const& split, index_t batch_tokens,
               Progress& progress, RunReport& report, double& forward_seconds,
               RoutingRecord* record) {
  Space const exec;
  offset_t const begin = split.first(comm.rank());
  offset_t const end = begin + split.count(comm.rank());
  bool const writes = split.layout == TokenLayout::data_parallel || comm.rank() == 0;
  auto const cols = static_cast<std::size_t>(input.cols);
  std::optional<Batch<T>> x;
  std::optional<Batch<T>> y;
  Routing<Space> routing;
  agree(comm, [&] {
    auto const rows = static_cast<std::size_t>(std::min<offset_t>(batch_tokens, end - begin));
    x.emplace("kmoe::cli::input", rows, cols);
    y.emplace("kmoe::cli::output", rows, cols);
    if (record == nullptr) return;
    auto const slots = static_cast<std::size_t>(layer.config().slots_per_token());
    routing.topk_ids = Matrix<index_t, Space>("kmoe::cli::topk_ids", rows, slots);
    routing.topk_weights = Matrix<float, Space>("kmoe::cli::topk_weights", rows, slots);
  });
  for (offset_t done = 0; done < split.largest(); done += batch_tokens) {
    offset_t const first = std::min(begin + done, end);
    auto const rows = static_cast<std::size_t>(std::min<offset_t>(batch_tokens, end - first));
    auto const x_device = Batch<T>::first(x->device, rows);
    auto const y_device = Batch<T>::first(y->device, rows);
    auto start = Clock::now();
    agree(comm, [&] {
      auto const x_host = Batch<T>::first(x->host, rows);
      io::read_rows<T>(input, first, x_host);
      Kokkos::deep_copy(exec, x_device, x_host);
      exec.fence("kmoe::cli::read");
    });
    report.read_seconds += seconds_since(std::exchange(start, Clock::now()));
    if (record == nullptr) {
      layer.forward(exec, x_device, y_device);
    } else {
      Routing<Space> const found{Batch<T>::first(routing.topk_ids, rows),
                                 Batch<T>::first(routing.topk_weights, rows)};
      agree(comm, [&] {
        layer.route(exec, x_device, found);
        record->add(exec, found);
      });
      layer.forward_routed(exec, x_device, found, y_device);
    }
    exec.fence("kmoe::cli::forward");
    forward_seconds += seconds_since(std::exchange(start, Clock::now()));
    agree(comm, [&] {
      if (!writes || rows == 0) return;
      auto const y_host = Batch<T>::first(y->host, rows);
      Kokkos::deep_copy(exec, y_host, y_device);
      exec.fence("kmoe::cli::write");
      io::write_rows<T>(output, first, y_host);
    });
    report.write_seconds += seconds_since(start);
    progress.update(std::min(done + batch_tokens, split.largest()), split.largest());
  }
}

void warn_of_bad_rows(RunReport const& report) {
  offset_t bad = 0;
  for (auto const& rank : report.ranks) bad += rank.rows_with_nan + rank.rows_with_inf;
  if (bad == 0) return;
  std::fprintf(stderr, "kmoe: warning: %lld tokens had NaN or infinite router logits\n",
               static_cast<long long>(bad));
}

}  // namespace

int run(Communicator const& comm, Options const& options) {
  auto const start = Clock::now();
  bool const is_root = comm.rank() == 0;
  auto const& how = options.layer_options;
  auto const checkpoint = open_checkpoint(comm, how.model);
  io::MoeBlock const* block = nullptr;
  io::MatrixFile input;
  std::optional<PendingFile> output;
  std::optional<PendingFile> json;
  std::optional<PendingFile> plot;
  std::optional<PendingFile> recorded;
  agree(comm, [&] {
    block = &checkpoint.block(*options.layer);
    input = open_input(options, *block);
    if (!is_root) return;
    output.emplace(options.output);
    if (!options.report.empty()) json.emplace(options.report);
    if (!options.plot.empty()) plot.emplace(options.plot);
    if (!options.record_routing.empty()) recorded.emplace(options.record_routing);
  });
  auto const split = make_split(how, "even", comm.size(), input.rows);

  RunReport report;
  report.model_type = checkpoint.model_type();
  report.module = block->module;
  report.input = options.input;
  report.output = options.output;
  report.dtype = to_string(how.dtype);
  report.tokens = input.rows;

  with_element(how.dtype, [&]<class T>() {
    auto const row_bytes = input.cols * static_cast<offset_t>(sizeof(T));
    auto const batch = static_cast<index_t>(
        std::clamp<offset_t>(batch_bytes / row_bytes, 1, std::max<offset_t>(split.largest(), 1)));
    auto layer = build_layer<T>(Space(), comm, checkpoint, *block, how, split.layout, batch);
    bool const wants_report = !options.quiet || !options.report.empty() || !options.plot.empty();
    layer.set_profiling(wants_report);
    report.config = layer.config();
    auto const hosts = layer.placement().rank_of_expert();
    report.rank_of_expert.assign(hosts.begin(), hosts.end());
    Progress progress(is_root && !options.quiet);
    progress.announce("workspace " + std::to_string(layer.workspace_bytes()) + " bytes, weights " +
                      std::to_string(layer.weight_bytes()) + " bytes on rank 0");
    auto const file = create_output(comm, PendingFile::pending_name(options.output), how.dtype,
                                    input, block->module + ".output");
    double forward_seconds = 0;
    RoutingRecord record;
    bool const records = !options.record_routing.empty();
    run_layer<T>(comm, layer, input, file, split, batch, progress, report, forward_seconds,
                 records ? &record : nullptr);
    if (records) {
      record.write(comm, PendingFile::pending_name(options.record_routing), layer.config());
    }
    auto mine = make_rank_report(layer.report(), layer.placement(), comm.rank(),
                                 layer.workspace_bytes(), layer.weight_bytes());
    mine.forward_seconds = forward_seconds;
    report.ranks = gather_reports(comm, mine);
  });
  report.total_seconds = seconds_since(start);

  agree(comm, [&] {
    if (!is_root) return;
    output->commit();
    if (json) json->commit(to_json(report));
    if (plot) plot->commit(to_svg(make_load_map(report)));
    if (recorded) recorded->commit();
  });
  if (is_root) {
    warn_of_bad_rows(report);
    if (!options.quiet) print_report(report, options.color);
  }
  return 0;
}

}  // namespace kmoe::cli
