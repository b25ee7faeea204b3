// SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cli/options.hpp"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <numeric>
#include <string_view>

#include <CLI/CLI.hpp>
#include <kmoe/core/error.hpp>
#include <kmoe/core/quantization.hpp>

#include "cli/commands.hpp"

namespace kmoe::cli {
namespace {

constexpr char const* exit_codes =
    "Exit codes: 0 success, 1 verification failed, 2 usage, 3 input file, 4 unsupported,\n"
    "5 MPI, 70 internal error; the same on every rank. --kokkos-* options go to Kokkos.";

template <class Enum>
void add_enum(CLI::App& app, std::string const& name, Enum& value,
              std::initializer_list<Enum> choices, std::string const& help) {
  std::vector<std::string> names;
  std::string type;
  for (auto const choice : choices) {
    names.emplace_back(to_string(choice));
    type += (type.empty() ? "" : "|") + names.back();
  }
  app.add_option_function<std::string>(
         name, [&value](std::string const& text) { value = from_string<Enum>(text).value(); }, help)
      ->check(CLI::IsMember(names).description(""))
      ->default_str(std::string(to_string(value)))
      ->type_name(type);
}

void add_model(CLI::App& app, LayerOptions& options) {
  app.add_option("--model", options.model, "Checkpoint: a folder with config.json, safetensors")
      ->required()
      ->type_name("DIR");
}

void add_layer_options(CLI::App& app, LayerOptions& options, std::string const& split_default) {
  add_enum(app, "--dtype", options.dtype,
           {DataType::f32, DataType::f64, DataType::bf16, DataType::f16},
           "Element type of weights, tokens and results");
  add_enum(app, "--dispatcher", options.dispatcher,
           {DispatcherKind::standard, DispatcherKind::all_to_all},
           "How tokens reach their experts");
  add_enum(app, "--experts", options.experts, {IdSpace::local, IdSpace::masked},
           "Expert ids inside a rank: local slots, or global ids with a mask");
  app.add_option("--split", options.split,
                 "Tokens of each rank: even, one count per rank (\"10,0,43\"), or replicated\n"
                 "(all tokens on all ranks; standard only).\n" +
                     split_default)
      ->type_name("SPLIT");
  app.add_option("--placement", options.placement,
                 "Experts of each rank: contiguous, round_robin, or each expert's rank (\"0,1,0\")")
      ->capture_default_str()
      ->type_name("PLACEMENT");
  add_enum(app, "--payload", options.payload,
           {PayloadCode::element, PayloadCode::fp8, PayloadCode::mxfp4, PayloadCode::nvfp4},
           "How tokens travel; all but element round them");
  add_enum(app, "--combine", options.combine, {CombineCode::element, CombineCode::bf16},
           "How results travel back");
  app.add_option("--workspace-limit", options.workspace_limit,
                 "Scratch memory per rank, e.g. 256MiB; does not change the result")
      ->transform(CLI::AsSizeValue(false).description(""))
      ->default_str("1GiB")
      ->type_name("SIZE");
}

/// How `run` and `replay` tell what they did.
void add_report_options(CLI::App& app, Options& options) {
  app.add_option("--report", options.report, "Write loads, traffic and times as JSON")
      ->type_name("FILE");
  app.add_option("--plot", options.plot, "Write a heat map of tokens per expert and rank as SVG")
      ->type_name("FILE");
  app.add_flag("--quiet", options.quiet, "Print no summary");
  app.add_option("--color", options.color, "Colours in the summary: auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}).description(""))
      ->capture_default_str()
      ->type_name("auto|always|never");
}

/// Sizes not given are the preset's; without one all four must be given.
void add_bench_options(CLI::App& app, Options& options) {
  auto& bench = options.bench;
  std::vector<std::string> names;
  for (auto const& preset : presets) names.emplace_back(preset.name);
  auto const list = CLI::detail::join(names, ", ");
  app.add_option("--preset", bench.preset, "Sizes of a known layer: " + list)
      ->check(CLI::IsMember(names).description(""))
      ->type_name("NAME");
  auto const size = [&app](char const* name, auto& value, char const* help) {
    auto const most = std::numeric_limits<index_t>::max();
    return app.add_option(name, value, help)->check(CLI::Range(1, most).description(""));
  };
  size("--hidden-size", bench.size.hidden_size, "H, instead of the preset's")->type_name("H");
  size("--intermediate-size", bench.size.intermediate_size, "I of an expert")->type_name("I");
  size("--num-experts", bench.size.num_experts, "E")->type_name("E");
  size("--top-k", bench.size.top_k, "K, experts of a token")->type_name("K");
  size("--tokens", bench.tokens, "Tokens of all ranks together")
      ->capture_default_str()
      ->type_name("T");
  size("--repetitions", bench.repetitions, "Timed runs of the layer, and again of its phases")
      ->capture_default_str()
      ->type_name("N");
  app.add_option("--warmup", bench.warmup, "Runs before them")
      ->check(CLI::Range(0, 1000000).description(""))
      ->capture_default_str()
      ->type_name("N");
  add_layer_options(app, options.layer_options, "Default: even");
  app.add_option("--report", options.report, "Write the measurements as JSON")->type_name("FILE");
  app.add_flag("--quiet", options.quiet, "Print nothing");
}

void complete_sizes(BenchOptions& bench) {
  auto const* const preset = find_preset(bench.preset);
  auto const choose = [&](index_t& value, index_t Preset::*member, char const* option) {
    if (value > 0) return;
    if (preset == nullptr) throw InvalidArgument(std::string(option) + " or --preset is required");
    value = preset->*member;
  };
  choose(bench.size.hidden_size, &Preset::hidden_size, "--hidden-size");
  choose(bench.size.intermediate_size, &Preset::intermediate_size, "--intermediate-size");
  choose(bench.size.num_experts, &Preset::num_experts, "--num-experts");
  choose(bench.size.top_k, &Preset::top_k, "--top-k");
  if (bench.tokens > std::numeric_limits<index_t>::max() / bench.size.top_k) {
    throw InvalidArgument("--tokens times --top-k must be below 2^31, found " +
                          std::to_string(bench.tokens) + " and " +
                          std::to_string(bench.size.top_k));
  }
}

std::string version_text() {
  std::string text;
  for (auto const& [name, version] : versions()) {
    text.append(text.empty() ? "" : "\n").append(name).append(" ").append(version);
  }
  return text;
}

std::vector<long long> parse_list(std::string const& option, std::string const& text) {
  std::vector<long long> values;
  auto const* next = text.data();
  auto const* const end = text.data() + text.size();
  while (true) {
    long long value = -1;
    auto const [stop, error] = std::from_chars(next, end, value);
    if (error != std::errc() || value < 0 || (stop != end && *stop != ',')) {
      throw InvalidArgument(option + ": \"" + text + "\" is neither a known name nor a list of " +
                            "numbers such as 10,0,43");
    }
    values.push_back(value);
    if (stop == end) return values;
    next = stop + 1;
  }
}

}  // namespace

Options parse_options(int argc, char const* const* argv) {
  Options options;
  CLI::App app("Runs and measures Mixture-of-Experts layers on the ranks of an MPI job.", "kmoe");
  app.footer(exit_codes);
  app.require_subcommand(1);
  app.set_version_flag(
      "--version", [] { return version_text(); }, "Versions of kmoe, Kokkos, MPI");

  auto& verify = *app.add_subcommand("verify", "Compare MoE blocks with recorded results");
  add_model(verify, options.layer_options);
  add_layer_options(verify, options.layer_options,
                    "Default: replicated with standard, even with all_to_all");
  verify
      .add_option("--golden", options.golden,
                  "safetensors file with pairs <module>.input, <module>.output")
      ->required()
      ->type_name("FILE");
  verify.add_option("--layer", options.layer, "Only this layer")->type_name("N");
  verify
      .add_option("--tolerance", options.tolerance,
                  "Largest relative error that passes. Default: 1e-5 with f32 and f64, else 2e-2")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("ERROR");

  auto& run = *app.add_subcommand("run", "Run one MoE layer on the tokens of a file");
  add_model(run, options.layer_options);
  add_layer_options(run, options.layer_options, "Default: even");
  run.add_option("--layer", options.layer, "Layer of the model")->required()->type_name("N");
  run.add_option("--input", options.input, "Tokens [T, H]: .npy or .safetensors")
      ->required()
      ->type_name("FILE");
  run.add_option("--output", options.output, "Results [T, H]: .npy or .safetensors")
      ->required()
      ->type_name("FILE");
  run.add_option("--tensor", options.tensor,
                 "Tensor of the input file. Default: the only one, or <module>.input")
      ->type_name("NAME");
  run.add_option("--record-routing", options.record_routing,
                 "Write each token's experts and weights, for kmoe replay (.safetensors)")
      ->type_name("FILE");
  add_report_options(run, options);

  auto& replay =
      *app.add_subcommand("replay", "Run a recorded routing through a layer of random weights");
  replay.add_option("routing", options.routing, "File that kmoe run --record-routing wrote")
      ->required()
      ->type_name("FILE");
  add_layer_options(replay, options.layer_options, "Default: even");
  add_report_options(replay, options);

  auto& bench = *app.add_subcommand("bench", "Measure a layer of random weights");
  add_bench_options(bench, options);

  auto& quantize = *app.add_subcommand("quantize", "Write a checkpoint with quantized experts");
  add_model(quantize, options.layer_options);
  std::vector<std::string> formats;
  for (auto const& format : quant_formats()) {
    if (!format.scheme.fnuz()) formats.emplace_back(format.name);
  }
  quantize
      .add_option("--format", options.format,
                  "Format of the routed experts: " + CLI::detail::join(formats, ", "))
      ->required()
      ->check(CLI::IsMember(formats).description(""))
      ->type_name("NAME");
  quantize.add_option("--out", options.output, "Folder of the new checkpoint")
      ->required()
      ->type_name("DIR");
  quantize.add_flag("--quiet", options.quiet, "Print only the last line of the report");

  auto& info = *app.add_subcommand("info", "Show versions, devices, MPI and environment variables");
  info.add_flag("--json", options.json, "As JSON");

  try {
    app.parse(argc, argv);
  } catch (CLI::CallForVersion const& version) {
    options.text = std::string(version.what()) + "\n";
    return options;
  } catch (CLI::CallForHelp const&) {
    options.text = app.help();
    return options;
  } catch (CLI::CallForAllHelp const&) {
    options.text = app.help("", CLI::AppFormatMode::All);
    return options;
  } catch (CLI::ParseError const& error) {
    throw InvalidArgument(std::string(error.what()) + "; see kmoe --help");
  }
  options.command = verify.parsed()     ? Command::verify
                    : run.parsed()      ? Command::run
                    : replay.parsed()   ? Command::replay
                    : bench.parsed()    ? Command::bench
                    : quantize.parsed() ? Command::quantize
                                        : Command::info;
  if (bench.parsed()) complete_sizes(options.bench);
  return options;
}

std::string to_string(Options const& options) {
  std::string text;
  auto const add = [&text](std::string_view name, std::string_view value) {
    text.append(name).append("=").append(value).append("\n");
  };
  auto const& layer = options.layer_options;
  add("command", std::to_string(static_cast<int>(options.command)));
  add("text", options.text.substr(0, options.text.find('\n')));
  add("--model", layer.model);
  add("--dtype", to_string(layer.dtype));
  add("--dispatcher", to_string(layer.dispatcher));
  add("--experts", to_string(layer.experts));
  add("--split", layer.split);
  add("--placement", layer.placement);
  add("--payload", to_string(layer.payload));
  add("--combine", to_string(layer.combine));
  add("--workspace-limit", std::to_string(layer.workspace_limit));
  add("--layer", options.layer ? std::to_string(*options.layer) : "");
  add("--golden", options.golden);
  add("--tolerance", options.tolerance ? std::to_string(*options.tolerance) : "");
  add("--format", options.format);
  add("--input", options.input);
  add("--output", options.output);
  add("--tensor", options.tensor);
  add("--report", options.report);
  add("--plot", options.plot);
  add("--quiet", options.quiet ? "true" : "false");
  add("--color", options.color);
  add("--record-routing", options.record_routing);
  add("routing", options.routing);
  auto const& bench = options.bench;
  add("--preset", bench.preset);
  add("--hidden-size", std::to_string(bench.size.hidden_size));
  add("--intermediate-size", std::to_string(bench.size.intermediate_size));
  add("--num-experts", std::to_string(bench.size.num_experts));
  add("--top-k", std::to_string(bench.size.top_k));
  add("--tokens", std::to_string(bench.tokens));
  add("--warmup", std::to_string(bench.warmup));
  add("--repetitions", std::to_string(bench.repetitions));
  add("--json", options.json ? "true" : "false");
  return text;
}

offset_t TokenSplit::first(index_t rank) const {
  return layout == TokenLayout::replicated ? 0 : begin[static_cast<std::size_t>(rank)];
}

offset_t TokenSplit::count(index_t rank) const {
  if (layout == TokenLayout::replicated) return begin.back();
  auto const r = static_cast<std::size_t>(rank);
  return begin[r + 1] - begin[r];
}

offset_t TokenSplit::largest() const {
  offset_t most = 0;
  for (std::size_t r = 0; r + 1 < begin.size(); ++r) {
    most = std::max(most, count(static_cast<index_t>(r)));
  }
  return most;
}

TokenSplit make_split(LayerOptions const& options, std::string const& fallback, index_t ranks,
                      offset_t tokens) {
  std::string const& text = options.split.empty() ? fallback : options.split;
  TokenSplit split;
  std::vector<offset_t> counts(static_cast<std::size_t>(ranks));
  if (text == "even" || text == "replicated") {
    for (offset_t r = 0; r < ranks; ++r) {
      counts[static_cast<std::size_t>(r)] = tokens / ranks + (r < tokens % ranks ? 1 : 0);
    }
    if (text == "replicated") {
      if (options.dispatcher != DispatcherKind::standard) {
        throw InvalidArgument("--split replicated needs --dispatcher standard");
      }
      split.layout = TokenLayout::replicated;
    }
  } else {
    auto const list = parse_list("--split", text);
    if (list.size() != counts.size()) {
      throw InvalidArgument("--split must have one entry per rank, " + std::to_string(ranks) +
                            ", found " + std::to_string(list.size()) + " in \"" + text + "\"");
    }
    offset_t left = tokens;
    for (std::size_t r = 0; r < list.size(); ++r) {
      counts[r] = list[r];
      left = list[r] > left ? -1 : left - list[r];
      if (left < 0) break;
    }
    if (left != 0) {
      throw InvalidArgument("--split must add up to the number of tokens, " +
                            std::to_string(tokens) + ", found \"" + text + "\"");
    }
  }
  split.begin.assign(1, 0);
  std::partial_sum(counts.begin(), counts.end(), std::back_inserter(split.begin));
  return split;
}

ExpertPlacement make_placement(LayerOptions const& options, MoeConfig const& config,
                               index_t ranks) {
  auto const shared = config.router.num_fused_shared_experts;
  if (options.placement == "contiguous") {
    return ExpertPlacement::contiguous(config.num_experts, ranks, shared);
  }
  if (options.placement == "round_robin") {
    return ExpertPlacement::round_robin(config.num_experts, ranks, shared);
  }
  auto const list = parse_list("--placement", options.placement);
  if (list.size() != static_cast<std::size_t>(config.num_experts)) {
    throw InvalidArgument("--placement must have one entry per expert, " +
                          std::to_string(config.num_experts) + ", found " +
                          std::to_string(list.size()));
  }
  if (auto const worst = *std::max_element(list.begin(), list.end()); worst >= ranks) {
    throw InvalidArgument("--placement: ranks must be below " + std::to_string(ranks) + ", found " +
                          std::to_string(worst));
  }
  return ExpertPlacement::custom({list.begin(), list.end()}, ranks, shared);
}

}  // namespace kmoe::cli
